//! Feeds the read model from the log: one task that reads the log into the tail, one thread that writes the tail into the
//! database, and the healing of a database that turned out to be damaged.
//!
//! ```text
//!   log -> feed (task) -> tail -> writer (thread) -> database -> queries
//!                          |
//!                          +----> subscribers, at once
//! ```
//!
//! **The seam.** An event is in the tail before it is in the database. Subscribers see it there without waiting for SQLite;
//! `position()`, and so every query, means what is *committed*. A subscriber may therefore be ahead of a query that was
//! asked without waiting; one that is asked after `fresh()` never is behind. Nothing is lost by that: what dies with the tail
//! is on the log.
//!
//! **Healing.** Whoever meets damage gives up the epoch of the tail: nothing is readable from then on. The writer sees
//! the new epoch, breaks off the reads under way, sets the file aside and starts an empty one; the feed starts again at the first
//! event. Queries wait until the model is again as far as it ever was, so no answer goes back in time.

mod haste;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_event::Position;
use causeway_log::{LogError, Record, Replaced, Stored};
use futures::StreamExt as _;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::BoxStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::haste::Haste;
use self::write::{Command, Work};
use crate::arrivals::Arrivals;
use crate::read_model::{
    Arrived, Files, INDEXES, Loaded, ModelError, Pool, Pushed, ReadModelConfig, Snapshot, Tail, TailLimits, Turn,
};
use crate::types;

/// Records taken from the log at once.
const RECORDS_MAX: usize = 512;
/// How often progress is told while the model is behind the log.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2000 });
/// Pause before a log that does not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a check is tried again that the system did not allow.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// Snapshots that may wait for the writer; further ones are let go.
pub(crate) const KEEPING_MAX: usize = 64;

/// What the read model wants of the log.
pub(crate) struct Source {
    /// The last position as of now.
    pub(crate) last: Box<dyn Fn() -> BoxFuture<'static, Result<Position, LogError>> + Send + Sync>,
    /// Which log it is.
    pub(crate) identity: Box<dyn Fn() -> BoxFuture<'static, Result<String, LogError>> + Send + Sync>,
    /// Everything behind a position, until another log stands in the place of this one.
    pub(crate) records: Box<dyn Fn(Position) -> BoxStream<'static, Result<Record, Replaced>> + Send + Sync>,
}

/// What the feed, the writer and all readers share.
pub(crate) struct Shared {
    pub(crate) config: ReadModelConfig,
    pub(crate) source: Source,
    pub(crate) tail: Tail,
    /// Who waits for what the tail gets next.
    pub(crate) arrivals: Arrivals,
    pub(crate) pool: Pool,
    pub(crate) files: Arc<Files>,
    /// Set when the feed has ended: nobody waits for more than is there.
    pub(crate) closed: CancellationToken,
    /// How catching up goes, while the model is behind the log.
    pub(crate) catching_up: watch::Sender<Option<CatchingUp>>,
    /// Why the writer cannot write, while it cannot.
    failing: Mutex<Option<Arc<str>>>,
    /// The last registration of a type that came from the log.
    registered: AtomicU64,
    /// The database that was found was not left in order, and its check has not ended.
    doubted: AtomicBool,
    /// Told when a database is to be checked in full, while it serves or before.
    unchecked: Notify,
    /// Which of its indexes the writer is making, counted from one; zero otherwise.
    indexing: AtomicUsize,
    haste: Haste,
    /// Has a place for each snapshot that may wait, and for one wake-up.
    commands: SyncSender<Command>,
    /// A wake-up waits for the writer: a second one would tell it nothing.
    woken: AtomicBool,
    /// How many snapshots wait.
    keeping: AtomicUsize,
    /// The log that is read.
    identity: Mutex<String>,
    lookups: Lookups,
}

/// How far the model is behind the log, as of a moment ago.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CatchingUp {
    pub(crate) position: Position,
    pub(crate) target: Position,
    pub(crate) per_second: u64,
}

/// What is done before the model answers, whatever events it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It cannot be written, for this reason, and is tried again.
    Failing(Arc<str>),
    /// So many of them are there.
    Indexing(usize),
    Checking,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failing(reason) => write!(f, "it cannot be written, which is tried again: {reason}"),
            Self::Indexing(made) => write!(f, "its indexes are being made, {made} of {} are there", INDEXES.len()),
            Self::Checking => f.write_str("its file was not left in order and is being checked in full"),
        }
    }
}

