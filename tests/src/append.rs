//! An append as a client makes it, over HTTP or gRPC, and what the client may conclude from the answer.
//!
//! The one thing that every test relies on: an answer is believed only if it is the gateway's own. A connection that broke, or an
//! answer cut off, leaves the outcome unknown.

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::Api;

/// Over what a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `POST /events`.
    Http,
    /// `EventStore/Append`.
    Grpc,
    /// `EventStore/AppendStream`, a stream for each append. What is no append goes as over gRPC.
    Stream,
}

/// An event to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What happened.
    pub event_type: String,
    /// To what.
    pub aggregate_id: String,
    /// The data.
    pub data: Value,
    /// Who says so.
    pub source: String,
    /// The id of the event that caused it.
    pub causation_id: Option<String>,
}

impl Draft {
    /// An event of the test's own.
    pub fn new(event_type: &str, aggregate_id: &str, data: Value) -> Self {
        let (event_type, aggregate_id) = (event_type.to_owned(), aggregate_id.to_owned());
        Self { event_type, aggregate_id, data, source: "test".into(), causation_id: None }
    }

    /// Its JSON, as HTTP takes it.
    pub fn json(&self) -> Value {
        let mut metadata = Map::from_iter([("source".to_owned(), Value::from(self.source.as_str()))]);
        if let Some(cause) = &self.causation_id {
            metadata.insert("causation_id".into(), cause.as_str().into());
        }
        json!({"type": self.event_type, "aggregate_id": self.aggregate_id, "data": self.data, "metadata": metadata})
    }
}

/// What must hold for the append to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The last event of this aggregate ...
    pub aggregate_id: String,
    /// ... in this category ...
    pub category: String,
    /// ... stands here; 0 for none.
    pub position: u64,
}

impl Fence {
    /// The custom events of an aggregate end here.
    pub fn custom(aggregate_id: &str, position: u64) -> Self {
        Self { aggregate_id: aggregate_id.to_owned(), category: "custom".into(), position }
    }
}

/// Events to append, all or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// The events.
    pub events: Vec<Draft>,
    /// What must hold.
    pub expected: Vec<Fence>,
    /// At most once under this key.
    pub key: Option<String>,
}

impl Append {
    /// One event without any condition.
    pub fn one(event: Draft) -> Self {
        Self { events: vec![event], expected: Vec::new(), key: None }
    }

    /// The same if this holds.
    #[must_use]
    pub fn expecting(mut self, fence: Fence) -> Self {
        self.expected.push(fence);
        self
    }

    /// The same under a key.
    #[must_use]
    pub fn keyed(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    fn body(&self) -> Value {
        if let ([event], []) = (&self.events[..], &self.expected[..]) {
            return event.json();
        }
        let mut body = Map::from_iter([("events".to_owned(), self.events.iter().map(Draft::json).collect::<Value>())]);
        let fence = |fence: &Fence| match fence.position {
            0 => json!({"aggregate_id": fence.aggregate_id, "category": fence.category, "position": "empty"}),
            position => json!({"aggregate_id": fence.aggregate_id, "category": fence.category, "position": position}),
        };
        match (&self.events[..], &self.expected[..]) {
            (_, []) => {}
            ([_], [Fence { position: 0, .. }]) => drop(body.insert("expected".into(), "empty".into())),
            ([_], [Fence { position, .. }]) => drop(body.insert("expected".into(), (*position).into())),
            (_, fences) => drop(body.insert("expected".into(), fences.iter().map(fence).collect())),
        }
        Value::Object(body)
    }
}

/// Where an event went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id that it got.
    pub id: String,
    /// Its place.
    pub position: u64,
    /// When it was stored: RFC 3339 with six digits.
    pub timestamp: String,
    /// Its chain.
    pub correlation_id: String,
}

