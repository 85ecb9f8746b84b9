//! Append: one event by one publish, several by an atomic batch, and many that wait for a synced disk by a group (`group.rs`).
//!
//! ```text
//! begin:  check ── handed to the connection, in order ──> Begun
//! Begun:  acknowledged                         done
//!         refused: wrong last sequence         ours already stands behind the fence? done : conflict
//!         no answer (timeout, lost leader)     the same message again, until append_timeout; then unknown
//! ```
//!
//! Every message has an id, so the same message again is never a second event within the duplicate window. A server answers a
//! retry whose fence has become stale by the fence (one server) or by the id (three): so a refusal is a conflict only if the
//! first message behind the expected position is not ours.

mod answer;
mod batch;
mod fence;
mod group;
mod prepare;
mod publisher;
mod single;

use std::sync::Arc;

use causeway_event::{AggregateId, Category, CorrelationId, EventId, IdempotencyKey, NewEvent, Position};
use futures::FutureExt as _;
use futures::future::BoxFuture;

pub(crate) use self::answer::Patience;
pub(crate) use self::group::Group;
pub use self::group::GroupCommit;
pub(crate) use self::publisher::{Publisher, Way};
use crate::leader::Placed;
use crate::{Log, LogError};

/// The most events of one append: what the server takes in one atomic batch.
pub const EVENTS_MAX: usize = 1000;

/// Events to append, all or none.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// 1 to [`EVENTS_MAX`] events.
    pub events: Vec<NewEvent>,
    /// What must hold; each of a subject that one of the events has.
    pub expected: Vec<Fence>,
    /// The append happens at most once under this key (and the aggregate of its first event).
    pub idempotency_key: Option<IdempotencyKey>,
}

/// Optimistic concurrency: the last event of this aggregate in this category stands at this position.
#[derive(Clone, Debug, PartialEq)]
pub struct Fence {
    /// The aggregate.
    pub aggregate_id: AggregateId,
    /// The category.
    pub category: Category,
    /// The last position that was seen; the start for none.
    pub position: Position,
}

/// A fence that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleFence {
    /// The fence.
    pub fence: Fence,
    /// The last position that there is.
    pub actual: Position,
}

/// What an append did.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// One for each event, in order. Of a duplicate, one for each event of the earlier append: at most one more than this has.
    pub receipts: Vec<Receipt>,
    /// Whether an earlier append under the same key did it.
    pub duplicate: bool,
}

/// Where an event went.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The id that the log gave it.
    pub id: EventId,
    /// Its place.
    pub position: Position,
    /// The chain it belongs to.
    pub correlation_id: CorrelationId,
}

/// An append that has its place behind those begun before it; resolves once it is settled. Dropping it does not take it back.
///
/// When the connection breaks, what was on its way may have arrived or not, and may arrive shortly after the next connection to
/// NATS has been made. What had been written to the socket of a server that is frozen arrives when it goes on, however late: only
/// a fence, or a key within the server's duplicate window, keeps that from standing beside its own repetition.
pub type Begun = BoxFuture<'static, Result<Appended, LogError>>;

/// Appends that go out in the order in which they are begun, without waiting for each other's acknowledgements. Dropping
/// [`begin`](Sequence::begin) before it is done may take the append back.
///
/// So they stand on the log in that order, with one exception: an append whose acknowledgement is lost is sent again, and may
/// then stand behind others that began after it.
pub struct Sequence {
    log: Log,
    /// The last one that waits in the group, which may not be overtaken by one that goes alone.
    queued: Option<group::Ticket>,
}

impl Log {
    /// Appends. Answers only after JetStream acknowledged; what that means is the stream's durability.
    ///
    /// [`LogError::Unknown`] means that it may have happened or not: the same append with the same key settles it, within the
    /// server's duplicate window or with an index by key beyond it. [`LogError::AlreadyAppended`] means that it was written before.
    /// Every other error means that nothing was written.
    pub async fn append(&self, append: Append) -> Result<Appended, LogError> {
        self.sequence().begin(append).await?.await
    }

    /// Starts a sequence of appends.
    pub fn sequence(&self) -> Sequence {
        Sequence { log: self.clone(), queued: None }
    }
}

impl Sequence {
    /// Sends an append, behind all that began before it in this sequence. Fails, as [`Log::append`] would, if nothing was sent.
    pub async fn begin(&mut self, append: Append) -> Result<Begun, LogError> {
        let log = &self.log;
        let prepared = Arc::new(prepare::prepare(&log.inner.names, append)?);
        log.require_connection()?;
        if prepared.may_be_grouped() {
            let (begun, ticket) = log.inner.group.begin(log, prepared).await;
            self.queued = ticket.or(self.queued.take());
            return Ok(begun);
        }
        if let Some(ticket) = self.queued.take() {
            log.inner.group.handed_over(ticket).await;
        }
        match prepared.messages.len() {
            1 => Ok(log.begin_single(prepared).await),
            // Apart, since it takes much room, and a single append none of it.
            _ => log.begin_batch(prepared).boxed().await,
        }
    }
}

impl Log {
    /// What an earlier append of the same key left at `first`, or our own if it is ours. It stands there: a leader that does not
    /// know it yet is asked again.
    async fn found_at(&self, first: Position, prepared: &prepare::Prepared, patience: &Patience) -> Result<Appended, LogError> {
        let head = self.stored_at(first, patience).await?;
        let ours = head.receipt.id == prepared.messages[0].id;
        let mut receipts = vec![head.receipt];
        // It goes on as long as the messages are of the same batch and have no message id: each member of a group has its own.
        // One more than ours has is enough to see that it is another.
        let enough = prepared.messages.len() + usize::from(!ours);
        while let Some(batch) = &head.batch
            && !head.is_last
            && receipts.len() < enough
        {
            let next = self.stored_at(Position::new(first.get() + receipts.len() as u64), patience).await?;
            if next.begins_append || next.batch.as_ref() != Some(batch) {
                break;
            }
            receipts.push(next.receipt);
            if next.is_last {
                break;
            }
        }
        Ok(Appended { receipts, duplicate: !ours })
    }

    async fn stored_at(&self, position: Position, patience: &Patience) -> Result<Placed, LogError> {
        loop {
            match self.placed_at(position).await {
                Ok(Some(placed)) => return Ok(placed),
                Err(error) if !error.is_transient() => return Err(error),
                Ok(None) | Err(_) => patience.pause_or(LogError::Unknown).await?,
            }
        }
    }
}

/// An error after something was sent: that the log is away no longer means that nothing was written.
fn after_sending(error: LogError) -> LogError {
    match error {
        LogError::Unavailable { .. } => LogError::Unknown,
        other => other,
    }
}

#[cfg(test)]
mod tests;