impl Shared {
    pub(crate) fn new(
        config: ReadModelConfig,
        source: Source,
        files: Files,
        loaded: Loaded,
        last: Position,
    ) -> Result<(Arc<Self>, Work), ModelError> {
        let limits = TailLimits { events_max: config.ring_events_max, bytes_max: config.ring_bytes_max };
        let position = loaded.meta.position;
        let (sender, commands) = sync_channel(KEEPING_MAX + 1);
        let shared = Self {
            source,
            tail: Tail::new(position, limits),
            arrivals: Arrivals::default(),
            pool: Pool::new(config.readers),
            files: Arc::new(files),
            closed: CancellationToken::new(),
            catching_up: watch::Sender::new(None),
            failing: Mutex::default(),
            registered: AtomicU64::new(0),
            doubted: AtomicBool::new(loaded.doubted),
            unchecked: Notify::new(),
            indexing: AtomicUsize::new(0),
            haste: Haste::default(),
            commands: sender,
            woken: AtomicBool::new(false),
            keeping: AtomicUsize::new(0),
            identity: Mutex::new(loaded.meta.identity.clone()),
            lookups: Lookups::default(),
            config,
        };
        let work = Work::begin(loaded, last, commands)?;
        if work.may_serve() {
            shared.tail.serve(0);
        }
        Ok((Arc::new(shared), work))
    }

    /// Queues a snapshot that was folded from the database of this epoch, and waits until it is written.
    pub(crate) async fn keep(&self, of: u64, snapshot: Snapshot) -> Result<(), ModelError> {
        let one_more = |keeping: usize| Some(keeping + 1).filter(|keeping| *keeping <= KEEPING_MAX);
        // A snapshot is a cache: with so many waiting, this one is not missed.
        if self.keeping.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_err() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        match self.commands.try_send(Command::Keep { of, snapshot: Box::new(snapshot), done }) {
            Ok(()) => written.await.unwrap_or(Ok(())),
            // The writer has ended.
            Err(_) => Ok(()),
        }
    }

    /// The last registration of a type that came from the log since the start.
    pub(crate) fn registered(&self) -> Position {
        Position::new(self.registered.load(Ordering::Acquire))
    }

    /// Before anybody can read them, so that whoever can knows of them.
    fn note_registrations(&self, arrived: &[Arrived]) {
        let registrations = arrived.iter().filter(|arrived| types::is_registration(&arrived.event));
        if let Some(last) = registrations.max_by_key(|arrived| arrived.event.position) {
            self.registered.fetch_max(last.event.position.get(), Ordering::AcqRel);
        }
    }

    /// The log's last position by a lookup that began after this call did.
    pub(crate) async fn last_position(&self) -> Result<Position, LogError> {
        self.lookups.last_position(&self.source).await
    }

