//! A copy is used where it fits, and never makes anything worse.

use std::path::Path;
use std::time::Duration;

use causeway_event::{Data, Labels, Lineage, NewEvent, Position};
use causeway_log::{Append, Config, CopyLabel, Log};
use causeway_testkit::NatsServer;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{digest, due, keep_one};
use crate::checkpoint::leaves::leaves;
use crate::read_model::{CopiesConfig, Query, ReadModelConfig, SCHEMA};
use crate::store::{Store, StoreError};

const EVERY: u64 = 50;

struct Running {
    store: Store,
    shutdown: CancellationToken,
    feed: JoinHandle<Result<(), StoreError>>,
    _folder: TempDir,
}

impl Running {
    /// With an empty folder. The feed does not run before the answer: what is readable then did not come from the stream.
    async fn start(log: &Log) -> (Self, Position) {
        let folder = tempfile::tempdir().unwrap();
        let config = ReadModelConfig { path: folder.path().join("model.sqlite"), ..ReadModelConfig::default() };
        let shutdown = CancellationToken::new();
        let (store, feed) = Store::open(log.clone(), &config, leaves().0, shutdown.clone()).await.unwrap();
        let at_start = store.position();
        let running = Self { store, shutdown, feed: tokio::spawn(feed), _folder: folder };
        running.store.fresh().await.unwrap();
        (running, at_start)
    }

    async fn make(&self, log: &Log) -> Option<CopyLabel> {
        let config = CopiesConfig { every_events: EVERY, ..CopiesConfig::default() };
        keep_one(log, &self.store, &config, &self.store.files().copy_path()).await.unwrap()
    }

    async fn positions(&self) -> Vec<u64> {
        let page = self.store.page(Query { limit: 10_000, ..Query::default() }).await.unwrap();
        page.events.iter().map(|event| event.position.get()).collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.feed.await.unwrap().unwrap();
    }
}

async fn server(namespace: &str) -> (NatsServer, Log) {
    let nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&Config { url: nats.url().into(), namespace: namespace.into(), ..Config::default() }).await.unwrap();
    (nats, log)
}

async fn fill(log: &Log, count: u64) {
    let note = |number: u64| NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: format!("user_{}", number % 3).parse().unwrap(),
        data: Data::of(&number).unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    };
    let events = (0..count).map(note).collect();
    log.append(Append { events, expected: vec![], idempotency_key: None }).await.unwrap();
}

/// Stores bytes under a label of their own.
async fn put(log: &Log, label: &CopyLabel, bytes: &[u8]) {
    log.make_copies().await.unwrap().put(label, &mut &bytes[..]).await.unwrap();
}

async fn sum(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).unwrap();
    digest(path).await.unwrap()
}

