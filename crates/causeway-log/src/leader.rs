//! Lookups that decide: answered by the stream's leader, which cannot be behind what it has acknowledged.
//!
//! A direct get (`direct.rs`) may be answered by a replica that is; whoever settles a refused or unanswered append must not.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError};
use causeway_event::{AggregateId, Category, Event, EventId, Position};

use crate::append::Receipt;
use crate::message::{self, Place, Record, Stored};
use crate::{Log, LogError};

impl Log {
    /// The last position of this aggregate in this category; the start if there is none.
    pub(crate) async fn last_of(&self, aggregate: &AggregateId, category: Category) -> Result<Position, LogError> {
        self.require_connection()?;
        let subject = self.inner.names.event(aggregate, category);
        let stream = self.stream().await?;
        let found = found(stream.get_last_raw_message_by_subject(&subject).await)?;
        Ok(found.map_or(Position::START, |message| Position::new(message.sequence)))
    }

    /// The first message on `subject` behind `after`, and its message id.
    pub(crate) async fn next_id(&self, subject: &str, after: Position) -> Result<Option<(Position, Option<String>)>, LogError> {
        self.require_connection()?;
        let stream = self.stream().await?;
        let found = found(stream.get_first_raw_message_by_subject(subject, after.next().get()).await)?;
        Ok(found.map(|message| (Position::new(message.sequence), message_id(&message))))
    }

    /// The id of the event at a position; none if nothing of ours stands there.
    pub async fn event_id_at(&self, position: Position) -> Result<Option<EventId>, LogError> {
        self.require_connection()?;
        let message = found(self.stream().await?.get_raw_message(position.get()).await)?;
        Ok(message.and_then(|message| message.headers.get("ce-id")?.as_str().parse().ok()))
    }

    /// The event at a position. That there is none is an error: for whoever knows that there is one.
    pub async fn event_at(&self, position: Position) -> Result<Event, LogError> {
        self.require_connection()?;
        let message = found(self.stream().await?.get_raw_message(position.get()).await)?;
        let message = message.ok_or_else(|| LogError::unavailable(format!("nothing stands at position {position}")))?;
        let place = Place { subject: &message.subject, sequence: message.sequence, time_ns: message.time.unix_timestamp_nanos() };
        match message::record(&self.inner.names, &place, Some(&message.headers), &message.payload) {
            Record::Event(stored) => Ok(stored.event),
            Record::Unreadable { reason, .. } => Err(LogError::unavailable(format!("no event at position {position}: {reason}"))),
        }
    }

    /// The message id at a position.
    pub(crate) async fn id_at(&self, position: Position) -> Result<Option<String>, LogError> {
        self.require_connection()?;
        let stream = self.stream().await?;
        Ok(found(stream.get_raw_message(position.get()).await)?.as_ref().and_then(message_id))
    }

    /// What an append left at a position, if the leader knows of it.
    pub(crate) async fn placed_at(&self, position: Position) -> Result<Option<Placed>, LogError> {
        self.require_connection()?;
        let Some(message) = found(self.stream().await?.get_raw_message(position.get()).await)? else { return Ok(None) };
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        let place = Place { subject: &message.subject, sequence: message.sequence, time_ns: message.time.unix_timestamp_nanos() };
        match message::record(&self.inner.names, &place, Some(&message.headers), &message.payload) {
            Record::Event(Stored { event, .. }) => Ok(Some(Placed {
                receipt: Receipt { id: event.id, position, correlation_id: event.metadata.correlation_id },
                begins_append: message_id(&message).is_some(),
                batch: header("Nats-Batch-Id"),
                is_last: header("Nats-Batch-Commit").is_some(),
            })),
            // The message id is taken, by something that is not Causeway's.
            Record::Unreadable { .. } => Err(LogError::AlreadyAppended),
        }
    }

    async fn stream(&self) -> Result<async_nats::jetstream::stream::Stream<()>, LogError> {
        self.inner.jetstream.get_stream_no_info(self.inner.names.events_stream()).await.map_err(LogError::unavailable)
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
}

fn found(result: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, LogError> {
    match result {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(LogError::unavailable(error)),
    }
}

fn message_id(message: &StreamMessage) -> Option<String> {
    message.headers.get("Nats-Msg-Id").map(|id| id.as_str().to_owned())
}
