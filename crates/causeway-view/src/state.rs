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
use std::fmt;

use causeway_event::notation::pointer_to;
use causeway_event::{AggregateId, Category, Data, Event, EventId, EventType, Position};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::view::{IdKind, Part, View};
use crate::{Prices, Time};

/// Where the document stands.
const DOCUMENT: &str = "/state";
/// What every event changes beside it.
const HEAD: [&str; 5] = ["/aggregate_id", "/position", "/updated_at", "/last", "/events"];

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
        for (Name(name), value) in members {
            if value.as_str().trim() == "null" {
                object.remove(&name);
            } else {
                object.entry(name).or_default().merge(&value);
            }
        }
    }

    /// Pointers, behind `at`, to what laying `patch` over it can change.
    fn touched(&self, patch: &Data, at: &str, pointers: &mut Vec<String>) {
        let (Self::Object(object), Some(members)) = (self, members(patch)) else {
            pointers.push(at.to_owned());
            return;
        };
        for (Name(name), value) in members {
            let at = format!("{at}{}", pointer_to(&name));
            match object.get(&name) {
                Some(member) => member.touched(&value, &at, pointers),
                None => pointers.push(at),
            }
        }
    }

    /// What a pointer leads to.
    fn at(&self, pointer: &str) -> Option<&Self> {
        let mut found = self;
        for name in pointer.split('/').skip(1) {
            let Self::Object(object) = found else { return None };
            found = object.get(&name.replace("~1", "/").replace("~0", "~"))?;
        }
        Some(found)
    }

    /// JSON as it is, its nulls included.
    fn of(data: Data) -> Self {
        match members(&data) {
            Some(members) => Self::Object(members.into_iter().map(|(Name(name), value)| (name, Self::of(value))).collect()),
            None => Self::Value(data),
        }
    }
}

/// An object's members.
fn members(data: &Data) -> Option<BTreeMap<Name, Data>> {
    data.as_str().trim_start().starts_with('{').then(|| data.parse().ok()).flatten()
}

/// A member's name. Half of a surrogate pair, which JSON can say and no text can hold, is read as U+FFFD, as Go reads it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As text such a name would be refused; as bytes serde_json gives the half as if it were a character.
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
        let mut name = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            name.push_str(chunk.valid());
            // Of the three bytes of a half the first says that it is one.
            if chunk.invalid().first() == Some(&0xed) {
                name.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(Name(name))
    }
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
    const VERSION: u32 = 2;
    const DESCRIPTION: &'static str =
        "The state of an aggregate of your own: the data of its custom events, merged as JSON Merge Patch (RFC 7396) says.";
    const ID: IdKind = IdKind::Aggregate;
    const CATEGORY: Option<Category> = Some(Category::Custom);
    const OWN_TYPES: bool = true;

    fn with(self, event: &Event) -> Self {
        fold(self, event)
    }

    fn parts(&mut self, event: &Event) -> Vec<Part> {
        if event.position <= self.position || event.category() != Category::Custom {
            return Vec::new();
        }
        let mut pointers = HEAD.map(str::to_owned).into();
        self.state.touched(&event.data, DOCUMENT, &mut pointers);
        pointers.into_iter().map(Part::at).collect()
    }

    fn part(&self, pointer: &str, _prices: &Prices) -> serde_json::Result<Option<String>> {
        match pointer {
            "/aggregate_id" => json(self.aggregate_id.as_ref()),
            "/position" => json(Some(&self.position)),
            "/updated_at" => json(self.updated_at.as_ref()),
            "/last" => json(self.last.as_ref()),
            "/events" => json(Some(&self.events)),
            _ => json(pointer.strip_prefix(DOCUMENT).and_then(|pointer| self.state.at(pointer))),
        }
    }
}

fn json<T: Serialize>(part: Option<&T>) -> serde_json::Result<Option<String>> {
    part.map(serde_json::to_string).transpose()
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
