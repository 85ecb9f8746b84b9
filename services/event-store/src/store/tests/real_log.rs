//! The store over the log as it is: a nats-server that stops, comes back, and is not always the same.

use causeway_event::{Data, Labels, Lineage, NewEvent};
use causeway_log::{Append, Config, Log};
use causeway_testkit::NatsServer;

use super::*;
use crate::checkpoint::leaves::leaves;

const EVENTS: &str = "causeway_EVENTS";

async fn server() -> (NatsServer, Log) {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    (nats, log)
}

async fn connect(nats: &NatsServer) -> Log {
    Log::connect(&Config { url: nats.url().into(), ..Config::default() }).await.unwrap()
}

async fn append(log: &Log, texts: &[&str], key: Option<&str>) -> Vec<Position> {
    let note = |text: &&str| NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "user_1".parse().unwrap(),
        data: Data::of(text).unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::from([("k".into(), "v".into())]),
        schema_version: None,
        traceparent: None,
    };
    let idempotency_key = key.map(|key| key.parse().unwrap());
    let append = Append { events: texts.iter().map(note).collect(), expected: vec![], idempotency_key };
    log.append(append).await.unwrap().receipts.iter().map(|receipt| receipt.position).collect()
}

async fn open(log: &Log, folder: &TempDir) -> Running {
    let config = ReadModelConfig { path: path(folder), ..ReadModelConfig::default() };
    let shutdown = CancellationToken::new();
    let (store, feed) = Store::open(log.clone(), &config, leaves().0, shutdown.clone()).await.unwrap();
    Running { store, shutdown, feed: tokio::spawn(feed) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_the_log_has() {
    let ((nats, log), folder) = (server().await, tempfile::tempdir().unwrap());
    let one = append(&log, &["one"], Some("a")).await;
    let batch = append(&log, &["two", "three"], Some("b")).await;
    let foreign = nats.client().await.unwrap();
    foreign.publish("causeway.ev.user_1.custom", "not an event".into()).await.unwrap();
    foreign.flush().await.unwrap();
    let running = open(&log, &folder).await;
    let last = append(&log, &["four"], None).await;
    let store = &running.store;
    assert!(store.fresh().await.unwrap() >= last[0]);
    for position in one.iter().chain(&batch).chain(&last) {
        let stored = log.get(*position).await.unwrap().unwrap().event;
        assert_eq!(*store.by_position(*position).await.unwrap().unwrap(), stored);
        assert_eq!(*store.by_id(stored.id).await.unwrap().unwrap(), stored);
    }
    assert_eq!(all(store).await.len(), 4, "what is no event is left out");
    let (aggregate, key) = ("user_1".parse().unwrap(), "b".parse().unwrap());
    let found = store.by_key(&aggregate, &key, 2).await.unwrap().unwrap();
    assert_eq!(found.iter().map(|event| event.position).collect::<Vec<_>>(), batch);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_after_the_server_was_killed() {
    let ((mut nats, log), folder) = (server().await, tempfile::tempdir().unwrap());
    append(&log, &["one"], None).await;
    let running = open(&log, &folder).await;
    let mut updates = subscribe(&running.store, Filter::default(), 0, HEARTBEAT).await;
    let mut next = async || tokio::time::timeout(LIMIT, updates.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await, Update::Event(event) if event.data.as_str() == r#""one""#));
    assert!(matches!(next().await, Update::CaughtUp { .. }));
    nats.kill();
    nats.restart().await.unwrap();
    append(&connect(&nats).await, &["two"], None).await;
    assert!(matches!(next().await, Update::Event(event) if event.data.as_str() == r#""two""#));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_another_log_is_made_again() {
    let ((nats, log), folder) = (server().await, tempfile::tempdir().unwrap());
    append(&log, &["one", "two", "three"], None).await;
    let running = open(&log, &folder).await;
    running.store.fresh().await.unwrap();
    running.stop().await;
    // The same names, and more events than before: only the stream's own identity tells.
    let jetstream = nats.client().await.unwrap();
    let deleted = jetstream.request(format!("$JS.API.STREAM.DELETE.{EVENTS}"), "".into()).await.unwrap();
    assert!(
        deleted.payload.starts_with(b"{\"type\":\"io.nats.jetstream.api.v1.stream_delete_response\",\"success\":true"),
        "{deleted:?}"
    );
    let log = connect(&nats).await;
    append(&log, &["1", "2", "3", "4"], None).await;
    let running = open(&log, &folder).await;
    running.store.fresh().await.unwrap();
    let page = running.store.page(Query { limit: 10, ..Query::default() }).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.data.as_str()).collect::<Vec<_>>(), [r#""1""#, r#""2""#, r#""3""#, r#""4""#]);
    running.stop().await;
}
