//! CloudEvents 1.0 as appends: one in the body (structured), a list of them (batch, atomic), or one in the headers (binary).
//!
//! ```text
//! type, subject, source ─> type, aggregate_id, metadata.source        data, data_base64 ─> data (it must be JSON; none is null)
//! correlationid, causationid ─> metadata                              traceparent ─> the chain, unless correlationid names it
//! dataschema of ours ─> schema_version                                id, time, all others ─> labels
//! source and id ─> the idempotency key, since together they name one event, for ever
//! ```
//!
//! What has no place is refused by its name, never dropped. A problem's field is a pointer into the body, or the name of a header.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_event::cloudevents::{self, SCHEMA_URI};
use causeway_event::notation::percent_decode;
use causeway_event::{CorrelationId, Data, EventType, IdempotencyKey, Invalid, Labels, TraceParent, parse_timestamp};
use causeway_proto::{Draft, Kind, Problem};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::body::{Form, Once, Parsed, essence, essence_of, from_json};

/// How an attribute's header begins.
const HEADER_PREFIX: &str = "ce-";

/// How an append is written down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Media {
    /// Our own.
    Json,
    Structured,
    Batch,
    Binary,
}

/// What the headers say of the body.
pub(super) fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    let essence = essence(headers);
    // One without its `ce-specversion` is told so.
    let binary = ["ce-specversion", "ce-type", "ce-source", "ce-id"].iter().any(|name| headers.contains_key(*name));
    match essence.as_deref() {
        Some("application/cloudevents+json") => Ok(Media::Structured),
        Some("application/cloudevents-batch+json") => Ok(Media::Batch),
        None if binary => Ok(Media::Binary),
        Some(essence) if binary && is_json(essence) => Ok(Media::Binary),
        Some("application/json") => Ok(Media::Json),
        _ => {
            let detail = "send application/json, application/cloudevents+json or application/cloudevents-batch+json";
            Err(Problem::new(Kind::UnsupportedMediaType, detail).at("Content-Type"))
        }
    }
}

fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json") || essence.ends_with("+json")
}

/// One event in the body.
pub(super) fn structured(json: &[u8]) -> Result<Parsed, Problem> {
    let Once(fields) = from_json(json)?;
    let event = Attributes::of_json(&fields).and_then(Attributes::event).map_err(|invalid| invalid.within("/"))?;
    Ok(parsed(vec![event], Form::CloudEvent))
}

/// A list of them.
pub(super) fn batch(json: &[u8]) -> Result<Parsed, Problem> {
    let list: Vec<Once<Box<RawValue>>> = from_json(json)?;
    let events = list.iter().enumerate().map(|(index, Once(fields))| {
        let event = Attributes::of_json(fields).and_then(Attributes::event);
        event.map_err(|invalid| Problem::from(invalid.within(&format!("/{index}/"))))
    });
    let events: Vec<Read> = events.collect::<Result<_, _>>()?;
    let mut named = HashSet::new();
    match events.iter().position(|event| !named.insert((&event.source, &event.id))) {
        Some(index) => Err(Problem::invalid(
            format!("/{index}/id"),
            "and source are those of another event of the list: both name one event",
        )),
        None => Ok(parsed(events, Form::CloudEvents)),
    }
}

/// One event whose attributes are headers and whose data is the body.
pub(super) fn binary(headers: &HeaderMap, body: &[u8]) -> Result<Parsed, Problem> {
    let event =
        Attributes::of_headers(headers, body).and_then(Attributes::event).map_err(|invalid| match invalid.field.as_str() {
            "" => Problem::invalid("", invalid.reason),
            name => Problem::invalid(format!("{HEADER_PREFIX}{name}"), invalid.reason),
        })?;
    Ok(parsed(vec![event], Form::BinaryCloudEvent))
}

/// Attributes that are texts, whatever else an attribute may be.
const TEXTS: [&str; 8] = ["specversion", "id", "source", "type", "subject", "correlationid", "time", "dataschema"];

/// An event on its way in, with what names it for ever.
struct Read {
    draft: Draft,
    source: String,
    id: String,
    traceparent: Option<TraceParent>,
    key: IdempotencyKey,
}

fn parsed(events: Vec<Read>, form: Form) -> Parsed {
    let idempotency_key = match events.as_slice() {
        [] => None,
        [one] => Some(one.key.clone()),
        many => batch_key(many),
    };
    Parsed {
        idempotency_key,
        traceparent: events.first().and_then(|event| event.traceparent),
        drafts: events.into_iter().map(|event| event.draft).collect(),
        expected: vec![],
        form,
    }
}

