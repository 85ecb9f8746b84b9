//! Messages of the stream as events, and back.

use async_nats::HeaderMap;
use causeway_event::{Category, Event, IdempotencyKey, Invalid, Position, cloudevents, parse_timestamp};
use jiff::Timestamp;

use crate::names::Names;

/// On an event that was imported: what the headers and the clock of NATS said on the log that it comes from. NATS would act on
/// headers of its own once more.
pub(crate) mod imported {
    /// When that log stored it.
    pub(crate) const TIME: &str = "causeway-time";
    /// The idempotency key, as it is in a message id.
    pub(crate) const KEY: &str = "causeway-key";
    /// The fence.
    pub(crate) const EXPECTED: &str = "causeway-expected";
}

/// An event with the idempotency key it was appended under.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The event.
    pub event: Event,
    /// The client's key, on the first event of its append.
    pub key: Option<IdempotencyKey>,
}

/// What stands at a position of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An event.
    Event(Stored),
    /// Something that is not an event of ours: whoever has access to the stream can publish anything.
    Unreadable {
        /// Where it stands.
        position: Position,
        /// Why it cannot be read.
        reason: Invalid,
    },
}

impl Record {
    /// Its place in the log.
    pub fn position(&self) -> Position {
        match self {
            Self::Event(stored) => stored.event.position,
            Self::Unreadable { position, .. } => *position,
        }
    }
}

/// Where and when a message was stored.
pub(crate) struct Place<'m> {
    pub(crate) subject: &'m str,
    pub(crate) sequence: u64,
    pub(crate) time_ns: i128,
}

pub(crate) fn record(names: &Names, place: &Place<'_>, headers: Option<&HeaderMap>, payload: &[u8]) -> Record {
    match read(names, place, headers, payload) {
        Ok(stored) => Record::Event(stored),
        Err(reason) => Record::Unreadable { position: Position::new(place.sequence), reason },
    }
}

/// Whether a header of this name, however it is written, says something of an event.
fn is_ours(name: &str) -> bool {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    begins("ce-") || begins("causeway-") || ["traceparent", "content-type"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

fn read(names: &Names, place: &Place<'_>, headers: Option<&HeaderMap>, payload: &[u8]) -> Result<Stored, Invalid> {
    // Some ten headers, each of which is asked for: a look at each is faster than the hashes of a map.
    let mut known: Vec<(&str, &str)> = Vec::with_capacity(headers.map_or(0, HeaderMap::len));
    for (name, values) in headers.iter().flat_map(|headers| headers.iter()) {
        let name: &str = name.as_ref();
        // Clients disagree on which of several counts, and on whether case does: nothing is vouched for that others read otherwise.
        if is_ours(name) && (values.len() > 1 || name.bytes().any(|byte| byte.is_ascii_uppercase())) {
            return Err(Invalid::new(name, "is there more than once, or not in lower case"));
        }
        known.extend(values.first().map(|value| (name, value.as_str())));
    }
    let headers = known;
    let header = |name: &'static str| headers.iter().find(|(there, _)| *there == name).map(|(_, value)| *value);
    let stored = cloudevents::read(header, payload)?;
    // A fold reads by subject: an event under a foreign one would be in some views and not in others.
    if place.subject != names.event(&stored.aggregate_id, Category::of(&stored.event_type)) {
        return Err(Invalid::new("ce-subject", format!("does not belong on the subject {}", place.subject)));
    }
    let timestamp = match header(imported::TIME) {
        Some(time) => parse_timestamp(time).map_err(|invalid| Invalid::new(imported::TIME, invalid.reason))?,
        None => {
            let microseconds = i64::try_from(place.time_ns / 1000).map_err(|_| Invalid::new("time", "is out of range"))?;
            Timestamp::from_microsecond(microseconds).map_err(|_| Invalid::new("time", "is out of range"))?
        }
    };
    let key = header(imported::KEY)
        .or_else(|| header("Nats-Msg-Id"))
        .and_then(|id| Names::key_of(&stored.aggregate_id, id))
        .and_then(|key| key.parse::<IdempotencyKey>().ok());
    let event = Event {
        id: stored.id,
        position: Position::new(place.sequence),
        timestamp,
        event_type: stored.event_type,
        aggregate_id: stored.aggregate_id,
        data: stored.data,
        metadata: stored.metadata,
    };
    Ok(Stored { event, key })
}
