//! Putting what was exported onto an empty log, each entry at the position that it had.
//!
//! Every message is fenced on the whole stream: it is stored at its own position or not at all. So a lost message stops the
//! import instead of moving everything behind it, and an import that broke off is taken up where the log ends.

use std::collections::VecDeque;

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use causeway_event::{Category, Data, Lineage, NewEvent, Position, cloudevents, format_timestamp};
use causeway_proof::{Content, Entry, Payload, Recorded, is_of_nats};

use crate::message::{self, Place, Record, imported};
use crate::names::Names;
use crate::{Log, LogError};

/// Messages, and bytes of them, that may be under way.
const WINDOW_MESSAGES_MAX: usize = 2000;
const WINDOW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An import under way.
pub struct Import {
    log: Log,
    /// Of what has been sent, the last.
    sent: Position,
    window: VecDeque<(Position, usize, PublishAckFuture)>,
    window_bytes: usize,
}

impl Log {
    /// Begins to import behind what stands on the log. Nobody else may write to it meanwhile: whoever does stops the import.
    pub async fn import(&self) -> Result<Import, LogError> {
        let sent = self.last_position().await?;
        Ok(Import { log: self.clone(), sent, window: VecDeque::new(), window_bytes: 0 })
    }
}

impl Import {
    /// Whether an entry could be put onto a log of this namespace, at its position: else why not.
    pub fn check(namespace: &str, entry: &Entry) -> Result<(), LogError> {
        message_of(&Names::new(namespace)?, entry).map(drop)
    }

    /// The last position that was sent.
    pub fn position(&self) -> Position {
        self.sent
    }

    /// Sends the next entry, and waits for earlier ones while too many are under way.
    pub async fn put(&mut self, entry: &Entry) -> Result<(), LogError> {
        if entry.position != self.sent.next() {
            let what = format!(
                "position {} cannot stand behind position {}: a log that is imported can have no gap",
                entry.position, self.sent
            );
            return Err(LogError::Mismatch { what });
        }
        let (subject, mut headers, payload) = message_of(&self.log.inner.names, entry)?;
        headers.insert("Nats-Expected-Last-Sequence", self.sent.to_string());
        let bytes = payload.len() + subject.len();
        while self.window.len() >= WINDOW_MESSAGES_MAX
            || (self.window_bytes + bytes > WINDOW_BYTES_MAX && !self.window.is_empty())
        {
            self.settle().await?;
        }
        self.log.require_connection()?;
        let ack = self.log.jetstream().publish_with_headers(subject, headers, payload).await;
        self.window.push_back((entry.position, bytes, ack.map_err(LogError::unavailable)?));
        self.window_bytes += bytes;
        self.sent = entry.position;
        Ok(())
    }

    /// Waits until everything stands on the log.
    pub async fn finish(mut self) -> Result<Position, LogError> {
        while !self.window.is_empty() {
            self.settle().await?;
        }
        Ok(self.sent)
    }

    /// Waits for the oldest that is under way.
    async fn settle(&mut self) -> Result<(), LogError> {
        let Some((position, bytes, ack)) = self.window.pop_front() else { return Ok(()) };
        self.window_bytes -= bytes;
        let foreign = || LogError::Mismatch {
            what: format!("position {position} was taken: somebody else writes to the log while it is imported"),
        };
        match ack.await {
            Ok(ack) if ack.sequence == position.get() && !ack.duplicate => Ok(()),
            Ok(_) => Err(foreign()),
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence => Err(foreign()),
                _ => Err(refusal(&error).unwrap_or_else(|| LogError::unavailable(error))),
            },
        }
    }
}

/// What the server refused it with, if it did.
fn refusal(error: &PublishError) -> Option<LogError> {
    use std::error::Error as _;
    let source = error.source()?.downcast_ref::<async_nats::jetstream::Error>()?;
    Some(LogError::Refused { code: source.error_code().0, reason: source.to_string() })
}

/// The message that an entry was, with the name, time and fence of its first life in headers that NATS does not act upon.
fn message_of(names: &Names, entry: &Entry) -> Result<(String, HeaderMap, Bytes), LogError> {
    match &entry.content {
        Content::Event(event) => {
            let Payload::Bytes(payload) = &event.payload else {
                let what = format!(
                    "position {} has no data, only its digest: such an export can be verified, not imported",
                    entry.position
                );
                return Err(LogError::Mismatch { what });
            };
            let subject = names.event(&event.aggregate_id, Category::of(&event.event_type));
            let headers = event_headers(event, payload)
                .map_err(|error| LogError::Mismatch { what: format!("position {}: {error}", entry.position) })?;
            Ok((subject, headers, payload.clone()))
        }
        Content::Foreign(foreign) => {
            let refused = |why: &str| Err(LogError::Mismatch { what: format!("position {} {why}", entry.position) });
            if foreign.headers.iter().any(|(name, _)| is_of_nats(name)) {
                return refused("has a header that NATS would act upon");
            }
            let mut headers = HeaderMap::new();
            for (name, value) in &foreign.headers {
                let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) else {
                    return refused("has headers that no client of NATS can send; a backup carries them over");
                };
                headers.append(name, value);
            }
            let subject = names.absolute(&foreign.subject);
            let place = Place { subject: &subject, sequence: entry.position.get(), time_ns: 0 };
            match message::record(names, &place, Some(&headers), &foreign.payload) {
                Record::Event(_) => refused("is said to be no event, and would be one"),
                Record::Unreadable { .. } => Ok((subject, headers, foreign.payload.clone())),
            }
        }
    }
}

fn event_headers(event: &Recorded, payload: &Bytes) -> Result<HeaderMap, LogError> {
    let correlation = event.metadata.correlation_id.clone();
    let lineage = match event.metadata.causation_id {
        Some(cause) => Lineage::CausedBy { cause, correlation: correlation.clone() },
        None => Lineage::Root { correlation: Some(correlation.clone()) },
    };
    let new = NewEvent {
        event_type: event.event_type.clone(),
        aggregate_id: event.aggregate_id.clone(),
        data: Data::from_json(payload)?,
        source: event.metadata.source.clone(),
        lineage,
        labels: event.metadata.labels.clone(),
        schema_version: event.metadata.schema_version,
        traceparent: event.metadata.traceparent,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in cloudevents::headers(&new, event.id, &correlation) {
        headers.insert(name, value);
    }
    headers.insert(imported::TIME, format_timestamp(event.timestamp));
    if let Some(key) = &event.key {
        headers.insert(imported::KEY, Names::message_id(&event.aggregate_id, key.as_str()));
    }
    if let Some(expected) = event.expected {
        headers.insert(imported::EXPECTED, expected.to_string());
    }
    Ok(headers)
}
