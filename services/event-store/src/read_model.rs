//! The local, disposable copy of the log that answers reads: an embedded SQLite file.
//!
//! It holds nothing that the log does not have. Whatever is wrong with the file, it is set aside and made again from the
//! log. This module knows neither the log nor the network: `crate::follow` feeds it, `crate::store` asks it. One connection
//! writes, a few read; each page carries a checksum (`causeway_pages`), and each row, so that a damaged file is noticed instead of believed.

mod aggregates;
mod clock;
mod count;
mod descent;
mod files;
mod lanes;
mod names;
mod pool;
mod query;
mod reader;
mod row;
mod tail;
mod writer;

#[cfg(test)]
pub(crate) mod generate;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use aggregates::Aggregates;
pub(crate) use descent::{Descendants, TooMany};
pub(crate) use files::{Files, INDEXES, Loaded, Meta, SCHEMA};
pub(crate) use pool::{Pool, Turn};
pub(crate) use query::{Filter, Order, Page, Query};
pub(crate) use reader::Reader;
pub(crate) use tail::{Arrived, Batch, Behind, End, Pushed, Tail, TailLimits};
pub(crate) use writer::{Snapshot, Writer};

/// A page ends early when its events have this many bytes of data ...
const PAGE_BYTES_MAX: usize = 2 << 20;
/// ... and with these if it is for one of many who may hold it for long.
pub(crate) const PIECE_BYTES_MAX: usize = 256 << 10;

/// Where the read model lies and what it may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadModelConfig {
    /// The database file. Others are kept beside it: `-wal`, `.lock`, and what had to be set aside.
    pub path: PathBuf,
    /// Connections that read at once, and as many that count; further reads wait.
    pub readers: usize,
    /// How long a read waits for the model to be fresh enough, and for a free connection.
    #[serde(with = "causeway_runtime::config::duration")]
    pub read_timeout: Duration,
    /// The newest events that are kept in memory for subscribers, at most so many ...
    pub ring_events_max: usize,
    /// ... and at most so many bytes of them.
    #[serde(with = "causeway_runtime::config::bytes")]
    pub ring_bytes_max: usize,
    /// The largest file that is checked in full at the start; a larger one that was left in order serves while it is checked.
    #[serde(with = "causeway_runtime::config::bytes")]
    pub check_bytes_max: u64,
    /// Copies of it beside the log, from which a new gateway starts.
    pub copies: CopiesConfig,
}

/// When a copy of the read model is put into the object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopiesConfig {
    /// Whether to make copies, and to start from one where there is no read model.
    pub enabled: bool,
    /// A copy is made when the log has this many events, and again when it has this many more, and at least a tenth more.
    pub every_events: u64,
    /// How often it is looked whether one is due.
    #[serde(with = "causeway_runtime::config::duration")]
    pub look_every: Duration,
}

impl Default for CopiesConfig {
    fn default() -> Self {
        Self { enabled: true, every_events: 1_000_000, look_every: Duration::from_secs(60) }
    }
}

impl Default for ReadModelConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/event-store/read-model.sqlite"),
            readers: 4,
            read_timeout: Duration::from_secs(10),
            ring_events_max: 8192,
            ring_bytes_max: 16 << 20,
            check_bytes_max: 64 << 20,
            copies: CopiesConfig::default(),
        }
    }
}

/// Why the database did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// What it holds cannot be believed: it has to be made again.
    #[error("the read model is damaged: {0}")]
    Corrupt(String),
    /// The system would not let us: no space, no permission, no file.
    #[error("the read model cannot be used: {0}")]
    Sqlite(rusqlite::Error),
    /// A file could not be opened, locked, moved or removed.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A copy of it cannot be believed, while it can itself.
    #[error("what was written of a copy is damaged: {0}")]
    Copy(String),
    /// A filter asks for more descendants than are looked for.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// Nobody waits for the answer any more, or the file is being exchanged.
    #[error("the read was broken off")]
    Interrupted,
    /// A read did not come to its end: a fault of ours, or the process is going away.
    #[error("a read broke off: {0}")]
    BrokeOff(tokio::task::JoinError),
}

impl ModelError {
    /// Something that a sound read model never holds.
    pub(crate) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::Corrupt(what.to_string())
    }
}

impl From<rusqlite::Error> for ModelError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ErrorCode};
        match &error {
            damage if causeway_pages::is_damage(damage) => Self::corrupt("a page is not what was written there"),
            Error::SqliteFailure(failure, _) => match failure.code {
                // A position twice, a missing column's value, a table that is gone (`Unknown`): our own writes never lead there.
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation | ErrorCode::Unknown => {
                    Self::corrupt(error)
                }
                ErrorCode::OperationInterrupted => Self::Interrupted,
                // The file was moved or removed behind our back, or its head is damaged.
                ErrorCode::ReadOnly => Self::corrupt(error),
                _ => Self::Sqlite(error),
            },
            // A column holds something of another type than was written.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
            | Error::SqlInputError { .. }
            | Error::QueryReturnedNoRows => Self::corrupt(error),
            _ => Self::Sqlite(error),
        }
    }
}
