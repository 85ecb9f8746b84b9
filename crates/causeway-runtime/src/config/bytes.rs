//! Sizes as `"512KiB"`, `"8MiB"`, `"1GB"`, `"100B"`: for `#[serde(with = "causeway_runtime::config::bytes")]` on any unsigned integer.

use serde::{Deserializer, Serializer, de};

/// Bytes of each unit; those of 1024 first, since sizes are written in them.
const UNITS: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("B", 1)];

/// The text of a size, exact.
pub fn format(bytes: u64) -> String {
    let (unit, size) = UNITS.into_iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

/// Reads what [`format`] writes, and a bare number as bytes. The error is a sentence.
pub fn parse(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is not a size such as 512KiB, 8MiB or 100B");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let size = match unit {
        "" => 1,
        unit => UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(invalid)?.1,
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(size)).ok_or_else(invalid)
}

/// For serde.
pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format((*bytes).try_into().unwrap_or(u64::MAX)))
}

/// For serde.
pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Size;
    impl de::Visitor<'_> for Size {
        type Value = u64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size such as \"512KiB\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse(text).map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }
        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
        }
    }
    let bytes = deserializer.deserialize_any(Size)?;
    T::try_from(bytes).map_err(|_| de::Error::custom(format!("{} is too much", format(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back() {
        for text in ["512KiB", "8MiB", "1GiB", "3GB", "100B", "0B", "1025B"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(parse("512 kib"), Ok(512 * 1024));
        assert_eq!(parse("77"), Ok(77));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "-1B", "1.5MiB", "5 stones", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
