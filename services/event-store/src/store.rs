//! The read side as the gateway sees it: questions about the log up to now, and subscriptions to what comes.
//!
//! It never writes to the log, and answers nothing from memory that a restart would lose: see `crate::follow` for how
//! events get here, and for what "readable" means.

mod subscribe;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_event::{AggregateId, Event, EventId, IdempotencyKey, Position};
use causeway_log::{Log, LogError};
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::checkpoint::leaves::Leaves;
use crate::copies;
use crate::follow::{self, CatchingUp, Doing, Shared, Source};
use crate::read_model::{
    Aggregates, Descendants, Files, Loaded, Meta, ModelError, Page, Query, ReadModelConfig, Reader, Snapshot, TooMany, Turn,
};

pub(crate) use subscribe::{Subscription, Update};

/// Pause before the log is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(500);
/// Times that one question is asked again of a model that was made again meanwhile.
const ATTEMPTS_MAX: usize = 4;
/// A page in which nothing passes ends after this long; the next one goes on. Tests cut wherever they can.
const PAGE_TIME: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 500 });

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The read model was not far enough in time, or answers nothing so far.
    #[error("{}", behind(*.wanted, *.position, .doing.as_ref()))]
    Behind { wanted: Position, position: Position, doing: Option<Doing> },
    /// All readers were busy for too long.
    #[error("too many reads at once")]
    Busy,
    /// How far the log is could not be learned.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A filter asks for more descendants than are looked for.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The database failed, beyond what the store heals by itself.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// Events that a subscriber has been given may be no longer there, and others in their place.
    #[error("the log lost its end: what was read of it may be gone, and positions may have been given again")]
    LostItsEnd,
    /// The service is shutting down.
    #[error("the read model is closed")]
    Closed,
}

fn behind(wanted: Position, position: Position, doing: Option<&Doing>) -> String {
    match doing {
        Some(doing) => format!("the read model does not answer yet: {doing}"),
        None => format!("the read model is at {position}, and {wanted} is wanted"),
    }
}

impl From<ModelError> for StoreError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::TooMany(error) => Self::TooMany(error),
            error => Self::Model(Arc::new(error)),
        }
    }
}

