//! Whether the process lives, and whether it can serve.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use causeway_proto::{Kind, Problem};
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::problem::HttpProblem;

/// `GET /healthz`: the process lives. Says nothing about what it needs.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: the log is connected and the read model has caught up with it.
pub(super) async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, HttpProblem> {
    if !gateway.log.is_connected() {
        return Err(Problem::new(Kind::Unavailable, "not connected to the log").into());
    }
    gateway.ready.check()?;
    Ok(Json(json!({ "status": "ready", "position": gateway.store.position() })))
}
