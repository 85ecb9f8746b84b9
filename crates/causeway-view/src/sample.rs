//! Events for tests: position, time and id follow from one number.

use causeway_event::{AggregateId, Data, Event, EventId, Metadata, Payload, Position};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// The event id of the event at this position.
pub(crate) fn id(position: u64) -> EventId {
    format!("evt_{position:026}").parse().unwrap()
}

/// An event of the conversation `web:ada`, half a second after the one before it.
pub(crate) fn event(position: u64, event_type: &str, data: &Value) -> Event {
    let tenth: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
    let millis = i64::try_from(position % 1_000_000).unwrap() * 500;
    Event {
        id: id(position),
        position: Position::new(position),
        timestamp: tenth + SignedDuration::from_millis(millis),
        event_type: event_type.parse().unwrap(),
        aggregate_id: "web:ada".parse().unwrap(),
        data: Data::of(data).unwrap(),
        metadata: Metadata {
            source: "test".parse().unwrap(),
            causation_id: None,
            correlation_id: "0af7651916cd43dd8448eb211c80319c".parse().unwrap(),
            labels: Default::default(),
            schema_version: None,
            traceparent: None,
        },
    }
}

/// The same with a typed payload.
pub(crate) fn typed(position: u64, payload: &Payload) -> Event {
    let aggregate: AggregateId = "web:ada".parse().unwrap();
    let root = causeway_event::Lineage::Root { correlation: None };
    let new = causeway_event::NewEvent::of(payload, aggregate, "test".parse().unwrap(), root).unwrap();
    Event { event_type: new.event_type, data: new.data, ..event(position, "Any", &Value::Null) }
}

/// The same caused by the event at another position.
pub(crate) fn caused(event: Event, cause: u64) -> Event {
    let metadata = Metadata { causation_id: Some(id(cause)), ..event.metadata };
    Event { metadata, ..event }
}
