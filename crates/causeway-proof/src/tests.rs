//! What a proof promises, on logs made by hand.

mod audits;
mod lines;
mod vectors;

use bytes::Bytes;
use causeway_event::payload::LogCheckpointed;
use causeway_event::{EventId, Invalid, Labels, Metadata, Position};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Chain, Content, Entry, Foreign, LOG_AGGREGATE, Marks, Payload, Recorded, Signer};

/// An event at this position, with nothing that is optional.
fn note(position: u64, aggregate: &str, data: &str) -> Entry {
    let event = Recorded {
        id: id(position),
        timestamp: Timestamp::from_microsecond(1_795_428_000_123_456 + i64::try_from(position).unwrap()).unwrap(),
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: aggregate.parse().unwrap(),
        metadata: Metadata {
            source: "test".parse().unwrap(),
            causation_id: None,
            correlation_id: "0af7651916cd43dd8448eb211c80319c".parse().unwrap(),
            labels: Labels::new(),
            schema_version: None,
            traceparent: None,
        },
        key: None,
        expected: None,
        payload: Payload::Bytes(Bytes::copy_from_slice(data.as_bytes())),
    };
    Entry { position: Position::new(position), content: Content::Event(Box::new(event)) }
}

fn id(position: u64) -> EventId {
    EventId::from_uuid(Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_0000_0000_0000 + u128::from(position)))
}

/// The same event with something else about it.
fn with(mut entry: Entry, change: impl FnOnce(&mut Recorded)) -> Entry {
    match &mut entry.content {
        Content::Event(event) => change(event),
        Content::Foreign(_) => panic!("not an event"),
    }
    entry
}

fn foreign(position: u64) -> Entry {
    let foreign = Foreign {
        subject: "ev.a.custom".to_owned(),
        headers: vec![("x".to_owned(), "1".to_owned())],
        payload: Bytes::from_static(b"garbage"),
        reason: Invalid::new("", "ce-specversion: is missing"),
    };
    Entry { position: Position::new(position), content: Content::Foreign(foreign) }
}

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

fn checkpoint(position: u64, data: &LogCheckpointed) -> Entry {
    with(note(position, LOG_AGGREGATE, &serde_json::to_string(data).unwrap()), |event| {
        event.event_type = "LogCheckpointed".parse().unwrap();
    })
}

/// Twelve entries: notes, what is no event at 4, and checkpoints at 6 and 12 which vouch for 5 and 11.
fn log() -> Vec<Entry> {
    log_with(|_, _| String::new())
}

/// The same whose checkpoints have marks of what is new since the one before, as a gateway signs them.
fn marked_log() -> Vec<Entry> {
    log_with(|marks, position| marks.behind(Position::new(if position == 6 { 0 } else { 5 })))
}

fn log_with(marks_of: impl Fn(&Marks, u64) -> String) -> Vec<Entry> {
    let (mut chain, mut marks) = (Chain::START, Marks::default());
    let mut log = Vec::new();
    for position in 1..=12 {
        let entry = match position {
            4 => foreign(4),
            6 | 12 => checkpoint(position, &LogCheckpointed { marks: marks_of(&marks, position), ..signer().sign(&chain) }),
            _ => note(position, "a", &format!("{{\"n\":{position}}}")),
        };
        chain.push(&entry);
        marks.push(entry.position, &entry.leaf());
        log.push(entry);
    }
    log
}
