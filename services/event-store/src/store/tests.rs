//! The store over a log in memory: what is promised to subscribers and queries while events come in and files break.

mod losses;
mod real_log;
mod turns;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_event::{Event, Position};
use causeway_log::{LogError, Record, Replaced, Stored};
use causeway_testkit::wait_until;
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _, stream};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError, Subscription, Update};
use crate::follow::{KEEPING_MAX, Source};
use crate::read_model::generate::event;
use crate::read_model::{Arrived, Batch, Files, Filter, Order, Query, ReadModelConfig, Writer};

const LIMIT: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(60);

/// A log in memory that behaves as the real one does.
#[derive(Clone)]
struct MemoryLog {
    records: watch::Sender<BTreeMap<u64, Record>>,
    lookups: Arc<AtomicUsize>,
    /// Whether it says where it ends.
    answers: watch::Sender<bool>,
    /// Which log it is.
    number: Arc<AtomicUsize>,
}

impl MemoryLog {
    fn new() -> Self {
        Self {
            records: watch::Sender::new(BTreeMap::new()),
            lookups: Arc::default(),
            answers: watch::Sender::new(true),
            number: Arc::new(AtomicUsize::new(1)),
        }
    }

    fn append(&self, event: Event) {
        self.records.send_modify(|records| _ = records.insert(event.position.get(), Record::Event(Stored { event, key: None })));
    }

    /// Events from the position behind the last one.
    fn fill(&self, count: u64) {
        let last = self.last().get();
        for position in last + 1..=last + count {
            self.append(plain(position));
        }
    }

    /// Puts another log in the place of this one.
    fn replace(&self, events: impl Iterator<Item = Event>) {
        self.number.fetch_add(1, Ordering::SeqCst);
        let records = events.map(|event| (event.position.get(), Record::Event(Stored { event, key: None })));
        self.records.send_replace(records.collect());
    }

    fn last(&self) -> Position {
        Position::new(self.records.borrow().last_key_value().map_or(0, |(position, _)| *position))
    }

    fn source(&self) -> Source {
        let (log, asked, named) = (self.clone(), self.clone(), self.clone());
        Source {
            last: Box::new(move || {
                let log = asked.clone();
                async move {
                    log.lookups.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    log.answers.subscribe().wait_for(|answers| *answers).await.unwrap();
                    Ok::<_, LogError>(log.last())
                }
                .boxed()
            }),
            identity: Box::new(move || {
                let identity = format!("log@{}", named.number.load(Ordering::SeqCst));
                async { Ok(identity) }.boxed()
            }),
            records: Box::new(move |after| {
                let (log, number) = (log.clone(), log.number.load(Ordering::SeqCst));
                stream::unfold((log.records.subscribe(), after.get()), move |(mut records, seen)| {
                    let other = log.number.clone();
                    async move {
                        let is_other = || other.load(Ordering::SeqCst) != number;
                        let next =
                            records.wait_for(|records| is_other() || records.range(seen + 1..).next().is_some()).await.ok()?;
                        let found = next.range(seen + 1..).next().map(|(at, record)| (*at, record.clone()));
                        drop(next);
                        if is_other() {
                            return Some((Err(Replaced(Position::new(seen))), (records, seen)));
                        }
                        let (position, record) = found?;
                        Some((Ok(record), (records, position)))
                    }
                })
                .boxed()
            }),
        }
    }
}

fn plain(position: u64) -> Event {
    let event_type = ["MessageReceived", "ToolCalled", "Zebra"][position as usize % 3];
    event(position, event_type, ["user_1", "user_2"][position as usize % 2])
}

struct Running {
    store: Store,
    shutdown: CancellationToken,
    feed: JoinHandle<Result<(), StoreError>>,
}

impl Running {
    async fn start(log: &MemoryLog, folder: &TempDir, ring_events_max: usize) -> Self {
        let config = ReadModelConfig { path: path(folder), ring_events_max, ..ReadModelConfig::default() };
        let shutdown = CancellationToken::new();
        let (files, loaded) = super::load(&config).unwrap();
        let started = Store::start(&config, log.source(), ("log@1".into(), log.last()), (files, loaded), shutdown.clone());
        let (store, feed) = started.await.unwrap();
        Self { store, shutdown, feed: tokio::spawn(feed) }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.feed.await.unwrap().unwrap();
    }
}

