//! Problem to gRPC status and back, so that a client has the error that the server had.
//!
//! On the wire: `BadRequest` names the field, `ErrorInfo` carries the kind and a conflict's particulars, `RetryInfo` says
//! when to come back. A status without our `ErrorInfo` comes from the transport or a proxy and is read with caution.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt as _};

use crate::{Conflict, Kind, Problem};

/// The domain of every `google.rpc.ErrorInfo` of ours.
pub const ERROR_DOMAIN: &str = "causeway";

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let mut details = ErrorDetails::new();
        let metadata = problem.conflict.as_deref().map(write_conflict).unwrap_or_default();
        details.set_error_info(problem.kind.reason(), ERROR_DOMAIN, metadata);
        if let Some(field) = &problem.field {
            details.add_bad_request_violation(field, &problem.detail);
        }
        if problem.retry_after.is_some() {
            details.set_retry_info(problem.retry_after);
        }
        // The message is what a person sees first: it names the field as well.
        Self::with_error_details(problem.kind.code(), problem.to_string(), details)
    }
}

impl From<&Status> for Problem {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let Some(info) = info else { return foreign(status) };
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self {
            kind: Kind::ALL.into_iter().find(|kind| kind.reason() == info.reason).unwrap_or(Kind::Internal),
            detail: violation.map_or(status.message(), |violation| &violation.description).to_owned(),
            field: violation.map(|violation| violation.field.clone()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            conflict: read_conflict(info).map(Box::new),
        }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
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
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_event::{Category, Position};

    use super::*;

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
        survives(Problem::from(Conflict {
            aggregate_id: "telegram:42 é".parse().unwrap(),
            category: Category::Ai,
            expected: Position::START,
            actual: Position::new(u64::MAX),
        }));
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
            Kind::TimedOut | Kind::Behind | Kind::Unavailable | Kind::Internal => true,
        };
        assert!(Kind::ALL.into_iter().all(listed));
    }
}
