//! What can be set about the gateway, with defaults that are safe.

use std::time::Duration;

use causeway_event::{CorrelationId, Invalid};
use causeway_runtime::config::{bytes, duration};
use causeway_view::Prices;
use serde::{Deserialize, Serialize};

use crate::checkpoint::IntegrityConfig;
use crate::read_model::ReadModelConfig;

/// The gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The local, disposable index of the log.
    pub read_model: ReadModelConfig,
    /// Signed checkpoints of the log.
    pub integrity: IntegrityConfig,
    /// What it takes on at most.
    pub limits: Limits,
    /// How long a read, and the arrival of a request's body, may take.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// A subscriber to whom nothing was sent for this long hears that the stream lives.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// At shutdown, how long requests that were begun, and handing over groups, may take. [`crate::CLOSE_MAX`] comes on top.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Web origins whose pages may use the API from a browser, such as `https://example.com`. None by default.
    pub cors_origins: Vec<String>,
    /// Further names that the gateway may be called by, such as that of a proxy before it. Addresses and names without a dot always may;
    /// any other name could be that of a foreign web page. Looked at on loopback, and wherever one is listed.
    pub hosts: Vec<String>,
    /// What models' tokens cost, for the costs of chains. Without a price there is no cost.
    pub pricing: Prices,
    /// Where the tracing tool shows a trace; `{trace_id}` stands for its id.
    pub trace_url: Option<TraceUrl>,
}

/// What the gateway takes on at most. Whoever hits a limit is told which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A request's body over HTTP.
    #[serde(with = "bytes")]
    pub body_bytes_max: usize,
    /// A request's message over gRPC.
    #[serde(with = "bytes")]
    pub message_bytes_max: usize,
    /// Events that wait for the log at once, each appended by itself. An append of several takes the room of 64, and of one more for each
    /// eight events.
    pub appends_max: usize,
    /// Appends of one stream that are in hand at once, from the request to the answer that the client has taken; further requests
    /// are not read.
    pub stream_appends_max: usize,
    /// Appends that wait for their turn beyond those.
    pub appends_waiting_max: usize,
    /// How long an append may wait for its turn.
    #[serde(with = "duration")]
    pub append_wait: Duration,
    /// Streams at once: subscriptions, watches, members of groups, streamed reads and appends.
    pub streams_max: usize,
    /// Connections at once; further ones wait to be accepted. Never more than the files that the process may have open, less 64 (or less
    /// half of them, where they are few), which it tells at its start.
    pub connections_max: usize,
    /// Memory for views that were looked at: the next look costs only what is new. A state whose JSON is longer than a quarter of it is
    /// not kept.
    #[serde(with = "bytes")]
    pub views_bytes_max: usize,
    /// Memory for views that are watched, which stay there as long as somebody watches; a further one is refused.
    #[serde(with = "bytes")]
    pub watched_bytes_max: usize,
}

/// The address of a trace in a tracing tool: a URL with `{trace_id}` in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceUrl(String);

/// What stands for the trace id.
const TRACE_ID: &str = "{trace_id}";

impl TraceUrl {
    /// The address of this chain's trace.
    pub fn of(&self, correlation: &CorrelationId) -> String {
        let trace_id: String = correlation.trace_id().iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.replace(TRACE_ID, &trace_id)
    }
}

impl TryFrom<String> for TraceUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_url = rest.is_some_and(|rest| !rest.starts_with(['/', '{']) && !rest.is_empty())
            && !text.contains(|c: char| c.is_control() || c.is_whitespace());
        match (is_url, text.matches(TRACE_ID).count()) {
            (false, _) => Err(Invalid::new("", "is not a URL such as https://jaeger.example/trace/{trace_id}")),
            (true, 1) => Ok(Self(text)),
            (true, _) => Err(Invalid::new("", "must have {trace_id} in it, once")),
        }
    }
}

impl From<TraceUrl> for String {
    fn from(url: TraceUrl) -> Self {
        url.0
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            read_model: ReadModelConfig::default(),
            integrity: IntegrityConfig::default(),
            limits: Limits::default(),
            request_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            cors_origins: Vec::new(),
            hosts: Vec::new(),
            pricing: Prices::default(),
            trace_url: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 2 * 1024 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            appends_max: 2048,
            stream_appends_max: 1024,
            appends_waiting_max: 1024,
            append_wait: Duration::from_secs(2),
            streams_max: 4096,
            connections_max: 8192,
            views_bytes_max: 128 * 1024 * 1024,
            watched_bytes_max: 256 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_an_address() {
        let url = |text: &str| TraceUrl::try_from(text.to_owned());
        let jaeger = url("https://jaeger.example/trace/{trace_id}?x=1").unwrap();
        let chain = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736".parse().unwrap();
        assert_eq!(jaeger.of(&chain), "https://jaeger.example/trace/4bf92f3577b34da6a3ce929d0e0e4736?x=1");
        for bad in [
            "",
            "jaeger/{trace_id}",
            "https://",
            "https:///{trace_id}",
            "https://jaeger.example/",
            "https://j/{trace_id}/{trace_id}",
            "https://j/ {trace_id}",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