/// The whole read side. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Opens the read model of this log, or starts a new one where there is none that can be believed. The future feeds it,
    /// and has to run for as long as the store is used; it ends with `shutdown`, or with an error when the model cannot be
    /// kept at all.
    pub(crate) async fn open(
        log: Log,
        config: &ReadModelConfig,
        leaves: Arc<Leaves>,
        shutdown: CancellationToken,
    ) -> Result<(Self, impl Future<Output = Result<(), StoreError>> + Send + 'static + use<>), StoreError> {
        let identity = answered(|| log.identity()).await?;
        let (files, loaded) = blocking({
            let config = config.clone();
            move || load(&config)
        })
        .await?;
        let believed = loaded.as_ref().map(|loaded| (loaded.meta.clone(), loaded.last));
        let keep = match believed {
            Some((meta, last)) => belongs(&meta, last, &log, &identity).await?,
            None => false,
        };
        let (files, loaded) = match loaded.filter(|_| keep) {
            None if config.copies.enabled => {
                let (files, copy) = copies::fetch(&log, config, files, &identity).await;
                let keep = match copy.as_ref().map(|copy| (copy.meta.clone(), copy.last)) {
                    Some((meta, last)) => belongs(&meta, last, &log, &identity).await?,
                    None => false,
                };
                (files, copy.filter(|_| keep))
            }
            loaded => (files, loaded),
        };
        let last = answered(|| log.last_position()).await?;
        Self::start(config, Source::of(log, leaves), (identity, last), (files, loaded), shutdown).await
    }

    /// The rest of opening, for any source.
    async fn start(
        config: &ReadModelConfig,
        source: Source,
        (identity, last): (String, Position),
        (files, loaded): (Files, Option<Loaded>),
        shutdown: CancellationToken,
    ) -> Result<(Self, impl Future<Output = Result<(), StoreError>> + Send + 'static + use<>), StoreError> {
        let config = config.clone();
        let (shared, work) = blocking(move || {
            let loaded = loaded.map_or_else(|| files.create(&identity), Ok)?;
            Shared::new(config, source, files, loaded, last)
        })
        .await?;
        let feed = follow::run(shared.clone(), work, shutdown).map(|ended| ended.map_err(StoreError::from));
        Ok((Self { shared }, feed))
    }

    /// All up to here is readable.
    pub(crate) fn position(&self) -> Position {
        self.shared.tail.committed().borrow().unwrap_or_default()
    }

    /// How catching up with the log goes, if it is behind.
    pub(crate) fn catching_up(&self) -> Option<CatchingUp> {
        let behind = *self.shared.catching_up.borrow();
        behind.map(|behind| CatchingUp { position: self.shared.tail.written(), ..behind })
    }

    /// What it does before it answers, beside catching up.
    pub(crate) fn doing(&self) -> Option<Doing> {
        self.shared.doing()
    }

    /// Changes when the read model is made again: what was made from its answers before may be of a log that lost its end.
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.tail.epoch()
    }

    /// Which log it is of.
    pub(crate) fn identity(&self) -> String {
        self.shared.identity()
    }

    /// How often the log was found to have lost its end. A subscription is begun with what this was before its place was looked up.
    pub(crate) fn losses(&self) -> u64 {
        self.shared.tail.losses()
    }

    /// The last registration of a type among what is, or is about to be, readable.
    pub(crate) fn registered(&self) -> Position {
        self.shared.registered()
    }

    /// Waits until all is readable that the log had when this was called.
    pub(crate) async fn fresh(&self) -> Result<Position, StoreError> {
        let last = timeout(self.shared.config.read_timeout, self.shared.last_position());
        let last = last
            .await
            .unwrap_or_else(|_| Err(LogError::Unavailable { reason: "it did not say in time how far it is".into() }))?;
        self.wait_for(last).await?;
        Ok(last)
    }

    /// Waits until all up to `position` is readable.
    pub(crate) async fn wait_for(&self, position: Position) -> Result<(), StoreError> {
        let mut committed = self.shared.tail.committed();
        if committed.borrow().is_some_and(|committed| committed >= position) {
            return Ok(());
        }
        let _waiting = self.shared.hurry();
        let reached = committed.wait_for(|committed| committed.is_some_and(|committed| committed >= position));
        tokio::select! {
            reached = timeout(self.shared.config.read_timeout, reached) => match reached {
                Ok(_) => Ok(()),
                Err(_) => {
                    let (written, doing) = (self.shared.tail.written(), self.shared.doing());
                    Err(StoreError::Behind { wanted: position, position: written, doing })
                }
            },
            () = self.shared.closed.cancelled() => Err(StoreError::Closed),
        }
    }

    /// How far the log has been read, readable or not.
    pub(crate) fn fed(&self) -> Position {
        self.shared.tail.feed_from().1
    }

    /// The events from `first` to `last`, as soon as they have come from the log: that is before they are readable otherwise. None
    /// if they are no longer, or not all, among the newest.
    pub(crate) async fn arrived(&self, first: Position, last: Position) -> Option<Vec<Arc<Event>>> {
        if self.fed() < last {
            self.shared.arrivals.wait(last).await;
        }
        (first.get()..=last.get()).map(|position| self.shared.tail.get(Position::new(position))).collect()
    }

    /// A page of what is readable. Does not wait for more: see [`Self::fresh`]. Where little passes it ends before it is full, so that
    /// no reader is kept from others for long.
    pub(crate) async fn page(&self, query: Query) -> Result<Page, StoreError> {
        let query = Arc::new(query);
        self.read(move |reader, last| reader.page(&query, last, PAGE_TIME)).await
    }

    /// How many events pass the query, for as long as the caller waits for it.
    pub(crate) async fn count(&self, query: Query) -> Result<u64, StoreError> {
        let query = Arc::new(query);
        self.read_as(Turn::Count, move |reader, last| reader.count(&query, last)).await
    }

    /// All that an event has caused, as far as is readable.
    pub(crate) async fn descendants(&self, of: EventId) -> Result<Descendants, StoreError> {
        self.read(move |reader, last| reader.descendants(of, last)).await
    }

    /// The first that an event has caused up to `last`, at most `max`.
    pub(crate) async fn first_descendants(&self, of: EventId, last: Position, max: usize) -> Result<Descendants, StoreError> {
        let found = self.read(move |reader, end| reader.first_descendants(of, last.min(end), max)).await?;
        Ok(found.0)
    }

    /// A page of the aggregates whose ids start with `prefix`, behind `after`.
    pub(crate) async fn aggregates(
        &self,
        prefix: String,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Aggregates, StoreError> {
        self.read(move |reader, last| reader.aggregates(&prefix, after.as_ref(), limit, last)).await
    }

    /// The event at a position, as soon as it has come from the log.
    pub(crate) async fn by_position(&self, position: Position) -> Result<Option<Arc<Event>>, StoreError> {
        match self.shared.tail.get(position) {
            Some(event) => Ok(Some(event)),
            None => self.read(move |reader, _| reader.by_position(position)).await,
        }
    }

    pub(crate) async fn by_id(&self, id: EventId) -> Result<Option<Arc<Event>>, StoreError> {
        self.read(move |reader, _| reader.by_id(id)).await
    }

    /// The last event that was stored at `time` or before.
    pub(crate) async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.read(move |reader, last| reader.position_at(time, last)).await
    }

    /// The events of the first append of `count` events under this key.
    pub(crate) async fn by_key(
        &self,
        aggregate: &AggregateId,
        key: &IdempotencyKey,
        count: usize,
    ) -> Result<Option<Vec<Arc<Event>>>, StoreError> {
        let (aggregate, key) = (aggregate.clone(), key.clone());
        self.read(move |reader, last| reader.by_key(&aggregate, &key, count, last)).await
    }

    /// The newest snapshot of a view that is not newer than `at_most`.
    pub(crate) async fn snapshot(
        &self,
        view: &str,
        version: u32,
        id: &str,
        at_most: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        let (view, id) = (view.to_owned(), id.to_owned());
        self.read(move |reader, _| reader.snapshot(&view, version, &id, at_most)).await
    }

    /// Some ids of a view, behind `after`, that have only snapshots of versions before this one.
    pub(crate) async fn outdated(&self, view: &str, version: u32, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let (view, after) = (view.to_owned(), after.to_owned());
        self.read(move |reader, _| reader.outdated(&view, version, &after, limit)).await
    }

    /// The files of the database.
    pub(crate) fn files(&self) -> &Files {
        &self.shared.files
    }

    /// Writes a copy of the database into a new file, checked in full.
    pub(crate) async fn copy_into(&self, path: PathBuf) -> Result<Meta, StoreError> {
        self.read_as(Turn::Long, move |reader, _| reader.copy_into(&path)).await
    }

    /// Keeps a snapshot of a view, which is a cache: it may be gone at any time.
    pub(crate) async fn keep_snapshot(
        &self,
        epoch: u64,
        view: &str,
        version: u32,
        id: &str,
        position: Position,
        state: Bytes,
    ) -> Result<(), StoreError> {
        let snapshot = Snapshot { view: view.to_owned(), version, id: id.to_owned(), position, state };
        match timeout(self.shared.config.read_timeout, self.shared.keep(epoch, snapshot)).await {
            Ok(Err(ModelError::Corrupt(_))) | Err(_) => Ok(()),
            Ok(kept) => Ok(kept?),
        }
    }

    /// Asks the database, as far as it is committed; never one that is being made again. Dropped, the question breaks off.
    async fn read<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut Reader, Position) -> Result<T, ModelError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_as(Turn::Short, ask).await
    }

    async fn read_as<T: Send + 'static>(
        &self,
        turn: Turn,
        ask: impl Fn(&mut Reader, Position) -> Result<T, ModelError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        // A task of its own: whoever waits in line for a reader gets one in turn, and would keep it from all others for as long as
        // nobody polls the future that waits, as nobody does whose client does not read.
        let store = self.clone();
        let reading = tokio::spawn(async move { store.read_in_turn(turn, ask).await }.in_current_span());
        AbortOnDropHandle::new(reading).await.unwrap_or_else(|error| Err(ModelError::BrokeOff(error).into()))
    }

    async fn read_in_turn<T: Send + 'static>(
        &self,
        turn: Turn,
        ask: impl Fn(&mut Reader, Position) -> Result<T, ModelError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = &self.shared;
        for _ in 0..ATTEMPTS_MAX {
            let floor = shared.tail.furthest();
            self.wait_for(floor).await?;
            let permit = shared.pool.permit(turn, shared.config.read_timeout).await.ok_or(StoreError::Busy)?;
            // With the permit in hand the file cannot be exchanged; before, it may have been.
            let epoch = shared.tail.epoch();
            let Some(last) = shared.tail.committed().borrow().filter(|committed| *committed >= floor) else {
                continue;
            };
            let ask = ask.clone();
            match shared.pool.run(shared.files.clone(), permit, move |reader| ask(reader, last)).await {
                Err(ModelError::Corrupt(reason)) => shared.give_up(epoch, &reason),
                // Somebody waits, so it was the file: it is asked again of the next one.
                Err(ModelError::Interrupted) => {}
                answer => return Ok(answer?),
            }
        }
        Err(StoreError::Busy)
    }
}

