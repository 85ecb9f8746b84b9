//! Wire types to domain types and back. What comes in is checked; an [`Invalid`] names the field by its way from the
//! converted message.

use std::str::FromStr;

use causeway_event::{
    AggregateId, Category, CorrelationId, Data, Delta, DeltaKind, Event, EventId, EventType, Invalid, Labels, Metadata, Position,
    Source,
};
use jiff::Timestamp;
use prost::Message as _;

use crate::{Conflict, v1};

/// An event as a client proposes it: what the gateway fills in may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What happened.
    pub event_type: EventType,
    /// What it happened to.
    pub aggregate_id: AggregateId,
    /// The particulars.
    pub data: Data,
    /// Who says so; the gateway names the protocol otherwise.
    pub source: Option<Source>,
    /// The event that directly caused it; a root has none.
    pub causation_id: Option<EventId>,
    /// The chain it belongs to; otherwise its cause's, or a fresh one.
    pub correlation_id: Option<CorrelationId>,
    /// Free pairs.
    pub labels: Labels,
    /// The version of its type's registered schema that the data is in; otherwise the newest.
    pub schema_version: Option<u32>,
}

/// A fence as a client states it: what all events of the append share may be missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The aggregate.
    pub aggregate_id: Option<AggregateId>,
    /// The category within it.
    pub category: Option<Category>,
    /// The last position there.
    pub position: Position,
}

/// An append that is on the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// One for each event, in the order of the request.
    pub receipts: Vec<Receipt>,
    /// Whether an earlier request with the same key did it.
    pub duplicate: bool,
}

/// An event that is on the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Its id.
    pub id: EventId,
    /// Its place in the log.
    pub position: Position,
    /// When the log stored it.
    pub timestamp: Timestamp,
    /// Its chain.
    pub correlation_id: CorrelationId,
}

impl Draft {
    /// An event with nothing but what it must have.
    pub fn new(event_type: EventType, aggregate_id: AggregateId, data: Data) -> Self {
        Self {
            event_type,
            aggregate_id,
            data,
            source: None,
            causation_id: None,
            correlation_id: None,
            labels: Labels::new(),
            schema_version: None,
        }
    }
}

impl From<Draft> for v1::NewEvent {
    fn from(draft: Draft) -> Self {
        Self {
            r#type: draft.event_type.into(),
            aggregate_id: draft.aggregate_id.into(),
            data: draft.data.as_bytes().to_vec(),
            metadata: Some(v1::Metadata {
                source: draft.source.map(String::from).unwrap_or_default(),
                causation_id: draft.causation_id.map(String::from),
                correlation_id: draft.correlation_id.map(String::from),
                labels: draft.labels,
                schema_version: draft.schema_version.unwrap_or_default(),
            }),
        }
    }
}

impl TryFrom<v1::NewEvent> for Draft {
    type Error = Invalid;

