//! Copies of the read model in the object store, so that a gateway that starts with none serves within seconds on a long log.
//!
//! Whichever gateway finds that the log has gone far beyond the newest copy makes the next one; that two do so at the same time is
//! harmless. A copy is never worse than none: whatever is wrong with it, it is left alone with a warning, and the log is read. Each is of
//! the whole log, so the distance between them grows with it: all copies together cost a fixed multiple of the last one.
//!
//! ```text
//! keep:  vacuum into a file -> check all of it -> SHA-256 -> object store
//! fetch: object store -> file -> SHA-256 -> the read model's own checks -> of this log? -> read the log from there
//! ```

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_event::Position;
use causeway_log::{Copies, Copy, CopyLabel, Log, LogError};
use causeway_proof::to_hex;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::read_model::{CopiesConfig, Files, Loaded, ModelError, ReadModelConfig, SCHEMA};
use crate::store::{Store, StoreError};

/// Copies of one log that are kept: a gateway may be reading the older one.
const KEPT: usize = 2;
/// Bytes that are read or written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// A copy that takes longer to come is not waited for.
const FETCH_LIMIT: Duration = Duration::from_secs(300);
/// The same for one that is being stored: the next look tries again.
const STORE_LIMIT: Duration = Duration::from_secs(1800);
/// The next copy is due when the log has grown by this part, if that is more than the configured number of events.
const GROWTH: u64 = 10;
/// How often it is told how far a copy has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Why there is no copy, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The object store did not do what it was asked.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The read model did not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What came is not what was stored.
    #[error("its bytes are not those that its label names")]
    Altered,
    /// What came is no read model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("it took longer than {0:?}")]
    TooSlow(Duration),
}

/// Puts the newest copy of this log in the place of a read model that is not there. Whatever fails is told, and nothing is changed.
pub(crate) async fn fetch(log: &Log, config: &ReadModelConfig, files: Files, identity: &str) -> (Files, Option<Loaded>) {
    let found = async {
        let Some(copies) = log.copies().await? else { return Ok(None) };
        let last = log.last_position().await?;
        let mut usable = copies.list().await?;
        usable.retain(|copy| copy.label.schema == SCHEMA && copy.label.log == identity && copy.label.position <= last);
        Ok::<_, LogError>(Some((copies, usable)))
    };
    let (copies, usable) = match found.await {
        Ok(Some(found)) => found,
        Ok(None) => return (files, None),
        Err(error) => {
            tracing::warn!(%error, "no copy of the read model can be looked for; it is made from the log");
            return (files, None);
        }
    };
    let path = files.copy_path();
    let mut files = files;
    for copy in usable {
        let start = Instant::now();
        let (position, bytes) = (copy.label.position, copy.bytes);
        tracing::info!(%position, bytes, "a copy of the read model is fetched");
        let came = timeout(FETCH_LIMIT, download(&copies, &copy, &path)).await;
        let came = came.unwrap_or(Err(CopyError::TooSlow(FETCH_LIMIT)));
        let adopted = match came {
            Ok(()) => {
                tracing::info!(%position, "the copy has come and is opened");
                let (path, check_bytes_max) = (path.clone(), config.check_bytes_max);
                let (back, adopted) = adopt(files, path, check_bytes_max).await;
                files = back;
                adopted
            }
            Err(error) => Err(error),
        };
        match adopted {
            Ok(Some(loaded)) if loaded.meta.identity == identity && loaded.meta.position == position => {
                let seconds = start.elapsed().as_secs_f64();
                tracing::info!(%position, bytes, seconds, "the read model starts from a copy");
                return (files, Some(loaded));
            }
            Ok(_) => tracing::warn!(%position, "a copy of the read model is not what its label says; it is ignored"),
            Err(error) => tracing::warn!(%position, %error, "a copy of the read model cannot be used; it is ignored"),
        }
    }
    remove(&path);
    (files, None)
}

