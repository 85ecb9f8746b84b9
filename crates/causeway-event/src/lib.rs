//! The event: what one is, what its parts may be, and how it looks as JSON and as a CloudEvent.
//!
//! Everything in Causeway that crosses a wire or rests on a disk is one of these. This crate is pure: no I/O, no async, no
//! clock, no randomness; ids and times are given by whoever has a clock.

mod category;
pub mod cloudevents;
mod data;
mod delta;
mod envelope;
mod ids;
pub mod notation;
pub mod payload;
mod time;
mod trace;

pub use category::Category;
pub use data::{DATA_BYTES_MAX, DATA_DEPTH_MAX, Data};
pub use delta::{Delta, DeltaKind};
pub use envelope::{Event, Labels, Lineage, Metadata, NewEvent};
pub use ids::{AggregateId, CorrelationId, EventId, EventType, IdempotencyKey, Position, Source};
pub use payload::Payload;
pub use time::{format_timestamp, parse_timestamp};
pub use trace::TraceParent;

/// A value that may not be what it was given as.
///
/// `field` is a JSON Pointer (RFC 6901) relative to whatever was parsed, empty for the whole of it. Callers that know more
/// of the way to the value put their own part in front with [`Invalid::within`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct Invalid {
    /// Where the bad value stands.
    pub field: String,
    /// What is wrong with it, in lower case, without full stop.
    pub reason: String,
}

impl Invalid {
    /// A bad value at `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same complaint seen from further out: `parent` is the pointer to what was parsed.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}{}", self.field), reason: self.reason }
    }
}
