//! Times as the views show them.

use causeway_event::{format_timestamp, parse_timestamp};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// When the log stored something, to the microsecond; as JSON the text that the event itself has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(Timestamp);

impl Time {
    /// Microseconds from `earlier` to this; negative where the clock that stamped them went back.
    pub fn micros_since(self, earlier: Self) -> i64 {
        self.0.as_microsecond() - earlier.0.as_microsecond()
    }
}

impl From<Timestamp> for Time {
    /// Cuts to microseconds, as the JSON does: a state in memory and the same state read back are equal.
    fn from(timestamp: Timestamp) -> Self {
        Self(Timestamp::from_microsecond(timestamp.as_microsecond()).unwrap_or(timestamp))
    }
}

impl TryFrom<String> for Time {
    type Error = causeway_event::Invalid;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse_timestamp(&text).map(Self)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        format_timestamp(time.0)
    }
}