async fn adopt(files: Files, path: PathBuf, check_bytes_max: u64) -> (Files, Result<Option<Loaded>, CopyError>) {
    let work = tokio::task::spawn_blocking(move || {
        let adopted = files.adopt(&path, check_bytes_max);
        (files, adopted)
    });
    match work.await {
        Ok((files, adopted)) => (files, adopted.map_err(CopyError::from)),
        // It neither panics nor is it aborted; there would be no lock left to give back.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Writes a copy into a file, piece by piece, and fails unless it is what the label names.
async fn download(copies: &Copies, copy: &Copy, path: &Path) -> Result<(), CopyError> {
    let failed = |source| CopyError::File { path: path.to_owned(), source };
    let mut object = copies.get(&copy.label).await?;
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let (mut sum, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    let (mut come, mut told) = (0, Instant::now());
    loop {
        if told.elapsed() >= PROGRESS_INTERVAL {
            tracing::info!(position = %copy.label.position, come, bytes = copy.bytes, "a copy of the read model is coming");
            told = Instant::now();
        }
        let read = object.read(&mut piece).await.map_err(failed)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
        sum.update(read);
        come += read.len();
        file.write_all(read).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    match to_hex(&sum.finalize()) == copy.label.sha256 {
        true => Ok(()),
        false => Err(CopyError::Altered),
    }
}

/// Makes copies for as long as the gateway lives, whenever one is due.
pub(crate) async fn keep(log: &Log, store: &Store, config: &CopiesConfig, stop: &CancellationToken) {
    while config.enabled && stop.run_until_cancelled(tokio::time::sleep(config.look_every)).await.is_some() {
        let path = store.files().copy_path();
        let made = match stop.run_until_cancelled(timeout(STORE_LIMIT, keep_one(log, store, config, &path))).await {
            Some(made) => made.unwrap_or(Err(CopyError::TooSlow(STORE_LIMIT))),
            None => Ok(None),
        };
        match made {
            Ok(Some(label)) => tracing::info!(position = %label.position, "a copy of the read model was stored"),
            Ok(None) => {}
            // The log being away is told elsewhere, and a check of the whole file has its turn first.
            Err(error @ (CopyError::Log(_) | CopyError::Store(StoreError::Busy))) => {
                tracing::debug!(%error, "no copy of the read model was stored");
            }
            Err(error) => tracing::warn!(%error, "no copy of the read model could be stored"),
        }
        remove(&path);
    }
}

/// Makes a copy if the newest one is too old. Two gateways that do so at the same time store the same twice.
async fn keep_one(log: &Log, store: &Store, config: &CopiesConfig, path: &Path) -> Result<Option<CopyLabel>, CopyError> {
    // A model that is still catching up would be old by the time it is stored.
    if store.fresh().await.is_err() || store.position().get() < config.every_events {
        return Ok(None);
    }
    let identity = log.identity().await?;
    if store.identity() != identity {
        return Ok(None);
    }
    let ours = |copies: Vec<Copy>| -> Vec<Copy> {
        copies.into_iter().filter(|copy| copy.label.schema == SCHEMA && copy.label.log == identity).collect()
    };
    if let Some(copies) = log.copies().await?
        && let Some(newest) = ours(copies.list().await?).first()
        && store.position() < due(newest.label.position, config.every_events)
    {
        return Ok(None);
    }
    let copies = log.make_copies().await?;
    remove(path);
    let meta = store.copy_into(path.to_owned()).await?;
    if meta.identity != identity {
        return Ok(None);
    }
    let label = CopyLabel { schema: SCHEMA, log: identity.clone(), position: meta.position, sha256: digest(path).await? };
    let failed = |source| CopyError::File { path: path.to_owned(), source };
    copies.put(&label, &mut tokio::fs::File::open(path).await.map_err(failed)?).await?;
    for old in ours(copies.list().await?).into_iter().skip(KEPT) {
        copies.delete(&old.label).await?;
    }
    Ok(Some(label))
}

/// Where the log has to be for another copy.
fn due(newest: Position, every_events: u64) -> Position {
    let distance = every_events.max(newest.get() / GROWTH);
    Position::new(newest.get().saturating_add(distance))
}

async fn digest(path: &Path) -> Result<String, CopyError> {
    let owned = path.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let (mut file, mut sum, mut piece) = (File::open(owned)?, Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(to_hex(&sum.finalize())),
                read => sum.update(&piece[..read]),
            }
        }
    });
    let done = work.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| CopyError::File { path: path.to_owned(), source })
}

/// What was written on the way; one that cannot be removed is overwritten the next time.
fn remove(path: &Path) {
    _ = std::fs::remove_file(path);
}
