//! The state of an aggregate of the user's own: the data of its events laid one over the other, as JSON Merge Patch (RFC 7396)
//! says.
//!
//! `OrderPlaced {"total": 12, "note": "soon"}`, then `OrderShipped {"carrier": "x", "note": null}` gives
//! `{"carrier": "x", "total": 12}`: objects are merged member by member, `null` takes a member away, anything else takes the
//! place of what was there. Only the user's own types count (category custom); it knows nothing of what they mean. What is
//! neither merged nor replaced keeps its bytes: numbers stand as they were sent.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use causeway_event::{AggregateId, Category, Data, Event, EventId, EventType, Position};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Time;
use crate::view::{IdKind, View};

/// An aggregate's state up to and including the event at `position`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Whose state it is, from its first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_id: Option<AggregateId>,
    /// The last event folded; 0 before the first. Events up to here change nothing more.
    pub position: Position,
    /// When that event was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Time>,
    /// That event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// How many events were folded.
    pub events: u64,
    /// What they make together; an empty object before the first.
    pub state: Document,
}

/// The event that came last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// Its id.
    pub event_id: EventId,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
}

/// JSON that can be merged: objects are taken apart, anything else stands as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// An object; its members in the order of their names.
    Object(BTreeMap<String, Document>),
    /// Anything else.
    Value(Data),
}

impl Document {
    /// Lays `patch` over it.
    fn merge(&mut self, patch: &Data) {
        let Some(members) = members(patch) else {
            *self = Self::Value(patch.clone());
            return;
        };
        if let Self::Value(_) = self {
            *self = Self::default();
        }
        // Always an object by now.
        let Self::Object(object) = self else { return };
        for (name, value) in members {
            if value.as_str().trim() == "null" {
                object.remove(&name);
            } else {
                object.entry(name).or_default().merge(&value);
            }
        }
    }

    /// JSON as it is, its nulls included.
    fn of(data: Data) -> Self {
        match members(&data) {
            Some(members) => Self::Object(members.into_iter().map(|(name, value)| (name, Self::of(value))).collect()),
            None => Self::Value(data),
        }
    }
}

/// An object's members. One whose names cannot be read (a lone surrogate) is a value like any other.
fn members(data: &Data) -> Option<BTreeMap<String, Data>> {
    data.as_str().trim_start().starts_with('{').then(|| data.parse().ok()).flatten()
}

impl Default for Document {
    fn default() -> Self {
        Self::Object(BTreeMap::new())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(members) => members.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Data::deserialize(deserializer).map(Self::of)
    }
}

impl View for State {
    const NAME: &'static str = "state";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str =
        "The state of an aggregate of your own: the data of its custom events, merged as JSON Merge Patch (RFC 7396) says.";
    const ID: IdKind = IdKind::Aggregate;
    const CATEGORY: Option<Category> = Some(Category::Custom);
    const OWN_TYPES: bool = true;

    fn with(self, event: &Event) -> Self {
        fold(self, event)
    }
}

/// The state with `event`. Events up to `state.position` are known already and change nothing; only custom ones count.
#[must_use]
pub fn fold(mut state: State, event: &Event) -> State {
    if event.position <= state.position || event.category() != Category::Custom {
        return state;
    }
    state.aggregate_id.get_or_insert_with(|| event.aggregate_id.clone());
    state.position = event.position;
    state.updated_at = Some(event.timestamp.into());
    state.last = Some(Last { event_id: event.id, event_type: event.event_type.clone() });
    state.events += 1;
    state.state.merge(&event.data);
    state
}