/// The same list is the same append; one event more or less makes it another.
fn batch_key(events: &[Read]) -> Option<IdempotencyKey> {
    let mut hash = Sha256::new();
    for text in events.iter().flat_map(|event| [&event.source, &event.id]) {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("cloudevents-batch {hash}").parse().ok()
}

/// The attributes of one event, as text, and its data. Errors name the attribute.
struct Attributes {
    texts: BTreeMap<String, String>,
    data: Option<Data>,
}

impl Attributes {
    fn of_json(fields: &BTreeMap<String, Box<RawValue>>) -> Result<Self, Invalid> {
        let mut attributes = Self { texts: BTreeMap::new(), data: None };
        for (name, raw) in fields {
            match name.as_str() {
                "data" => attributes.data = Some(Data::from_json(raw.get().as_bytes()).map_err(|error| at(name, error))?),
                "data_base64" => {}
                _ => {
                    let value: Value = serde_json::from_str(raw.get()).map_err(|error| Invalid::new(name, error.to_string()))?;
                    attributes.put(name, value)?;
                }
            }
        }
        if let Some(raw) = fields.get("data_base64") {
            if attributes.data.is_some() {
                return Err(Invalid::new("data_base64", "is given together with data"));
            }
            attributes.data = Some(decoded(raw)?);
        }
        Ok(attributes)
    }

    /// A type system of its own: strings, booleans and integers. Null is as good as not given.
    fn put(&mut self, name: &str, value: Value) -> Result<(), Invalid> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return Err(Invalid::new(name, "is not the name of an attribute: lower-case letters and digits"));
        }
        let text = match value {
            Value::Null => return Ok(()),
            Value::String(text) => text,
            _ if TEXTS.contains(&name) => return Err(Invalid::new(name, "is not a string")),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => number.to_string(),
            _ => {
                return Err(Invalid::new(
                    name,
                    "is none of what an attribute must be: a string, a boolean, an integer of 32 bits",
                ));
            }
        };
        self.texts.insert(name.to_owned(), text);
        Ok(())
    }

    fn of_headers(headers: &HeaderMap, body: &[u8]) -> Result<Self, Invalid> {
        let mut attributes = Self { texts: BTreeMap::new(), data: None };
        for name in headers.keys() {
            let Some(attribute) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            let mut values = headers.get_all(name).iter();
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err(Invalid::new(attribute, "may be given only once"));
            };
            if attribute == "data" {
                return Err(Invalid::new(attribute, "is no attribute: the body is the data"));
            }
            let text = percent_decode(&unquoted(value.as_bytes()))
                .ok_or_else(|| Invalid::new(attribute, "is not percent-encoded UTF-8"))?;
            attributes.put(attribute, Value::String(text))?;
        }
        if !body.is_empty() {
            attributes.data = Some(Data::from_json(body).map_err(|error| at("", error))?);
        }
        Ok(attributes)
    }

    fn event(mut self) -> Result<Read, Invalid> {
        match self.texts.remove("specversion").as_deref() {
            Some("1.0") => {}
            Some(_) => return Err(Invalid::new("specversion", "is not 1.0")),
            None => return Err(Invalid::new("specversion", "is missing")),
        }
        if let Some(content_type) = self.texts.remove("datacontenttype")
            && !is_json(&essence_of(&content_type))
        {
            return Err(Invalid::new("datacontenttype", "is not JSON, which the data of an event must be"));
        }
        // Kept as labels, but not whatever they are.
        if let Some(time) = self.texts.get("time") {
            rfc3339(time).map_err(|error| at("time", error))?;
        }
        if self.texts.get("dataschema").is_some_and(String::is_empty) {
            return Err(Invalid::new("dataschema", "must not be empty"));
        }
        let source = self.required("source")?;
        let id = self.required("id")?;
        let traceparent: Option<TraceParent> = self.optional("traceparent")?;
        let joined = || traceparent.map(|parent| CorrelationId::from_uuid(Uuid::from_bytes(parent.trace_id)));
        let correlation_id = self.optional("correlationid")?;
        let causation_id = self.optional("causationid")?;
        let key = key(&source, &id).parse().map_err(|error| at("id", error))?;
        let event_type = parse("type", &self.required("type")?)?;
        let schema_version = self.schema_version(&event_type)?;
        let mut draft = Draft {
            event_type,
            aggregate_id: parse("subject", &self.required("subject")?)?,
            data: self.data.take().map_or_else(|| Data::from_json(b"null"), Ok)?,
            source: Some(parse("source", &source)?),
            causation_id,
            // An event with a cause is of its cause's chain, whoever traces the request.
            correlation_id: correlation_id.or_else(|| joined().filter(|_| causation_id.is_none())),
            labels: Labels::new(),
            schema_version,
        };
        draft.labels = self.texts;
        draft.labels.insert("id".to_owned(), id.clone());
        Ok(Read { draft, source, id, traceparent, key })
    }

    /// The version that a schema of ours names; another one is kept like any attribute.
    fn schema_version(&mut self, event_type: &EventType) -> Result<Option<u32>, Invalid> {
        let Some(ours) = self.texts.get("dataschema").filter(|uri| uri.starts_with(SCHEMA_URI)) else { return Ok(None) };
        let version = cloudevents::schema_version(ours, event_type).filter(|version| *version > 0);
        let version = version.ok_or_else(|| Invalid::new("dataschema", "does not name a version of this event's type"))?;
        self.texts.remove("dataschema");
        Ok(Some(version))
    }

    fn required(&mut self, name: &str) -> Result<String, Invalid> {
        match self.texts.remove(name) {
            Some(text) if text.is_empty() => Err(Invalid::new(name, "must not be empty")),
            Some(text) => Ok(text),
            None => Err(Invalid::new(name, "is missing")),
        }
    }

    fn optional<T: FromStr<Err = Invalid>>(&mut self, name: &str) -> Result<Option<T>, Invalid> {
        self.texts.remove(name).map(|text| parse(name, &text)).transpose()
    }
}

