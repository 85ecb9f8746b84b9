//! What can be set about the gateway, with defaults that are safe.

use std::time::Duration;

use causeway_runtime::config::{bytes, duration};
use serde::{Deserialize, Serialize};

use crate::read_model::ReadModelConfig;

/// The gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The local, disposable index of the log.
    pub read_model: ReadModelConfig,
    /// What it takes on at most.
    pub limits: Limits,
    /// How long a read, and the arrival of a request's body, may take.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// A subscriber to whom nothing was sent for this long hears that the stream lives.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// At shutdown, how long requests that were begun may take to end.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Web origins whose pages may use the API from a browser, such as `https://example.com`. None by default.
    pub cors_origins: Vec<String>,
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
    /// Appends that wait for the log at once.
    pub appends_max: usize,
    /// Appends that wait for their turn beyond those.
    pub appends_waiting_max: usize,
    /// How long an append may wait for its turn.
    #[serde(with = "duration")]
    pub append_wait: Duration,
    /// Subscriptions and streamed reads at once.
    pub streams_max: usize,
    /// Connections at once; further ones wait to be accepted.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            read_model: ReadModelConfig::default(),
            limits: Limits::default(),
            request_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            cors_origins: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 2 * 1024 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            appends_max: 256,
            appends_waiting_max: 1024,
            append_wait: Duration::from_secs(2),
            streams_max: 4096,
            connections_max: 8192,
        }
    }
}