    fn try_from(event: v1::NewEvent) -> Result<Self, Invalid> {
        let metadata = event.metadata.unwrap_or_default();
        Ok(Self {
            event_type: parse("/type", &event.r#type)?,
            aggregate_id: parse("/aggregate_id", &event.aggregate_id)?,
            data: Data::from_json(&event.data).map_err(|invalid| invalid.within("/data"))?,
            source: parse_given("/metadata/source", &metadata.source)?,
            causation_id: metadata.causation_id.map(|id| parse("/metadata/causation_id", &id)).transpose()?,
            correlation_id: metadata.correlation_id.map(|id| parse("/metadata/correlation_id", &id)).transpose()?,
            labels: metadata.labels,
            schema_version: Some(metadata.schema_version).filter(|version| *version > 0),
        })
    }
}

impl From<&Event> for v1::Event {
    fn from(event: &Event) -> Self {
        let metadata = &event.metadata;
        Self {
            id: event.id.to_string(),
            position: event.position.get(),
            timestamp: Some(timestamp(event.timestamp)),
            r#type: event.event_type.to_string(),
            aggregate_id: event.aggregate_id.to_string(),
            data: event.data.as_bytes().to_vec(),
            metadata: Some(v1::Metadata {
                source: metadata.source.to_string(),
                causation_id: metadata.causation_id.map(String::from),
                correlation_id: Some(metadata.correlation_id.to_string()),
                labels: metadata.labels.clone(),
                schema_version: metadata.schema_version.unwrap_or_default(),
            }),
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = Invalid;

    fn try_from(event: v1::Event) -> Result<Self, Invalid> {
        let metadata = event.metadata.unwrap_or_default();
        Ok(Self {
            id: parse("/id", &event.id)?,
            position: Position::new(event.position),
            timestamp: required_timestamp("/timestamp", event.timestamp)?,
            event_type: parse("/type", &event.r#type)?,
            aggregate_id: parse("/aggregate_id", &event.aggregate_id)?,
            data: Data::from_json(&event.data).map_err(|invalid| invalid.within("/data"))?,
            metadata: Metadata {
                source: parse("/metadata/source", &metadata.source)?,
                causation_id: metadata.causation_id.map(|id| parse("/metadata/causation_id", &id)).transpose()?,
                correlation_id: parse("/metadata/correlation_id", metadata.correlation_id.as_deref().unwrap_or_default())?,
                labels: metadata.labels,
                schema_version: Some(metadata.schema_version).filter(|version| *version > 0),
                // A link between traces, which the wire does not carry: an event names its trace by its chain.
                traceparent: None,
            },
        })
    }
}

impl From<Expected> for v1::Expected {
    fn from(expected: Expected) -> Self {
        Self {
            aggregate_id: expected.aggregate_id.map(String::from).unwrap_or_default(),
            category: expected.category.map(|category| category.to_string()).unwrap_or_default(),
            position: expected.position.get(),
        }
    }
}

impl TryFrom<v1::Expected> for Expected {
    type Error = Invalid;

    fn try_from(expected: v1::Expected) -> Result<Self, Invalid> {
        Ok(Self {
            aggregate_id: parse_given("/aggregate_id", &expected.aggregate_id)?,
            category: parse_given("/category", &expected.category)?,
            position: Position::new(expected.position),
        })
    }
}

impl From<Conflict> for v1::Conflict {
    fn from(conflict: Conflict) -> Self {
        Self {
            aggregate_id: conflict.aggregate_id.into(),
            category: conflict.category.to_string(),
            expected_position: conflict.expected.get(),
            actual_position: conflict.actual.get(),
            events: conflict.events.iter().map(Into::into).collect(),
            more: conflict.more,
            others: conflict.others.into_iter().map(Into::into).collect(),
        }
    }
}

impl v1::Conflict {
    /// A conflict with as many of its events, from the oldest, and then of its others, as fit into so many encoded bytes.
    pub fn bounded(conflict: Conflict, bytes_max: usize) -> Self {
        let mut whole = Self::from(conflict);
        let mut left = bytes_max;
        whole.keep_events(&mut left);
        let others = std::mem::take(&mut whole.others);
        whole.others = others.into_iter().map_while(|other| other.fitting(&mut left)).collect();
        whole
    }

    /// The same with what fits of its events; nothing if not even the fence does.
    fn fitting(mut self, left: &mut usize) -> Option<Self> {
        let events = std::mem::take(&mut self.events);
        *left = left.checked_sub(self.encoded_len())?;
        self.events = events;
        self.keep_events(left);
        Some(self)
    }

    fn keep_events(&mut self, left: &mut usize) {
        let fitting = self.events.iter().map_while(|event| {
            *left = left.checked_sub(event.encoded_len())?;
            Some(())
        });
        let count = fitting.count();
        self.more |= count < self.events.len();
        self.events.truncate(count);
    }
}

impl TryFrom<v1::Conflict> for Conflict {
    type Error = Invalid;

    fn try_from(conflict: v1::Conflict) -> Result<Self, Invalid> {
        let events = conflict.events.into_iter().enumerate();
        let events =
            events.map(|(index, event)| Event::try_from(event).map_err(|invalid| invalid.within(&format!("/events/{index}"))));
        Ok(Self {
            aggregate_id: parse("/aggregate_id", &conflict.aggregate_id)?,
            category: parse("/category", &conflict.category)?,
            expected: Position::new(conflict.expected_position),
            actual: Position::new(conflict.actual_position),
            events: events.collect::<Result<_, _>>()?,
            more: conflict.more,
            others: conflict.others.into_iter().map(Self::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Appended> for v1::AppendResponse {
    fn from(appended: Appended) -> Self {
        let events = appended.receipts.into_iter().map(|receipt| v1::Appended {
            id: receipt.id.to_string(),
            position: receipt.position.get(),
            timestamp: Some(timestamp(receipt.timestamp)),
            correlation_id: receipt.correlation_id.into(),
        });
        Self { events: events.collect(), duplicate: appended.duplicate, conflict: None }
    }
}

impl TryFrom<v1::AppendResponse> for Appended {
    type Error = Invalid;

    fn try_from(response: v1::AppendResponse) -> Result<Self, Invalid> {
        let receipts = response.events.into_iter().enumerate().map(|(index, event)| {
            let receipt = || {
                Ok(Receipt {
                    id: parse("/id", &event.id)?,
                    position: Position::new(event.position),
                    timestamp: required_timestamp("/timestamp", event.timestamp)?,
                    correlation_id: parse("/correlation_id", &event.correlation_id)?,
                })
            };
            receipt().map_err(|invalid: Invalid| invalid.within(&format!("/events/{index}")))
        });
        Ok(Self { receipts: receipts.collect::<Result<_, _>>()?, duplicate: response.duplicate })
    }
}

impl v1::Delta {
    /// A delta of this aggregate.
    pub fn of(aggregate_id: &AggregateId, delta: Delta) -> Self {
        let kind = match delta.kind {
            DeltaKind::Text => v1::DeltaKind::Text,
            DeltaKind::Thinking => v1::DeltaKind::Thinking,
            DeltaKind::Reset => v1::DeltaKind::Reset,
        };
        Self { aggregate_id: aggregate_id.to_string(), turn: delta.turn, step: delta.step, kind: kind.into(), text: delta.text }
    }
}

impl TryFrom<v1::Delta> for Delta {
    type Error = Invalid;

    fn try_from(delta: v1::Delta) -> Result<Self, Invalid> {
        let kind = match delta.kind() {
            v1::DeltaKind::Text => DeltaKind::Text,
            v1::DeltaKind::Thinking => DeltaKind::Thinking,
            v1::DeltaKind::Reset => DeltaKind::Reset,
            v1::DeltaKind::Unspecified => return Err(Invalid::new("/kind", "is not a kind of delta")),
        };
        Ok(Self { turn: delta.turn, step: delta.step, kind, text: delta.text })
    }
}

/// 9999-12-31T23:59:59Z, the last second of a `google.protobuf.Timestamp`.
const SECONDS_MAX: i64 = 253_402_300_799;

/// A time for the wire.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanoseconds = time.as_nanosecond();
    // The seconds of a jiff timestamp fit by construction; the rest is below a second and, as the wire wants it, not negative.
    prost_types::Timestamp {
        seconds: nanoseconds.div_euclid(1_000_000_000) as i64,
        nanos: nanoseconds.rem_euclid(1_000_000_000) as i32,
    }
}

/// A time from the wire, cut to microseconds. The last hours that the wire can say, and nothing else can, are the latest time there is.
pub fn timestamp_from(time: prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    let invalid = || Invalid::new("", "is not a time");
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(invalid());
    }
    if (Timestamp::MAX.as_second() + 1..=SECONDS_MAX).contains(&time.seconds) {
        return Ok(Timestamp::MAX);
    }
    let microseconds = i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos / 1_000);
    i64::try_from(microseconds).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok()).ok_or_else(invalid)
}

fn required_timestamp(field: &str, time: Option<prost_types::Timestamp>) -> Result<Timestamp, Invalid> {
    let time = time.ok_or_else(|| Invalid::new(field, "is missing"))?;
    timestamp_from(time).map_err(|invalid| invalid.within(field))
}

fn parse<T: FromStr<Err = Invalid>>(field: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|invalid: Invalid| invalid.within(field))
}

/// On the wire an empty text is one that was not given.
fn parse_given<T: FromStr<Err = Invalid>>(field: &str, text: &str) -> Result<Option<T>, Invalid> {
    match text {
        "" => Ok(None),
        text => parse(field, text).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let json = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":42,"timestamp":"2026-11-23T10:00:00.123456Z","type":"MessageReceived","aggregate_id":"user_123","data":{"content" : "Hello"},"metadata":{"source":"telegram","causation_id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1x","correlation_id":"0af7651916cd43dd8448eb211c80319c","labels":{"k":"v"}}}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_event_crosses_the_wire_unchanged() {
        let mut event = event();
        assert_eq!(Event::try_from(v1::Event::from(&event)).unwrap(), event);
        event.metadata.causation_id = None;
        event.timestamp = "1969-12-31T23:59:59.999999Z".parse().unwrap();
        assert_eq!(Event::try_from(v1::Event::from(&event)).unwrap(), event);
    }

    #[test]
    fn a_draft_crosses_the_wire_unchanged() {
        let event = event();
        let mut draft = Draft {
            event_type: event.event_type,
            aggregate_id: event.aggregate_id,
            data: event.data,
            source: Some(event.metadata.source),
            causation_id: event.metadata.causation_id,
            correlation_id: Some(event.metadata.correlation_id),
            labels: event.metadata.labels,
            schema_version: event.metadata.schema_version,
        };
        assert_eq!(Draft::try_from(v1::NewEvent::from(draft.clone())).unwrap(), draft);
        (draft.source, draft.causation_id, draft.correlation_id) = (None, None, None);
        assert_eq!(Draft::try_from(v1::NewEvent::from(draft.clone())).unwrap(), draft);
    }

    #[test]
    fn what_is_wrong_in_a_draft_is_named() {
        let good = || v1::NewEvent {
            r#type: "NoteTaken".into(),
            aggregate_id: "user_1".into(),
            data: b"{}".to_vec(),
            metadata: Some(v1::Metadata { source: "test".into(), ..v1::Metadata::default() }),
        };
        let metadata = |change: fn(&mut v1::Metadata)| {
            let mut event = good();
            event.metadata.as_mut().map(change);
            event
        };
        assert!(Draft::try_from(good()).is_ok());
        for (event, field) in [
            (v1::NewEvent { r#type: "noteTaken".into(), ..good() }, "/type"),
            (v1::NewEvent { aggregate_id: "a\0b".into(), ..good() }, "/aggregate_id"),
            (v1::NewEvent { data: vec![], ..good() }, "/data"),
            (v1::NewEvent { data: b"\"\xff\"".to_vec(), ..good() }, "/data"),
            (v1::NewEvent { data: "[".repeat(5_000).into_bytes(), ..good() }, "/data"),
            (metadata(|metadata| metadata.source = "\n".into()), "/metadata/source"),
            (metadata(|metadata| metadata.causation_id = Some(String::new())), "/metadata/causation_id"),
            (metadata(|metadata| metadata.correlation_id = Some("x".repeat(129))), "/metadata/correlation_id"),
        ] {
            assert_eq!(Draft::try_from(event).unwrap_err().field, field);
        }
    }

    #[test]
    fn times_outside_of_time_are_refused() {
        assert_eq!(timestamp_from(prost_types::Timestamp { seconds: SECONDS_MAX, nanos: 999_999_999 }), Ok(Timestamp::MAX));
        for (seconds, nanos) in [(SECONDS_MAX + 1, 0), (i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)] {
            assert!(timestamp_from(prost_types::Timestamp { seconds, nanos }).is_err());
        }
    }

    #[test]
    fn a_delta_crosses_the_wire_unchanged() {
        let delta = Delta { turn: "turn_1".into(), step: 2, kind: DeltaKind::Thinking, text: "hm".into() };
        let wire = v1::Delta::of(&"user_1".parse().unwrap(), delta.clone());
        assert_eq!(wire.aggregate_id, "user_1");
        assert_eq!(Delta::try_from(wire).unwrap(), delta);
    }
}
