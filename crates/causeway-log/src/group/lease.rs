//! Which gateway dispatches a group: a lease in a key-value bucket, renewed again and again, taken over when it no longer is.
//!
//! ```text
//!            create, or update of what has not changed for SILENCE
//! elsewhere ───────────────────────────────────────────────────────> ours ─┐ update with our own
//!     ^                                                               │ ^──┘ last revision, every RENEW
//!     └────────────── somebody else has written ──────────────────────┘
//! ```
//!
//! No clock is compared with another: a standby measures by its own how long the revision stays the same. Every write is fenced
//! by the revision that was seen, so of two that want the lease one gets it, and a holder that slept learns that it lost it. In
//! between it may still believe that it holds it: what a lease guards must bear two dispatchers for a moment.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::GroupName;
use crate::{Log, LogError};

/// Whoever wants the lease takes it when it was not renewed for this long.
const SILENCE: Duration = Duration::from_secs(5);

/// The wish to dispatch a group, and perhaps the right to.
pub struct Lease {
    log: Log,
    group: GroupName,
    bucket: Option<kv::Store>,
    /// Who we are: no two leases have the same.
    holder: String,
    /// What a holder leaves to the next one. Written with each renewal; read when the lease is won.
    pub notes: String,
    /// Our last revision while it is ours.
    held: Option<u64>,
    /// The last revision of somebody else, and since when it has not changed.
    seen: Option<(u64, Instant)>,
}

/// The lease as it is written.
#[derive(Default, Serialize, Deserialize)]
struct Words {
    /// Nobody's if empty.
    holder: String,
    notes: String,
}

impl Words {
    fn write(&self) -> Bytes {
        // Two texts: nothing that JSON cannot say.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// What cannot be read is nobody's.
    fn read(text: &[u8]) -> Self {
        serde_json::from_slice(text).unwrap_or_default()
    }
}

/// Who dispatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// We do, from this moment on.
    Won,
    /// We do, and nobody else has in between.
    Kept,
    /// Somebody else does, or is about to.
    Elsewhere,
}

impl Log {
    /// The bucket of the leases, made if need be.
    pub(super) async fn group_leases(&self) -> Result<kv::Store, LogError> {
        let (inner, jetstream) = (&self.inner, self.inner.talking.jetstream());
        let config = kv::Config {
            bucket: inner.names.leases(),
            history: 1,
            storage: StorageType::File,
            num_replicas: inner.config.replicas,
            ..kv::Config::default()
        };
        match jetstream.get_key_value(inner.names.leases()).await {
            Ok(bucket) => Ok(bucket),
            Err(_) => jetstream.create_key_value(config).await.map_err(LogError::unavailable),
        }
    }

    /// Whether this is the stream of the leases.
    pub fn is_of_leases(&self, stream: &str) -> bool {
        stream.strip_prefix("KV_") == Some(&self.inner.names.leases())
    }

    /// Takes the lease of a group that was deleted out of the bucket, with its notes: no other group has the same.
    pub(super) async fn drop_lease(&self, group: &GroupName) -> Result<(), LogError> {
        let bucket = self.group_leases().await?;
        let subject = format!("{}{}", bucket.prefix, group.key());
        bucket.stream.purge().filter(subject).await.map(drop).map_err(LogError::unavailable)
    }

    /// As best it can: for whoever held the lease of a group and finds that it was deleted.
    pub async fn forget_lease(&self, group: &GroupName) {
        if let Err(error) = self.drop_lease(group).await {
            tracing::debug!(%error, %group, "the lease of a group that was deleted stays behind");
        }
    }

    /// A lease that is nobody's until it is claimed.
    pub fn group_lease(&self, group: &GroupName) -> Lease {
        let holder = uuid::Uuid::now_v7().simple().to_string();
        Lease { log: self.clone(), group: group.clone(), bucket: None, holder, notes: String::new(), held: None, seen: None }
    }
}

impl Lease {
    /// A holder calls this so often, and stops when it could not for [`Lease::DOUBT`].
    pub const RENEW: Duration = Duration::from_secs(1);
    /// A holder that has not renewed for this long must not begin anything.
    pub const DOUBT: Duration = Duration::from_secs(3);

    /// Takes or renews it. An error says nothing about whose it is.
    pub async fn claim(&mut self) -> Result<Claim, LogError> {
        self.log.talker()?;
        let limit = self.log.inner.config.request_timeout;
        let claim = timeout(limit, self.try_claim()).await;
        let claim = claim.unwrap_or_else(|_| Err(LogError::unavailable("the lease of a group was not answered")));
        if claim.is_err() {
            // It may have ended with its client.
            self.bucket = None;
        }
        claim
    }

    /// Gives it up, so that somebody else need not wait.
    pub async fn release(&mut self) {
        if let Some(revision) = self.held.take() {
            let words = Words { holder: String::new(), notes: self.notes.clone() }.write();
            let (key, limit) = (self.group.key().into_owned(), self.log.inner.config.request_timeout);
            let released = async { self.bucket().await?.update(key, words, revision).await.map_err(LogError::unavailable) };
            if !matches!(timeout(limit, released).await, Ok(Ok(_))) {
                tracing::debug!(group = %self.group, "a lease was not released; it runs out");
            }
        }
    }

    async fn try_claim(&mut self) -> Result<Claim, LogError> {
        let bucket = self.bucket().await?;
        let was_held = self.held.is_some();
        if let Some(revision) = self.held
            && self.write(&bucket, Some(revision)).await?
        {
            return Ok(Claim::Kept);
        }
        let entry = bucket.entry(self.group.key()).await.map_err(LogError::unavailable)?;
        let left = entry.as_ref().map(|entry| Words::read(&entry.value)).unwrap_or_default();
        let is_ours = left.holder == self.holder;
        if !is_ours {
            self.notes = left.notes;
        }
        let taken = match entry {
            None => self.write(&bucket, None).await?,
            // An update of ours whose answer was lost.
            Some(entry) if is_ours => {
                let ours = self.write(&bucket, Some(entry.revision)).await?;
                if ours && was_held {
                    return Ok(Claim::Kept);
                }
                ours
            }
            Some(entry) if left.holder.is_empty() || entry.operation != Operation::Put => {
                self.write(&bucket, Some(entry.revision)).await?
            }
            Some(entry) => match self.seen {
                Some((revision, since)) if revision == entry.revision => {
                    since.elapsed() >= SILENCE && self.write(&bucket, Some(revision)).await?
                }
                _ => {
                    self.seen = Some((entry.revision, Instant::now()));
                    false
                }
            },
        };
        if !taken {
            self.held = None;
        }
        Ok(if taken { Claim::Won } else { Claim::Elsewhere })
    }

    /// Whether it is ours now. Without a revision there must be none.
    async fn write(&mut self, bucket: &kv::Store, revision: Option<u64>) -> Result<bool, LogError> {
        let words = Words { holder: self.holder.clone(), notes: self.notes.clone() }.write();
        let written = bucket.update(self.group.key(), words, revision.unwrap_or(0)).await;
        match written {
            Ok(revision) => {
                self.held = Some(revision);
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(LogError::unavailable(format!("the lease of group {}: {error}", self.group))),
        }
    }

    async fn bucket(&mut self) -> Result<kv::Store, LogError> {
        if let Some(bucket) = &self.bucket {
            return Ok(bucket.clone());
        }
        let bucket = self.log.group_leases().await?;
        Ok(self.bucket.insert(bucket).clone())
    }
}
