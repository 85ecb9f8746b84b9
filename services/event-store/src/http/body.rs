//! What `POST /events` takes: one event, a list of them, or `{events, expected, idempotency_key}`; CloudEvents are read elsewhere.
//!
//! Unknown fields are refused, but for those inside `data` and `labels`: a misspelt `aggregate_id` must not be stored as if it
//! had been meant. The problem's field is a JSON Pointer into the body as it was sent.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use causeway_event::notation::{pointer_of, pointer_to};
use causeway_event::{
    AggregateId, Category, CorrelationId, Data, EventId, EventType, IdempotencyKey, Position, Source, TraceParent,
};
use causeway_proto::{Draft, Expected, Kind, Problem};
use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cloudevents;
use crate::gateway::Gateway;

/// How far a body that is too large is read on before the answer: a client that is still sending would miss an earlier one.
const READ_ON: usize = 8;

/// Reads a body of bounded size, which has to arrive within the time that a request may take.
pub(super) async fn read(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let limit = gateway.config.request_timeout;
    match tokio::time::timeout(limit, bounded(headers, body, gateway.config.limits.body_bytes_max)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(Kind::TooSlow, format!("the body did not arrive within {limit:?}; nothing was done"))),
    }
}

async fn bounded(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let detail = format!("{} is not undone here: send the body as it is", String::from_utf8_lossy(coding.as_bytes()));
        return Err(Problem::new(Kind::UnsupportedMediaType, detail).at("Content-Encoding"));
    }
    let announced: usize =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default();
    let too_large = || Problem::new(Kind::TooLarge, format!("the body has more than {bytes_max} bytes")).at("");
    if announced > bytes_max.saturating_mul(READ_ON) {
        return Err(too_large());
    }
    let (mut bytes, mut received) = (Vec::with_capacity(announced.min(bytes_max)), 0_usize);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Problem::invalid("", format!("the body cannot be read: {error}")))?;
        received += chunk.len();
        match received {
            received if received <= bytes_max => bytes.extend_from_slice(&chunk),
            received if received <= bytes_max.saturating_mul(READ_ON) => {}
            _ => break,
        }
    }
    if received > bytes_max { Err(too_large()) } else { Ok(bytes) }
}

/// Only what is announced as JSON: any other body a browser also sends for pages of foreign origins, without asking first.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match essence(headers).as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::new(Kind::UnsupportedMediaType, "send application/json").at("Content-Type")),
    }
}

/// The media type that the headers state, without its parameters.
pub(super) fn essence(headers: &HeaderMap) -> Option<String> {
    headers.get(header::CONTENT_TYPE).map(|value| essence_of(value.to_str().unwrap_or_default()))
}

pub(super) fn essence_of(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What was sent, and how.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) drafts: Vec<Draft>,
    pub(super) expected: Vec<Expected>,
    pub(super) idempotency_key: Option<IdempotencyKey>,
    /// The span that the events themselves name.
    pub(super) traceparent: Option<TraceParent>,
    pub(super) form: Form,
}

/// In which of its forms an append came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    One,
    List,
    Envelope { scalar_expected: bool },
    CloudEvent,
    CloudEvents,
    BinaryCloudEvent,
}

impl Form {
    /// A field of an append request as a field of this body.
    pub(super) fn field(self, field: &str) -> String {
        let moved = match self {
            Self::One => field.strip_prefix("/events/0").or_else(|| field.strip_prefix("/events")),
            Self::List => field.strip_prefix("/events"),
            Self::Envelope { scalar_expected: true } if field.starts_with("/expected/0") => Some("/expected"),
            Self::Envelope { .. } => None,
            Self::CloudEvent | Self::CloudEvents | Self::BinaryCloudEvent => return self.attribute(field),
        };
        moved.unwrap_or(field).to_owned()
    }

    /// The same for a CloudEvent, whose names are others.
    fn attribute(self, field: &str) -> String {
        if field == "/idempotency_key" {
            return if self == Self::BinaryCloudEvent { "ce-id" } else { "/id" }.to_owned();
        }
        let Some(rest) = field.strip_prefix("/events") else { return field.to_owned() };
        let digits = rest.get(1..).map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        let (event, below) = rest.split_at(if digits > 0 { digits + 1 } else { 0 });
        let attribute = cloudevents::attribute(below);
        match (self, attribute) {
            (Self::BinaryCloudEvent, Some(attribute)) => format!("ce-{attribute}"),
            (Self::BinaryCloudEvent, None) => below.strip_prefix("/data").unwrap_or(below).to_owned(),
            (Self::CloudEvents, Some(attribute)) => format!("{event}/{attribute}"),
            (Self::CloudEvents, None) => rest.to_owned(),
            (_, Some(attribute)) => format!("/{attribute}"),
            (_, None) => below.to_owned(),
        }
    }
}

