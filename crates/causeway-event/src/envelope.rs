//! What every event has around its data.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    AggregateId, Category, CorrelationId, Data, EventId, EventType, Invalid, Payload, Position, Source, TraceParent, time,
};

/// Free string pairs of the client's. Never interpreted.
pub type Labels = BTreeMap<String, String>;

/// An event as it stands in the log. Its JSON is the documented shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Given by the log at append.
    pub id: EventId,
    /// Its place in the log.
    pub position: Position,
    /// When the log stored it, to the microsecond.
    #[serde(with = "time::rfc3339")]
    pub timestamp: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// What it happened to.
    pub aggregate_id: AggregateId,
    /// The particulars, as they were sent.
    pub data: Data,
    /// Where it came from.
    pub metadata: Metadata,
}

/// Where an event came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Who appended it.
    pub source: Source,
    /// The event that directly caused this one; a root has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<EventId>,
    /// The chain it belongs to.
    pub correlation_id: CorrelationId,
    /// The client's own pairs.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The version of its type's registered schema that the data is in; types without one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// The span that appended it; on the log a header, not part of the JSON.
    #[serde(skip)]
    pub traceparent: Option<TraceParent>,
}

impl Event {
    /// Its category, which follows from its type.
    pub fn category(&self) -> Category {
        Category::of(&self.event_type)
    }

    /// Its data as the struct of its type. A type that is not known, or data that an older or foreign writer shaped
    /// otherwise, is [`Payload::Other`]: folds leave it alone.
    pub fn payload(&self) -> Payload {
        Payload::read(&self.event_type, &self.data)
    }
}

/// An event that is not in the log yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// What happened.
    pub event_type: EventType,
    /// What it happened to.
    pub aggregate_id: AggregateId,
    /// The particulars.
    pub data: Data,
    /// Who says so.
    pub source: Source,
    /// Its place in a chain of cause and effect.
    pub lineage: Lineage,
    /// Free pairs.
    pub labels: Labels,
    /// The version of its type's registered schema that the data is in.
    pub schema_version: Option<u32>,
    /// The span that appends it.
    pub traceparent: Option<TraceParent>,
}

/// Where in a chain of cause and effect a new event stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Lineage {
    /// Nothing caused it; without a correlation id the log gives a fresh one.
    Root {
        /// The chain that the client wants it in.
        correlation: Option<CorrelationId>,
    },
    /// `cause` caused it directly.
    CausedBy {
        /// The event that caused it.
        cause: EventId,
        /// The cause's chain.
        correlation: CorrelationId,
    },
}

impl Lineage {
    /// The chain, if it is known.
    pub fn correlation(&self) -> Option<&CorrelationId> {
        match self {
            Self::Root { correlation } => correlation.as_ref(),
            Self::CausedBy { correlation, .. } => Some(correlation),
        }
    }
}

impl NewEvent {
    /// An event with one of the known payloads.
    pub fn of(payload: &Payload, aggregate_id: AggregateId, source: Source, lineage: Lineage) -> Result<Self, Invalid> {
        let (event_type, data) = payload.write()?;
        Ok(Self {
            event_type,
            aggregate_id,
            data,
            source,
            lineage,
            labels: Labels::new(),
            schema_version: None,
            traceparent: None,
        })
    }

    /// Its category.
    pub fn category(&self) -> Category {
        Category::of(&self.event_type)
    }

    /// Checks a known type's data against its schema. The error's field starts with `/data`.
    pub fn check(&self) -> Result<(), Invalid> {
        Payload::check(&self.event_type, &self.data).map_err(|invalid| invalid.within("/data"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":42,"timestamp":"2026-11-23T10:00:00.123456Z","type":"MessageReceived","aggregate_id":"user_123","data":{"content": "Hello"},"metadata":{"source":"telegram","causation_id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1x","correlation_id":"0af7651916cd43dd8448eb211c80319c","labels":{"k":"v"}}}"#;

    #[test]
    fn the_json_is_the_documented_shape_to_the_byte() {
        let event: Event = serde_json::from_str(DOCUMENTED).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), DOCUMENTED);
        assert_eq!(event.category(), Category::Input);
    }

    #[test]
    fn unknown_fields_of_data_survive_and_known_ones_are_read() {
        let json = DOCUMENTED.replace(r#"{"content": "Hello"}"#, r#"{"content":"Hello","mood":{"x":1}}"#);
        let event: Event = serde_json::from_str(&json).unwrap();
        assert!(matches!(event.payload(), Payload::MessageReceived(input) if input.content == "Hello"));
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
    }
}
