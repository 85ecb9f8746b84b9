//! Whether the process lives, and whether it can serve.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use causeway_proto::{Kind, Problem};
use serde_json::{Map, Value, json};

use crate::gateway::Gateway;
use crate::problem::HttpProblem;

/// `GET /healthz`: the process lives. Says nothing about what it needs.
pub(crate) fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: the log is connected and the read model has caught up with it. Until then it says how catching up goes,
/// and what else is done before it answers.
pub(super) async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, Response> {
    let connected = match gateway.log.is_connected() {
        true => Ok(()),
        false => Err(Problem::new(Kind::Unavailable, "not connected to the log")),
    };
    connected.and_then(|()| gateway.ready.check()).map_err(|problem| {
        let mut members = Map::from_iter([("position".to_owned(), json!(gateway.store.position()))]);
        if let Some(behind) = gateway.store.catching_up() {
            members.insert("position".to_owned(), json!(behind.position));
            members.insert("target".to_owned(), json!(behind.target));
            members.insert("per_second".to_owned(), json!(behind.per_second));
        }
        if let Some(doing) = gateway.store.doing() {
            members.insert("doing".to_owned(), json!(doing.to_string()));
        }
        HttpProblem(problem).with(members)
    })?;
    Ok(Json(json!({ "status": "ready", "position": gateway.store.position() })))
}
