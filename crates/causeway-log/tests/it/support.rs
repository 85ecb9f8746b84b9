//! A log on a server of its own, and events for it.

use causeway_event::{AggregateId, Category, Data, Labels, Lineage, NewEvent, Position};
use causeway_log::{Append, Appended, Config, Fence, Log, LogError, Record, Subscription};
use causeway_testkit::NatsServer;

pub(crate) async fn server() -> (NatsServer, Log) {
    let nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&config(&nats.url())).await.unwrap();
    (nats, log)
}

pub(crate) fn config(url: &str) -> Config {
    Config { url: url.into(), request_timeout: std::time::Duration::from_secs(3), ..Config::default() }
}

pub(crate) fn note(aggregate: &str, text: &str) -> NewEvent {
    event(aggregate, "NoteTaken", &serde_json::json!({ "text": text }))
}

pub(crate) fn event(aggregate: &str, event_type: &str, data: &serde_json::Value) -> NewEvent {
    NewEvent {
        event_type: event_type.parse().unwrap(),
        aggregate_id: aggregate.parse().unwrap(),
        data: Data::of(data).unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    }
}

pub(crate) fn single(event: NewEvent) -> Append {
    Append { events: vec![event], ..Append::default() }
}

pub(crate) fn fenced(event: NewEvent, position: u64) -> Append {
    let fence = Fence { aggregate_id: event.aggregate_id.clone(), category: event.category(), position: Position::new(position) };
    Append { events: vec![event], expected: vec![fence], idempotency_key: None }
}

pub(crate) fn fence(aggregate: &str, category: Category, position: u64) -> Fence {
    Fence { aggregate_id: id(aggregate), category, position: Position::new(position) }
}

pub(crate) fn id(aggregate: &str) -> AggregateId {
    aggregate.parse().unwrap()
}

pub(crate) fn keyed(append: Append, key: &str) -> Append {
    Append { idempotency_key: Some(key.parse().unwrap()), ..append }
}

/// The texts of all notes up to the log's last position, in order.
pub(crate) async fn texts(log: &Log) -> Vec<String> {
    connected(log).await;
    let last = log.last_position().await.unwrap();
    let mut subscription = log.subscribe(Position::START);
    let mut texts = Vec::new();
    while (texts.len() as u64) < last.get() {
        texts.push(text(&next(&mut subscription).await));
    }
    texts
}

pub(crate) async fn next(subscription: &mut Subscription) -> Record {
    tokio::time::timeout(std::time::Duration::from_secs(20), subscription.next()).await.expect("an event within 20 s").unwrap()
}

pub(crate) fn text(record: &Record) -> String {
    let Record::Event(stored) = record else { panic!("{record:?}") };
    stored.event.data.parse::<serde_json::Value>().unwrap()["text"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the connection is up again after a restart of the server.
pub(crate) async fn connected(log: &Log) {
    let limit = std::time::Duration::from_secs(20);
    causeway_testkit::wait_until("the log to answer", limit, async || log.last_position().await.ok()).await;
}

/// What a patient client does: the same append again, with the same key, as long as it may help.
pub(crate) async fn until_settled(log: Log, append: Append) -> Result<Appended, LogError> {
    loop {
        match log.append(append.clone()).await {
            Err(error) if error.is_transient() => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            settled => return settled,
        }
    }
}