    /// Which log is read.
    pub(crate) fn identity(&self) -> String {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Damage was met in the database of this epoch.
    pub(crate) fn give_up(&self, epoch: u64, reason: &str) {
        if self.tail.give_up(epoch, None) {
            tracing::warn!(reason, "the read model cannot be believed; it is set aside and made again from the log");
            self.wake();
        }
    }

    /// Which log there is and how far it goes, as soon as it says so.
    async fn log(&self) -> (String, Position) {
        loop {
            match futures::try_join!((self.source.identity)(), self.last_position()) {
                Ok(found) => return found,
                Err(error) => tracing::debug!(%error, "the log does not say which it is"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The log is not, or not all of, what was read, also if the database of that was given up meanwhile.
    async fn lost(&self, reason: &str) {
        let (identity, last) = self.log().await;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        while !self.tail.give_up(self.tail.epoch(), Some(last)) {}
        tracing::warn!(reason, %last, "the log is not what was read of it; the read model is made again");
        self.wake();
    }

    /// Whether the database of this epoch must be checked before it answers anything. Only the first one was found.
    fn is_doubted(&self, epoch: u64) -> bool {
        epoch == 0 && self.doubted.load(Ordering::SeqCst)
    }

    /// What the model does before it answers, if it is not only reading the log.
    pub(crate) fn doing(&self) -> Option<Doing> {
        if let Some(reason) = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(Doing::Failing(reason));
        }
        match self.indexing.load(Ordering::SeqCst) {
            0 => self.is_doubted(self.tail.epoch()).then_some(Doing::Checking),
            number => Some(Doing::Indexing(number - 1)),
        }
    }

    /// The writer cannot write, or can again.
    fn fails(&self, reason: Option<Arc<str>>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Somebody waits for what is written, for as long as the answer is held: the writer does not linger.
    pub(crate) fn hurry(&self) -> impl Drop + use<'_> {
        let waiting = self.haste.wait();
        self.wake();
        waiting
    }

    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // There is a place for it, or no writer any more.
            let _ = self.commands.try_send(Command::Wake);
        }
    }
}

/// One lookup of the last position for all who ask at the same time.
///
/// A caller may only use a lookup that began after its own call: it takes the number of lookups begun so far, and any with a
/// higher number will do. Callers queue for the turn; whoever gets it looks up for all who queued behind it.
#[derive(Default)]
struct Lookups {
    begun: AtomicU64,
    turn: tokio::sync::Mutex<Option<(u64, Result<Position, LogError>)>>,
}

impl Lookups {
    async fn last_position(&self, source: &Source) -> Result<Position, LogError> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut latest = self.turn.lock().await;
        if let Some((number, found)) = &*latest
            && *number > before
        {
            return found.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = (source.last)().await;
        *latest = Some((number, found.clone()));
        found
    }
}

/// Feeds until `shutdown`. An error means that the read model cannot be kept at all.
pub(crate) async fn run(shared: Arc<Shared>, work: Work, shutdown: CancellationToken) -> Result<(), ModelError> {
    let _closing = Closing(shared.clone());
    if work.unchecked {
        shared.unchecked.notify_one();
    }
    let mut written = write::spawn(shared.clone(), work)?;
    let check = async {
        loop {
            shared.unchecked.notified().await;
            check(&shared).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = feed(&shared) => {}
        () = check => {}
        ended = &mut written => return ended.unwrap_or_else(|_| Err(ModelError::corrupt("the writer broke off"))),
    }
    shared.closed.cancel();
    shared.wake();
    written.await.unwrap_or(Ok(()))
}

/// Ends everybody's waiting, however the feed ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.cancel();
        self.0.wake();
    }
}

/// Reads the log into the tail, for ever.
async fn feed(shared: &Shared) {
    let mut committed = shared.tail.committed();
    let mut progress = Progress::new(shared.tail.feed_from().1);
    // Beside the records: a connection that hangs must not keep back what comes over another.
    let mut looking = None;
    loop {
        let (epoch, after) = shared.tail.feed_from();
        // What was given up for damage may be of a log that was exchanged meanwhile: whoever begins anew would not notice.
        if 0 < epoch && after == Position::START {
            looking = None;
            let (identity, last) = shared.log().await;
            if identity != shared.identity() || last < shared.tail.furthest() {
                shared.lost("it is another one, or lost its end").await;
                continue;
            }
        }
        let mut records = (shared.source.records)(after).ready_chunks(RECORDS_MAX);
        loop {
            tokio::select! {
                chunk = records.next(), if !shared.tail.is_full() => {
                    let Some(chunk) = chunk else { break };
                    let (arrived, end) = match chunk.into_iter().collect() {
                        Ok(records) => arrived(records),
                        Err(Replaced(position)) => {
                            // Nobody would go on with it, and others wait behind it.
                            looking = None;
                            shared.lost(&Replaced(position).to_string()).await;
                            break;
                        }
                    };
                    shared.note_registrations(&arrived);
                    if shared.tail.push(epoch, arrived, end) == Pushed::Stale {
                        break;
                    }
                    shared.arrivals.reached(end);
                    if !shared.haste.comes_by_itself() {
                        shared.wake();
                    }
                }
                _ = committed.changed() => {
                    if shared.tail.epoch() != epoch {
                        break;
                    }
                }
                () = progress.due(), if looking.is_none() => looking = Some(Box::pin(look(shared))),
                Some(seen) = OptionFuture::from(looking.as_mut()), if looking.is_some() => {
                    looking = None;
                    let is_of_now = seen.epoch == shared.tail.epoch();
                    if let Some(shorter) = progress.tell(shared, seen)
                        && is_of_now
                    {
                        shared.lost(&shorter).await;
                    }
                }
            }
        }
    }
}

/// What of the records are events, and how far the records go.
fn arrived(records: Vec<Record>) -> (Vec<Arrived>, Position) {
    let (mut arrived, mut end) = (Vec::with_capacity(records.len()), Position::START);
    for record in records {
        match record {
            Record::Event(Stored { event, key }) => {
                end = event.position;
                arrived.push(Arrived { event: Arc::new(event), key });
            }
            Record::Unreadable { position, reason } => {
                tracing::warn!(%position, %reason, "what stands on the log is no event; it is left out");
                end = position;
            }
        }
    }
    (arrived, end)
}

/// How far the model was when it was asked how far the log is.
struct Seen {
    epoch: u64,
    end: Position,
    written: Position,
    target: Result<Position, LogError>,
}

async fn look(shared: &Shared) -> Seen {
    // Before the log is asked: what comes meanwhile makes it no shorter.
    let ((epoch, end), written) = (shared.tail.feed_from(), shared.tail.written());
    Seen { epoch, end, written, target: shared.last_position().await }
}

/// Learns from time to time where the log is: tells how catching up goes, and notices a log that lost its end.
struct Progress {
    interval: tokio::time::Interval,
    told: Instant,
    position: Position,
    /// Where the log was then.
    target: Option<Position>,
    behind: bool,
    /// The log said before that it has less than it gave.
    shorter: bool,
}

impl Progress {
    fn new(position: Position) -> Self {
        let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, told: Instant::now(), position, target: None, behind: false, shorter: false }
    }

