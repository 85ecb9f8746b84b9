//! HTTP/JSON and server-sent events, on the same port as gRPC.
//!
//! Handlers parse, call one function, and map the error; they hold no rule about events. Every refusal is a problem document.

mod accept;
mod aggregates;
mod body;
mod chains;
mod cloudevents;
mod events;
mod health;
mod openapi;
mod params;
mod projections;
mod stream;
mod types;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use causeway_event::TraceParent;
use causeway_proto::{Kind, Problem};
use tonic::Status;

use crate::gateway::Gateway;
use crate::problem::{HttpProblem, into_status};

pub(crate) use health::alive;

/// All paths.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/events", post(events::append).get(events::list))
        .route("/events/count", get(events::count))
        .route("/events/stream", get(stream::subscribe))
        .route("/events/{id}", get(events::one))
        .route("/aggregates", get(aggregates::list))
        .route("/projections", get(projections::list))
        .route("/projections/{view}/{id}", get(projections::project))
        .route("/projections/{view}/{id}/diff", get(projections::diff))
        .route("/projections/{view}/{id}/watch", get(projections::watch))
        .route("/chains/{id}", get(chains::trace))
        .route("/types", get(types::list).post(types::register))
        .route("/openapi.json", get(openapi::json))
        .route("/docs", get(openapi::page))
        .route("/healthz", get(async || alive()))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(gateway)
}

async fn wrong_method(request: Request) -> HttpProblem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Kind::MethodNotAllowed, format!("{method} is not allowed on {path}")).into()
}

/// Also reached by a call of a gRPC service that is not there, whose client could not read a problem document.
async fn unknown_path(request: Request) -> Response {
    let path = request.uri().path();
    match Wire::of(request.headers()) {
        Wire::Grpc(content_type) => refuse(Status::unimplemented(format!("there is no method {path}")), content_type),
        Wire::Http => HttpProblem(Problem::new(Kind::NotFound, format!("there is no path {path}; /docs shows what there is")))
            .into_response(),
    }
}

/// How whoever asks wants to be told of a problem.
pub(crate) enum Wire {
    Http,
    /// gRPC or gRPC-Web: its content type is also the answer's, or its client takes it for something else.
    Grpc(HeaderValue),
}

impl Wire {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).filter(|value| value.as_bytes().starts_with(b"application/grpc"));
        content_type.map_or(Self::Http, |value| Self::Grpc(value.clone()))
    }

    pub(crate) fn tell(self, problem: Problem) -> Response {
        match self {
            Self::Http => HttpProblem(problem).into_response(),
            Self::Grpc(content_type) => refuse(into_status(problem), content_type),
        }
    }
}

fn refuse(status: Status, content_type: HeaderValue) -> Response {
    let mut response = status.into_http::<Body>();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The caller's span. One that cannot be read is as good as none, as W3C Trace Context says.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    headers.get("traceparent")?.to_str().ok()?.parse().ok()
}