fn path(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("model.sqlite")
}

/// The positions of all events, page by page.
async fn all(store: &Store) -> Vec<u64> {
    let (mut positions, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(Query { after, limit: 100, ..Query::default() }).await.unwrap();
        positions.extend(page.events.iter().map(|event| event.position.get()));
        match page.next {
            None => return positions,
            next => after = next,
        }
    }
}

/// Begins as the gateway does.
async fn subscribe(
    store: &Store,
    filter: Filter,
    after: u64,
    heartbeat: Duration,
) -> std::pin::Pin<Box<impl futures::Stream<Item = Result<Update, StoreError>> + use<>>> {
    let (losses, head) = (store.losses(), store.fresh().await.unwrap());
    Box::pin(store.subscribe(Subscription { filter, after: Position::new(after), head, losses, heartbeat }))
}

/// Reads until the event at `last`, and counts the marks.
async fn follow(store: Store, filter: Filter, after: u64, last: u64, pace: impl AsyncFn(u64)) -> (Vec<u64>, Vec<u64>) {
    let mut updates = subscribe(&store, filter, after, HEARTBEAT).await;
    let (mut positions, mut marks) = (Vec::new(), Vec::new());
    while positions.last().is_none_or(|seen| *seen < last) || marks.is_empty() {
        match updates.next().await.unwrap().unwrap() {
            Update::Event(event) => {
                positions.push(event.position.get());
                pace(event.position.get()).await;
            }
            Update::CaughtUp { position, .. } => marks.push(position.get()),
            Update::Heartbeat { .. } | Update::Checkpoint(_) => {}
        }
    }
    (positions, marks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_sees_each_event_once_whatever_is_written_meanwhile() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(3000);
    // A ring of 64 events: slow readers fall out of it again and again.
    let running = Running::start(&log, &folder, 64).await;
    let mut readers = Vec::new();
    for (number, after) in [0, 0, 1, 1499, 2999, 3000].into_iter().enumerate() {
        let pace = async move |position: u64| {
            if number % 2 == 0 && position.is_multiple_of(50) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reader = follow(running.store.clone(), Filter::default(), after, 6000, pace);
        readers.push((after, tokio::spawn(reader)));
    }
    for _ in 0..300 {
        log.fill(10);
        tokio::task::yield_now().await;
    }
    for (after, reader) in readers {
        let (positions, marks) = tokio::time::timeout(LIMIT, reader).await.unwrap().unwrap();
        assert_eq!(positions, (after + 1..=6000).collect::<Vec<_>>());
        assert_eq!(marks.len(), 1);
        assert!(marks[0] >= 3000, "the mark stands behind all that was there: {marks:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_holds_on_both_sides_of_the_seam() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(500);
    let running = Running::start(&log, &folder, 16).await;
    let filter = Filter { types: vec!["Zebra".parse().unwrap()], ..Filter::default() };
    let reader = tokio::spawn(follow(running.store.clone(), filter, 0, 899, async |_| {}));
    for _ in 0..40 {
        log.fill(10);
        tokio::task::yield_now().await;
    }
    let (positions, _) = tokio::time::timeout(LIMIT, reader).await.unwrap().unwrap();
    assert_eq!(positions, (1..=899).filter(|position| position % 3 == 2).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test]
async fn heartbeats_go_on_over_events_that_do_not_pass() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    let filter = Filter { aggregate_id: Some("nobody".parse().unwrap()), ..Filter::default() };
    let mut updates = subscribe(&running.store, filter, 0, Duration::from_millis(20)).await;
    assert_eq!(updates.next().await.unwrap().unwrap(), Update::CaughtUp { position: Position::START, head: Position::START });
    let reached = tokio::time::timeout(LIMIT, async {
        loop {
            log.fill(1);
            match updates.next().await.unwrap().unwrap() {
                Update::Heartbeat { position, .. } if position >= Position::new(3) => break position,
                Update::Heartbeat { .. } | Update::Checkpoint(_) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(reached.await.unwrap() <= log.last());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_answer_has_all_that_was_there_when_it_was_asked() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    for _ in 0..200 {
        log.fill(3);
        let last = log.last();
        let answers = join_all((0..8).map(|_| running.store.fresh())).await;
        assert!(answers.into_iter().all(|fresh| fresh.unwrap() >= last));
        let page = running.store.page(Query { order: Order::Backwards, limit: 1, ..Query::default() }).await.unwrap();
        assert_eq!(page.events[0].position, last);
    }
    // The first of eight looks up for itself, the second for the seven that queued behind it.
    let lookups = log.lookups.load(Ordering::SeqCst);
    assert!(lookups <= 200 * 4, "{lookups} lookups for 1600 callers");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_gather_before_they_are_written_unless_somebody_waits() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    let journal = || fs::metadata(path(&folder).with_extension("sqlite-wal")).map_or(0, |journal| journal.len());
    let before = journal();
    for _ in 0..200 {
        log.fill(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let store = &running.store;
    wait_until("all to be written", LIMIT, async || (store.position() == log.last()).then_some(())).await;
    let written = journal() - before;
    assert!(written < 200 * 15_000, "{written} bytes of journal for 200 events");
    let mut waits = Vec::new();
    for _ in 0..51 {
        log.fill(1);
        let asked = std::time::Instant::now();
        store.wait_for(log.last()).await.unwrap();
        waits.push(asked.elapsed());
    }
    waits.sort_unstable();
    assert!(waits[25] < Duration::from_millis(10), "who waits is not kept waiting: {:?}", waits[25]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_an_event_is_passed_over() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(2);
    let reason = causeway_event::Invalid::new("ce-id", "is missing");
    log.records.send_modify(|records| {
        records.insert(3, Record::Unreadable { position: Position::new(3), reason });
    });
    let running = Running::start(&log, &folder, 64).await;
    assert_eq!(running.store.fresh().await.unwrap(), Position::new(3));
    assert_eq!(all(&running.store).await, [1, 2]);
    running.stop().await;
    // The next start goes on behind it.
    let running = Running::start(&log, &folder, 64).await;
    assert_eq!(running.store.position(), Position::new(3));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_the_file_ends() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    running.store.fresh().await.unwrap();
    running.stop().await;
    log.fill(10);
    let running = Running::start(&log, &folder, 64).await;
    assert!(running.store.position() >= Position::new(300));
    running.store.fresh().await.unwrap();
    assert_eq!(all(&running.store).await, (1..=310).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_model_that_broke_off_before_its_indexes_goes_on() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(5000);
    let files = Files::lock(&path(&folder)).unwrap();
    let mut writer = Writer::new(files.create("log@1").unwrap()).unwrap();
    let arrived = (1..=1500).map(|position| Arrived { event: plain(position).into(), key: None }).collect();
    writer.apply(&Batch { arrived, end: Position::new(1500) }).unwrap();
    writer.close().unwrap();
    drop(files);
    let running = Running::start(&log, &folder, 64).await;
    let position = running.store.position().get();
    assert!(position == 0 || 5000 <= position, "without indexes it answers nothing, and not from {position}");
    running.store.fresh().await.unwrap();
    assert_eq!(all(&running.store).await, (1..=5000).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_subscribers_each_see_what_is_theirs() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    let theirs = |number: u64| Filter { aggregate_id: Some(format!("session_{number}").parse().unwrap()), ..Filter::default() };
    let readers = (0..1000_u64).map(|number| {
        // The last of each one's three events; nobody needs a task.
        follow(running.store.clone(), theirs(number), 0, 2001 + number, async |_| {})
    });
    let writing = async {
        for position in 1..=3000 {
            log.append(event(position, "NoteTaken", &format!("session_{}", (position - 1) % 1000)));
            if position % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let (seen, ()) = tokio::time::timeout(LIMIT, futures::future::join(join_all(readers), writing)).await.unwrap();
    for (number, (positions, marks)) in (0..).zip(seen) {
        assert_eq!(positions, [number + 1, number + 1001, number + 2001]);
        assert_eq!(marks.len(), 1);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_or_damaged_file_is_made_again() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let damages: [fn(&Path); 3] =
        [|path| fs::remove_file(path).unwrap(), |path| fs::write(path, "garbage".repeat(1000)).unwrap(), overwrite];
    for damage in damages {
        let running = Running::start(&log, &folder, 64).await;
        running.store.fresh().await.unwrap();
        assert_eq!(all(&running.store).await, (1..=300).collect::<Vec<_>>());
        running.stop().await;
        wait_until("the file to be free", LIMIT, async || Files::lock(&path(&folder)).ok()).await;
        damage(&path(&folder));
    }
    assert!(folder.path().join("model.sqlite.corrupt-1").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_way_is_healed_without_a_restart() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(20_000);
    let running = Running::start(&log, &folder, 64).await;
    running.store.fresh().await.unwrap();
    let live = tokio::spawn(follow(running.store.clone(), Filter::default(), 0, 20_010, async |_| {}));
    // Everything behind the first page; no reader has more than a part of it cached.
    overwrite(&path(&folder));
    for _ in 0..10 {
        let aggregate_id = Some("user_1".parse().unwrap());
        let query = Query { filter: Filter { aggregate_id, ..Filter::default() }, limit: 20_000, ..Query::default() };
        let page = running.store.page(query).await.unwrap();
        assert!(page.events.iter().map(|event| event.position.get()).eq((2..=20_000).step_by(2)));
    }
    log.fill(10);
    running.store.fresh().await.unwrap();
    assert_eq!(all(&running.store).await, (1..=20_010).collect::<Vec<_>>());
    let (positions, marks) = tokio::time::timeout(LIMIT, live).await.unwrap().unwrap();
    assert_eq!(positions, (1..=20_010).collect::<Vec<_>>());
    assert_eq!(marks.len(), 1);
    assert!(folder.path().join("model.sqlite.corrupt-1").exists());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_deleted_under_way_is_made_again() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    running.store.fresh().await.unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    log.fill(10);
    running.store.fresh().await.unwrap();
    assert_eq!(all(&running.store).await, (1..=310).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_snapshots_wait_for_the_writer_as_have_a_place_however_often_it_is_woken() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let config = ReadModelConfig { path: path(&folder), ..ReadModelConfig::default() };
    let (files, loaded) = super::load(&config).unwrap();
    let shutdown = CancellationToken::new();
    let started = Store::start(&config, log.source(), ("log@1".into(), log.last()), (files, loaded), shutdown.clone());
    // There is no writer before the feed runs.
    let (store, feed) = started.await.unwrap();
    let keep = async |id: usize| store.keep_snapshot(0, "v", 1, &id.to_string(), Position::START, "state".into()).await.unwrap();
    let mut keeping = Vec::new();
    for id in 0..=KEEPING_MAX {
        store.shared.wake();
        let mut kept = Box::pin(keep(id));
        assert_eq!(futures::poll!(kept.as_mut()).is_ready(), id == KEEPING_MAX, "only the last one is let go");
        keeping.extend((id < KEEPING_MAX).then_some(kept));
    }
    let feed = tokio::spawn(feed);
    tokio::time::timeout(LIMIT, join_all(keeping)).await.unwrap();
    let kept = (0..=KEEPING_MAX).map(|id| {
        let store = &store;
        async move { store.snapshot("v", 1, &id.to_string(), Position::START).await.unwrap().is_some() }
    });
    assert_eq!(join_all(kept).await, [vec![true; KEEPING_MAX], vec![false]].concat());
    Running { store, shutdown, feed }.stop().await;
}

/// Writes nonsense over all of the file and its journal but their first pages, and leaves their lengths.
fn overwrite(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let mut overwritten = 0;
    for path in [path.to_owned(), path.with_extension("sqlite-wal")] {
        let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { continue };
        let len = (file.metadata().unwrap().len() as usize).saturating_sub(5000);
        file.write_all_at(&vec![0xa5; len], 5000).unwrap();
        overwritten += len;
    }
    assert!(overwritten > 20_000, "only {overwritten} bytes");
}

#[tokio::test]
async fn subscriptions_and_waits_end_with_the_service() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    let store = running.store.clone();
    let mut updates = subscribe(&store, Filter::default(), 0, HEARTBEAT).await;
    assert_eq!(updates.next().await.unwrap().unwrap(), Update::CaughtUp { position: Position::START, head: Position::START });
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(Position::new(7)).await }
    });
    running.stop().await;
    assert!(matches!(updates.next().await, Some(Err(StoreError::Closed))));
    assert!(updates.next().await.is_none());
    assert!(matches!(waiting.await.unwrap(), Err(StoreError::Closed)));
}
