//! Several events, all or none: an atomic batch.
//!
//! A refused batch costs a single server as much as a stored one (an fsync), so fences are looked at first. The id stands on
//! the first message only; the server names no position for a batch it knows already, so ours is looked for behind the place
//! where it can stand earliest.

use std::sync::Arc;
use std::time::Duration;

use causeway_event::Position;
use futures::{FutureExt as _, StreamExt as _, future, stream};

use super::answer::{Answer, Patience};
use super::fence::{Behind, Standing, standing};
use super::prepare::Prepared;
use super::publisher::Sent;
use super::single::Attempt;
use super::{Appended, Begun, Fence, Receipt, StaleFence, after_sending};
use crate::{Log, LogError};

/// How many messages of one subject are looked through for a batch whose acknowledgement was lost.
const SEARCH_MAX: usize = 1000;

/// The longest pause before a batch is sent again that the server had not all of.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Of how many fences the log is asked at a time.
const LOOKUPS_MAX: usize = 64;

/// What the log says of a batch's fences.
enum Fences {
    Hold,
    /// They do not, since this very batch begins here, stored before.
    Ours(Position),
    /// The log's leader knows less than another did before.
    Unsure,
}

impl Log {
    pub(super) async fn begin_batch(&self, prepared: Arc<Prepared>) -> Result<Begun, LogError> {
        let earliest = match prepared.messages[0].fence {
            Some(expected) => expected,
            None => self.last_position().await?,
        };
        let patience = Patience::of(self);
        loop {
            match self.check_fences(&prepared, Attempt::First).await? {
                Fences::Hold => break,
                Fences::Ours(first) => return Ok(future::ready(self.found_at(first, &prepared, &patience).await).boxed()),
                Fences::Unsure => patience.pause_or(LogError::unavailable("the log has a leader that is not ready")).await?,
            }
        }
        let sent = self.send_batch(&prepared).await;
        let log = self.clone();
        Ok(async move { log.settle_batch(&prepared, sent, Attempt::First, earliest).await }.boxed())
    }

    /// From the first answer to one that is sure.
    pub(super) async fn settle_batch(
        &self,
        prepared: &Arc<Prepared>,
        mut sent: Sent,
        mut attempt: Attempt,
        earliest: Position,
    ) -> Result<Appended, LogError> {
        let (patience, mut pause) = (Patience::of(self), Patience::PAUSE);
        loop {
            match patience.answer(sent).await {
                Answer::Stored { last, .. } => return Ok(done(prepared, last)),
                Answer::WrongLast { .. } => match self.check_fences(prepared, attempt).await.map_err(after_sending)? {
                    Fences::Ours(first) => return self.found_at(first, prepared, &patience).await,
                    Fences::Hold | Fences::Unsure => patience.pause_or(LogError::Unknown).await?,
                },
                Answer::DuplicateInBatch => {
                    return match self.find_ours(prepared, earliest).await.map_err(after_sending)? {
                        Some(position) => self.found_at(position, prepared, &patience).await,
                        None => Err(LogError::AlreadyAppended),
                    };
                }
                // Lost messages, or an answer lost: the same again; the id tells a second copy from the first. Each time later: what a
                // full disk refuses leaves files behind on the server.
                Answer::Incomplete => {
                    let error = if attempt == Attempt::First { incomplete() } else { LogError::Unknown };
                    patience.pause_for(pause, error).await?;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                Answer::Silence => {
                    attempt = Attempt::AfterSilence;
                    patience.pause_or(LogError::Unknown).await?;
                }
                // A server looks at its limits before it looks whether it has the message already.
                Answer::Unavailable(_) | Answer::Refused { .. } if attempt == Attempt::AfterSilence => {
                    patience.pause_or(LogError::Unknown).await?;
                }
                Answer::Unavailable(reason) => return Err(LogError::Unavailable { reason }),
                Answer::Refused { code, reason } => return Err(LogError::Refused { code, reason }),
            }
            // Without a connection this sends nothing, and says so at once.
            sent = self.send_batch(prepared).await;
        }
    }

    /// Hands it over to its end, whether the caller waits or not.
    async fn send_batch(&self, prepared: &Arc<Prepared>) -> Sent {
        let (publisher, prepared) = (self.inner.publisher.clone(), prepared.clone());
        #[expect(clippy::async_yields_async, reason = "handed over is one step, answered another")]
        let sending = tokio::spawn(async move { publisher.send_batch(prepared.messages.iter()).await });
        sending.await.unwrap_or_else(|_| future::ready(Answer::Silence).boxed())
    }

    /// Fails with the conflict if a fence does not hold, unless the cause is this very batch. The conflict names every fence that
    /// does not, as far as the log answers: nothing of the batch stands behind any of them if nothing of it stands behind the first.
    async fn check_fences(&self, prepared: &Prepared, attempt: Attempt) -> Result<Fences, LogError> {
        let tips: Vec<_> = prepared.fences.iter().map(|fence| self.last_of(&fence.aggregate_id, fence.category)).collect();
        // Together: all of a large batch one after the other would take as many ways to the leader and back.
        let tips: Vec<Result<Position, LogError>> = stream::iter(tips).buffered(LOOKUPS_MAX).collect().await;
        let (mut stale, mut unanswered): (Vec<StaleFence>, _) = (Vec::new(), None);
        for (fence, actual) in prepared.fences.iter().zip(tips) {
            let actual = match actual {
                Ok(actual) => actual,
                // One that does not hold is enough for a conflict.
                Err(error) => {
                    unanswered.get_or_insert(error);
                    continue;
                }
            };
            match standing(fence.position, actual, attempt) {
                Standing::Holds => continue,
                Standing::Unsure if stale.is_empty() => return Ok(Fences::Unsure),
                Standing::Unsure => continue,
                Standing::Passed if stale.is_empty() => match self.behind(prepared, fence).await? {
                    Behind::Ours(first) => return Ok(Fences::Ours(first)),
                    // The leader has changed since it said that something is there.
                    Behind::NotKnown => return Ok(Fences::Unsure),
                    Behind::Theirs => {}
                },
                Standing::Passed | Standing::Ahead => {}
            }
            stale.push(StaleFence { fence: fence.clone(), actual });
        }
        if stale.is_empty() {
            return unanswered.map_or(Ok(Fences::Hold), Err);
        }
        let StaleFence { fence: Fence { aggregate_id, category, position: expected }, actual } = stale.remove(0);
        Err(LogError::Conflict { aggregate_id, category, expected, actual, others: stale })
    }

    /// Whose the message behind this fence is.
    async fn behind(&self, prepared: &Prepared, fence: &Fence) -> Result<Behind, LogError> {
        let subject = self.inner.names.event(&fence.aggregate_id, fence.category);
        let Some(index) = prepared.messages.iter().position(|message| message.subject == subject) else {
            return Ok(Behind::Theirs);
        };
        let Some((position, _)) = self.next_id(&subject, fence.position).await? else { return Ok(Behind::NotKnown) };
        // What stands nearer to the log's beginning than the batch is long is somebody else's.
        let first = position.get().checked_sub(index as u64).filter(|first| 0 < *first).map(Position::new);
        let Some(first) = first else { return Ok(Behind::Theirs) };
        match self.id_at(first).await? {
            Some(id) if id == prepared.message_id => Ok(Behind::Ours(first)),
            _ => Ok(Behind::Theirs),
        }
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
    LogError::unavailable(
        "it has not all messages of the batch: they were lost on the way, or it cannot store them (nats-server's log says why)",
    )
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
