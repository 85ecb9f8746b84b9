//! Errors of the log and of the read side as the one [`Problem`], and how a problem looks over HTTP.
//!
//! Each mapping is one exhaustive match; codes and statuses stand in [`Kind`]'s table. What goes wrong inside is logged here,
//! once, where it stops being passed on.

use std::time::{Duration, Instant};

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use causeway_event::{Event, Position};
use causeway_log::{Fence, LogError, StaleFence};
use causeway_proto::{Conflict, Kind, Problem};
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::Status;

use crate::seldom::Seldom;
use crate::store::StoreError;

/// The NATS error code of a server that has no room or no leader: it may have both a little later.
const NO_RESOURCES: [u64; 3] = [10_008, 10_023, 10_047];

/// How long somebody who was turned away should stay away.
pub(crate) const COME_BACK: Duration = Duration::from_secs(1);

/// What the log answered.
pub(crate) fn of_log(error: LogError) -> Problem {
    match error {
        LogError::Conflict { aggregate_id, category, expected, actual, others } => {
            let others = others.into_iter().map(|StaleFence { fence, actual }| conflict(fence, actual));
            let fence = Fence { aggregate_id, category, position: expected };
            Conflict { others: others.collect(), ..conflict(fence, actual) }.into()
        }
        LogError::Invalid(invalid) => invalid.into(),
        LogError::TooLarge { field, bytes, bytes_max } => {
            Problem::new(Kind::TooLarge, format!("has {bytes} bytes; at most {bytes_max} are allowed")).at(field)
        }
        error @ (LogError::AlreadyAppended | LogError::Unknown) => Problem::new(Kind::OutcomeUnknown, error.to_string()),
        error @ LogError::Unavailable { .. } => Problem::new(Kind::Unavailable, error.to_string()),
        error @ LogError::Mismatch { .. } => Problem::new(Kind::Internal, error.to_string()),
        LogError::Refused { code, reason } => {
            let kind = if NO_RESOURCES.contains(&code) { Kind::Unavailable } else { Kind::Internal };
            Problem::new(kind, format!("the log refused: {reason} (NATS error {code})"))
        }
    }
}

/// A conflict whose events are not there yet.
fn conflict(fence: Fence, actual: Position) -> Conflict {
    let Fence { aggregate_id, category, position: expected } = fence;
    Conflict { aggregate_id, category, expected, actual, events: Vec::new(), more: expected < actual, others: Vec::new() }
}

/// What the read side answered.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Log(error) => of_log(error),
            error @ StoreError::Behind { .. } => Self::new(Kind::Behind, error.to_string()).retry_after(COME_BACK),
            error @ StoreError::Busy => Self::new(Kind::Overloaded, error.to_string()).retry_after(COME_BACK),
            error @ (StoreError::Closed | StoreError::LostItsEnd) => Self::new(Kind::Unavailable, error.to_string()),
            // Both interfaces name the field so; gRPC puts its place in the message before it.
            error @ StoreError::TooMany(_) => Self::invalid("descendants_of", error.to_string()),
            error @ StoreError::Model(_) => Self::new(Kind::Internal, error.to_string()),
        }
    }
}

/// A problem on its way out over gRPC.
pub(crate) fn into_status(problem: Problem) -> Status {
    log(&problem);
    problem.into()
}

/// A problem on its way out over HTTP.
#[derive(Debug)]
pub(crate) struct HttpProblem(pub(crate) Problem);

impl<E: Into<Problem>> From<E> for HttpProblem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        self.with(Map::new())
    }
}

impl HttpProblem {
    /// The answer, with further members of its own.
    pub(crate) fn with(self, members: Map<String, Value>) -> Response {
        let problem = self.0;
        log(&problem);
        let mut body = body(&problem);
        if !members.is_empty() {
            let mut all: Map<String, Value> = serde_json::from_str(&body).unwrap_or_default();
            all.extend(members);
            body = Value::from(all).to_string();
        }
        let mut response = (problem.kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = problem.retry_after {
            // Whole seconds, and never "at once".
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64));
        }
        response
    }
}

/// RFC 9457. Fields in alphabetical order.
#[derive(Serialize)]
struct Body<'p> {
    #[serde(skip_serializing_if = "Option::is_none")]
    actual_position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appended_position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'static str>,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'p [Event]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Other<'p>>,
    status: u16,
    title: &'static str,
    r#type: String,
}

