//! Views of one id: now, as of a moment, between two moments, and as they change.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::value::RawValue;

use super::accept::negotiate;
use super::params::Params;
use super::stream::{EVENT_STREAM, respond, write};
use crate::gateway::Gateway;
use crate::problem::HttpProblem;
use crate::project::{self, Change, Projection, Told, VIEWS};

/// `GET /projections`
pub(super) async fn list(RawQuery(query): RawQuery) -> Result<Response, HttpProblem> {
    #[derive(Serialize)]
    struct View {
        name: &'static str,
        version: u32,
        description: &'static str,
        id_kind: &'static str,
    }
    #[derive(Serialize)]
    struct Views {
        views: Vec<View>,
    }
    Params::read(query.as_deref())?.finish()?;
    let view = |view: &project::View| View {
        name: view.name,
        version: view.version,
        description: view.description,
        id_kind: view.id.as_str(),
    };
    Ok(axum::Json(Views { views: VIEWS.iter().map(view).collect() }).into_response())
}

/// `GET /projections/{view}/{id}`
pub(super) async fn project(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpProblem> {
    let (view, id) = place(path)?;
    let mut params = Params::read(query.as_deref())?;
    let request = project::Request { view, id, as_of: params.take("as_of")?, min_position: min_position(&mut params)? };
    params.finish()?;
    let Projection { view, id, position, state } = gateway.within(project::project(&gateway, request)).await.map_err(named)?;
    let id = serde_json::to_string(&id).map_err(unwritten)?;
    let head = format!(r#"{{"view":"{view}","id":{id},"position":{position},"state":"#);
    Ok(pieces([head.into(), state, Bytes::from_static(b"}")]))
}

/// JSON in pieces: the state of a long view is sent as it lies in memory.
fn pieces(pieces: [Bytes; 3]) -> Response {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut response = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

#[derive(Serialize)]
struct DiffJson<'a> {
    view: &'static str,
    id: String,
    from_position: Position,
    to_position: Position,
    patch: &'a RawValue,
    changes: Vec<ChangeJson<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    position: Position,
    event: &'a Event,
    patch: &'a RawValue,
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a Change) -> Result<Self, Problem> {
        Ok(Self { position: change.event.position, event: &change.event, patch: raw(&change.patch)? })
    }
}

/// `GET /projections/{view}/{id}/diff`
pub(super) async fn diff(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpProblem> {
    let (view, id) = place(path)?;
    let mut params = Params::read(query.as_deref())?;
    let from = params.take("from")?.ok_or_else(|| Problem::invalid("from", "is missing"))?;
    let request = project::DiffRequest { view, id, from, to: params.take("to")? };
    params.finish()?;
    let diff = gateway.within(project::diff(&gateway, request)).await.map_err(named)?;
    let json = DiffJson {
        view: diff.view,
        id: diff.id,
        from_position: diff.from,
        to_position: diff.to,
        patch: raw(&diff.patch)?,
        changes: diff.changes.iter().map(ChangeJson::of).collect::<Result<_, _>>()?,
        more: diff.more,
    };
    Ok(axum::Json(json).into_response())
}

/// `GET /projections/{view}/{id}/watch`. A browser that reconnects begins with the whole state, so its last id is of no use.
pub(super) async fn watch(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    negotiate(&headers, &[EVENT_STREAM])?;
    let (view, id) = place(path)?;
    let mut params = Params::read(query.as_deref())?;
    let request =
        project::WatchRequest { view, id, min_position: min_position(&mut params)?, states: params.take_flag("states")? };
    params.finish()?;
    let told = gateway.within(project::watch(gateway.clone(), request)).await.map_err(named)?;
    Ok(respond(told.map(|told| frame(&told?))))
}

#[derive(Serialize)]
struct StateJson<'a> {
    position: Position,
    state: &'a RawValue,
}

#[derive(Serialize)]
struct HeartbeatJson {
    position: Position,
    lag: u64,
}

fn frame(told: &Told) -> Result<String, Problem> {
    match told {
        Told::State { position, json } => write(Some(*position), "state", &StateJson { position: *position, state: raw(json)? }),
        Told::Change(change) => write(Some(change.event.position), "change", &ChangeJson::of(change)?),
        Told::Heartbeat { position, lag } => write(None, "heartbeat", &HeartbeatJson { position: *position, lag: *lag }),
    }
}

fn place(path: Result<Path<(String, String)>, PathRejection>) -> Result<(String, String), Problem> {
    path.map(|Path(place)| place).map_err(|refused| Problem::invalid("id", refused.body_text()))
}

fn min_position(params: &mut Params) -> Result<Option<Position>, Problem> {
    Ok(params.take_number("min_position", 0, u64::MAX)?.map(Position::new))
}

/// Parts of the path and parameters go by their names, not by pointers into a body.
pub(super) fn named(mut problem: Problem) -> Problem {
    problem.field = problem.field.map(|field| field.trim_start_matches('/').to_owned());
    problem
}

/// JSON that was made before.
fn raw(json: &Bytes) -> Result<&RawValue, Problem> {
    serde_json::from_slice(json).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Problem {
    Problem::new(Kind::Internal, format!("the view cannot be written: {error}"))
}
