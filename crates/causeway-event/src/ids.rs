//! Newtypes that are valid by construction: the only door is parsing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::Invalid;

/// Strings with a rule, each a type of its own so that two of them cannot be swapped.
macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The value as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                let check: fn(&str) -> Result<(), Invalid> = $check;
                check(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_newtype!(
    /// What an event belongs to: a user or a session. 1 to 128 bytes of printable UTF-8.
    AggregateId,
    |text| printable(text, 128)
);
text_newtype!(
    /// One id for a whole chain of cause and effect. 1 to 128 bytes of printable UTF-8; see [`CorrelationId::trace_id`].
    CorrelationId,
    |text| printable(text, 128)
);
text_newtype!(
    /// Who appended an event: `telegram`, `webhook:github`, `ai-processor`. 1 to 128 bytes of printable UTF-8.
    Source,
    |text| printable(text, 128)
);
text_newtype!(
    /// The name under which an append is made at most once per aggregate. 1 to 256 bytes of printable UTF-8.
    IdempotencyKey,
    |text| printable(text, 256)
);
text_newtype!(
    /// What happened, in the past tense: `[A-Z][A-Za-z0-9]{0,63}`.
    EventType,
    |text| {
        let starts = text.bytes().next().is_some_and(|first| first.is_ascii_uppercase());
        let goes_on = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match starts && goes_on && text.len() <= 64 {
            true => Ok(()),
            false => Err(Invalid::new("", "must match [A-Z][A-Za-z0-9]{0,63}")),
        }
    }
);

fn printable(text: &str, bytes_max: usize) -> Result<(), Invalid> {
    match text {
        "" => Err(Invalid::new("", "must not be empty")),
        _ if text.len() > bytes_max => {
            Err(Invalid::new("", format!("has {} bytes; at most {bytes_max} are allowed", text.len())))
        }
        _ if text.chars().any(char::is_control) => Err(Invalid::new("", "must not contain control characters")),
        _ => Ok(()),
    }
}

impl CorrelationId {
    /// The correlation id of a chain that starts here: 32 hex digits.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.simple().to_string().into())
    }

    /// The OpenTelemetry trace id of this chain: 32 hex digits or a UUID as they are, any other string by the first 16
    /// bytes of its SHA-256. So whoever has an event can open its trace.
    pub fn trace_id(&self) -> [u8; 16] {
        let as_is = matches!(self.0.len(), 32 | 36).then(|| Uuid::try_parse(&self.0).ok()).flatten();
        // All zeros is no trace id (W3C Trace Context).
        if let Some(uuid) = as_is.filter(|uuid| !uuid.is_nil()) {
            return uuid.into_bytes();
        }
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        id
    }
}

/// The id of an event: `evt_` and a UUIDv7 in TypeID base32 (<https://github.com/jetify-com/typeid>).
///
/// Sorts by time, says what it is, and can be pasted anywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct EventId(Uuid);

/// Crockford's base32 in lower case.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// What each byte stands for as a digit; 32 or more: it is none.
const DIGITS: [u8; 256] = {
    let (mut digits, mut value) = ([u8::MAX; 256], 0);
    while value < BASE32.len() {
        digits[BASE32[value] as usize] = value as u8;
        value += 1;
    }
    digits
};
const EVENT_ID_PREFIX: &str = "evt_";
const EVENT_ID_BYTES: usize = 30;

impl EventId {
    /// The event id made of this UUID, which should be a version 7.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID inside.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The text, all of it ASCII. Every event is told with it many times: nothing is allocated.
    fn text(self) -> [u8; EVENT_ID_BYTES] {
        let (mut text, mut rest) = ([0; EVENT_ID_BYTES], self.0.as_u128());
        let (prefix, digits) = text.split_at_mut(EVENT_ID_PREFIX.len());
        prefix.copy_from_slice(EVENT_ID_PREFIX.as_bytes());
        // 26 digits of 5 bits are 130 bits: the first digit holds the upper 3.
        for digit in digits.iter_mut().rev() {
            *digit = BASE32[(rest & 31) as usize];
            rest >>= 5;
        }
        text
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("", "is not an event id: evt_ and 26 digits of base32");
        let digits = text.strip_prefix(EVENT_ID_PREFIX).ok_or_else(invalid)?;
        if digits.len() != 26 || digits.as_bytes()[0] > b'7' {
            return Err(invalid());
        }
        let mut value = 0_u128;
        for digit in digits.bytes() {
            let five = Some(DIGITS[usize::from(digit)]).filter(|five| *five < 32).ok_or_else(invalid)?;
            value = value << 5 | u128::from(five);
        }
        Ok(Self(Uuid::from_u128(value)))
    }
}

impl TryFrom<String> for EventId {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> String {
        id.to_string()
    }
}

/// An event's place in the log, from 1, strictly increasing, gaps allowed. Zero is the place before the first event.
///
/// A position is not a count: it does not add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The place with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place right behind this one; the last one that a number can say has none and stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The place right before this one; the start has none and stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Position {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| Invalid::new("", "is not a position: a whole number from 0"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_id_is_a_typeid() {
        // The example of the TypeID specification.
        let uuid = Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        assert_eq!(EventId::from_uuid(uuid).to_string(), "evt_01h455vb4pex5vsknk084sn02q");
    }

    proptest! {
        #[test]
        fn every_event_id_reads_back_and_sorts_as_its_uuid(a: u128, b: u128) {
            let (a, b) = (EventId(Uuid::from_u128(a)), EventId(Uuid::from_u128(b)));
            prop_assert_eq!(a.to_string().parse::<EventId>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(evt_)?\\PC{0,30}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_event_id_is_refused() {
        for text in ["", "evt_", "01h455vb4pex5vsknk084sn02q", "evt_81h455vb4pex5vsknk084sn02q", "evt_01h455vb4pex5vsknk084sn02u"]
        {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }

    #[test]
    fn types_and_ids_keep_their_rules() {
        assert!("MessageReceived".parse::<EventType>().is_ok());
        for bad in ["", "messageReceived", "Message_Received", "É", &"A".repeat(65)] {
            assert!(bad.parse::<EventType>().is_err(), "{bad}");
        }
        assert!("telegram:42 ünï 👋".parse::<AggregateId>().is_ok());
        for bad in ["", "a\0b", "line\nbreak", "\u{85}", &"x".repeat(129)] {
            assert!(bad.parse::<AggregateId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_correlation_id_names_its_trace() {
        let trace = |text: &str| text.parse::<CorrelationId>().unwrap().trace_id();
        let hex = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace(hex), Uuid::parse_str(hex).unwrap().into_bytes());
        assert_eq!(trace("4bf92f35-77b3-4da6-a3ce-929d0e0e4736"), trace(hex));
        assert_eq!(trace("order-7")[..4], [0xdf, 0x8c, 0xf8, 0x02], "the first bytes of sha256(order-7)");
        assert_ne!(trace(&"0".repeat(32)), [0; 16]);
    }
}
