//! The one error of the gateway, as its server raises it and its client gets it back.
//!
//! [`Kind`] is closed, and [`Kind::row`] is the one table that says how each is told over gRPC and over HTTP.

use std::fmt;
use std::time::Duration;

use causeway_event::{AggregateId, Category, Event, Invalid, Position};
use http::StatusCode;
use tonic::Code;

/// What went wrong, by what somebody would do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A field of the request is wrong; nothing was done.
    Invalid,
    /// A part of the request is larger than allowed; nothing was done.
    TooLarge,
    /// The fence of an append does not hold; nothing was written.
    Conflict,
    /// There is no such event, view or path.
    NotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The body is of a type that is not read here.
    UnsupportedMediaType,
    /// None of the types that the client accepts is written here.
    NotAcceptable,
    /// The request did not arrive in time; nothing was done.
    TooSlow,
    /// Too much is under way; nothing was done. Come back later.
    Overloaded,
    /// No acknowledgement came: the request may or may not have had its effect. Or one came, and not all of the answer:
    /// [`Problem::appended`].
    OutcomeUnknown,
    /// The answer would have taken too long; nothing was changed.
    TimedOut,
    /// The read model has not reached what was asked for; nothing was changed.
    Behind,
    /// The log cannot be reached; nothing was written.
    Unavailable,
    /// A defect or a refusal that the client can do nothing about.
    Internal,
}

/// How one kind is told.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) code: Code,
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
}

impl Kind {
    /// All of them, in the order of their statuses.
    pub const ALL: [Self; 14] = [
        Self::Invalid,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::TooSlow,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Overloaded,
        Self::Internal,
        Self::Behind,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::TimedOut,
    ];

    /// The table: name, reason, gRPC code, HTTP status, title.
    #[rustfmt::skip]
    pub(crate) const fn row(self) -> Row {
        const fn row(name: &'static str, reason: &'static str, code: Code, status: StatusCode, title: &'static str) -> Row {
            Row { name, reason, code, status, title }
        }
        match self {
            Self::Invalid => row("invalid", "INVALID", Code::InvalidArgument, StatusCode::BAD_REQUEST, "The request is not valid"),
            Self::NotFound => row("not-found", "NOT_FOUND", Code::NotFound, StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => row("method-not-allowed", "METHOD_NOT_ALLOWED", Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed here"),
            Self::NotAcceptable => row("not-acceptable", "NOT_ACCEPTABLE", Code::InvalidArgument, StatusCode::NOT_ACCEPTABLE, "No acceptable type can be written"),
            Self::TooSlow => row("too-slow", "TOO_SLOW", Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive"),
            Self::Conflict => row("conflict", "CONFLICT", Code::FailedPrecondition, StatusCode::CONFLICT, "The log has moved on"),
            Self::TooLarge => row("too-large", "TOO_LARGE", Code::InvalidArgument, StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
            Self::UnsupportedMediaType => row("unsupported-media-type", "UNSUPPORTED_MEDIA_TYPE", Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body's type is not supported"),
            Self::Overloaded => row("overloaded", "OVERLOADED", Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "Too much is under way"),
            Self::Internal => row("internal", "INTERNAL", Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "Something is broken"),
            Self::Behind => row("behind", "BEHIND", Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "The read model is behind"),
            Self::Unavailable => row("unavailable", "UNAVAILABLE", Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "The log cannot be reached"),
            Self::OutcomeUnknown => row("outcome-unknown", "OUTCOME_UNKNOWN", Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "The outcome is unknown"),
            Self::TimedOut => row("timed-out", "TIMED_OUT", Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "The answer took too long"),
        }
    }

    /// Its name in a problem's type: `conflict`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Its reason in `google.rpc.ErrorInfo`: `CONFLICT`.
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// Its gRPC code.
    pub const fn code(self) -> Code {
        self.row().code
    }

    /// Its HTTP status.
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// What it means, the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.row().title
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What sort of thing.
    pub kind: Kind,
    /// What happened, for a person.
    pub detail: String,
    /// The field of the request that is wrong: a JSON Pointer into its body, or the name of a parameter.
    pub field: Option<String>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// What stands in the way of an append; given exactly if the kind is [`Kind::Conflict`].
    pub conflict: Option<Box<Conflict>>,
    /// Where the first event of an append stands, of a [`Kind::OutcomeUnknown`] that is known as far as that: it was acknowledged, and
    /// the log did not say in time when it stored it.
    pub appended: Option<Position>,
}

/// A fence that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The fenced aggregate.
    pub aggregate_id: AggregateId,
    /// The fenced category within it.
    pub category: Category,
    /// The last position that the client knew.
    pub expected: Position,
    /// The last position that there is.
    pub actual: Position,
    /// The events there behind the expected one, the oldest first: what to fold before deciding anew.
    pub events: Vec<Event>,
    /// Whether there are more of them than fitted in; read them behind the last one.
    pub more: bool,
    /// The other fences of the same append that do not hold either, as many as fitted in.
    pub others: Vec<Conflict>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None, retry_after: None, conflict: None, appended: None }
    }

    /// A field that is not what it must be.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail).at(field)
    }

    /// The same problem, of this field.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same problem, which may be gone after this long.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_deref() {
            None | Some("") => f.write_str(&self.detail),
            Some(field) => write!(f, "{field}: {}", self.detail),
        }
    }
}

impl std::error::Error for Problem {}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.field, invalid.reason)
    }
}

impl From<Conflict> for Problem {
    fn from(conflict: Conflict) -> Self {
        let Conflict { aggregate_id, category, expected, actual, others, .. } = &conflict;
        let mut detail = match *actual {
            Position::START => format!("{aggregate_id} has no {category} event, and none at position {expected}"),
            actual => format!("the last {category} event of {aggregate_id} is at position {actual}, not {expected}"),
        };
        match others.len() {
            0 => {}
            1 => detail += "; another fence does not hold either",
            more => detail += &format!("; {more} other fences do not hold either"),
        }
        Self { conflict: Some(Box::new(conflict)), ..Self::new(Kind::Conflict, detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_clients_rely_on() {
        let line = |kind: &Kind| {
            let Row { name, reason, code, status, title } = kind.row();
            format!("{} {reason} {code:?} {name}: {title}\n", status.as_u16())
        };
        insta::assert_snapshot!(Kind::ALL.iter().map(line).collect::<String>(), @r"
        400 INVALID InvalidArgument invalid: The request is not valid
        404 NOT_FOUND NotFound not-found: There is no such thing
        405 METHOD_NOT_ALLOWED Unimplemented method-not-allowed: This method is not allowed here
        406 NOT_ACCEPTABLE InvalidArgument not-acceptable: No acceptable type can be written
        408 TOO_SLOW DeadlineExceeded too-slow: The request took too long to arrive
        409 CONFLICT FailedPrecondition conflict: The log has moved on
        413 TOO_LARGE InvalidArgument too-large: The request is too large
        415 UNSUPPORTED_MEDIA_TYPE InvalidArgument unsupported-media-type: The body's type is not supported
        429 OVERLOADED ResourceExhausted overloaded: Too much is under way
        500 INTERNAL Internal internal: Something is broken
        503 BEHIND Unavailable behind: The read model is behind
        503 UNAVAILABLE Unavailable unavailable: The log cannot be reached
        504 OUTCOME_UNKNOWN DeadlineExceeded outcome-unknown: The outcome is unknown
        504 TIMED_OUT DeadlineExceeded timed-out: The answer took too long
        ");
    }
}