/// Another fence of the same append that does not hold.
#[derive(Serialize)]
struct Other<'p> {
    actual_position: Position,
    aggregate_id: &'p str,
    category: &'static str,
    events: &'p [Event],
    expected_position: Position,
    more: bool,
}

impl<'p> From<&'p Conflict> for Other<'p> {
    fn from(conflict: &'p Conflict) -> Self {
        Self {
            actual_position: conflict.actual,
            aggregate_id: conflict.aggregate_id.as_str(),
            category: conflict.category.as_str(),
            events: &conflict.events,
            expected_position: conflict.expected,
            more: conflict.more,
        }
    }
}

fn body(problem: &Problem) -> String {
    let conflict = problem.conflict.as_deref();
    let body = Body {
        actual_position: conflict.map(|conflict| conflict.actual),
        aggregate_id: conflict.map(|conflict| conflict.aggregate_id.as_str()),
        appended_position: problem.appended,
        category: conflict.map(|conflict| conflict.category.as_str()),
        detail: &problem.detail,
        events: conflict.map(|conflict| conflict.events.as_slice()),
        expected_position: conflict.map(|conflict| conflict.expected),
        field: problem.field.as_deref(),
        more: conflict.map(|conflict| conflict.more),
        others: conflict.iter().flat_map(|conflict| &conflict.others).map(Other::from).collect(),
        status: problem.kind.status().as_u16(),
        title: problem.kind.title(),
        r#type: format!("urn:causeway:problem:{}", problem.kind.name()),
    };
    // Text, numbers and JSON that was read as such: nothing of it can fail.
    serde_json::to_string(&body).unwrap_or_default()
}

/// A log that hangs leaves all requests that wait for it unsettled.
static UNSETTLED: Seldom = Seldom::new(Duration::from_secs(10));

/// Tells how many requests were not settled since that was told, from time to time: also if none comes that would tell of those before it.
pub(crate) fn log_rest() {
    if let Some(requests) = UNSETTLED.add(0, Instant::now()) {
        tracing::warn!(requests, "further requests were not settled");
    }
}

/// Tells the operator what concerns the operator.
pub(crate) fn log(problem: &Problem) {
    match problem.kind {
        Kind::Internal => tracing::error!(error = %problem, "a request failed"),
        Kind::OutcomeUnknown | Kind::TimedOut => {
            tracing::debug!(error = %problem, "a request was not settled");
            if let Some(requests) = UNSETTLED.add(1, Instant::now()) {
                tracing::warn!(requests, error = %problem, "requests were not settled");
            }
        }
        // An outage is told once, by whoever watches the log and the read model, not by each request that it fails.
        _ => tracing::debug!(error = %problem, "a request was refused"),
    }
}

#[cfg(test)]
mod tests {
    use causeway_event::Category;

    use super::*;

    #[test]
    fn a_conflict_says_what_stands_in_the_way() {
        let problem = of_log(LogError::Conflict {
            aggregate_id: "user_1".parse().unwrap(),
            category: Category::Custom,
            expected: Position::new(3),
            actual: Position::new(7),
            others: vec![],
        });
        insta::assert_snapshot!(body(&problem), @r#"{"actual_position":7,"aggregate_id":"user_1","category":"custom","detail":"the last custom event of user_1 is at position 7, not 3","events":[],"expected_position":3,"more":true,"status":409,"title":"The log has moved on","type":"urn:causeway:problem:conflict"}"#);
    }

    #[test]
    fn an_append_without_its_time_says_where_it_stands() {
        let problem = Problem { appended: Some(Position::new(7)), ..Problem::new(Kind::OutcomeUnknown, "it is there") };
        insta::assert_snapshot!(body(&problem), @r#"{"appended_position":7,"detail":"it is there","status":504,"title":"The outcome is unknown","type":"urn:causeway:problem:outcome-unknown"}"#);
    }

    #[test]
    fn a_field_is_named_and_a_wait_is_told_in_whole_seconds() {
        let problem = Problem::invalid("/data", "is missing").retry_after(Duration::from_millis(10));
        assert!(body(&problem).contains(r#""field":"/data""#));
        let response = HttpProblem(problem).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