/// A time with its seconds and its distance to UTC: what is read of times elsewhere may leave more out, or name a place.
fn rfc3339(time: &str) -> Result<(), Invalid> {
    let is_whole = matches!(time.as_bytes(), [_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't', _, _, b':', _, _, b':', _, _, ..]);
    match is_whole && !time.contains('[') {
        true => parse_timestamp(time).map(drop),
        false => Err(Invalid::new("", "is not an RFC 3339 time such as 2026-11-23T10:00:00Z")),
    }
}

/// A header's value without the quotes that it may stand in (RFC 9110, 5.6.4), which CloudEvents has undone before all else.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(quoted) = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) else { return value.into() };
    let mut bytes = quoted.iter();
    std::iter::from_fn(|| bytes.next().and_then(|byte| if *byte == b'\\' { bytes.next() } else { Some(byte) }).copied()).collect()
}

/// What an event is known by. A source that has spaces, which no URI has, says where it ends.
fn key(source: &str, id: &str) -> String {
    match source.contains(' ') {
        false => format!("{source} {id}"),
        true => format!(" {} {source} {id}", source.len()),
    }
}

fn parse<T: FromStr<Err = Invalid>>(name: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|error| at(name, error))
}

fn at(name: &str, invalid: Invalid) -> Invalid {
    Invalid::new(name, invalid.reason)
}

fn decoded(raw: &RawValue) -> Result<Data, Invalid> {
    let invalid = |reason: &str| Invalid::new("data_base64", reason);
    let text: String = serde_json::from_str(raw.get()).map_err(|_| invalid("is not a string"))?;
    let bytes = STANDARD.decode(text).map_err(|_| invalid("is not base64"))?;
    Data::from_json(&bytes).map_err(|error| invalid(&format!("decoded, it {}", error.reason)))
}

