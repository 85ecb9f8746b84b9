//! A value that must not be seen.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A key, token or password. It prints, and serialises, as `***`; its memory is wiped.
///
/// In a configuration it is a string, or `{ file = "/run/secrets/key" }`, of which `api_key_file = ".."` is the short form
/// (see [`super::load`]). White space at the end of a file is not part of the secret.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The value, at the moment of its use.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> de::Visitor<'de> for Value {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or { file = \"..\" }")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
                Ok(value.into())
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
                match map.next_entry::<String, String>()? {
                    Some((key, path)) if key == "file" => match std::fs::read_to_string(&path) {
                        Ok(text) => Ok(text.trim_end().into()),
                        Err(error) => Err(de::Error::custom(format!("cannot read {path}: {error}"))),
                    },
                    Some((key, _)) => Err(de::Error::unknown_field(&key, &["file"])),
                    None => Err(de::Error::missing_field("file")),
                }
            }
        }
        deserializer.deserialize_any(Value)
    }
}