pub(super) fn parse(json: &[u8]) -> Result<Parsed, Problem> {
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => {
            let events: Vec<Object<EventBody>> = from_json(json)?;
            Ok(parsed(events, Form::List))
        }
        Some(b'{') if has_field(json, "events") => {
            let envelope: EnvelopeBody = from_json(json)?;
            let scalar_expected = !matches!(envelope.expected, Some(ExpectedBody::Each(_)));
            Ok(Parsed {
                expected: envelope.expected.map(ExpectedBody::fences).unwrap_or_default(),
                idempotency_key: envelope.idempotency_key,
                ..parsed(envelope.events, Form::Envelope { scalar_expected })
            })
        }
        Some(b'{') => {
            let event = from_json(json).map_err(|problem| misplaced(json).unwrap_or(problem))?;
            Ok(parsed(vec![event], Form::One))
        }
        _ => Err(Problem::invalid("", "the body must be an event, a list of events, or {events, expected, idempotency_key}")),
    }
}

/// What stands beside a single event although it belongs beside `events`, the obvious try.
fn misplaced(json: &[u8]) -> Option<Problem> {
    let name = ["expected", "idempotency_key"].into_iter().find(|name| has_field(json, name))?;
    let reason = format!("belongs beside a list: {{\"events\": [{{\"type\": ..}}], \"{name}\": ..}}");
    Some(Problem::invalid(format!("/{name}"), reason))
}

fn parsed(events: Vec<Object<EventBody>>, form: Form) -> Parsed {
    Parsed {
        drafts: events.into_iter().map(|Object(event)| event.draft()).collect(),
        expected: vec![],
        idempotency_key: None,
        traceparent: None,
        form,
    }
}

