//! Problem to gRPC status and back, so that a client has the error that the server had.
//!
//! On the wire: `BadRequest` names the field, `ErrorInfo` carries the kind and a conflict's particulars, `RetryInfo` says
//! when to come back, and `causeway.v1.Conflict` has the events that stand in the way. A status without our `ErrorInfo` comes
//! from the transport or a proxy and is read with caution. The answers of a stream carry the same as `AppendProblem`.

use std::collections::HashMap;

use causeway_event::Position;
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt as _};

use crate::{Conflict, Kind, Problem, v1};

/// The domain of every `google.rpc.ErrorInfo` of ours.
pub const ERROR_DOMAIN: &str = "causeway";

/// What the events of a conflict may take in a status. It travels in the trailers, which many clients limit to 8 KiB.
const STATUS_EVENTS_BYTES_MAX: usize = 4 * 1024;

/// The metadata of an append that was acknowledged all the same.
const APPENDED: &str = "appended_position";

/// How `google.protobuf.Any` names a [`v1::Conflict`].
const CONFLICT_TYPE_URL: &str = "type.googleapis.com/causeway.v1.Conflict";

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let mut details = ErrorDetails::new();
        let mut metadata = problem.conflict.as_deref().map(write_conflict).unwrap_or_default();
        metadata.extend(problem.appended.map(|position| (APPENDED.to_owned(), position.to_string())));
        details.set_error_info(problem.kind.reason(), ERROR_DOMAIN, metadata);
        if let Some(field) = &problem.field {
            details.add_bad_request_violation(field, &problem.detail);
        }
        if problem.retry_after.is_some() {
            details.set_retry_info(problem.retry_after);
        }
        // The message is what a person sees first: it names the field as well.
        let status = Self::with_error_details(problem.kind.code(), problem.to_string(), details);
        match problem.conflict {
            Some(conflict) => with_detail(&status, conflict_any(*conflict)),
            None => status,
        }
    }
}

/// The same status with one more detail, of a type that is not Google's.
fn with_detail(status: &Status, detail: Any) -> Status {
    // What was encoded a moment ago can be decoded.
    let mut whole = tonic_types::Status::decode(status.details()).unwrap_or_default();
    whole.details.push(detail);
    Status::with_details(status.code(), status.message(), whole.encode_to_vec().into())
}

fn conflict_any(conflict: Conflict) -> Any {
    let conflict = v1::Conflict::bounded(conflict, STATUS_EVENTS_BYTES_MAX);
    Any { type_url: CONFLICT_TYPE_URL.to_owned(), value: conflict.encode_to_vec() }
}

