//! What a call may fail with.

use causeway_event::Invalid;
use causeway_proto::{Conflict, Kind, Problem};
use tonic::{Code, Status};

/// What went wrong, by who can do something about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address cannot be used.
    #[error("`{server}` is not an address such as http://127.0.0.1:8470: {reason}")]
    Address {
        /// As it was given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection could be made; nothing was done.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// Where.
        server: String,
        /// The transport's words.
        reason: String,
    },
    /// The gateway's own words.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The answer cannot be read: the gateway speaks another version.
    #[error("the gateway's answer cannot be read: {0}")]
    Unreadable(Invalid),
    /// What was to be sent is not valid; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl ClientError {
    /// The kind of the gateway's problem, if it is one.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Problem(problem) => Some(problem.kind),
            Self::Address { .. } | Self::Unreachable { .. } | Self::Unreadable(_) | Self::Invalid(_) => None,
        }
    }

    /// The fence that does not hold, with the events that stand in the way, if that is why an append was refused.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            Self::Problem(problem) => problem.conflict.as_deref(),
            Self::Address { .. } | Self::Unreachable { .. } | Self::Unreadable(_) | Self::Invalid(_) => None,
        }
    }

    /// Whether the same call may succeed later, and did nothing or only read. A lost answer to an append is not among these
    /// kinds unless the append carries a key.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => {
                matches!(problem.kind, Kind::Unavailable | Kind::Behind | Kind::Overloaded | Kind::TimedOut)
            }
            Self::Address { .. } | Self::Unreadable(_) | Self::Invalid(_) => false,
        }
    }

    /// Whether the connection failed rather than the request, so that a stream may go on over another one.
    pub(crate) fn is_interruption(&self) -> bool {
        self.is_transient() || self.kind() == Some(Kind::OutcomeUnknown)
    }

    /// Whether a read may be made again at once. Not when its time ran out, here or at the gateway: it would take as long again, and
    /// be one more burden for a gateway that is slow already.
    pub(crate) fn may_read_again(&self) -> bool {
        self.is_transient() && self.kind() != Some(Kind::TimedOut)
    }

    /// Whether a call that changes something did not, and may succeed later.
    pub(crate) fn changed_nothing(&self) -> bool {
        match self.kind() {
            Some(kind) => matches!(kind, Kind::Unavailable | Kind::Behind | Kind::Overloaded),
            None => self.is_transient(),
        }
    }

    /// What a status says of a call; `broken` is what a connection that broke half-way means for it.
    pub(crate) fn from_status(server: &str, status: &Status, broken: Kind) -> Self {
        if causeway_proto::is_own(status) {
            return Self::Problem(status.into());
        }
        // Of others these codes promise nothing: tonic says them of a connection that broke, depending on how and when, and where
        // HTTP/2 asks for calm in the middle of a call.
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Internal | Code::Cancelled => {
                match never_sent(status) {
                    true => Self::Unreachable { server: server.to_owned(), reason: reason(status) },
                    false => Problem::new(broken, format!("the connection to {server} broke: {}", reason(status))).into(),
                }
            }
            _ => Self::Problem(status.into()),
        }
    }
}

/// Whether there was no connection, so that the gateway cannot have got the call. A connection that was lost has the same code,
/// and so may have a proxy which passed the call on: only the failure to connect proves anything.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The innermost cause: `Connection refused` instead of `transport error`.
fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    reason
}
