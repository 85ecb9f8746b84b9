//! The writer's thread: what is in the tail goes into the database, and a damaged database is exchanged.
//!
//! A transaction costs the journal some thirty kilobytes, however few events it has. So the writer lets events gather for a
//! moment, unless somebody waits for what is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use causeway_event::Position;
use tokio::sync::oneshot;

use super::Shared;
use crate::read_model::{Loaded, ModelError, Snapshot, Writer};
use crate::seldom::Seldom;

/// Pause before a write is tried again that the system refused (no space, mostly).
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often that is told while it lasts.
const FAILING_TOLD: Duration = Duration::from_secs(60);
/// So many rebuilds within [`REBUILDS_WITHIN`] are not bad luck: the service stops and says so.
const REBUILDS_MAX: usize = 3;
const REBUILDS_WITHIN: Duration = Duration::from_secs(3600);
/// With so many positions to go, a new database takes all events before it makes its indexes.
const INDEX_LATER: u64 = if cfg!(test) { 1000 } else { 100_000 };

/// With nobody waiting, events gather for this long before they are written ...
const LINGER: Duration = Duration::from_millis(20);
/// ... or until so many have come.
const GATHERED_MAX: u64 = 1024;

/// What the writer is told. Batches are not among it: it finds them in the tail.
pub(super) enum Command {
    Wake,
    Keep {
        /// The epoch of the database whose events it was folded from.
        of: u64,
        snapshot: Box<Snapshot>,
        done: oneshot::Sender<Result<(), ModelError>>,
    },
}

/// The writer's side of [`Shared`].
pub(crate) struct Work {
    writer: Writer,
    /// How far the log went: a database without indexes gets them when it is there.
    target: Position,
    commands: Receiver<Command>,
    /// The database was too large to be checked before it serves.
    pub(super) unchecked: bool,
    /// It must be checked before it answers anything.
    pub(super) doubted: bool,
}

impl Work {
    pub(super) fn begin(loaded: Loaded, last: Position, commands: Receiver<Command>) -> Result<Self, ModelError> {
        let (position, unchecked, doubted) = (loaded.meta.position, loaded.unchecked, loaded.doubted);
        let (writer, target) = (Writer::new(loaded)?, index_at(position, last));
        Ok(Self { writer, target, commands, unchecked, doubted })
    }

    pub(super) fn may_serve(&self) -> bool {
        self.writer.is_indexed() && !self.doubted
    }
}

/// Starts the writer. What is returned says how it ended.
pub(super) fn spawn(shared: Arc<Shared>, work: Work) -> Result<oneshot::Receiver<Result<(), ModelError>>, ModelError> {
    let (ended, written) = oneshot::channel();
    let path = shared.files.path().to_owned();
    std::thread::Builder::new()
        .name("read-model-writer".to_owned())
        .spawn(move || {
            let result = write(&shared, work);
            // Whoever hears of the end may open the files again.
            drop(shared);
            let _ = ended.send(result);
        })
        .map_err(|source| ModelError::File { what: "cannot start the writer of", path, source })?;
    Ok(written)
}

/// Writes what is in the tail, whatever is waiting in one transaction, until the feed has ended.
fn write(shared: &Shared, work: Work) -> Result<(), ModelError> {
    let Work { mut writer, mut target, commands, .. } = work;
    let (mut epoch, mut losses, mut rebuilt) = (0, 0, Vec::new());
    // Since when the system refuses to write: told anew when it begins anew.
    let mut failing: Option<Seldom> = None;
    while !shared.closed.is_cancelled() {
        if shared.tail.epoch() != epoch {
            let lost = shared.tail.losses();
            (writer, epoch) = match std::mem::replace(&mut losses, lost) == lost {
                true => rebuild(shared, writer, &mut rebuilt)?,
                false => replace(shared, writer)?,
            };
            target = index_at(Position::START, shared.tail.furthest());
        }
        if let Some(command) = linger(shared, &commands) {
            obey(shared, &mut writer, epoch, command);
        }
        let written = match shared.tail.unwritten(epoch) {
            Some(batch) => writer.apply(&batch).map(|()| shared.tail.commit(epoch, batch.end)).map(|()| true),
            None => Ok(false),
        };
        let result = written.and_then(|written| {
            if index_if_due(shared, &mut writer, target)? && !shared.is_doubted(epoch) {
                shared.tail.serve(epoch);
            }
            Ok(written)
        });
        let is_idle = matches!(result, Ok(false));
        match result {
            Ok(_) => {
                if failing.take().is_some() {
                    tracing::info!("the read model can be written again");
                    shared.fails(None);
                }
            }
            // The end.
            Err(ModelError::Interrupted) => {}
            Err(ModelError::Corrupt(reason)) => shared.give_up(epoch, &reason),
            Err(error) => {
                if let Some(times) = failing.get_or_insert_with(|| Seldom::new(FAILING_TOLD)).add(1, Instant::now()) {
                    tracing::error!(%error, times, "the read model cannot be written; reads go stale until it can");
                }
                shared.fails(Some(error.to_string().into()));
                pause(shared, &mut writer, epoch, &commands);
            }
        }
        let command = if is_idle { commands.recv().ok() } else { commands.try_recv().ok() };
        if let Some(command) = command {
            obey(shared, &mut writer, epoch, command);
        }
    }
    writer.close()?;
    // What is doubted stays so until it was checked.
    if shared.is_doubted(epoch) { Ok(()) } else { shared.files.closed() }
}

