//! Server-sent events. `id:` is the position, so that a browser that reconnects goes on behind what it saw last; deltas have
//! none and move nothing. What is no event of the log has a name in lower case, which no type has.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::ready;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use causeway_event::{Invalid, Position};
use causeway_proto::{Kind, Problem};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;

use super::accept::negotiate;
use super::params::Params;
use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::problem::{self, HttpProblem};
use crate::store::Update;
use crate::subscribe::{self, Deltas, Heard, Request, Start};

pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// The first bytes: how long a browser waits before it connects again, and something for proxies that wait for a body.
const PREAMBLE: &str = "retry: 1000\n\n";

/// `GET /events/stream`
pub(super) async fn subscribe(
    State(gateway): State<Arc<Gateway>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    negotiate(&headers, &[EVENT_STREAM])?;
    let mut params = Params::read(query.as_deref())?;
    let filter = params.take_filter()?;
    let start = start(&mut params, &headers)?;
    let raw = params.take_flag("raw")?;
    params.finish()?;
    let deltas = filter.aggregate_id.clone().map_or(Deltas::No, Deltas::Of);
    let heard = gateway.within(subscribe::subscribe(&gateway, Request { filter, start, deltas, raw })).await?;
    Ok(respond(heard.map(|heard| heard.and_then(|heard| frame(&heard)))))
}

/// A stream that cannot go on ends: the browser reconnects with the last id, and is told then what is wrong. The operator is told
/// here.
pub(super) fn respond(frames: impl Stream<Item = Result<String, Problem>> + Send + 'static) -> Response {
    let going_on = |frame: &Result<String, Problem>| ready(frame.as_ref().inspect_err(|problem| problem::log(problem)).is_ok());
    let frames = frames.take_while(going_on).filter_map(|frame| ready(frame.ok()));
    let bytes = stream::iter([PREAMBLE.to_owned()]).chain(frames).map(|frame| Ok::<_, Infallible>(Bytes::from(frame)));
    let mut response = Body::from_stream(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// `Last-Event-ID` wins: a browser that reconnects sends it with the URL that it began with.
fn start(params: &mut Params, headers: &HeaderMap) -> Result<Start, Problem> {
    const NAME: &str = "Last-Event-ID";
    let after = params.take_cursor("after")?;
    let from_now = params.take_flag("from_now")?;
    if after.is_some() && from_now {
        return Err(Problem::invalid("from_now", "cannot be given together with after"));
    }
    let last = headers.get(NAME).filter(|value| !value.is_empty());
    if let Some(last) = last {
        let text = last.to_str().map_err(|_| Problem::invalid(NAME, "is neither a position nor an event id"))?;
        let cursor: Cursor = text.parse().map_err(|invalid: Invalid| Problem::invalid(NAME, invalid.reason))?;
        return Ok(Start::Behind(cursor, NAME));
    }
    Ok(match after {
        Some((cursor, field)) => Start::Behind(cursor, field),
        None if from_now => Start::Now,
        None => Start::Beginning,
    })
}

#[derive(Serialize)]
struct CaughtUp {
    position: Position,
    head: Position,
}

#[derive(Serialize)]
struct Checkpoint {
    position: Position,
}

#[derive(Serialize)]
struct Heartbeat {
    position: Position,
    lag: u64,
}

fn frame(heard: &Heard) -> Result<String, Problem> {
    match heard {
        Heard::Update(Update::Event(event)) => write(Some(event.position), event.event_type.as_str(), event.as_ref()),
        Heard::Update(Update::CaughtUp { position, head }) => {
            write(Some(*position), "caught_up", &CaughtUp { position: *position, head: *head })
        }
        Heard::Update(Update::Checkpoint(position)) => write(Some(*position), "checkpoint", &Checkpoint { position: *position }),
        Heard::Update(Update::Heartbeat { position, lag }) => {
            write(Some(*position), "heartbeat", &Heartbeat { position: *position, lag: *lag })
        }
        Heard::Delta(delta) => write(None, "delta", delta),
    }
}

pub(super) fn write(id: Option<Position>, event: &str, data: &impl Serialize) -> Result<String, Problem> {
    let json = serde_json::to_string(data)
        .map_err(|error| Problem::new(Kind::Internal, format!("an event cannot be written: {error}")))?;
    let mut frame = String::with_capacity(json.len() + 64);
    // Writing to a string cannot fail.
    if let Some(id) = id {
        _ = writeln!(frame, "id: {id}");
    }
    _ = writeln!(frame, "event: {event}");
    // Line breaks between the tokens of an event's data would end a field here, and not every reader puts the pieces together.
    _ = write!(frame, "data: {}\n\n", json.replace(['\n', '\r'], " "));
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use causeway_event::{Delta, DeltaKind};

    use super::*;

    #[test]
    fn frames_are_what_browsers_read() {
        let delta = Delta { turn: "t".into(), step: 1, kind: DeltaKind::Text, text: "a\nb".into() };
        assert_eq!(
            frame(&Heard::Delta(delta)).unwrap(),
            "event: delta\ndata: {\"turn\":\"t\",\"step\":1,\"kind\":\"text\",\"text\":\"a\\nb\"}\n\n"
        );
        let at = Position::new(7);
        let frame = |update| frame(&Heard::Update(update)).unwrap();
        let caught_up = Update::CaughtUp { position: at, head: Position::new(8) };
        assert_eq!(frame(caught_up), "id: 7\nevent: caught_up\ndata: {\"position\":7,\"head\":8}\n\n");
        assert_eq!(frame(Update::Checkpoint(at)), "id: 7\nevent: checkpoint\ndata: {\"position\":7}\n\n");
        let heartbeat = Update::Heartbeat { position: at, lag: 1 };
        assert_eq!(frame(heartbeat), "id: 7\nevent: heartbeat\ndata: {\"position\":7,\"lag\":1}\n\n");
        let raw = causeway_event::Data::from_json(b"{\n}").unwrap();
        assert_eq!(write(Some(Position::new(3)), "A", &raw).unwrap(), "id: 3\nevent: A\ndata: { }\n\n");
    }

    #[test]
    fn a_reconnecting_browser_goes_on_where_it_was() {
        let last = |id: &str| HeaderMap::from_iter([("last-event-id".parse().unwrap(), id.parse().unwrap())]);
        let start = |query: &str, headers: &HeaderMap| start(&mut Params::read(Some(query)).unwrap(), headers);
        let at = |position| Cursor::At(Position::new(position));
        assert_eq!(start("", &HeaderMap::new()), Ok(Start::Beginning));
        assert_eq!(start("after=3", &HeaderMap::new()), Ok(Start::Behind(at(3), "after")));
        assert_eq!(start("from_now=true", &HeaderMap::new()), Ok(Start::Now));
        assert_eq!(start("from_now=true", &last("7")), Ok(Start::Behind(at(7), "Last-Event-ID")));
        assert_eq!(start("after=3", &last("")), Ok(Start::Behind(at(3), "after")));
        assert_eq!(start("", &last("seven")).unwrap_err().field.as_deref(), Some("Last-Event-ID"));
        assert_eq!(start("after=3&from_now=true", &HeaderMap::new()).unwrap_err().field.as_deref(), Some("from_now"));
    }
}