#[test]
fn all_copies_together_cost_a_multiple_of_the_last() {
    let (mut newest, mut all, mut copies) = (Position::new(1_000_000), 0, 0);
    while newest < Position::new(1_000_000_000) {
        all += newest.get();
        copies += 1;
        newest = due(newest, 1_000_000);
    }
    assert!(all < 12 * newest.get() && copies < 70, "{copies} copies of {all} events");
    assert_eq!(due(Position::new(2_000_000), 1_000_000), Position::new(3_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_an_empty_folder_starts_from_the_newest_copy() {
    let (_nats, log) = server("causeway").await;
    fill(&log, 100).await;
    let (first, at_start) = Running::start(&log).await;
    assert_eq!(at_start, Position::START, "there is no copy so far");
    let label = first.make(&log).await.unwrap();
    assert_eq!(label.position, Position::new(100));
    assert_eq!(first.make(&log).await, None, "the newest copy is young enough");
    fill(&log, 20).await;
    let (second, at_start) = Running::start(&log).await;
    assert_eq!(at_start, Position::new(100), "all up to the copy's end was there before the stream was read");
    assert_eq!(second.positions().await, (1..=120).collect::<Vec<_>>());
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_copies_are_kept_and_the_newest_is_used() {
    let (_nats, log) = server("causeway").await;
    let (running, _) = Running::start(&log).await;
    assert_eq!(running.make(&log).await, None, "a short log needs none");
    for end in [60, 120, 180, 240] {
        fill(&log, 60).await;
        running.store.fresh().await.unwrap();
        assert_eq!(running.make(&log).await.unwrap().position, Position::new(end));
    }
    let copies = log.copies().await.unwrap().unwrap().list().await.unwrap();
    assert_eq!(copies.iter().map(|copy| copy.label.position.get()).collect::<Vec<_>>(), [240, 180]);
    let (other, at_start) = Running::start(&log).await;
    assert_eq!(at_start, Position::new(240));
    other.stop().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_not_what_it_says_is_ignored() {
    let (_nats, log) = server("causeway").await;
    fill(&log, 100).await;
    let (first, _) = Running::start(&log).await;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("copy");
    first.store.copy_into(path.clone()).await.unwrap();
    let sound = std::fs::read(&path).unwrap();
    let identity = log.identity().await.unwrap();
    let label =
        |position, sha256: String| CopyLabel { schema: SCHEMA, log: identity.clone(), position: Position::new(position), sha256 };

    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[5000..].iter_mut().for_each(|byte| *byte ^= 0xff);
    let sum_of_sound = sum(&path, &sound).await;
    let sum_of_flipped = sum(&path, &flipped).await;
    let cases = [
        ("altered on the way", label(100, sum_of_sound.clone()), flipped.clone()),
        ("damaged before it was summed", label(100, sum_of_flipped), flipped),
        ("cut short", label(100, sum_of_sound.clone()), sound[..middle].to_vec()),
        ("no database", label(100, sum(&path, b"garbage").await), b"garbage".to_vec()),
        ("empty", label(100, sum(&path, b"").await), vec![]),
        ("of another position", label(99, sum_of_sound.clone()), sound.clone()),
        ("beyond the log's end", label(101, sum_of_sound.clone()), sound.clone()),
        ("of another schema", CopyLabel { schema: SCHEMA + 1, ..label(100, sum_of_sound.clone()) }, sound.clone()),
        ("of another log", CopyLabel { log: "causeway_EVENTS@7".into(), ..label(100, sum_of_sound.clone()) }, sound.clone()),
    ];
    for (what, label, bytes) in cases {
        put(&log, &label, &bytes).await;
        let (other, at_start) = Running::start(&log).await;
        assert_eq!(at_start, Position::START, "{what}");
        assert_eq!(other.positions().await, (1..=100).collect::<Vec<_>>(), "{what}");
        other.stop().await;
        log.copies().await.unwrap().unwrap().delete(&label).await.unwrap();
    }
    // The same bytes under their own label are used: it was not for another reason.
    put(&log, &label(100, sum_of_sound), &sound).await;
    let (other, at_start) = Running::start(&log).await;
    assert_eq!(at_start, Position::new(100));
    other.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_under_another_logs_name_is_ignored() {
    let (_a, log) = server("causeway").await;
    let (_b, foreign) = server("causeway").await;
    fill(&log, 100).await;
    fill(&foreign, 100).await;
    let (first, _) = Running::start(&foreign).await;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("copy");
    first.store.copy_into(path.clone()).await.unwrap();
    let label = CopyLabel {
        schema: SCHEMA,
        log: log.identity().await.unwrap(),
        position: Position::new(100),
        sha256: digest(&path).await.unwrap(),
    };
    put(&log, &label, &std::fs::read(&path).unwrap()).await;
    let (other, at_start) = Running::start(&log).await;
    assert_eq!(at_start, Position::START);
    assert_eq!(other.positions().await, (1..=100).collect::<Vec<_>>());
    other.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_made_by_themselves_while_a_gateway_runs() {
    let (_nats, log) = server("causeway").await;
    fill(&log, 100).await;
    let (running, _) = Running::start(&log).await;
    let config = CopiesConfig { every_events: EVERY, look_every: Duration::from_millis(10), ..CopiesConfig::default() };
    let stop = CancellationToken::new();
    let keeping = tokio::spawn({
        let (log, store, stop) = (log.clone(), running.store.clone(), stop.clone());
        async move { super::keep(&log, &store, &config, &stop).await }
    });
    let made = causeway_testkit::wait_until("a copy", Duration::from_secs(20), async || {
        log.copies().await.unwrap()?.list().await.unwrap().into_iter().next()
    });
    assert_eq!(made.await.label.position, Position::new(100));
    stop.cancel();
    keeping.await.unwrap();
    assert!(!running.store.files().copy_path().exists(), "nothing is left on the way");
    running.stop().await;
}