fn obey(shared: &Shared, writer: &mut Writer, epoch: u64, command: Command) {
    match command {
        // Folded from a database that has been given up since: a cache, so it is not missed.
        Command::Keep { of, done, .. } if of != epoch => {
            shared.keeping.fetch_sub(1, Ordering::SeqCst);
            let _ = done.send(Ok(()));
        }
        Command::Keep { snapshot, done, .. } => {
            shared.keeping.fetch_sub(1, Ordering::SeqCst);
            let kept = writer.keep(&snapshot);
            if let Err(ModelError::Corrupt(reason)) = &kept {
                shared.give_up(epoch, reason);
            }
            let _ = done.send(kept);
        }
        // Before the tail is looked at: whoever puts something there from now on says so again.
        Command::Wake => shared.woken.store(false, Ordering::SeqCst),
    }
}

/// Waits before what the system refused is tried again, however often it is woken.
fn pause(shared: &Shared, writer: &mut Writer, epoch: u64, commands: &Receiver<Command>) {
    let until = Instant::now() + RETRY_PAUSE;
    while !shared.closed.is_cancelled()
        && Instant::now() < until
        && let Ok(command) = commands.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        obey(shared, writer, epoch, command);
    }
}

/// Lets events gather, if there are few and nobody waits for them. Returns a command that came meanwhile.
fn linger(shared: &Shared, commands: &Receiver<Command>) -> Option<Command> {
    let until = Instant::now() + LINGER;
    let _lingering = shared.haste.linger();
    while (1..GATHERED_MAX).contains(&shared.tail.backlog()) && shared.haste.nobody_waits() && !shared.closed.is_cancelled() {
        match commands.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Command::Wake) => shared.woken.store(false, Ordering::SeqCst),
            Ok(command) => return Some(command),
            Err(_) => return None,
        }
    }
    None
}

/// Where a database at `position` gets its indexes, if it has none: at once, or when it has what the log has.
fn index_at(position: Position, last: Position) -> Position {
    match last.get().saturating_sub(position.get()) {
        few if few < INDEX_LATER => position,
        _ => last,
    }
}

/// Makes the indexes if the database has none and has come to its target. Says whether it may serve.
fn index_if_due(shared: &Shared, writer: &mut Writer, target: Position) -> Result<bool, ModelError> {
    if !writer.is_indexed() {
        let written = shared.tail.written();
        if written < target {
            return Ok(false);
        }
        if target > Position::START {
            tracing::info!(position = %written, "the read model has the events and makes its indexes");
        }
        let made = writer.index(&shared.closed, |made| shared.indexing.store(made + 1, Ordering::SeqCst));
        shared.indexing.store(0, Ordering::SeqCst);
        made?;
        if target > Position::START {
            // What SQLite sorted for them in files of its own had no checksums.
            shared.unchecked.notify_one();
        }
    }
    Ok(true)
}

/// Puts an empty database in the place of a damaged one.
fn rebuild(shared: &Shared, damaged: Writer, rebuilt: &mut Vec<Instant>) -> Result<(Writer, u64), ModelError> {
    rebuilt.retain(|at| at.elapsed() < REBUILDS_WITHIN);
    if rebuilt.len() >= REBUILDS_MAX {
        return Err(ModelError::corrupt(format!("{REBUILDS_MAX} times within {REBUILDS_WITHIN:?}; the disk may be failing")));
    }
    rebuilt.push(Instant::now());
    let epoch = shared.tail.epoch();
    drop(damaged);
    let fresh = shared.pool.exclusively(|| {
        let aside = shared.files.set_aside()?;
        tracing::warn!(path = %aside.display(), "the damaged read model was kept there");
        shared.files.create(&shared.identity())
    })?;
    Ok((Writer::new(fresh)?, epoch))
}

/// Puts an empty database in the place of one that is sound, but of a log that is no more.
fn replace(shared: &Shared, old: Writer) -> Result<(Writer, u64), ModelError> {
    let epoch = shared.tail.epoch();
    drop(old);
    let fresh = shared.pool.exclusively(|| shared.files.create(&shared.identity()))?;
    Ok((Writer::new(fresh)?, epoch))
}
