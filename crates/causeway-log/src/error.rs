//! What can go wrong with the log: a variant exists where a caller acts differently.

use causeway_event::{AggregateId, Category, Invalid, Position};

use crate::StaleFence;

/// An operation on the log that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A fence did not hold. Nothing was written.
    #[error("{aggregate_id} has {actual} as its last {category} position, not {expected}")]
    Conflict {
        /// The aggregate.
        aggregate_id: AggregateId,
        /// The category within it.
        category: Category,
        /// What the caller had seen.
        expected: Position,
        /// What the log has.
        actual: Position,
        /// The other fences of the same append that do not hold either.
        others: Vec<StaleFence>,
    },
    /// What was given cannot be an event. Nothing was written.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An event's data has more bytes than allowed. Nothing was written.
    #[error("{field} has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge {
        /// JSON Pointer to it.
        field: String,
        /// What it has.
        bytes: usize,
        /// What it may have.
        bytes_max: usize,
    },
    /// A batch with this idempotency key is on the log already, at a place that only an index by key can name.
    #[error("a batch with this idempotency key has been appended before")]
    AlreadyAppended,
    /// No acknowledgement came: it may be on the log or not. The same append with the same key settles it.
    #[error("the log did not acknowledge in time; the outcome is unknown")]
    Unknown,
    /// The log cannot be reached. Nothing was written.
    #[error("the log cannot be reached: {reason}")]
    Unavailable {
        /// What was tried.
        reason: String,
    },
    /// What is there is not what this program was made for.
    #[error("{what}")]
    Mismatch {
        /// What differs, and what to do.
        what: String,
    },
    /// The server refused for a reason of its own.
    #[error("the log refused: {reason} (NATS error {code})")]
    Refused {
        /// The server's error code.
        code: u64,
        /// Its words.
        reason: String,
    },
}

impl LogError {
    pub(crate) fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }

    /// Whether the same call may succeed a little later, with nothing changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unknown | Self::Unavailable { .. })
    }
}
