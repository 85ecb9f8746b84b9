//! One port for gRPC, HTTP and server-sent events, told apart by their paths (`/package.Service/Method` never meets
//! `/events`), and its orderly end: no new connection, streams end, requests that were begun are finished.

use std::any::Any;
use std::future::IntoFuture as _;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use causeway_proto::{FILE_DESCRIPTOR_SET, Kind, Problem};
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower_http::cors::CorsLayer;

use crate::gateway::Gateway;
use crate::problem::{HttpProblem, into_status};
use crate::{Error, grpc, http};

/// All that is served.
pub(crate) fn router(gateway: Arc<Gateway>, health: HealthServer<impl Health>) -> Result<Router, Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |error: tonic_reflection::server::Error| Error::Config(format!("gRPC reflection: {error}"));
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(grpc::service(gateway.clone()))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(unreadable)?)
        .add_service(reflection().build_v1alpha().map_err(unreadable)?);
    // Both halves have a fallback, and only one can stay: HTTP's also answers for gRPC.
    let grpc = routes.routes().into_axum_router().reset_fallback();
    let cors = cors(&gateway.config.cors_origins)?;
    let http = http::router(gateway);
    let http = match cors {
        Some(cors) => http.layer(cors),
        None => http,
    };
    Ok(http.merge(grpc).layer(middleware::from_fn(catch_panic)))
}

/// A defect costs the request that met it, not its connection, and is told like any other problem.
async fn catch_panic(request: axum::extract::Request, next: Next) -> Response {
    let is_grpc = http::is_grpc(request.headers());
    match std::panic::AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(error = words(panic.as_ref()), "a request panicked");
            let problem = Problem::new(Kind::Internal, "the gateway has a defect; its log says more");
            match is_grpc {
                true => into_status(problem).into_http::<Body>(),
                false => HttpProblem(problem).into_response(),
            }
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

fn cors(origins: &[String]) -> Result<Option<CorsLayer>, Error> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origin = |origin: &String| {
        HeaderValue::from_str(origin).map_err(|_| Error::Config(format!("cors_origins: {origin:?} is not an origin")))
    };
    let headers = [
        header::CONTENT_TYPE,
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("last-event-id"),
        HeaderName::from_static("traceparent"),
    ];
    let layer = CorsLayer::new()
        .allow_origin(origins.iter().map(origin).collect::<Result<Vec<_>, _>>()?)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(headers);
    Ok(Some(layer))
}

/// Serves until the gateway is stopped, and then for as long as what was begun takes, within the limit.
pub(crate) async fn serve(router: Router, listener: TcpListener, gateway: &Gateway) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Small answers must not wait for more to send.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays without TCP_NODELAY");
        }
    });
    let stop = gateway.stop.clone();
    let mut serving = pin!(axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
    let drain_timeout = gateway.config.drain_timeout;
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
    };
    tokio::select! {
        served = &mut serving => served,
        () = too_long => {
            tracing::warn!(?drain_timeout, "requests were still under way and are cut off");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_like_any_other_problem() {
        async fn broken() -> &'static str {
            panic!("out of order")
        }
        let router = Router::new().route("/", get(broken)).layer(middleware::from_fn(catch_panic));
        let response = router.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let request = Request::get("/").header(header::CONTENT_TYPE, "application/grpc").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
    }

    #[test]
    fn no_origin_is_allowed_unless_it_is_named() {
        assert!(cors(&[]).unwrap().is_none());
        assert!(cors(&["https://example.com".into()]).unwrap().is_some());
        assert!(cors(&["\n".into()]).is_err());
    }
}
