//! Where the log is and how long to wait for it.

use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

/// How to reach the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The NATS server, or several with commas between them.
    pub url: String,
    /// Prefix of every subject, stream and consumer: several Causeways share one NATS.
    pub namespace: String,
    /// Copies of each stream: 1 on a single server, 3 in production.
    pub replicas: usize,
    /// A NATS credentials file (`.creds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// How long to wait for one answer of the server.
    #[serde(with = "compact::required")]
    pub request_timeout: Duration,
    /// How long an append whose acknowledgement is missing is sent again before it is reported as unknown. A cluster that
    /// lost a leader answers again after 4 to 7 seconds.
    #[serde(with = "compact::required")]
    pub append_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            namespace: "causeway".into(),
            replicas: 1,
            credentials: None,
            request_timeout: Duration::from_secs(5),
            append_timeout: Duration::from_secs(15),
        }
    }
}
