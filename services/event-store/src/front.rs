//! The port before the gateway is there: its read model may take minutes to be checked, or to be fetched, and whoever asks meanwhile
//! is told so. As soon as the gateway is there it gets whatever comes, on the connections that there are.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use causeway_proto::{Kind, Problem};
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::http::{self, Wire};

/// When to ask again. Mostly it takes a moment, which a start should not wait beyond.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct Front {
    gateway: Arc<OnceLock<Router>>,
    since: Instant,
}

impl Front {
    /// Nothing is there yet.
    pub(crate) fn new() -> Self {
        Self { gateway: Arc::default(), since: Instant::now() }
    }

    /// The gateway is there.
    pub(crate) fn open(&self, gateway: Router) {
        // It is opened once.
        let _ = self.gateway.set(gateway);
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

async fn answer(State(front): State<Front>, request: Request) -> Result<Response, Infallible> {
    if let Some(gateway) = front.gateway.get() {
        return gateway.clone().oneshot(request).await;
    }
    let seconds = front.since.elapsed().as_secs();
    let what = "its read model is checked, or fetched where there is none";
    let problem = Problem::new(Kind::Behind, format!("the gateway is starting: for {seconds} s now {what}"));
    let problem = problem.retry_after(LOOK_AGAIN);
    Ok(match request.uri().path() {
        "/healthz" => http::alive().into_response(),
        _ => Wire::of(request.headers()).tell(problem),
    })
}
