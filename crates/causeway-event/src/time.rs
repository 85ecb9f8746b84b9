//! Times as Causeway writes and reads them: RFC 3339, UTC, microseconds.

use jiff::Timestamp;

use crate::Invalid;

/// `2026-11-23T10:00:00.123456Z`, always with six digits, so that texts sort as times do.
pub fn format_timestamp(timestamp: Timestamp) -> String {
    format!("{timestamp:.6}")
}

/// Any RFC 3339 time, with whatever offset, cut to microseconds.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Invalid> {
    let invalid = |_| Invalid::new("", "is not an RFC 3339 time such as 2026-11-23T10:00:00Z");
    let timestamp: Timestamp = text.parse().map_err(invalid)?;
    Timestamp::from_microsecond(timestamp.as_microsecond()).map_err(invalid)
}

/// For `#[serde(with = "..")]`.
pub(crate) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_timestamp(*timestamp))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_timestamp(&text).map_err(D::Error::custom)
    }
}