/// A field of an append request (below `/events/0`) as the attribute that it came from.
pub(super) fn attribute(field: &str) -> Option<&'static str> {
    match field {
        "/type" => Some("type"),
        "/aggregate_id" => Some("subject"),
        "/metadata/source" => Some("source"),
        "/metadata/causation_id" => Some("causationid"),
        "/metadata/correlation_id" => Some("correlationid"),
        "/metadata/schema_version" => Some("dataschema"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CAUSE: &str = "evt_01k9x3m5v8e7rs2q4n6p8t0w1y";
    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn events_of_different_sources_never_share_a_key() {
        assert_eq!(key("/shop", "eu 7"), "/shop eu 7");
        let named =
            [("shop", "eu 7"), ("shop eu", "7"), ("7", "shop eu 7"), ("shop  eu", "7"), ("shop ", "eu 7"), (" 7", "shop eu 7")];
        let keys: HashSet<_> = named.iter().map(|(source, id)| key(source, id)).collect();
        assert_eq!(keys.len(), named.len());
    }

    fn event() -> Value {
        json!({"specversion": "1.0", "type": "OrderPlaced", "source": "/shop", "id": "7", "subject": "order-7", "data": {"n": 1.0}})
    }

    fn with(name: &str, value: Value) -> Vec<u8> {
        let mut event = event();
        event[name] = value;
        event.to_string().into_bytes()
    }

    fn read(json: &[u8]) -> Parsed {
        structured(json).unwrap()
    }

    #[test]
    fn every_attribute_has_its_place() {
        let mut full = event();
        for (name, value) in [
            ("correlationid", json!("chain")),
            ("causationid", json!(CAUSE)),
            ("traceparent", json!(TRACEPARENT)),
            ("time", json!("2026-11-23T10:00:00Z")),
            ("dataschema", json!("urn:causeway:type:OrderPlaced:3")),
            ("datacontenttype", json!("application/json; charset=utf-8")),
            ("retries", json!(3)),
            ("urgent", json!(true)),
            ("nothing", Value::Null),
        ] {
            full[name] = value;
        }
        let parsed = read(full.to_string().as_bytes());
        let draft = &parsed.drafts[0];
        assert_eq!((draft.event_type.as_str(), draft.aggregate_id.as_str()), ("OrderPlaced", "order-7"));
        assert_eq!(draft.source.as_ref().unwrap().as_str(), "/shop");
        assert_eq!(draft.correlation_id.as_ref().unwrap().as_str(), "chain");
        assert_eq!(draft.causation_id.unwrap().to_string(), CAUSE);
        assert_eq!((draft.data.as_str(), draft.schema_version), (r#"{"n":1.0}"#, Some(3)));
        let labels = [("id", "7"), ("retries", "3"), ("time", "2026-11-23T10:00:00Z"), ("urgent", "true")];
        assert_eq!(draft.labels, labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
        assert_eq!(parsed.traceparent.unwrap().to_string(), TRACEPARENT);
        assert_eq!(parsed.idempotency_key.unwrap().as_str(), "/shop 7");
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_its_name() {
        for (name, value) in [
            ("specversion", json!("0.3")),
            ("type", json!("com.example.order.placed")),
            ("subject", Value::Null),
            ("subject", json!(false)),
            ("id", json!(7)),
            ("subject", json!("x".repeat(129))),
            ("source", json!("")),
            ("id", json!("x".repeat(300))),
            ("causationid", json!("42")),
            ("traceparent", json!("x")),
            ("datacontenttype", json!("text/xml")),
            ("data_base64", json!("e30=")),
            ("dataschema", json!("urn:causeway:type:Other:1")),
            ("dataschema", json!("")),
            ("time", json!("yesterday")),
            ("time", json!("2026-11-23T10:00:00+01:00[Europe/Paris]")),
            ("time", json!("2026-11-23T10:00Z")),
            ("time", json!("2026-11-23 10:00:00Z")),
            ("time", json!("2026-11-23T10:00:00")),
            ("time", json!(1)),
            ("number", json!(1_i64 << 31)),
            ("listed", json!([1])),
            ("half", json!(0.5)),
            ("comExample", json!("x")),
        ] {
            let problem = structured(&with(name, value)).unwrap_err();
            assert_eq!(problem.field, Some(format!("/{name}")), "{problem}");
        }
        for time in ["2026-11-23t10:00:00.1234567z", "1999-12-31T23:59:60Z", "2026-11-23T10:00:00-05:30"] {
            structured(&with("time", json!(time))).unwrap();
        }
        let list = json!([event(), {"specversion": "1.0"}]).to_string();
        assert_eq!(batch(list.as_bytes()).unwrap_err().field.as_deref(), Some("/1/source"));
        assert!(structured(b"[]").is_err() && batch(b"{}").is_err());
    }

    #[test]
    fn data_may_be_base64_of_json_or_nothing() {
        let mut binary = event();
        binary.as_object_mut().unwrap().remove("data");
        assert_eq!(read(binary.to_string().as_bytes()).drafts[0].data.as_str(), "null");
        binary["data_base64"] = json!(STANDARD.encode(r#"{"a" : 1}"#));
        assert_eq!(read(binary.to_string().as_bytes()).drafts[0].data.as_str(), r#"{"a" : 1}"#);
        for bad in [json!("AAEC"), json!("?"), json!(7)] {
            binary["data_base64"] = bad;
            assert_eq!(structured(binary.to_string().as_bytes()).unwrap_err().field.as_deref(), Some("/data_base64"));
        }
    }

    #[test]
    fn a_list_has_one_key_that_is_its_own() {
        let key = |ids: &[&str]| {
            let events: Vec<Value> = ids.iter().map(|id| serde_json::from_slice(&with("id", json!(id))).unwrap()).collect();
            batch(json!(events).to_string().as_bytes()).unwrap().idempotency_key
        };
        assert_eq!(key(&["1", "2"]), key(&["1", "2"]));
        assert_ne!(key(&["1", "2"]), key(&["1", "2", "3"]));
        assert_ne!(key(&["1", "12"]), key(&["11", "2"]));
        assert_eq!(key(&["1"]).unwrap().as_str(), "/shop 1", "the same event alone is the same append");
        assert_eq!(key(&[]), None);
    }

    #[test]
    fn an_event_stands_in_a_list_once() {
        let list = |events: &[Vec<u8>]| {
            let events: Vec<Value> = events.iter().map(|event| serde_json::from_slice(event).unwrap()).collect();
            batch(json!(events).to_string().as_bytes()).map(drop)
        };
        assert!(list(&[with("id", json!("1")), with("id", json!("2"))]).is_ok());
        let twice = list(&[with("id", json!("1")), with("id", json!("2")), with("id", json!("1"))]);
        assert_eq!(twice.unwrap_err().field.as_deref(), Some("/2/id"));
    }

    #[test]
    fn the_headers_say_what_the_body_is() {
        let media = |headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            media(&headers.collect::<HeaderMap>()).ok()
        };
        assert_eq!(media(&[("content-type", "application/json")]), Some(Media::Json));
        assert_eq!(media(&[("content-type", "application/cloudevents+json; charset=UTF-8")]), Some(Media::Structured));
        assert_eq!(media(&[("content-type", "application/cloudevents-batch+json")]), Some(Media::Batch));
        assert_eq!(media(&[("content-type", "application/vnd.shop+json"), ("ce-specversion", "1.0")]), Some(Media::Binary));
        assert_eq!(media(&[("ce-specversion", "1.0")]), Some(Media::Binary));
        assert_eq!(media(&[("content-type", "application/json"), ("ce-id", "7")]), Some(Media::Binary), "without its version");
        assert_eq!(media(&[("content-type", "text/xml"), ("ce-specversion", "1.0")]), None);
        assert_eq!(media(&[("content-type", "application/vnd.shop+json")]), None);
        assert_eq!(media(&[]), None);
    }

    #[test]
    fn headers_are_percent_encoded() {
        let headers =
            [("ce-specversion", "1.0"), ("ce-type", "A"), ("ce-source", "s"), ("ce-id", "1"), ("ce-subject", "caf%C3%A9%20%25")];
        let headers: HeaderMap = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        assert_eq!(binary(&headers, b"1").unwrap().drafts[0].aggregate_id.as_str(), "café %");
        assert_eq!(binary(&headers, b"{").unwrap_err().field.as_deref(), Some(""));
        let mut bad = headers.clone();
        bad.insert("ce-subject", "%zz".parse().unwrap());
        assert_eq!(binary(&bad, b"1").unwrap_err().field.as_deref(), Some("ce-subject"));
        bad.insert("ce-subject", r#""a \"b\\ %22c""#.parse().unwrap());
        assert_eq!(binary(&bad, b"1").unwrap().drafts[0].aggregate_id.as_str(), r#"a "b\ "c"#, "unquoted, then decoded");
        bad.insert("ce-data", "1".parse().unwrap());
        assert_eq!(binary(&bad, b"1").unwrap_err().field.as_deref(), Some("ce-data"));
    }

    #[test]
    fn a_member_that_comes_twice_is_refused() {
        for name in ["subject", "type", "data", "own"] {
            let json = event().to_string().replacen('{', &format!(r#"{{"{name}":"A","{name}":"A","#), 1);
            for problem in [structured(json.as_bytes()).unwrap_err(), batch(format!("[{json}]").as_bytes()).unwrap_err()] {
                assert!(problem.field.as_ref().unwrap().ends_with(&format!("/{name}")), "{problem}");
            }
        }
    }
}
