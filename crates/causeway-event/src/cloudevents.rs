//! CloudEvents 1.0 in binary mode: the envelope as `ce-` headers, the payload untouched.
//!
//! Follows the NATS and HTTP protocol bindings and the correlation extension: header values are percent-encoded where they
//! hold a space, a double quote, a percent sign or anything outside printable ASCII. Position and time are not headers: they
//! are the log's own sequence and timestamp.

use std::borrow::Cow;
use std::fmt;

use crate::notation::percent_decode;
use crate::{AggregateId, CorrelationId, Data, EventId, EventType, Invalid, Labels, Metadata, NewEvent, TraceParent};

/// The type of the payload.
pub const CONTENT_TYPE: &str = "application/json";

/// What the URI of a registered schema starts with: `urn:causeway:type:OrderPlaced:2`.
pub const SCHEMA_URI: &str = "urn:causeway:type:";

/// What the headers and the payload of a stored event say: an [`crate::Event`] without its position and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// `ce-id`
    pub id: EventId,
    /// `ce-type`
    pub event_type: EventType,
    /// `ce-subject`
    pub aggregate_id: AggregateId,
    /// `ce-source`, `ce-causationid`, `ce-correlationid`, `ce-labels`, `traceparent`
    pub metadata: Metadata,
    /// The payload.
    pub data: Data,
}

/// The headers of an event that is about to be stored under `id` in the chain `correlation`.
pub fn headers(event: &NewEvent, id: EventId, correlation: &CorrelationId) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", id.to_string()),
        ("ce-type", event.event_type.to_string()),
        ("ce-source", encode(event.source.as_str())),
        ("ce-subject", encode(event.aggregate_id.as_str())),
        ("ce-partitionkey", encode(event.aggregate_id.as_str())),
        ("ce-correlationid", encode(correlation.as_str())),
        ("content-type", CONTENT_TYPE.to_owned()),
    ];
    if let crate::Lineage::CausedBy { cause, .. } = &event.lineage {
        headers.push(("ce-causationid", cause.to_string()));
    }
    if !event.labels.is_empty() {
        // Extension names may not hold what labels may: the pairs travel as one JSON object.
        let json = serde_json::to_string(&event.labels).unwrap_or_default();
        headers.push(("ce-labels", encode(&json)));
    }
    if let Some(version) = event.schema_version {
        headers.push(("ce-dataschema", schema_uri(&event.event_type, version)));
    }
    if let Some(traceparent) = event.traceparent {
        headers.push(("traceparent", traceparent.to_string()));
    }
    headers
}

/// Reads what [`headers`] wrote. Unknown headers are left alone; the error's field is the header's name.
pub fn read<'h>(header: impl Fn(&'static str) -> Option<&'h str>, payload: &[u8]) -> Result<Stored, Invalid> {
    let optional = |name: &'static str| header(name).map(decode).transpose().map_err(|error| at(name, error));
    let required = |name: &'static str| optional(name)?.ok_or_else(|| Invalid::new(name, "is missing"));
    if required("ce-specversion")? != "1.0" {
        return Err(Invalid::new("ce-specversion", "is not 1.0"));
    }
    let labels: Labels = match optional("ce-labels")? {
        Some(json) => serde_json::from_str(&json).map_err(|error| Invalid::new("ce-labels", error.to_string()))?,
        None => Labels::new(),
    };
    let event_type = parse(&required, "ce-type")?;
    Ok(Stored {
        id: parse(&required, "ce-id")?,
        aggregate_id: parse(&required, "ce-subject")?,
        metadata: Metadata {
            source: parse(&required, "ce-source")?,
            causation_id: optional("ce-causationid")?
                .map(|id| id.parse().map_err(|error| at("ce-causationid", error)))
                .transpose()?,
            correlation_id: parse(&required, "ce-correlationid")?,
            labels,
            // A schema of somebody else's is not one that we could upcast from.
            schema_version: optional("ce-dataschema")?.and_then(|uri| schema_version(&uri, &event_type)),
            // A trace context that cannot be read costs a link in a trace, not an event.
            traceparent: header("traceparent").and_then(|text| text.parse::<TraceParent>().ok()),
        },
        event_type,
        data: Data::from_json(payload).map_err(|invalid| invalid.within("data"))?,
    })
}

