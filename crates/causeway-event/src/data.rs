//! An event's own content: any JSON value, its bytes kept as they were sent.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Invalid;
use crate::notation::{pointer_of, pointer_to};

/// The most bytes that `data` may have; larger content is an artifact that the event refers to.
pub const DATA_BYTES_MAX: usize = 512 * 1024;

/// The deepest nesting that `data` may have: what every consumer's parser takes (serde_json stops at 128).
pub const DATA_DEPTH_MAX: usize = 100;

/// Valid JSON text of bounded depth. Cloning is cheap.
///
/// The size is the envelope's matter ([`DATA_BYTES_MAX`]), since "too large" is another answer than "not JSON".
#[derive(Clone)]
pub struct Data(Arc<RawValue>);

impl Data {
    /// Takes JSON text as it is. Fails on anything that is not exactly one JSON value, or nests too deep.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Invalid> {
        let not_json = |error| match bytes.trim_ascii() {
            [] => Invalid::new("", "is empty, which is not JSON: nothing is null"),
            _ => Invalid::new("", format!("is not JSON: {error}")),
        };
        let raw: Box<RawValue> = serde_json::from_slice(bytes).map_err(not_json)?;
        Self::from_raw(raw)
    }

    fn from_raw(raw: Box<RawValue>) -> Result<Self, Invalid> {
        match depth(raw.get()) {
            depth if depth > DATA_DEPTH_MAX => {
                Err(Invalid::new("", format!("nests {depth} levels deep; at most {DATA_DEPTH_MAX} are allowed")))
            }
            _ => Ok(Self(raw.into())),
        }
    }

    /// The JSON of a value of ours. Fails only for what JSON cannot say (a map with keys that are not strings).
    pub fn of(value: &impl Serialize) -> Result<Self, Invalid> {
        let raw = serde_json::value::to_raw_value(value).map_err(|error| Invalid::new("", error.to_string()))?;
        Self::from_raw(raw)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    /// Reads the JSON as a `T`, but only if it is an object: serde would take a list for the fields of a struct as well.
    pub(crate) fn parse_object<T: DeserializeOwned>(&self) -> Result<T, Invalid> {
        match self.as_str().trim_start().starts_with('{') {
            true => self.parse(),
            false => Err(Invalid::new("", "must be an object")),
        }
    }

    /// Reads the JSON as a `T`; the error's field is the path inside `data`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Invalid> {
        // To know the path takes as long as the reading: only what does not fit is read again for it.
        serde_json::from_str(self.as_str()).or_else(|_| self.parse_with_path())
    }

    fn parse_with_path<T: DeserializeOwned>(&self) -> Result<T, Invalid> {
        let mut json = serde_json::Deserializer::from_str(self.as_str());
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let pointer = pointer_of(error.path());
            // serde_json ends its messages with a line and column of a text that the client may never have seen as such.
            let reason = error.into_inner().to_string();
            let reason = reason.rsplit_once(" at line ").map_or(reason.clone(), |(what, _)| what.to_owned());
            // serde says where the field is missing, and which one only in words.
            match reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
                Some(missing) => Invalid::new(format!("{pointer}{}", pointer_to(missing)), reason),
                None => Invalid::new(pointer, reason),
            }
        })
    }
}

/// How deep valid JSON text nests, or more than that where it cannot be too deep: 0 for a scalar.
fn depth(json: &str) -> usize {
    // Every event that is read passes here; hardly any has so many brackets that it matters how they stand.
    let brackets = json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if brackets <= DATA_DEPTH_MAX {
        return brackets;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::from_raw(raw).map_err(|invalid| serde::de::Error::custom(invalid.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_kept_as_sent() {
        let sent = r#"{"b" : 1.0, "a": [1e3, "\u00e9"]}"#;
        assert_eq!(Data::from_json(sent.as_bytes()).unwrap().as_str(), sent);
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for bad in ["", "{", "{}{}", "nul", "{'a':1}", "\u{feff}{}"] {
            assert!(Data::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Data::from_json(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Data::from_json(nested(DATA_DEPTH_MAX).as_bytes()).is_ok());
        assert!(Data::from_json(nested(DATA_DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(Data::from_json(nested(100_000).as_bytes()).is_err());
        let text = format!("\"\\\"{}\"", "[".repeat(500));
        assert!(Data::from_json(text.as_bytes()).is_ok());
    }

    #[test]
    fn a_wrong_type_is_named_by_its_pointer() {
        #[derive(Debug, Deserialize)]
        struct Outer {
            #[allow(dead_code)]
            inner: Vec<u32>,
        }
        let data = Data::from_json(br#"{"inner": [1, "two"]}"#).unwrap();
        let invalid = data.parse::<Outer>().unwrap_err();
        assert_eq!((invalid.field.as_str(), invalid.reason.as_str()), ("/inner/1", "invalid type: string \"two\", expected u32"));
    }
}
