//! Append and read events.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use causeway_event::{Event, IdempotencyKey, Invalid, Position, Source, format_timestamp};
use causeway_proto::{Appended, Kind, Problem, Receipt};
use futures::{Stream, TryStreamExt as _};
use serde::Serialize;

use super::accept::negotiate;
use super::body::{self, Form};
use super::cloudevents::{self, Media};
use super::params::{Params, Text};
use crate::append;
use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::problem::HttpProblem;
use crate::range::{self, Wanted};
use crate::read_model::Order;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// The header under which an append is made at most once.
const KEY: &str = "Idempotency-Key";

/// Events of one answer: unless asked, and at most.
const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// `POST /events`
pub(super) async fn append(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, HttpProblem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query())?.finish()?;
    let media = cloudevents::media(&parts.headers)?;
    let body = body::read(&gateway, &parts.headers, body).await?;
    let parsed = match media {
        Media::Json => body::parse(&body)?,
        Media::Structured => cloudevents::structured(&body)?,
        Media::Batch => cloudevents::batch(&body)?,
        Media::Binary => cloudevents::binary(&parts.headers, &body)?,
    };
    let form = parsed.form;
    let key_in_body = match (media, parsed.idempotency_key) {
        // What a CloudEvent is known by makes way for the client's own word.
        (Media::Structured | Media::Batch | Media::Binary, _) if parts.headers.contains_key(KEY) => None,
        (_, key) => key,
    };
    let told_in_body = key_in_body.is_some();
    let idempotency_key = key(&parts.headers, key_in_body)?;
    let append = append::Request {
        drafts: parsed.drafts,
        expected: parsed.expected,
        idempotency_key,
        source: source()?,
        traceparent: super::traceparent(&parts.headers).or(parsed.traceparent),
    };
    let told = |field: String| match field.as_str() {
        "/idempotency_key" if !told_in_body => KEY.to_owned(),
        field => form.field(field),
    };
    let appended = append::append(&gateway, append)
        .await
        .map_err(|problem| Problem { field: problem.field.clone().map(told), ..problem })?;
    Ok(created(form, &appended))
}

fn source() -> Result<Source, Problem> {
    "http".parse().map_err(|invalid: Invalid| Problem::new(Kind::Internal, invalid.reason))
}

/// The key of the header or the body; given twice it must be the same.
fn key(headers: &HeaderMap, in_body: Option<IdempotencyKey>) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(in_body) };
    if values.next().is_some() {
        return Err(Problem::invalid(KEY, "may be given only once"));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::invalid(KEY, "is not UTF-8"))?;
    // The header's draft standard has it in quotes; most clients send it bare.
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let key: IdempotencyKey = bare.parse().map_err(|invalid: Invalid| Problem::invalid(KEY, invalid.reason))?;
    match in_body {
        Some(other) if other != key => Err(Problem::invalid(KEY, "differs from the body's idempotency_key")),
        _ => Ok(Some(key)),
    }
}

#[derive(Serialize)]
struct ReceiptJson {
    id: String,
    position: Position,
    timestamp: String,
    correlation_id: String,
    duplicate: bool,
}

fn created(form: Form, appended: &Appended) -> Response {
    let json = |receipt: &Receipt| ReceiptJson {
        id: receipt.id.to_string(),
        position: receipt.position,
        timestamp: format_timestamp(receipt.timestamp),
        correlation_id: receipt.correlation_id.to_string(),
        duplicate: appended.duplicate,
    };
    match (form, appended.receipts.as_slice()) {
        (Form::One | Form::CloudEvent | Form::BinaryCloudEvent, [receipt]) => {
            let location = [(header::LOCATION, format!("/events/{}", receipt.id))];
            (StatusCode::CREATED, location, axum::Json(json(receipt))).into_response()
        }
        (_, receipts) => (StatusCode::CREATED, axum::Json(receipts.iter().map(json).collect::<Vec<_>>())).into_response(),
    }
}

#[derive(Serialize)]
struct PageJson<'p> {
    events: Vec<&'p Event>,
    /// What `after` (or, backwards, `before`) must be to go on; null at the end.
    next: Option<Position>,
    last_position: Position,
}

