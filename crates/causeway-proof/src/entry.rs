//! What stands at a position of a log, and its leaf in the hash chain.
//!
//! A leaf is made of nothing that an export does not keep, and of the digest of the data instead of the data: an export from
//! which data was taken out, or a log of which data was made unreadable by destroying its key, proves the same as before.

use bytes::Bytes;
use causeway_event::{AggregateId, EventId, EventType, IdempotencyKey, Invalid, Metadata, Position};
use jiff::Timestamp;

use crate::hash::{Fields, Hash};

/// What stands at a position.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where.
    pub position: Position,
    /// What.
    pub content: Content,
}

/// An event, or something else that somebody put on the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// An event.
    Event(Box<Recorded>),
    /// Whoever has access to the stream can publish anything.
    Foreign(Foreign),
}

/// An event with all that the log keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its id.
    pub id: EventId,
    /// When the log stored it, to the microsecond.
    pub timestamp: Timestamp,
    /// What happened.
    pub event_type: EventType,
    /// What it happened to.
    pub aggregate_id: AggregateId,
    /// Where it came from.
    pub metadata: Metadata,
    /// The client's idempotency key, on the first event of its append.
    pub key: Option<IdempotencyKey>,
    /// The fence: where the last event of its aggregate and category had to stand.
    pub expected: Option<Position>,
    /// Its data.
    pub payload: Payload,
}

/// Data as it was stored, or what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// To the byte.
    Bytes(Bytes),
    /// Taken out, for good; its digest still proves what stood there.
    Digest(Hash),
}

/// What is no event of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Its subject, without the log's namespace.
    pub subject: String,
    /// Its headers, sorted by name, without those that NATS itself acts upon.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Bytes,
    /// Why it cannot be read. No part of the proof.
    pub reason: Invalid,
}

/// Whether NATS itself reads or adds this header. Those are no part of what somebody put on the log: they differ with the way that
/// a message is read, and would be acted upon once more if they were published again.
pub fn is_of_nats(header: &str) -> bool {
    header.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

impl Payload {
    /// The SHA-256 of the data as it was stored.
    pub fn digest(&self) -> Hash {
        match self {
            Self::Bytes(bytes) => Hash::of(bytes),
            Self::Digest(digest) => *digest,
        }
    }
}

impl Entry {
    /// Its link of the chain.
    pub fn leaf(&self) -> Hash {
        match &self.content {
            Content::Event(event) => event.leaf(self.position),
            Content::Foreign(foreign) => foreign.leaf(self.position),
        }
    }
}

impl Recorded {
    fn leaf(&self, position: Position) -> Hash {
        let metadata = &self.metadata;
        let mut fields = Fields::new("causeway/event/1")
            .number(position)
            .text(&self.id.to_string())
            .number(self.timestamp.as_microsecond())
            .text(self.event_type.as_str())
            .text(self.aggregate_id.as_str())
            .text(metadata.source.as_str())
            .optional(metadata.causation_id.map(|id| id.to_string()).as_deref())
            .text(metadata.correlation_id.as_str())
            .optional(metadata.traceparent.map(|parent| parent.to_string()).as_deref())
            .optional(self.key.as_ref().map(IdempotencyKey::as_str))
            .optional(self.expected.map(|position| position.to_string()).as_deref())
            .optional(metadata.schema_version.map(|version| version.to_string()).as_deref())
            .number(metadata.labels.len());
        for (name, value) in &metadata.labels {
            fields = fields.text(name).text(value);
        }
        fields.bytes(self.payload.digest().as_bytes()).done()
    }
}

impl Foreign {
    fn leaf(&self, position: Position) -> Hash {
        let mut fields = Fields::new("causeway/foreign/1").number(position).text(&self.subject).number(self.headers.len());
        for (name, value) in &self.headers {
            fields = fields.text(name).text(value);
        }
        fields.bytes(Hash::of(&self.payload).as_bytes()).done()
    }
}