/// The URI of a registered schema.
pub fn schema_uri(event_type: &EventType, version: impl fmt::Display) -> String {
    format!("{SCHEMA_URI}{event_type}:{version}")
}

/// The version in the URI of this type's registered schema; none in any other.
pub fn schema_version(uri: &str, event_type: &EventType) -> Option<u32> {
    let version = uri.rsplit_once(':')?.1.parse().ok()?;
    // Of a type and a version there is one URI: whatever else would read as the same could be put in its place unseen.
    (uri == schema_uri(event_type, version)).then_some(version)
}

fn at(name: &str, invalid: Invalid) -> Invalid {
    Invalid::new(name, invalid.reason)
}

fn parse<'a, T: std::str::FromStr<Err = Invalid>>(
    required: &impl Fn(&'static str) -> Result<Cow<'a, str>, Invalid>,
    name: &'static str,
) -> Result<T, Invalid> {
    required(name)?.parse().map_err(|error| at(name, error))
}

fn encode(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%')) {
        return text.to_owned();
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => encoded.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn decode(text: &str) -> Result<Cow<'_, str>, Invalid> {
    if !text.contains('%') {
        return Ok(text.into());
    }
    percent_decode(text.as_bytes()).map(Cow::Owned).ok_or_else(|| Invalid::new("", "is not percent-encoded UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::Lineage;

    fn text(max: usize) -> impl Strategy<Value = String> {
        proptest::string::string_regex(&format!("[ \"%a-zA-Z:é👋/]{{1,{max}}}")).unwrap()
    }

    proptest! {
        #[test]
        fn every_event_reads_back_from_its_headers(
            id: u128, cause: Option<u128>, aggregate in text(30), source in text(30), correlation in text(30),
            version in proptest::option::of(1u32..), labels in proptest::collection::btree_map(text(9), "\\PC{0,9}", 0..4), content in "\\PC{0,40}", sampled: bool,
        ) {
            let correlation: CorrelationId = correlation.parse().unwrap();
            let lineage = match cause {
                Some(cause) => Lineage::CausedBy { cause: EventId::from_uuid(Uuid::from_u128(cause)), correlation: correlation.clone() },
                None => Lineage::Root { correlation: Some(correlation.clone()) },
            };
            let event = NewEvent {
                event_type: "NoteTaken".parse().unwrap(),
                aggregate_id: aggregate.parse().unwrap(),
                data: Data::of(&content).unwrap(),
                source: source.parse().unwrap(),
                lineage,
                labels: labels.clone(),
                schema_version: version,
                traceparent: Some(TraceParent { trace_id: correlation.trace_id(), span_id: [7; 8], sampled }),
            };
            let id = EventId::from_uuid(Uuid::from_u128(id));
            let headers = headers(&event, id, &correlation);
            prop_assert!(headers.iter().all(|(_, value)| value.bytes().all(|byte| (0x21..=0x7e).contains(&byte))));
            let stored = read(|name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()), event.data.as_bytes()).unwrap();
            prop_assert_eq!(stored, Stored {
                id,
                event_type: event.event_type,
                aggregate_id: event.aggregate_id,
                metadata: Metadata {
                    source: event.source,
                    causation_id: cause.map(|cause| EventId::from_uuid(Uuid::from_u128(cause))),
                    correlation_id: correlation,
                    labels,
                    schema_version: version,
                    traceparent: event.traceparent,
                },
                data: event.data,
            });
        }
    }

    #[test]
    fn a_schema_is_of_its_type_and_written_in_one_way() {
        let order = "OrderPlaced".parse().unwrap();
        assert_eq!(schema_version("urn:causeway:type:OrderPlaced:12", &order), Some(12));
        for other in [
            "urn:causeway:type:Refund:12",
            "urn:causeway:type:OrderPlaced:012",
            "urn:causeway:type:OrderPlaced:+12",
            "urn:causeway:type:OrderPlaced:",
            "urn:causeway:type:12",
            "https://example.com/OrderPlaced:12",
        ] {
            assert_eq!(schema_version(other, &order), None, "{other}");
        }
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let error = read(|_| None, b"{}").unwrap_err();
        assert_eq!(error.field, "ce-specversion");
        let error = read(|name| Some(if name == "ce-specversion" { "1.0" } else { "%zz" }), b"{}").unwrap_err();
        assert!(error.field.starts_with("ce-"), "{error}");
    }
}