/// `GET /events`
pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    let streamed = negotiate(&headers, &[JSON, NDJSON])? == NDJSON;
    let mut params = Params::read(query.as_deref())?;
    let mut wanted = params.take_wanted()?;
    wanted.raw = params.take_flag("raw")?;
    wanted.order = match params.take::<Text>("order")?.as_ref().map(|Text(order)| order.as_str()) {
        None | Some("asc") => Order::Forwards,
        Some("desc") => Order::Backwards,
        Some(_) => return Err(Problem::invalid("order", "is neither asc nor desc").into()),
    };
    let limit = params.take_number("limit", 1, if streamed { u64::MAX } else { LIMIT_MAX })?;
    params.finish()?;
    if streamed {
        return ndjson(gateway, wanted, limit).await.map_err(HttpProblem);
    }
    let limit = usize::try_from(limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
    let (page, last_position) = range::page(&gateway, wanted, limit).await?;
    let events = page.events.iter().map(AsRef::as_ref).collect();
    Ok(axum::Json(PageJson { events, next: page.next, last_position }).into_response())
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
    last_position: Position,
}

/// `GET /events/count`
pub(super) async fn count(State(gateway): State<Arc<Gateway>>, RawQuery(query): RawQuery) -> Result<Response, HttpProblem> {
    let mut params = Params::read(query.as_deref())?;
    let wanted = params.take_wanted()?;
    params.finish()?;
    let (count, last_position) = range::count(&gateway, wanted).await?;
    Ok(axum::Json(CountJson { count, last_position }).into_response())
}

/// The whole range, one event a line.
async fn ndjson(gateway: Arc<Gateway>, wanted: Wanted, limit: Option<u64>) -> Result<Response, Problem> {
    let (pages, last) = range::open(gateway, wanted, limit).await?;
    let mut response = Body::from_stream(lines(pages)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert("causeway-last-position", HeaderValue::from(last.get()));
    Ok(response)
}

/// An error in the middle breaks the connection: half a range must not look like the whole.
fn lines(
    pages: impl Stream<Item = Result<Vec<Arc<Event>>, Problem>> + Send,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    pages.and_then(|events| async move {
        let mut lines = Vec::new();
        for event in &events {
            write_line(&mut lines, event)?;
        }
        Ok(lines.into())
    })
}

/// One line: line breaks between the tokens of `data`, which are kept as sent elsewhere, become spaces.
fn write_line(lines: &mut Vec<u8>, event: &Event) -> Result<(), Problem> {
    let start = lines.len();
    serde_json::to_writer(&mut *lines, event)
        .map_err(|error| Problem::new(Kind::Internal, format!("an event cannot be written: {error}")))?;
    lines[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    lines.push(b'\n');
    Ok(())
}

/// `GET /events/{id}`
pub(super) async fn one(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpProblem> {
    let Path(id) = path.map_err(|refused| Problem::invalid("id", refused.body_text()))?;
    let mut params = Params::read(query.as_deref())?;
    let raw = params.take_flag("raw")?;
    params.finish()?;
    let cursor: Cursor = id.parse().map_err(|invalid: Invalid| Problem::invalid("id", invalid.reason))?;
    match gateway.within(range::one(&gateway, cursor, raw)).await? {
        Some(event) => Ok(axum::Json(event.as_ref()).into_response()),
        None => Err(Problem::new(Kind::NotFound, format!("there is no event {id}")).at("id").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_header_and_of_the_body_must_agree() {
        let headers = |value: &str| HeaderMap::from_iter([("idempotency-key".parse().unwrap(), value.parse().unwrap())]);
        let in_body = |key: &str| Some(key.parse().unwrap());
        assert_eq!(key(&HeaderMap::new(), in_body("k")).unwrap(), in_body("k"));
        assert_eq!(key(&headers("k"), None).unwrap(), in_body("k"));
        assert_eq!(key(&headers("\"k\""), in_body("k")).unwrap(), in_body("k"));
        assert!(key(&headers("k"), in_body("other")).is_err());
        assert!(key(&headers(""), None).is_err());
        assert!(key(&headers("\"\""), None).is_err());
    }

    #[test]
    fn an_event_is_one_line_whatever_its_data_looked_like() {
        let json = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":42,"timestamp":"2026-11-23T10:00:00.123456Z","type":"A","aggregate_id":"a","data":DATA,"metadata":{"source":"s","correlation_id":"c"}}"#;
        let event: Event = serde_json::from_str(&json.replace("DATA", "{\r\n \"a\":\n1}")).unwrap();
        let mut lines = Vec::new();
        write_line(&mut lines, &event).unwrap();
        let text = String::from_utf8(lines).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("{   \"a\": 1}"));
    }
}
