//! Lookups that decide: answered by the stream's leader, which cannot be behind what it has acknowledged.
//!
//! A direct get (`direct.rs`) may be answered by a replica that is; whoever settles a refused or unanswered append must not.

use causeway_event::{AggregateId, Category, Event, EventId, Position};
use serde_json::json;

use crate::append::Receipt;
use crate::message::{Record, Stored, imported};
use crate::raw::Raw;
use crate::{Log, LogError};

impl Log {
    /// The last position of this aggregate in this category; the start if there is none.
    pub(crate) async fn last_of(&self, aggregate: &AggregateId, category: Category) -> Result<Position, LogError> {
        self.last_on(&self.inner.names.event(aggregate, category)).await
    }

    /// The last position on a subject, or on all that it matches; the start if there is none.
    pub(crate) async fn last_on(&self, subject: &str) -> Result<Position, LogError> {
        let found = self.raw(&json!({ "last_by_subj": subject })).await?;
        Ok(found.map_or(Position::START, |raw| raw.position))
    }

    /// The first message on `subject` behind `after`, and its message id.
    pub(crate) async fn next_id(&self, subject: &str, after: Position) -> Result<Option<(Position, Option<String>)>, LogError> {
        let found = self.raw_behind(after, subject).await?;
        Ok(found.map(|raw| (raw.position, raw.header("Nats-Msg-Id"))))
    }

    /// The event at this position; none if nothing, or nothing readable, stands there.
    pub async fn get(&self, position: Position) -> Result<Option<Stored>, LogError> {
        Ok(self.at(position).await?.and_then(|raw| match raw.record(&self.inner.names) {
            Record::Event(stored) => Some(stored),
            Record::Unreadable { .. } => None,
        }))
    }

    /// The id of the event at a position; none if nothing of ours stands there.
    pub async fn event_id_at(&self, position: Position) -> Result<Option<EventId>, LogError> {
        Ok(self.at(position).await?.and_then(|raw| raw.header("ce-id")?.parse().ok()))
    }

    /// The event at a position. That there is none is an error: for whoever knows that there is one.
    pub async fn event_at(&self, position: Position) -> Result<Event, LogError> {
        let raw = self.at(position).await?;
        let raw = raw.ok_or_else(|| LogError::unavailable(format!("nothing stands at position {position}")))?;
        match raw.record(&self.inner.names) {
            Record::Event(stored) => Ok(stored.event),
            Record::Unreadable { reason, .. } => Err(LogError::unavailable(format!("no event at position {position}: {reason}"))),
        }
    }

    /// The message id at a position.
    pub(crate) async fn id_at(&self, position: Position) -> Result<Option<String>, LogError> {
        Ok(self.at(position).await?.and_then(|raw| raw.header("Nats-Msg-Id")))
    }

    /// What an append left at a position, if the leader knows of it.
    pub(crate) async fn placed_at(&self, position: Position) -> Result<Option<Placed>, LogError> {
        let Some(raw) = self.at(position).await? else { return Ok(None) };
        match raw.record(&self.inner.names) {
            Record::Event(Stored { event, .. }) => Ok(Some(Placed {
                receipt: Receipt { id: event.id, position, correlation_id: event.metadata.correlation_id },
                begins_append: raw.header("Nats-Msg-Id").is_some(),
                batch: raw.header("Nats-Batch-Id"),
                is_last: raw.header("Nats-Batch-Commit").is_some(),
                is_imported: raw.header(imported::TIME).is_some(),
            })),
            // The message id is taken, by something that is not Causeway's.
            Record::Unreadable { .. } => Err(LogError::AlreadyAppended),
        }
    }

    /// Whether the append that began at `first` was one of `count` events: whatever is behind it may be somebody else's. An event that
    /// was imported does not say, and of it this does not say no. Fails as unavailable as long as the leader does not have all of it: it
    /// stores a batch one message after the other.
    pub async fn is_append_of(&self, first: Position, count: usize) -> Result<bool, LogError> {
        let head = self.placed_at(first).await?;
        let head = head.ok_or_else(|| LogError::unavailable(format!("its leader does not have position {first} yet")))?;
        if head.is_imported {
            return Ok(true);
        }
        let Some(batch) = &head.batch else { return Ok(count == 1) };
        let goes_on = |placed: &Placed| placed.batch.as_ref() == Some(batch) && !placed.begins_append;
        let end = Position::new(first.get().saturating_add(count as u64));
        // Whether all of it is there comes before what it is: it may become so between two looks.
        if self.placed_or_foreign(end).await?.is_none() {
            let last = self.last_position().await?;
            if last < first {
                return Err(LogError::unavailable(format!("its leader does not have position {first} yet")));
            }
            let newest = self.placed_or_foreign(last).await?;
            let is_of_it = |newest: &Placed| newest.receipt.position == first || goes_on(newest);
            if newest.is_some_and(|newest| is_of_it(&newest) && !newest.is_last) {
                return Err(LogError::unavailable(format!("its leader does not have all of the append at position {first} yet")));
            }
        }
        let is_longer = self.placed_or_foreign(end).await?.is_some_and(|next| goes_on(&next));
        Ok(!is_longer && (count == 1 || self.placed_or_foreign(end.previous()).await?.is_some_and(|last| goes_on(&last))))
    }

    /// The same as [`Self::placed_at`]; none also for what is not of ours.
    async fn placed_or_foreign(&self, position: Position) -> Result<Option<Placed>, LogError> {
        match self.placed_at(position).await {
            Err(LogError::AlreadyAppended) => Ok(None),
            placed => placed,
        }
    }

    pub(crate) async fn at(&self, position: Position) -> Result<Option<Raw>, LogError> {
        self.raw(&json!({ "seq": position.get() })).await
    }
}

/// An event with what the log says of its append.
pub(crate) struct Placed {
    pub(crate) receipt: Receipt,
    /// It has a message id, which the first of an append has.
    pub(crate) begins_append: bool,
    /// The atomic batch that it came in.
    pub(crate) batch: Option<String>,
    /// It is the last of that.
    pub(crate) is_last: bool,
    /// It was put here by an import, and does not say with which others it was appended.
    is_imported: bool,
}
