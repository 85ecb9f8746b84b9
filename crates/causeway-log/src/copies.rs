//! Copies of read models in an object store beside the log: a gateway that starts on a long log begins with one instead of reading
//! all of it.
//!
//! A copy is a cache. The log knows nothing of it, and whoever reads one checks that it is what its label says.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::ObjectStoreErrorKind;
use async_nats::jetstream::object_store::{self, ObjectInfo, ObjectMetadata, ObjectStore};
use causeway_event::Position;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use tokio::io::AsyncRead;

use crate::connection::not_found;
use crate::{Log, LogError};

/// Bytes of one message of a copy: a part of it is in memory at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// What is older than this goes by itself: copies for versions that nobody runs any more, pieces of a copy that broke off.
const AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a copy holds. It is its name in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyLabel {
    /// The version of the read model's tables.
    pub schema: u32,
    /// The log that it was made from: see [`Log::identity`].
    pub log: String,
    /// All of the log up to here is in it.
    pub position: Position,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// A copy in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What it holds.
    pub label: CopyLabel,
    /// Its size.
    pub bytes: u64,
    /// When it was made.
    pub made_at: Timestamp,
}

/// The store of copies.
pub struct Copies {
    store: ObjectStore,
}

impl Log {
    /// The store of copies, if there is one.
    pub async fn copies(&self) -> Result<Option<Copies>, LogError> {
        self.talker()?;
        match self.inner.talking.jetstream().get_object_store(self.inner.names.read_models_bucket()).await {
            Ok(store) => Ok(Some(Copies { store })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("found", &error)),
        }
    }

    /// The store of copies, made if there is none.
    pub async fn make_copies(&self) -> Result<Copies, LogError> {
        if let Some(copies) = self.copies().await? {
            return Ok(copies);
        }
        let config = object_store::Config {
            bucket: self.inner.names.read_models_bucket(),
            description: Some("Copies of the gateways' read models. Deleting them loses nothing.".into()),
            max_age: AGE_MAX,
            num_replicas: self.inner.config.replicas,
            compression: true,
            ..object_store::Config::default()
        };
        match self.inner.talking.jetstream().create_object_store(config).await {
            Ok(store) => Ok(Copies { store }),
            // Another gateway may have been faster.
            Err(error) => self.copies().await?.ok_or_else(|| failed("made", &error)),
        }
    }
}

impl Copies {
    /// All copies whose labels can be read, the newest position first.
    pub async fn list(&self) -> Result<Vec<Copy>, LogError> {
        let objects = self.store.list().await.map_err(|error| failed("listed", &error))?;
        let copy = |object: ObjectInfo| {
            Some(Copy {
                label: CopyLabel::parse(&object.name)?,
                bytes: object.size as u64,
                made_at: object.modified.and_then(|at| Timestamp::from_nanosecond(at.unix_timestamp_nanos()).ok())?,
            })
        };
        let mut copies: Vec<Copy> = objects
            .try_filter_map(async |object| Ok(copy(object)))
            .try_collect()
            .await
            .map_err(|error| failed("listed", &error))?;
        copies.sort_by_key(|copy| std::cmp::Reverse((copy.label.position, copy.made_at)));
        Ok(copies)
    }

    /// Stores a copy. One that breaks off is not listed.
    pub async fn put(&self, label: &CopyLabel, bytes: &mut (impl AsyncRead + Unpin)) -> Result<(), LogError> {
        let object = ObjectMetadata { name: label.name(), chunk_size: Some(CHUNK_BYTES), ..ObjectMetadata::default() };
        self.store.put(object, bytes).await.map(drop).map_err(|error| failed("stored", &error))
    }

    /// The bytes of a copy.
    pub async fn get(&self, label: &CopyLabel) -> Result<impl AsyncRead + Unpin + Send + use<>, LogError> {
        self.store.get(label.name()).await.map_err(|error| failed("read", &error))
    }

    /// Deletes a copy. One that is gone already is no error.
    pub async fn delete(&self, label: &CopyLabel) -> Result<(), LogError> {
        match self.store.delete(label.name()).await {
            Err(error) if error.kind() != object_store::DeleteErrorKind::NotFound => Err(failed("deleted", &error)),
            _ => Ok(()),
        }
    }
}

impl CopyLabel {
    fn name(&self) -> String {
        let Self { schema, log, position, sha256 } = self;
        format!("{schema}/{log}/{position}/{sha256}")
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('/');
        let mut next = || parts.next();
        let label = Self {
            schema: next()?.parse().ok()?,
            log: next()?.to_owned(),
            position: next()?.parse().ok()?,
            sha256: next()?.to_owned(),
        };
        next().is_none().then_some(label)
    }
}

fn is_missing(error: &jetstream::context::ObjectStoreError) -> bool {
    use std::error::Error as _;
    error.kind() == ObjectStoreErrorKind::GetStore
        && error.source().and_then(|source| source.downcast_ref()).is_some_and(not_found)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> LogError {
    LogError::unavailable(format!("copies of the read model cannot be {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_back_from_its_name() {
        let label = CopyLabel {
            schema: 3,
            log: "causeway_EVENTS@1795000000000000000".into(),
            position: Position::new(1_000_000),
            sha256: "ab".repeat(32),
        };
        assert_eq!(CopyLabel::parse(&label.name()), Some(label));
        for other in ["", "3/a/7", "3/a/7/b/c", "x/a/7/b", "3/a/-7/b"] {
            assert_eq!(CopyLabel::parse(other), None, "{other}");
        }
    }
}
