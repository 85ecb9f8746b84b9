//! Views of one id, now or as of a moment.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use causeway_event::Position;
use causeway_proto::{Kind, Problem};
use serde::Serialize;
use serde_json::value::RawValue;

use super::params::Params;
use crate::gateway::Gateway;
use crate::problem::HttpProblem;
use crate::project::{self, Projection};

#[derive(Serialize)]
struct ProjectionJson {
    view: &'static str,
    id: String,
    position: Position,
    state: Box<RawValue>,
}

/// `GET /projections/{view}/{id}`
pub(super) async fn project(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpProblem> {
    let Path((view, id)) = path.map_err(|refused| Problem::invalid("id", refused.body_text()))?;
    let mut params = Params::read(query.as_deref())?;
    let request = project::Request {
        view,
        id,
        as_of: params.take("as_of")?,
        min_position: params.take_number("min_position", 0, u64::MAX)?.map(Position::new),
    };
    params.finish()?;
    // Parts of the path and parameters go by their names, not by pointers into a body.
    let named = |mut problem: Problem| {
        problem.field = problem.field.map(|field| field.trim_start_matches('/').to_owned());
        problem
    };
    let Projection { view, id, position, state } = gateway.within(project::project(&gateway, request)).await.map_err(named)?;
    let state = String::from_utf8(state).ok().and_then(|json| RawValue::from_string(json).ok());
    let state = state.ok_or_else(|| Problem::new(Kind::Internal, "the view is not JSON"))?;
    Ok(axum::Json(ProjectionJson { view, id, position, state }).into_response())
}
