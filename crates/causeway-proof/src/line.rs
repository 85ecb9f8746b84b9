//! One line of an export: newline-delimited JSON, in which each event is a CloudEvent in structured mode.
//!
//! An event's line has the attributes of CloudEvents 1.0 and extensions of ours; all of them are strings, since an integer of
//! CloudEvents has 32 bits. Three sorts of line are no CloudEvents, and have one member that says which: `foreign` (what stood
//! on the log and was no event), `gap` (where nothing stood), and `start` and `end` (how far the chain goes there).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_event::{
    AggregateId, CorrelationId, EventId, EventType, IdempotencyKey, Invalid, Labels, Metadata, Position, Source, TraceParent,
    cloudevents, format_timestamp, parse_timestamp,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chain::Chain;
use crate::entry::{Content, Entry, Foreign, Payload, Recorded, is_of_nats};
use crate::hash::Hash;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The export does not begin with the log; so far goes the chain before it.
    Start(Chain),
    /// What stands at a position.
    Entry {
        /// It.
        entry: Box<Entry>,
        /// The chain's hash with it, as the line states it.
        hash: Hash,
    },
    /// Nothing stands there.
    Gap {
        /// The first such position.
        first: Position,
        /// The last one in a row.
        last: Position,
    },
    /// The export is complete; so far goes the chain.
    End(Chain),
}

/// What is no line of an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no line of an export: {0}")]
pub struct LineError(String);