impl From<&Status> for Problem {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let Some(info) = info else { return foreign(status) };
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self {
            kind: kind(&info.reason),
            detail: violation.map_or(status.message(), |violation| &violation.description).to_owned(),
            field: violation.map(|violation| violation.field.clone()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            conflict: conflict_detail(status).or_else(|| read_conflict(info)).map(Box::new),
            appended: info.metadata.get(APPENDED).and_then(|position| position.parse().ok()),
        }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

/// Whether a status is the gateway's own word: the transport and whoever stands between use the same codes.
pub fn is_own(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.domain == ERROR_DOMAIN)
}

/// What the transport, a proxy or another server meant.
fn foreign(status: &Status) -> Problem {
    let kind = match status.code() {
        Code::InvalidArgument => Kind::Invalid,
        // tonic says this of a message above its limit.
        Code::OutOfRange => Kind::TooLarge,
        Code::NotFound => Kind::NotFound,
        Code::Unimplemented => Kind::MethodNotAllowed,
        Code::ResourceExhausted => Kind::Overloaded,
        Code::Unavailable => Kind::Unavailable,
        // A connection that broke half-way has many codes. None of them says that the request had no effect.
        Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::DataLoss => {
            Kind::OutcomeUnknown
        }
        Code::Ok | Code::AlreadyExists | Code::PermissionDenied | Code::FailedPrecondition | Code::Unauthenticated => {
            Kind::Internal
        }
    };
    Problem::new(kind, format!("{}: {}", status.code(), status.message()))
}

impl From<Problem> for v1::AppendProblem {
    fn from(problem: Problem) -> Self {
        Self {
            code: problem.kind.code().into(),
            reason: problem.kind.reason().to_owned(),
            message: problem.detail,
            field: problem.field.unwrap_or_default(),
            conflict: problem.conflict.map(|conflict| (*conflict).into()),
            // A wait that no wire can carry is as good as none.
            retry_after: problem.retry_after.and_then(|wait| wait.try_into().ok()),
            appended_position: problem.appended.unwrap_or_default().get(),
        }
    }
}

impl From<v1::AppendProblem> for Problem {
    fn from(problem: v1::AppendProblem) -> Self {
        Self {
            kind: kind(&problem.reason),
            detail: problem.message,
            field: Some(problem.field).filter(|field| !field.is_empty()),
            retry_after: problem.retry_after.and_then(|wait| wait.try_into().ok()),
            conflict: problem.conflict.and_then(|conflict| conflict.try_into().ok()).map(Box::new),
            appended: Some(Position::new(problem.appended_position)).filter(|position| *position != Position::START),
        }
    }
}

/// A kind that is not known here is of a later version.
fn kind(reason: &str) -> Kind {
    Kind::ALL.into_iter().find(|kind| kind.reason() == reason).unwrap_or(Kind::Internal)
}

fn conflict_detail(status: &Status) -> Option<Conflict> {
    let whole = tonic_types::Status::decode(status.details()).ok()?;
    let detail = whole.details.into_iter().find(|detail| detail.type_url == CONFLICT_TYPE_URL)?;
    v1::Conflict::decode(detail.value.as_slice()).ok()?.try_into().ok()
}

fn write_conflict(conflict: &Conflict) -> HashMap<String, String> {
    HashMap::from([
        ("aggregate_id".to_owned(), conflict.aggregate_id.to_string()),
        ("category".to_owned(), conflict.category.to_string()),
        ("expected_position".to_owned(), conflict.expected.to_string()),
        ("actual_position".to_owned(), conflict.actual.to_string()),
    ])
}

fn read_conflict(info: &ErrorInfo) -> Option<Conflict> {
    let text = |name: &str| info.metadata.get(name);
    Some(Conflict {
        aggregate_id: text("aggregate_id")?.parse().ok()?,
        category: text("category")?.parse().ok()?,
        expected: text("expected_position")?.parse().ok()?,
        actual: text("actual_position")?.parse().ok()?,
        events: Vec::new(),
        more: true,
        others: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_event::{Category, Event};

    use super::*;

    fn conflict(events: usize) -> Conflict {
        let json = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":4,"timestamp":"2026-11-23T10:00:00.123456Z","type":"A","aggregate_id":"telegram:42 é","data":"DATA","metadata":{"source":"s","correlation_id":"c"}}"#;
        let event: Event = serde_json::from_str(&json.replace("DATA", &"x".repeat(1000))).unwrap();
        Conflict {
            aggregate_id: "telegram:42 é".parse().unwrap(),
            category: Category::Ai,
            expected: Position::START,
            actual: Position::new(u64::MAX),
            events: vec![event; events],
            more: true,
            others: Vec::new(),
        }
    }

    #[test]
    fn a_conflict_brings_as_many_of_its_events_as_trailers_hold() {
        let problem = |conflict| Problem::from(Status::from(Problem::from(conflict)));
        let few = Conflict { more: false, ..conflict(3) };
        assert_eq!(*problem(few.clone()).conflict.unwrap(), few);
        let status = Status::from(Problem::from(Conflict { more: false, ..conflict(100) }));
        assert!(status.details().len() * 4 / 3 < 7 * 1024, "{}", status.details().len());
        let cut = Problem::from(status).conflict.unwrap();
        assert_eq!((cut.events.len(), cut.more), (3, true));
        let others = Conflict { others: vec![Conflict { more: false, ..conflict(1) }; 1000], ..conflict(1) };
        let status = Status::from(Problem::from(others));
        assert!(status.details().len() * 4 / 3 < 7 * 1024, "{}", status.details().len());
        let cut = Problem::from(status).conflict.unwrap();
        let events = cut.others.iter().map(|other| (other.events.len(), other.more)).collect::<Vec<_>>();
        assert_eq!(events[..3], [(1, false), (1, false), (0, true)]);
        assert!((4..100).contains(&events.len()), "{}", events.len());
    }

    #[test]
    fn a_problem_of_a_stream_comes_back_as_it_was() {
        for kind in Kind::ALL {
            for problem in [Problem::new(kind, "ünï").at("/a"), Problem::new(kind, "x").retry_after(Duration::from_millis(1_500))]
            {
                assert_eq!(Problem::from(v1::AppendProblem::from(problem.clone())), problem);
            }
        }
        let known = Problem { appended: Some(Position::new(7)), ..Problem::new(Kind::OutcomeUnknown, "x") };
        assert_eq!(Problem::from(v1::AppendProblem::from(known.clone())), known);
        let problem = Problem::from(conflict(100));
        assert_eq!(Problem::from(v1::AppendProblem::from(problem.clone())), problem);
    }

    #[track_caller]
    fn survives(problem: Problem) {
        let status = Status::from(problem.clone());
        assert_eq!(status.code(), problem.kind.code());
        assert_eq!(Problem::from(status), problem);
    }

    #[test]
    fn every_problem_comes_back_as_it_was() {
        for kind in Kind::ALL {
            survives(Problem::new(kind, "what happened"));
            survives(Problem::new(kind, "what happened").at("/events/0/data"));
            survives(Problem::new(kind, "what happened").at(""));
            survives(Problem::new(kind, "ünï 👋").retry_after(Duration::from_millis(1_500)));
        }
        survives(Problem { appended: Some(Position::new(7)), ..Problem::new(Kind::OutcomeUnknown, "x") });
        survives(Problem::from(conflict(0)));
        survives(Problem::from(conflict(2)));
        survives(Problem::from(Conflict { others: vec![conflict(1), conflict(0)], ..conflict(1) }));
    }

    #[test]
    fn a_connection_that_broke_is_never_taken_for_a_refusal() {
        for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded] {
            assert_eq!(Problem::from(Status::new(code, "h2 protocol error")).kind, Kind::OutcomeUnknown);
        }
        assert_eq!(Problem::from(Status::unavailable("tcp connect error")).kind, Kind::Unavailable);
    }

    #[test]
    fn every_kind_is_in_the_list_once() {
        let reasons: std::collections::HashSet<_> = Kind::ALL.iter().map(|kind| kind.reason()).collect();
        assert_eq!(reasons.len(), Kind::ALL.len());
        // An added kind breaks this match, and whoever mends it sees the list.
        let listed = |kind: Kind| match kind {
            Kind::Invalid | Kind::TooLarge | Kind::Conflict | Kind::NotFound | Kind::MethodNotAllowed => true,
            Kind::UnsupportedMediaType | Kind::NotAcceptable | Kind::Overloaded | Kind::OutcomeUnknown => true,
            Kind::TooSlow | Kind::TimedOut | Kind::Behind | Kind::Unavailable | Kind::Internal => true,
        };
        assert!(Kind::ALL.into_iter().all(listed));
    }
}