impl Source {
    fn of(log: Log, leaves: Arc<Leaves>) -> Self {
        let (reader, named) = (log.clone(), log.clone());
        Self {
            identity: Box::new(move || {
                let log = named.clone();
                async move { log.identity().await }.boxed()
            }),
            last: Box::new(move || {
                let log = log.clone();
                async move { log.last_position().await }.boxed()
            }),
            records: Box::new(move |after| {
                stream::unfold((reader.subscribe(after), leaves.clone()), |(mut subscription, leaves)| async {
                    let record = leaves.next_of(&mut subscription).await;
                    Some((record, (subscription, leaves)))
                })
                .boxed()
            }),
        }
    }
}

/// Asks the log until it answers: at the start of a cluster its leader may not be there yet.
pub(crate) async fn answered<T, F: Future<Output = Result<T, LogError>>>(ask: impl Fn() -> F) -> Result<T, LogError> {
    let mut told = false;
    loop {
        match ask().await {
            Err(error) if error.is_transient() && std::mem::replace(&mut told, true) => {
                tracing::debug!(%error, "the log does not answer yet");
            }
            Err(error) if error.is_transient() => tracing::warn!(%error, "the log does not answer yet; it is asked again"),
            answer => return answer,
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

/// Opens what is there; damage is set aside, and told.
fn load(config: &ReadModelConfig) -> Result<(Files, Option<Loaded>), ModelError> {
    let files = Files::lock(&config.path)?;
    match files.load(config.check_bytes_max) {
        Ok(loaded) => Ok((files, loaded)),
        Err(ModelError::Corrupt(reason)) => {
            let path = files.set_aside()?;
            tracing::warn!(reason, path = %path.display(), "the read model is damaged; it was set aside and is made again");
            Ok((files, None))
        }
        Err(error) => Err(error),
    }
}

/// Whether the model is a copy of this log's beginning: of the same stream, not longer than it, and with the same last event.
async fn belongs(meta: &Meta, last: Option<(Position, EventId)>, log: &Log, identity: &str) -> Result<bool, StoreError> {
    let reason = if meta.identity != identity {
        "it was made from another log"
    } else if answered(|| log.last_position()).await? < meta.position {
        "the log is shorter"
    } else if let Some((position, id)) = last
        && answered(|| log.event_id_at(position)).await? != Some(id)
    {
        "the log has another event in the place of its last one"
    } else {
        return Ok(true);
    };
    tracing::warn!(reason, "the read model does not belong to this log and is made again from it");
    Ok(false)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ModelError> + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or_else(|error| Err(ModelError::BrokeOff(error)))?)
}
