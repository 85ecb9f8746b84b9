//! A place in the log as a client names it: by position, by event id, or by time.

use std::str::FromStr;

use causeway_event::{EventId, Invalid, Position, parse_timestamp};
use causeway_proto::Problem;
use jiff::Timestamp;
use jiff::civil::DateTime;

use crate::store::Store;

/// A place between two events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cursor {
    At(Position),
    Event(EventId),
}

impl FromStr for Cursor {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.starts_with("evt_") {
            true => text.parse().map(Self::Event),
            // "+7" would parse as a number.
            false if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().map(Self::At),
            false => Err(Invalid::new("", "is neither a position nor an event id")),
        }
    }
}

impl Cursor {
    /// Where it is. The read model must be as fresh as the answer shall be.
    pub(crate) async fn resolve(self, store: &Store, field: &str) -> Result<Position, Problem> {
        match self {
            Self::At(position) => Ok(position),
            Self::Event(id) => match store.by_id(id).await? {
                Some(event) => Ok(event.position),
                None => Err(Problem::invalid(field, format!("there is no event {id} on the log"))),
            },
        }
    }
}

/// A moment of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment {
    At(Cursor),
    Time(Timestamp),
}

/// A moment that has been looked up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Border {
    At(Position),
    Time(Timestamp),
}

impl FromStr for Moment {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Also what an event cannot have: `9999-12-31T23:59:59Z` is how many say "for ever".
        let time = || parse_timestamp(text).or_else(|_| end_of_time(text)).map(Self::Time);
        text.parse().map(Self::At).or_else(|_| time()).map_err(|_: Invalid| {
            Invalid::new("", "is neither a position nor an event id nor an RFC 3339 time such as 2026-11-23T10:00:00Z")
        })
    }
}

/// The latest time that there is, for one behind it.
fn end_of_time(text: &str) -> Result<Timestamp, Invalid> {
    let is_later = |time: DateTime| time > DateTime::constant(9999, 12, 30, 22, 0, 0, 0);
    match text.strip_suffix(['Z', 'z']).and_then(|time| time.parse().ok()).is_some_and(is_later) {
        true => Ok(Timestamp::MAX),
        false => Err(Invalid::new("", "is no such time")),
    }
}

impl Moment {
    /// Where it cuts the log for a reader: a place between two positions, or between two times.
    ///
    /// Times do not always rise with positions, so a time stays one.
    pub(crate) async fn border(self, store: &Store, field: &str) -> Result<Border, Problem> {
        match self {
            Self::At(cursor) => Ok(Border::At(cursor.resolve(store, field).await?)),
            Self::Time(time) => Ok(Border::Time(time)),
        }
    }

    /// The last position of that moment; `last` is the last one there is.
    pub(crate) async fn resolve(self, store: &Store, field: &str, last: Position) -> Result<Position, Problem> {
        match self {
            Self::At(cursor) => match cursor.resolve(store, field).await? {
                position if position > last => Err(Problem::invalid(field, format!("the log ends at position {last}"))),
                position => Ok(position),
            },
            Self::Time(time) => Ok(store.position_at(time).await?.min(last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!("42".parse::<Cursor>(), Ok(Cursor::At(Position::new(42))));
        assert!(matches!("evt_01k9x3m5v8e7rs2q4n6p8t0w1y".parse::<Cursor>(), Ok(Cursor::Event(_))));
        assert!(matches!("2026-11-23T10:00:00+01:00".parse::<Moment>(), Ok(Moment::Time(_))));
        for forever in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z"] {
            assert_eq!(forever.parse::<Moment>(), Ok(Moment::Time(Timestamp::MAX)));
        }
        assert_eq!("0".parse::<Moment>(), Ok(Moment::At(Cursor::At(Position::START))));
        for bad in [
            "",
            "-1",
            "+1",
            "1.5",
            "evt_",
            "18446744073709551616",
            "yesterday",
            "2026-11-23",
            "0x10",
            "1e3",
            " 1",
            "9999-12-31",
            "10000-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