/// A fence that did not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Whose.
    pub fence: Fence,
    /// What the log has instead.
    pub actual: u64,
    /// The events behind the fence, as HTTP shows events; none if the answer has no such list.
    pub events: Option<Vec<Value>>,
    /// Whether there are more of them.
    pub more: bool,
}

/// Refusals that time heals.
pub const PASSING: [&str; 4] = ["unreachable", "unavailable", "overloaded", "behind"];

/// What a client knows after an append.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is on the log.
    Appended {
        /// One for each event.
        receipts: Vec<Receipt>,
        /// Whether an earlier append with this key put it there.
        duplicate: bool,
    },
    /// A fence does not hold; nothing was written.
    Conflict(Conflict),
    /// Nothing was written.
    Refused {
        /// The kind of problem, as HTTP names it.
        kind: String,
        /// What the gateway says of it.
        detail: String,
    },
    /// It may be on the log or come there yet; what was seen instead of an answer.
    Unknown(String),
}

impl Outcome {
    /// Whether it was refused for this kind of reason.
    pub fn is_refused(&self, reason: &str) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == reason)
    }

    /// Whether it was refused for a reason that time heals.
    pub fn is_passing(&self) -> bool {
        PASSING.iter().any(|reason| self.is_refused(reason))
    }

    /// The receipts of what must have been appended.
    pub fn receipts(&self) -> Result<&[Receipt]> {
        match self {
            Self::Appended { receipts, .. } => Ok(receipts),
            other => bail!("not appended: {other:?}"),
        }
    }
}

impl Api {
    /// Appends once.
    pub async fn try_append(&self, append: &Append) -> Result<Outcome> {
        let mut request = self.request(Method::POST, "/events").json(&append.body());
        if let Some(key) = &append.key {
            request = request.header("idempotency-key", key);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                return Ok(Outcome::Refused { kind: "unreachable".into(), detail: format!("{error:?}") });
            }
            Err(error) => return Ok(Outcome::Unknown(format!("{error:?}"))),
        };
        let status = response.status();
        match response.json::<Value>().await {
            Ok(body) => outcome(status, &body).with_context(|| format!("{append:?}: {status} {body}")),
            Err(error) => Ok(Outcome::Unknown(format!("{status}, then {error:?}"))),
        }
    }
}

fn outcome(status: StatusCode, body: &Value) -> Result<Outcome> {
    if status == StatusCode::CREATED {
        let list = body.as_array().map_or_else(|| std::slice::from_ref(body), Vec::as_slice);
        let receipts = list.iter().map(receipt).collect::<Result<Vec<_>>>()?;
        let duplicate = list[0]["duplicate"].as_bool().context("duplicate")?;
        return Ok(Outcome::Appended { receipts, duplicate });
    }
    let kind = body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:causeway:problem:")).context("a problem")?;
    Ok(match kind {
        "conflict" => Outcome::Conflict(conflict(body)?),
        "outcome-unknown" => Outcome::Unknown(body["detail"].to_string()),
        kind => Outcome::Refused { kind: kind.to_owned(), detail: body["detail"].to_string() },
    })
}

fn receipt(body: &Value) -> Result<Receipt> {
    let text = |field: &str| body[field].as_str().map(str::to_owned).with_context(|| format!("{field} of {body}"));
    let position = body["position"].as_u64().context("position")?;
    Ok(Receipt { id: text("id")?, position, timestamp: text("timestamp")?, correlation_id: text("correlation_id")? })
}

fn conflict(body: &Value) -> Result<Conflict> {
    let text = |field: &str| body[field].as_str().map(str::to_owned).context("a conflict");
    let number = |field: &str| body[field].as_u64().context("a conflict");
    Ok(Conflict {
        fence: Fence { aggregate_id: text("aggregate_id")?, category: text("category")?, position: number("expected_position")? },
        actual: number("actual_position")?,
        events: body["events"].as_array().cloned(),
        more: body["more"].as_bool().unwrap_or(false),
    })
}
