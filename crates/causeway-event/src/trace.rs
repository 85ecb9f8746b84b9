//! W3C Trace Context: where in a trace an event was appended.

use std::fmt;
use std::str::FromStr;

use crate::Invalid;

/// A `traceparent` header (<https://www.w3.org/TR/trace-context/>), version 00.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; the chain's correlation id says the same ([`crate::CorrelationId::trace_id`]).
    pub trace_id: [u8; 16],
    /// The span that appended the event.
    pub span_id: [u8; 8],
    /// Whether that span was recorded.
    pub sampled: bool,
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceParent {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("", "is not a W3C traceparent");
        let hex = |part: Option<&str>, digits: usize| {
            part.filter(|part| part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
                .and_then(|part| u128::from_str_radix(part, 16).ok())
                .ok_or_else(invalid)
        };
        let mut parts = text.split('-');
        let version = hex(parts.next(), 2)?;
        let (trace, span) = (hex(parts.next(), 32)?, hex(parts.next(), 16)?);
        let flags = hex(parts.next(), 2)?;
        // Later versions may have more parts; version 00 has none, and ff is forbidden.
        if trace == 0 || span == 0 || version == 0xff || (version == 0 && parts.next().is_some()) {
            return Err(invalid());
        }
        Ok(Self { trace_id: trace.to_be_bytes(), span_id: (span as u64).to_be_bytes(), sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_reads_back() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), text);
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
