//! Lookups that decide: answered by the stream's leader, which cannot be behind what it has acknowledged.
//!
//! A direct get (`direct.rs`) may be answered by a replica that is; whoever settles a refused or unanswered append must not.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError};
use causeway_event::{AggregateId, Category, Position};

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

    /// The message id at a position.
    pub(crate) async fn id_at(&self, position: Position) -> Result<Option<String>, LogError> {
        self.require_connection()?;
        let stream = self.stream().await?;
        Ok(found(stream.get_raw_message(position.get()).await)?.as_ref().and_then(message_id))
    }

    async fn stream(&self) -> Result<async_nats::jetstream::stream::Stream<()>, LogError> {
        self.inner.jetstream.get_stream_no_info(self.inner.names.events_stream()).await.map_err(LogError::unavailable)
    }
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
