//! The list of aggregates.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use causeway_event::{AggregateId, Position, format_timestamp};
use serde::Serialize;

use super::params::Params;
use crate::aggregates::{self, Prefix};
use crate::gateway::Gateway;
use crate::problem::HttpProblem;

#[derive(Serialize)]
pub(super) struct PageJson {
    aggregates: Vec<AggregateJson>,
    /// What `after` must be to go on; null at the end.
    next: Option<AggregateId>,
}

#[derive(Serialize)]
struct AggregateJson {
    aggregate_id: AggregateId,
    first_position: Position,
    last_position: Position,
    last_timestamp: String,
}

/// `GET /aggregates`
pub(super) async fn list(State(gateway): State<Arc<Gateway>>, RawQuery(query): RawQuery) -> Result<Json<PageJson>, HttpProblem> {
    let mut params = Params::read(query.as_deref())?;
    let prefix = params.take::<Prefix>("prefix")?.unwrap_or_default();
    let after = params.take("after")?;
    let limit = params.take_number("limit", 1, aggregates::LIMIT_MAX.into())?;
    params.finish()?;
    let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(aggregates::LIMIT);
    let page = aggregates::list(&gateway, prefix, after, limit).await?;
    let next = page.next().cloned();
    let aggregates = page.aggregates.into_iter().map(|aggregate| AggregateJson {
        aggregate_id: aggregate.id,
        first_position: aggregate.first,
        last_position: aggregate.last,
        last_timestamp: format_timestamp(aggregate.last_timestamp),
    });
    Ok(Json(PageJson { aggregates: aggregates.collect(), next }))
}
