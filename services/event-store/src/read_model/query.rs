//! What can be asked of the read model, and what an event must be like to be an answer. Pure: no SQL.

use std::str::FromStr;
use std::sync::Arc;

use causeway_event::{AggregateId, Category, CorrelationId, Event, EventId, EventType, Invalid, Position, Source};
use jiff::Timestamp;

use super::{Descendants, PAGE_BYTES_MAX};

/// The most types of one filter: each event is held against all of them.
pub(crate) const TYPES_MAX: usize = 256;

/// Which events are wanted. The default wants all; each field that is set narrows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// Any of these; all types where empty.
    pub(crate) types: Vec<TypePattern>,
    pub(crate) category: Option<Category>,
    pub(crate) aggregate_id: Option<AggregateId>,
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) source: Option<Source>,
    /// Directly caused by this event.
    pub(crate) caused_by: Option<EventId>,
    /// Caused by this event, directly or over others. An event by itself does not say so: see [`Filter::matches`].
    pub(crate) descendants_of: Option<EventId>,
    /// Stored at this time or later.
    pub(crate) from: Option<Timestamp>,
    /// Stored before this time: ranges that meet neither overlap nor leave a gap.
    pub(crate) until: Option<Timestamp>,
}

/// One type, or all whose names start alike.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TypePattern {
    Exact(EventType),
    Prefix(String),
}

/// Which end of the log comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Forwards,
    Backwards,
}

/// A page of the events that pass `filter`, strictly between `after` and `before`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    pub(crate) after: Option<Position>,
    pub(crate) before: Option<Position>,
    pub(crate) order: Order,
    /// Who the descendants are, if that was looked up before: it holds for all pages of one read. Only what it reaches is read.
    pub(crate) descendants: Option<Arc<Descendants>>,
    /// At most so many events ...
    pub(crate) limit: usize,
    /// ... and bytes of data in them, but for a first event that is larger.
    pub(crate) bytes_max: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            after: None,
            before: None,
            order: Order::default(),
            descendants: None,
            limit: 0,
            bytes_max: PAGE_BYTES_MAX,
        }
    }
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) events: Vec<Arc<Event>>,
    /// Behind which position (backwards: before which) the next page begins, unless this is the last one. Only this says so: a page
    /// may be shorter than its limit, or empty.
    pub(crate) next: Option<Position>,
    /// How far the model was: the page answers for the log up to here.
    pub(crate) last_position: Position,
}

impl Filter {
    /// Why so many types are too many.
    pub(crate) fn check_types(count: usize) -> Result<(), Invalid> {
        match count <= TYPES_MAX {
            true => Ok(()),
            false => Err(Invalid::new("", format!("has {count} types; at most {TYPES_MAX} are allowed"))),
        }
    }

    /// Whether the event passes, as far as the event can tell: whether it is a descendant, [`Descendants`] knows.
    pub(crate) fn matches(&self, event: &Event) -> bool {
        (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(&event.event_type)))
            && self.category.is_none_or(|category| category == event.category())
            && self.aggregate_id.as_ref().is_none_or(|aggregate| *aggregate == event.aggregate_id)
            && self.correlation_id.as_ref().is_none_or(|chain| *chain == event.metadata.correlation_id)
            && self.source.as_ref().is_none_or(|source| *source == event.metadata.source)
            && self.caused_by.is_none_or(|cause| event.metadata.causation_id == Some(cause))
            && self.from.is_none_or(|from| from <= event.timestamp)
            && self.until.is_none_or(|until| event.timestamp < until)
    }

    /// Whether the descent is all that it asks for.
    pub(super) fn is_only_descent(&self) -> bool {
        *self == Self { descendants_of: self.descendants_of, from: self.from, until: self.until, ..Self::default() }
    }

    /// Whether an event of this type can pass.
    pub(super) fn wants_type(&self, event_type: &EventType) -> bool {
        (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(event_type)))
            && self.category.is_none_or(|category| category == Category::of(event_type))
    }
}

impl TypePattern {
    pub(crate) fn matches(&self, event_type: &EventType) -> bool {
        match self {
            Self::Exact(exact) => exact == event_type,
            Self::Prefix(prefix) => event_type.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for TypePattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().map(Self::Exact);
        };
        // What no type can start with is a mistake of the caller's, not an empty answer.
        match prefix.is_empty() || prefix.parse::<EventType>().is_ok() {
            true => Ok(Self::Prefix(prefix.to_owned())),
            false => Err(Invalid::new("", "must be a type, or the start of one and a *")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_type_or_a_prefix() {
        assert_eq!("MessageReceived".parse(), Ok(TypePattern::Exact("MessageReceived".parse().unwrap())));
        assert_eq!("Message*".parse(), Ok(TypePattern::Prefix("Message".into())));
        assert_eq!("*".parse(), Ok(TypePattern::Prefix(String::new())));
        for bad in ["", "message*", "Me*ge", "Message**", "Message_*"] {
            assert!(bad.parse::<TypePattern>().is_err(), "{bad}");
        }
    }
}