/// All that any line may have; which of it makes sense together is checked behind it.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<RawGap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    specversion: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<EventType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<AggregateId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<CorrelationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<IdempotencyKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectedposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataschema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datadigest: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<RawForeign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hash>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    log: Hash,
    position: String,
    entries: String,
    hash: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGap {
    first: String,
    last: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForeign {
    subject: String,
    headers: Vec<(String, String)>,
    payload_base64: String,
    reason: String,
}

impl Line {
    /// The line, without its line break.
    pub fn write(&self) -> String {
        let raw = match self {
            Self::Start(chain) => Raw { start: Some(Mark::of(chain)), ..Raw::default() },
            Self::End(chain) => Raw { end: Some(Mark::of(chain)), ..Raw::default() },
            Self::Gap { first, last } => {
                Raw { gap: Some(RawGap { first: first.to_string(), last: last.to_string() }), ..Raw::default() }
            }
            Self::Entry { entry, hash } => Raw { hash: Some(*hash), ..Raw::of(entry) },
        };
        // Nothing in it that JSON cannot say; a property test would see it.
        serde_json::to_string(&raw).unwrap_or_default()
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(line: &[u8]) -> Result<Self, LineError> {
        let raw: Raw = serde_json::from_slice(line).map_err(|error| LineError(error.to_string()))?;
        raw.stands_alone(line)?;
        match &raw {
            Raw { start: Some(mark), .. } => mark.chain().map(Self::Start),
            Raw { end: Some(mark), .. } => mark.chain().map(Self::End),
            Raw { gap: Some(gap), .. } => {
                Ok(Self::Gap { first: position(&gap.first, "first")?, last: position(&gap.last, "last")? })
            }
            _ => {
                let hash = raw.hash;
                let entry = Box::new(raw.entry()?);
                Ok(Self::Entry { entry, hash: needed(hash, "hash")? })
            }
        }
    }
}

impl RawForeign {
    /// Only what a walk of a log writes: an import publishes it as it is.
    fn read(self) -> Result<Foreign, LineError> {
        if !self.subject.starts_with("ev.") {
            return Err(LineError("foreign/subject: is no subject of the log".to_owned()));
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, _)| is_of_nats(name)) {
            return Err(LineError(format!("foreign/headers: {name:?} is a header that NATS acts upon")));
        }
        Ok(Foreign {
            subject: self.subject,
            headers: self.headers,
            payload: base64(&self.payload_base64, "foreign/payload_base64")?,
            reason: Invalid::new("", self.reason),
        })
    }
}

impl Mark {
    fn of(chain: &Chain) -> Self {
        Self { log: chain.log, position: chain.position.to_string(), entries: chain.entries.to_string(), hash: chain.hash }
    }

    fn chain(&self) -> Result<Chain, LineError> {
        let entries = position(&self.entries, "entries")?.get();
        Ok(Chain { log: self.log, position: position(&self.position, "position")?, entries, hash: self.hash })
    }
}

impl Raw {
    /// What is no event has no member of one: another reader would take the line for an event where an audit sees none.
    fn stands_alone(&self, line: &[u8]) -> Result<(), LineError> {
        let allowed: &[&str] = match self {
            Self { start: Some(_), .. } => &["start"],
            Self { end: Some(_), .. } => &["end"],
            Self { gap: Some(_), .. } => &["gap"],
            Self { foreign: Some(_), .. } => &["foreign", "position", "hash"],
            _ => return Ok(()),
        };
        let members: BTreeMap<&str, IgnoredAny> = serde_json::from_slice(line).map_err(|error| LineError(error.to_string()))?;
        match members.keys().find(|name| !allowed.contains(*name)) {
            Some(name) => Err(LineError(format!("{} and {name} cannot stand on one line", allowed[0]))),
            None => Ok(()),
        }
    }

    fn of(entry: &Entry) -> Self {
        let position = Some(entry.position.to_string());
        match &entry.content {
            Content::Event(event) => Self { position, ..Self::of_event(event) },
            Content::Foreign(foreign) => {
                let foreign = RawForeign {
                    subject: foreign.subject.clone(),
                    headers: foreign.headers.clone(),
                    payload_base64: STANDARD.encode(&foreign.payload),
                    reason: foreign.reason.to_string(),
                };
                Self { position, foreign: Some(foreign), ..Self::default() }
            }
        }
    }

    fn of_event(event: &Recorded) -> Self {
        let metadata = &event.metadata;
        let mut raw = Self {
            specversion: Some("1.0".to_owned()),
            id: Some(event.id),
            event_type: Some(event.event_type.clone()),
            source: Some(metadata.source.clone()),
            subject: Some(event.aggregate_id.clone()),
            time: Some(format_timestamp(event.timestamp)),
            causationid: metadata.causation_id,
            correlationid: Some(metadata.correlation_id.clone()),
            traceparent: metadata.traceparent.map(|parent| parent.to_string()),
            labels: (!metadata.labels.is_empty()).then(|| serde_json::to_string(&metadata.labels).unwrap_or_default()),
            idempotencykey: event.key.clone(),
            expectedposition: event.expected.map(|position| position.to_string()),
            dataschema: metadata.schema_version.map(|version| cloudevents::schema_uri(&event.event_type, version)),
            datacontenttype: Some(cloudevents::CONTENT_TYPE.to_owned()),
            ..Self::default()
        };
        match &event.payload {
            Payload::Digest(digest) => raw.datadigest = Some(*digest),
            Payload::Bytes(bytes) => match on_one_line(bytes) {
                Some(json) => raw.data = Some(json),
                None => raw.data_base64 = Some(STANDARD.encode(bytes)),
            },
        }
        raw
    }

    fn entry(self) -> Result<Entry, LineError> {
        let position = position(self.position.as_deref().unwrap_or_default(), "position")?;
        let content = match self.foreign {
            Some(foreign) => Content::Foreign(foreign.read()?),
            None => Content::Event(Box::new(self.event()?)),
        };
        Ok(Entry { position, content })
    }

    fn event(self) -> Result<Recorded, LineError> {
        let invalid = |name: &str, error: &dyn std::fmt::Display| LineError(format!("{name}: {error}"));
        // Neither is part of the proof, since neither is ever anything else.
        if self.specversion.as_deref() != Some("1.0") {
            return Err(invalid("specversion", &"is not 1.0"));
        }
        if self.datacontenttype.as_deref().is_some_and(|content_type| content_type != cloudevents::CONTENT_TYPE) {
            return Err(invalid("datacontenttype", &format!("is not {}", cloudevents::CONTENT_TYPE)));
        }
        let labels: Labels = match &self.labels {
            Some(json) => serde_json::from_str(json).map_err(|error| invalid("labels", &error))?,
            None => Labels::new(),
        };
        // One that is named twice would be another one for another reader.
        if self.labels.is_some_and(|json| serde_json::to_string(&labels).is_ok_and(|written| written != json)) {
            return Err(invalid("labels", &"are not as an export writes them"));
        }
        let payload = match (self.data, self.data_base64, self.datadigest) {
            (Some(json), None, None) => Payload::Bytes(Bytes::from(String::from(Box::<str>::from(json)))),
            (None, Some(text), None) => Payload::Bytes(base64(&text, "data_base64")?),
            (None, None, Some(digest)) => Payload::Digest(digest),
            _ => return Err(LineError("has not exactly one of data, data_base64 and datadigest".to_owned())),
        };
        let event_type = needed(self.event_type, "type")?;
        let schema_version = match &self.dataschema {
            // The version is part of the proof, and the rest is what it must be with that.
            Some(uri) => Some(cloudevents::schema_version(uri, &event_type).ok_or_else(|| {
                invalid("dataschema", &format!("is not {}", cloudevents::schema_uri(&event_type, "<version>")))
            })?),
            None => None,
        };
        let metadata = Metadata {
            source: needed(self.source, "source")?,
            causation_id: self.causationid,
            correlation_id: needed(self.correlationid, "correlationid")?,
            labels,
            schema_version,
            traceparent: match &self.traceparent {
                Some(text) => Some(text.parse::<TraceParent>().map_err(|error| invalid("traceparent", &error))?),
                None => None,
            },
        };
        let time = needed(self.time, "time")?;
        Ok(Recorded {
            id: needed(self.id, "id")?,
            timestamp: parse_timestamp(&time).map_err(|error| invalid("time", &error))?,
            event_type,
            aggregate_id: needed(self.subject, "subject")?,
            metadata,
            key: self.idempotencykey,
            // Whatever a publisher said.
            expected: self.expectedposition.map(|text| number(&text, "expectedposition")).transpose()?,
            payload,
        })
    }
}

/// The JSON as it is, if it can stand in a line as it is.
fn on_one_line(bytes: &[u8]) -> Option<Box<RawValue>> {
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    let json: Box<RawValue> = serde_json::from_slice(bytes).ok()?;
    // White space around it would not come back. Neither would `null`, which is what is absent.
    (json.get().as_bytes() == bytes && bytes != b"null").then_some(json)
}

fn position(text: &str, name: &str) -> Result<Position, LineError> {
    let position = number(text, name)?;
    match i64::try_from(position.get()) {
        Ok(_) => Ok(position),
        Err(_) => Err(LineError(format!("{name}: no log has so many"))),
    }
}

/// Written as an export writes it: whoever checks a line by other means is to come to the same.
fn number(text: &str, name: &str) -> Result<Position, LineError> {
    let number: Position = text.parse().map_err(|error: Invalid| LineError(format!("{name}: {error}")))?;
    match number.to_string() == text {
        true => Ok(number),
        false => Err(LineError(format!("{name}: is not written as a position"))),
    }
}

fn base64(text: &str, name: &str) -> Result<Bytes, LineError> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| LineError(format!("{name}: {error}")))
}

fn needed<T>(value: Option<T>, name: &str) -> Result<T, LineError> {
    value.ok_or_else(|| LineError(format!("{name} is missing")))
}
