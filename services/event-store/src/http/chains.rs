//! Chains of cause and effect.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use causeway_proto::Problem;

use super::params::Params;
use super::projections::named;
use crate::chains;
use crate::gateway::Gateway;
use crate::problem::HttpProblem;

/// `GET /chains/{id}`
pub(super) async fn trace(
    State(gateway): State<Arc<Gateway>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, HttpProblem> {
    let Path(id) = path.map_err(|refused| Problem::invalid("id", refused.body_text()))?;
    let mut params = Params::read(query.as_deref())?;
    let request = chains::Request { id, scope: params.take("scope")?.unwrap_or_default(), as_of: params.take("as_of")? };
    params.finish()?;
    let trace = gateway.within(chains::trace(&gateway, request)).await.map_err(named)?;
    Ok(axum::Json(trace).into_response())
}