/// Whether a JSON object has this field. What is not JSON is left to the parser that will complain.
fn has_field(json: &[u8], name: &str) -> bool {
    serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(json).is_ok_and(|fields| fields.contains_key(name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody {
    r#type: EventType,
    aggregate_id: AggregateId,
    data: Data,
    metadata: Option<Object<MetadataBody>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MetadataBody {
    source: Option<Source>,
    causation_id: Option<EventId>,
    correlation_id: Option<CorrelationId>,
    labels: Option<Once<String>>,
    schema_version: Option<u32>,
}

/// The members of a JSON object, each of them given once: which of two was meant nobody knows.
pub(super) struct Once<V>(pub(super) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Once<V> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Read<V> {
            type Value = Once<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<V>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    members.insert(name, value);
                }
                Ok(Once(members))
            }
        }
        deserializer.deserialize_map(Read(PhantomData))
    }
}

impl EventBody {
    fn draft(self) -> Draft {
        let metadata = self.metadata.map(|Object(metadata)| metadata).unwrap_or_default();
        Draft {
            event_type: self.r#type,
            aggregate_id: self.aggregate_id,
            data: self.data,
            source: metadata.source,
            causation_id: metadata.causation_id,
            correlation_id: metadata.correlation_id,
            labels: metadata.labels.map(|Once(labels)| labels).unwrap_or_default(),
            schema_version: metadata.schema_version,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeBody {
    events: Vec<Object<EventBody>>,
    expected: Option<ExpectedBody>,
    idempotency_key: Option<IdempotencyKey>,
}

/// `"any"`, `"empty"`, a position, or a list of fences.
enum ExpectedBody {
    Any,
    Last(Place),
    Each(Vec<Object<FenceBody>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FenceBody {
    aggregate_id: Option<AggregateId>,
    category: Option<Category>,
    position: Place,
}

/// A position, or `"empty"` for none.
#[derive(Clone, Copy)]
struct Place(Position);

impl ExpectedBody {
    fn fences(self) -> Vec<Expected> {
        match self {
            Self::Any => vec![],
            Self::Last(Place(position)) => vec![Expected { aggregate_id: None, category: None, position }],
            Self::Each(fences) => fences
                .into_iter()
                .map(|Object(fence)| Expected {
                    aggregate_id: fence.aggregate_id,
                    category: fence.category,
                    position: fence.position.0,
                })
                .collect(),
        }
    }
}

impl<'de> Deserialize<'de> for ExpectedBody {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = ExpectedBody;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a position, \"empty\", \"any\", or a list of {aggregate_id, category, position}")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ExpectedBody, E> {
                Ok(ExpectedBody::Last(Place(Position::new(number))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ExpectedBody, E> {
                match text {
                    "any" => Ok(ExpectedBody::Any),
                    "empty" => Ok(ExpectedBody::Last(Place(Position::START))),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ExpectedBody, A::Error> {
                let mut fences = Vec::new();
                while let Some(fence) = seq.next_element()? {
                    fences.push(fence);
                }
                Ok(ExpectedBody::Each(fences))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Place;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a position or \"empty\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Place, E> {
                Ok(Place(Position::new(number)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Place, E> {
                match text {
                    "empty" => Ok(Place(Position::START)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// A JSON object. A derived struct alone would also take a list of its fields' values.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Read(PhantomData))
    }
}

/// Exactly one JSON value; an error names the field by its pointer.
pub(super) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let mut field = pointer_of(error.path());
        let error = error.into_inner();
        if !error.is_data() {
            // Not a value of the wrong kind but not JSON at all: where, is said by line and column.
            return Problem::invalid(field, format!("is not JSON: {error}"));
        }
        let reason = error.to_string();
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(what, _)| what);
        if let Some(name) = named_field(reason) {
            let name = pointer_to(name);
            // The path ends with a field that is there and should not be, but not with one that is missing.
            if reason.starts_with("missing") || !field.ends_with(&name) {
                field.push_str(&name);
            }
        }
        Problem::invalid(field, reason)
    })?;
    match parser.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(Problem::invalid("", format!("is not JSON: {error}"))),
    }
}

/// The field that serde complains about beside the path: it is not there, or should not be.
fn named_field(reason: &str) -> Option<&str> {
    let rest = ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|start| reason.strip_prefix(start))?;
    // The name ends with the last backtick before the fixed words: it may hold one itself.
    let end = rest.find("`, expected ").or_else(|| rest.strip_suffix('`').map(str::len))?;
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        parse(json.as_bytes()).map_or_else(|problem| problem.field.unwrap_or_default(), |_| "accepted".into())
    }

    #[test]
    fn the_three_forms_are_told_apart() {
        let event = r#"{"type":"NoteTaken","aggregate_id":"a","data":{"events": 1}}"#;
        let parsed = parse(event.as_bytes()).unwrap();
        assert_eq!((parsed.form, parsed.drafts.len()), (Form::One, 1));
        assert_eq!(parsed.drafts[0].data.as_str(), r#"{"events": 1}"#);
        let parsed = parse(format!(" [{event},{event}]").as_bytes()).unwrap();
        assert_eq!((parsed.form, parsed.drafts.len()), (Form::List, 2));
        let parsed = parse(format!(r#"{{"events":[{event}],"expected":7,"idempotency_key":"k"}}"#).as_bytes()).unwrap();
        assert_eq!(parsed.form, Form::Envelope { scalar_expected: true });
        assert_eq!(parsed.expected[0].position, Position::new(7));
        assert_eq!(parsed.idempotency_key.unwrap().as_str(), "k");
    }

    #[test]
    fn every_form_of_expected_is_read() {
        let expected = |expected: &str| {
            let json = format!(r#"{{"events":[],"expected":{expected}}}"#);
            parse(json.as_bytes()).map(|parsed| parsed.expected).map_err(|problem| problem.field.unwrap())
        };
        let shared = |position| Expected { aggregate_id: None, category: None, position: Position::new(position) };
        assert_eq!(expected(r#""any""#), Ok(vec![]));
        assert_eq!(expected("null"), Ok(vec![]));
        assert_eq!(expected(r#""empty""#), Ok(vec![shared(0)]));
        assert_eq!(expected("42"), Ok(vec![shared(42)]));
        let fence =
            Expected { aggregate_id: Some("a".parse().unwrap()), category: Some(Category::Ai), position: Position::new(3) };
        assert_eq!(
            expected(r#"[{"aggregate_id":"a","category":"ai","position":3},{"position":"empty"}]"#),
            Ok(vec![fence, shared(0)])
        );
        for bad in ["-1", "1.5", r#""none""#, "{}", "true"] {
            assert_eq!(expected(bad), Err("/expected".into()), "{bad}");
        }
        assert_eq!(expected(r#"[{"position":-1}]"#), Err("/expected/0/position".into()));
        assert_eq!(expected(r#"[{"position":1,"categori":"ai"}]"#), Err("/expected/0/categori".into()));
        assert_eq!(expected(r#"[{"position":1,"category":"Ai"}]"#), Err("/expected/0/category".into()));
    }

    #[test]
    fn whatever_is_wrong_is_named_by_its_pointer() {
        let deep = format!(r#"{{"type":"A","aggregate_id":"a","data":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        let long = format!(r#"{{"type":"A","aggregate_id":"{}","data":1}}"#, "x".repeat(129));
        for (json, field) in [
            (r#"{"type":"A","aggregate_id":"a","data":null,"metadata":{"labels":{"any":"thing"}}}"#, "accepted"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":{"source":null,"labels":null}}"#, "accepted"),
            ("", ""),
            ("\"text\"", ""),
            ("{", ""),
            (r#"{"type":"A","aggregate_id":"a","data":1} x"#, ""),
            (r#"{"type":"A","aggregate_id":"a","data":1}{}"#, ""),
            (r#"{"aggregate_id":"a","data":1}"#, "/type"),
            (r#"{"type":"a","aggregate_id":"a","data":1}"#, "/type"),
            (r#"{"type":1,"aggregate_id":"a","data":1}"#, "/type"),
            (r#"{"type":"A","data":1}"#, "/aggregate_id"),
            (r#"{"type":"A","aggregate_id":"","data":1}"#, "/aggregate_id"),
            (r#"{"type":"A","aggregate_id":"a\u0000","data":1}"#, "/aggregate_id"),
            (&long, "/aggregate_id"),
            (r#"{"type":"A","aggregate_id":"a"}"#, "/data"),
            (&deep, "/data"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"data":2}"#, "/data"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"id":"evt_x"}"#, "/id"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"a`b/c":1}"#, "/a`b~1c"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":[]}"#, "/metadata"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":{"sauce":"x"}}"#, "/metadata/sauce"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":{"causation_id":"evt_1"}}"#, "/metadata/causation_id"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":{"labels":{"k":1}}}"#, "/metadata/labels/k"),
            (r#"{"type":"A","aggregate_id":"a","data":1,"metadata":{"labels":{"k":"1","k":"2"}}}"#, "/metadata/labels/k"),
            (r#"[{"type":"A","aggregate_id":"a","data":1},{"type":"B","aggregate_id":"a"}]"#, "/1/data"),
            (r#"[1]"#, "/0"),
            (r#"[["A","a",1]]"#, "/0"),
            (r#"{"events":[],"expected":[["a","ai",1]]}"#, "/expected/0"),
            (r#"{"events":{}}"#, "/events"),
            (r#"{"events":[{"type":"A","aggregate_id":7,"data":1}]}"#, "/events/0/aggregate_id"),
            (r#"{"events":[],"idempotency_key":""}"#, "/idempotency_key"),
            (r#"{"events":[],"expect":1}"#, "/expect"),
        ] {
            assert_eq!(refused(json), field, "{json:.120}");
        }
    }

    #[test]
    fn what_belongs_beside_a_list_is_told_where_it_belongs() {
        let problem = parse(br#"{"type":"A","aggregate_id":"a","data":1,"expected":"empty"}"#).map(drop).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("/expected"));
        assert_eq!(problem.detail, r#"belongs beside a list: {"events": [{"type": ..}], "expected": ..}"#);
    }

    #[test]
    fn a_field_of_the_request_is_told_as_a_field_of_the_body() {
        assert_eq!(Form::One.field("/events/0/data/content"), "/data/content");
        assert_eq!(Form::One.field("/events/0"), "");
        assert_eq!(Form::List.field("/events/3/type"), "/3/type");
        assert_eq!(Form::List.field("/events"), "");
        let envelope = |scalar_expected| Form::Envelope { scalar_expected };
        assert_eq!(envelope(true).field("/expected/0/category"), "/expected");
        assert_eq!(envelope(false).field("/expected/1"), "/expected/1");
        assert_eq!(envelope(true).field("/events/0/data"), "/events/0/data");
        assert_eq!(Form::CloudEvent.field("/events/0/data/content"), "/data/content");
        assert_eq!(Form::CloudEvent.field("/events/0/type"), "/type");
        assert_eq!(Form::CloudEvent.field("/idempotency_key"), "/id");
        assert_eq!(Form::CloudEvents.field("/events/12/aggregate_id"), "/12/subject");
        assert_eq!(Form::CloudEvents.field("/events/2/data/x"), "/2/data/x");
        assert_eq!(Form::CloudEvents.field("/events"), "");
        assert_eq!(Form::BinaryCloudEvent.field("/events/0/metadata/causation_id"), "ce-causationid");
        assert_eq!(Form::BinaryCloudEvent.field("/events/0/data/content"), "/content");
    }
}
