//! The types of events: those that Causeway knows, and the users' own.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use causeway_event::Category;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::{self, Object};
use super::params::Params;
use crate::gateway::Gateway;
use crate::problem::HttpProblem;
use crate::types::{self, TypeInfo};

/// What `GET /types` answers.
#[derive(Serialize)]
pub(super) struct TypesJson {
    /// Those that Causeway knows, then those that were registered, each in the order of their names.
    types: Vec<TypeJson>,
}

/// A type of events.
#[derive(Serialize)]
pub(super) struct TypeJson {
    name: String,
    category: Category,
    /// What it says, for a person.
    description: String,
    /// The oldest first. A type that Causeway knows has one.
    versions: Vec<VersionJson>,
}

/// A version of a type.
#[derive(Serialize)]
pub(super) struct VersionJson {
    /// From 1.
    version: u32,
    /// The JSON Schema (draft 2020-12) of its data.
    schema: Value,
    /// How data of the version before becomes data of this one, as JSON Patch (RFC 6902).
    upcast: Vec<Value>,
    /// The event that registered it; absent for a type that Causeway knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    registered_by: Option<String>,
}

/// What `POST /types` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationBody {
    /// A type that Causeway does not know itself.
    name: String,
    /// The JSON Schema (draft 2020-12) of its data.
    schema: Value,
    /// How data of the version before becomes data of this one, as JSON Patch (RFC 6902).
    #[serde(default)]
    upcast: Vec<Value>,
    /// The version that this is; the next one where absent.
    version: Option<u32>,
    /// What it says, for a person.
    #[serde(default)]
    description: String,
}

/// What `POST /types` answers.
#[derive(Serialize)]
pub(super) struct RegisteredJson {
    r#type: TypeJson,
    /// Whether exactly this was registered before.
    duplicate: bool,
}

/// `GET /types`
pub(super) async fn list(State(gateway): State<Arc<Gateway>>, RawQuery(query): RawQuery) -> Result<Response, HttpProblem> {
    Params::read(query.as_deref())?.finish()?;
    let types = gateway.within(gateway.types.list(&gateway)).await?.into_iter().map(TypeJson::from).collect();
    Ok(axum::Json(TypesJson { types }).into_response())
}

/// `POST /types`
pub(super) async fn register(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, HttpProblem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query())?.finish()?;
    body::require_json(&parts.headers)?;
    let json = body::read(&gateway, &parts.headers, body).await?;
    let Object(body) = body::from_json::<Object<RegistrationBody>>(&json)?;
    let request = types::registration(&body.name, body.schema, body.upcast, body.version, body.description)?;
    let registered = gateway.types.register(&gateway.log, request, super::traceparent(&parts.headers)).await?;
    let status = if registered.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let answer = RegisteredJson { r#type: registered.info.into(), duplicate: registered.duplicate };
    Ok((status, axum::Json(answer)).into_response())
}

impl From<TypeInfo> for TypeJson {
    fn from(info: TypeInfo) -> Self {
        let versions = info.versions.into_iter().map(|version| VersionJson {
            version: version.version,
            schema: version.schema,
            upcast: version.upcast,
            registered_by: version.registered_by.map(|id| id.to_string()),
        });
        Self { name: info.name, category: info.category, description: info.description, versions: versions.collect() }
    }
}