    async fn due(&mut self) {
        self.interval.tick().await;
    }

    /// Says if the log lost its end.
    fn tell(&mut self, shared: &Shared, seen: Seen) -> Option<String> {
        let Seen { end, written: position, target, .. } = seen;
        let doing = shared.doing();
        // The writer tells of that, and it does not get on.
        let is_failing = matches!(doing, Some(Doing::Failing(_)));
        // At the first look it has only just begun.
        if let Some(doing) = doing.filter(|_| self.target.is_some() && !is_failing) {
            tracing::info!(%position, %doing, "the read model does not answer yet");
        }
        // While the log is away there is no news; whoever needs it says so.
        let target = target.ok()?;
        // A replica may have been asked that is a moment behind; not for the whole interval.
        let shorter = (target < end && self.shorter).then(|| format!("{end} was read, and it only goes to {target}"));
        let seconds = self.told.elapsed().as_secs_f64().max(0.001);
        let rate = position.get().saturating_sub(self.position.get()) as f64 / seconds;
        let behind = CatchingUp { position, target, per_second: rate as u64 };
        // What was appended since the last look is on its way; only what was there before shows that the model is behind.
        let is_behind = position < self.target.replace(target).map_or(target, |before| before.min(target));
        shared.catching_up.send_replace(is_behind.then_some(behind));
        match (is_behind, self.behind) {
            (true, _) if is_failing => {}
            (true, _) => {
                tracing::info!(%position, %target, per_second = behind.per_second, "the read model is catching up");
            }
            (false, true) => tracing::info!(%position, "the read model has caught up"),
            (false, false) => {}
        }
        (self.told, self.position) = (Instant::now(), position);
        (self.behind, self.shorter) = (is_behind, target < end);
        shorter
    }
}

/// Checks a file that was too large to be checked when it was opened, or of which the indexes were just made. It serves meanwhile, unless it
/// was not left in order.
async fn check(shared: &Shared) {
    let Some(permit) = shared.pool.permit(Turn::Long, Duration::MAX).await else { return };
    // With the permit in hand the file cannot be exchanged.
    let epoch = shared.tail.epoch();
    let begun = Instant::now();
    match shared.pool.run(shared.files.clone(), permit, |reader| reader.check()).await {
        Ok(()) => {
            tracing::info!(seconds = begun.elapsed().as_secs_f64(), "the read model was checked in full, and is sound");
            shared.doubted.store(false, Ordering::SeqCst);
            shared.wake();
        }
        Err(ModelError::Corrupt(reason)) => shared.give_up(epoch, &reason),
        // Another file is made, and says so if it is to be checked.
        Err(ModelError::Interrupted) => {}
        Err(error) => {
            tracing::warn!(%error, "the read model could not be checked, which is tried again");
            tokio::time::sleep(CHECK_PAUSE).await;
            shared.unchecked.notify_one();
        }
    }
}
