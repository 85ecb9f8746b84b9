//! What a command failed with: the words for a person, the exit code for a program.

use std::process::ExitCode;

use anyhow::Error;
use causeway_client::{ClientError, Conflict, Kind, Problem};
use causeway_event::{AggregateId, Category, Event, Position};
use causeway_log::LogError;
use causeway_runtime::config::ConfigError;
use causeway_runtime::telemetry::TelemetryError;
use serde::Serialize;

use crate::config::Unworkable;
use crate::output::{self, Output};

/// The command was not used as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A signal came before it was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// What was asked for cannot be done, and how it could; `hint` is what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Hinted {
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// What the transport says of a server that does not speak HTTP/2, or TLS.
const FOREIGN: [&str; 3] = ["h2 protocol error", "InvalidContentType", "frame with invalid size"];

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const CONFLICT: u8 = 3;
const UNREACHABLE: u8 = 4;
/// What a shell reports for a program that SIGINT ended; here also if it was another signal.
const INTERRUPTED: u8 = 130;

/// Prints why, and gives the exit code.
pub(crate) fn report(out: &Output, error: &Error) -> ExitCode {
    if output::reader_gone(error) {
        return ExitCode::SUCCESS;
    }
    let code = code(error);
    out.failure(&words(error), hint(error).as_deref(), code, conflict(error));
    ExitCode::from(code)
}

fn code(error: &Error) -> u8 {
    if error.is::<Usage>() || error.is::<ConfigError>() || error.is::<Unworkable>() || error.is::<TelemetryError>() {
        return USAGE;
    }
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    if let Some(LogError::Unavailable { .. }) = error.downcast_ref::<LogError>() {
        return UNREACHABLE;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. }) => UNREACHABLE,
        Some(ClientError::Address { .. } | ClientError::Invalid(_)) => USAGE,
        Some(ClientError::Problem(problem)) => match problem.kind {
            Kind::Conflict => CONFLICT,
            // Whether it does not answer at all, or what it stands for does not.
            Kind::Unavailable | Kind::TimedOut => UNREACHABLE,
            _ => FAILED,
        },
        Some(ClientError::Unreadable(_)) | None => FAILED,
    }
}

/// What a program needs to decide again, named as over HTTP.
#[derive(Serialize)]
struct ConflictJson<'a> {
    aggregate_id: &'a AggregateId,
    category: Category,
    expected_position: Position,
    actual_position: Position,
    events: &'a [Event],
    more: bool,
}

fn conflict(error: &Error) -> Option<ConflictJson<'_>> {
    let Some(ClientError::Problem(Problem { conflict: Some(conflict), .. })) = error.downcast_ref() else { return None };
    let Conflict { aggregate_id, category, expected, actual, events, more, .. } = &**conflict;
    let (category, expected_position, actual_position) = (*category, *expected, *actual);
    Some(ConflictJson { aggregate_id, category, expected_position, actual_position, events, more: *more })
}

/// The error and its causes in one line; a cause that its effect has quoted already is not said twice.
fn words(error: &Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(said) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// A cause in the words of the command line, where nothing is called `/events/0/data/content`.
fn said(cause: &(dyn std::error::Error + 'static)) -> String {
    let Some(ClientError::Problem(problem)) = cause.downcast_ref() else { return cause.to_string() };
    let field = problem.field.as_deref().map(|pointer| {
        let within = pointer.strip_prefix("/events/0").unwrap_or(pointer).trim_start_matches('/');
        within.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect::<Vec<_>>().join(".")
    });
    Problem { field: field.filter(|field| !field.is_empty()), ..problem.clone() }.to_string()
}

fn hint(error: &Error) -> Option<String> {
    if let Some(hinted) = error.downcast_ref::<Hinted>() {
        return Some(hinted.hint.clone());
    }
    match error.downcast_ref::<ClientError>() {
        Some(error) if FOREIGN.iter().any(|words| error.to_string().contains(words)) => Some(
            "is that a Causeway gateway? It is named as http://HOST:PORT, or https:// behind a proxy that speaks TLS".to_owned(),
        ),
        Some(ClientError::Unreachable { .. }) => {
            Some("start it with `causeway up`, or name another with --server or CAUSEWAY_SERVER".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn each_failure_has_its_exit_code() {
        let problem = |kind| Error::from(ClientError::from(Problem::new(kind, "no")));
        let unreachable = ClientError::Unreachable { server: "http://x".to_owned(), reason: "refused".to_owned() };
        assert_eq!(code(&Error::from(unreachable).context("while reading")), UNREACHABLE);
        assert_eq!(code(&problem(Kind::Conflict)), CONFLICT);
        assert_eq!(code(&problem(Kind::Unavailable)), UNREACHABLE);
        assert_eq!(code(&problem(Kind::TimedOut)), UNREACHABLE);
        assert_eq!(code(&problem(Kind::Invalid)), FAILED);
        assert_eq!(code(&Usage("no".to_owned()).into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("no")), FAILED);
    }

    #[test]
    fn a_server_of_another_kind_is_suspected() {
        let error = ClientError::from(Problem::new(Kind::Internal, "h2 protocol error: http2 error"));
        assert!(hint(&error.into()).unwrap().contains("is that a Causeway gateway?"));
        let reason = "received corrupt message of type InvalidContentType".to_owned();
        let error = ClientError::Unreachable { server: "https://127.0.0.1:8470".to_owned(), reason };
        assert!(hint(&error.into()).unwrap().contains("is that a Causeway gateway?"));
    }

    #[test]
    fn fields_are_told_without_the_envelope() {
        let refused = |field: &str| words(&ClientError::from(Problem::invalid(field, "is missing")).into());
        assert_eq!(refused("/events/0/data/a~1b/0"), "data.a/b.0: is missing");
        assert_eq!(refused("/id"), "id: is missing");
        assert_eq!(refused("/events/0"), "is missing");
    }

    #[test]
    fn causes_are_told_once() {
        let error = Err::<(), _>(anyhow::anyhow!("b")).context("a: b").context("first").unwrap_err();
        assert_eq!(words(&error), "first: a: b");
    }
}
