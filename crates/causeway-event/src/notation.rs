//! Two notations that fields and headers are written in: percent-encoding (RFC 3986) and JSON Pointer (RFC 6901).

use serde_path_to_error::{Path, Segment};

/// Undoes percent-encoding. None where it is broken, or does not come to UTF-8.
pub fn percent_decode(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A name as one part of a JSON Pointer, the slash before it included.
pub fn pointer_to(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The path of what serde could not read as a JSON Pointer.
pub fn pointer_of(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => pointer_to(key),
            // The tag of an enum is not part of the JSON's path.
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}
