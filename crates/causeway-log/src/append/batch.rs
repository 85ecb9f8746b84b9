//! Several events, all or none: an atomic batch.
//!
//! A refused batch costs a single server as much as a stored one (an fsync), so fences are looked at first. The id stands on
//! the first message only; the server names no position for a batch it knows already, so ours is looked for behind the place
//! where it can stand earliest.

use std::sync::Arc;

use causeway_event::Position;
use futures::FutureExt as _;
use futures::future;

use super::answer::{Answer, Patience};
use super::prepare::Prepared;
use super::publisher::Sent;
use super::{Appended, Begun, Fence, Receipt, after_sending};
use crate::{Log, LogError};

/// How many messages of one subject are looked through for a batch whose acknowledgement was lost.
const SEARCH_MAX: usize = 1000;

impl Log {
    pub(super) async fn begin_batch(&self, prepared: Arc<Prepared>) -> Result<Begun, LogError> {
        let earliest = match prepared.messages[0].fence {
            Some(expected) => expected,
            None => self.last_position().await?,
        };
        if let Some(appended) = self.check_fences(&prepared).await? {
            return Ok(future::ready(Ok(appended)).boxed());
        }
        let sent = self.send_batch(&prepared).await;
        let log = self.clone();
        Ok(async move { log.settle_batch(&prepared, sent, earliest).await }.boxed())
    }

    async fn settle_batch(&self, prepared: &Prepared, mut sent: Sent, earliest: Position) -> Result<Appended, LogError> {
        let patience = Patience::of(self);
        let mut unsettled = false;
        loop {
            match sent.await {
                Answer::Stored { last, .. } => return Ok(done(prepared, last)),
                Answer::WrongLast { .. } => match self.check_fences(prepared).await.map_err(after_sending)? {
                    Some(appended) => return Ok(appended),
                    None => patience.pause_or(LogError::Unknown).await?,
                },
                Answer::DuplicateInBatch => {
                    return match self.find_ours(prepared, earliest).await.map_err(after_sending)? {
                        Some(position) => self.found_at(position, prepared).await,
                        None => Err(LogError::AlreadyAppended),
                    };
                }
                // Lost messages, or an answer lost: the same again; the id tells a second copy from the first.
                Answer::Incomplete => patience.pause_or(if unsettled { LogError::Unknown } else { incomplete() }).await?,
                Answer::Silence => {
                    unsettled = true;
                    patience.pause_or(LogError::Unknown).await?;
                }
                Answer::Unavailable(_) if unsettled => patience.pause_or(LogError::Unknown).await?,
                Answer::Unavailable(reason) => return Err(LogError::Unavailable { reason }),
                Answer::Refused { code, reason } => return Err(LogError::Refused { code, reason }),
            }
            sent = self.send_batch(prepared).await;
        }
    }

    async fn send_batch(&self, prepared: &Prepared) -> Sent {
        self.inner.publisher.send_batch(prepared.messages.iter()).await
    }

    /// Fails with the conflict if a fence does not hold, unless the cause is this very batch, stored before.
    async fn check_fences(&self, prepared: &Prepared) -> Result<Option<Appended>, LogError> {
        for fence in &prepared.fences {
            let actual = self.last_of(&fence.aggregate_id, fence.category).await?;
            if actual == fence.position {
                continue;
            }
            if let Some(first) = self.ours_behind(prepared, fence).await? {
                return self.found_at(first, prepared).await.map(Some);
            }
            let (aggregate_id, category) = (fence.aggregate_id.clone(), fence.category);
            return Err(LogError::Conflict { aggregate_id, category, expected: fence.position, actual });
        }
        Ok(None)
    }

    /// Where our batch begins, if the message behind this fence belongs to it.
    async fn ours_behind(&self, prepared: &Prepared, fence: &Fence) -> Result<Option<Position>, LogError> {
        let subject = self.inner.names.event(&fence.aggregate_id, fence.category);
        let Some(index) = prepared.messages.iter().position(|message| message.subject == subject) else { return Ok(None) };
        let Some((position, _)) = self.next_id(&subject, fence.position).await? else { return Ok(None) };
        // What stands nearer to the log's beginning than the batch is long is somebody else's.
        let first = position.get().checked_sub(index as u64).filter(|first| 0 < *first).map(Position::new);
        let Some(first) = first else { return Ok(None) };
        let ours = self.id_at(first).await?.is_some_and(|id| id == prepared.message_id);
        Ok(ours.then_some(first))
    }

    /// Where our first message stands, looking from `earliest` on.
    async fn find_ours(&self, prepared: &Prepared, earliest: Position) -> Result<Option<Position>, LogError> {
        let mut after = earliest;
        for _ in 0..SEARCH_MAX {
            match self.next_id(&prepared.messages[0].subject, after).await? {
                Some((position, Some(id))) if id == prepared.message_id => return Ok(Some(position)),
                Some((position, _)) => after = position,
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn incomplete() -> LogError {
    LogError::unavailable("messages of the batch were lost on the way")
}

/// The server stores a batch without a gap; `last` is the place of its last message.
fn done(prepared: &Prepared, last: Position) -> Appended {
    let first = last.get() + 1 - prepared.messages.len() as u64;
    let receipts = prepared.messages.iter().zip(first..).map(|(message, position)| Receipt {
        id: message.id,
        position: Position::new(position),
        correlation_id: message.correlation.clone(),
    });
    Appended { receipts: receipts.collect(), duplicate: false }
}
