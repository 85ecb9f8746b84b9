//! Subscriptions over gRPC: one mark, heartbeats with the lag, checkpoints, many at once, and a slow one that slows only itself.

use std::time::Duration;

use causeway_event::{Data, Labels, Lineage, NewEvent};
use causeway_event_store::{Config, ReadModelConfig};
use causeway_log::Append;
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::v1::subscribe_response::Update;
use causeway_testkit::NatsServer;
use futures::future::join_all;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::{Gateway, LIMIT, World};
use crate::sse;

type Updates = Streaming<v1::SubscribeResponse>;

async fn open(client: &mut EventStoreClient<Channel>, request: v1::SubscribeRequest) -> Updates {
    client.subscribe(request).await.unwrap().into_inner()
}

async fn next(updates: &mut Updates) -> Update {
    let update = timeout(LIMIT, updates.message()).await.expect("an update in time");
    update.unwrap().expect("the stream goes on").update.unwrap()
}

/// The next that is no heartbeat.
async fn news(updates: &mut Updates) -> Update {
    loop {
        match next(updates).await {
            Update::Heartbeat(_) => {}
            update => return update,
        }
    }
}

fn of_type(event_type: &str, after: &str) -> v1::SubscribeRequest {
    let filter = v1::Filter { types: vec![event_type.into()], ..v1::Filter::default() };
    v1::SubscribeRequest { filter: Some(filter), after: after.into(), ..v1::SubscribeRequest::default() }
}

/// Appends many events quickly, past the gateway.
async fn fill(gateway: &Gateway, count: usize) {
    let note = NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "a".parse().unwrap(),
        data: Data::from_json(b"{}").unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    };
    let batch = count.min(500);
    for _ in 0..count / batch {
        let append = Append { events: vec![note.clone(); batch], ..Append::default() };
        gateway.log.append(append).await.unwrap();
    }
}

fn config(nats_dir: &std::path::Path, heartbeat: Duration) -> Config {
    let read_model = ReadModelConfig { path: nats_dir.join("read-model.sqlite"), ..ReadModelConfig::default() };
    Config { read_model, heartbeat, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_little_hears_where_to_resume() {
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let gateway = Gateway::start_with(&nats, config(dir.path(), Duration::from_secs(60))).await;
    let mut client = gateway.grpc().await;
    fill(&gateway, 2_000).await;
    let mut updates = open(&mut client, of_type("Rare", "")).await;
    let Update::CaughtUp(mark) = next(&mut updates).await else { panic!("the mark comes first, and tells all") };
    assert_eq!((mark.position, mark.head), (2_000, 2_000));
    let mut sse = sse::open(&gateway, "/events/stream?type=Rare&from_now=true", None).await;
    assert_eq!(sse::next(&mut sse).await.event, "caught_up");

    // A long run: at once. A short one: after a while.
    fill(&gateway, 13_000).await;
    let mut last = 2_000;
    while last < 15_000 {
        let Update::Checkpoint(checkpoint) = next(&mut updates).await else { panic!("a checkpoint") };
        assert!(last < checkpoint.position, "{checkpoint:?} after {last}");
        last = checkpoint.position;
    }
    let checkpoint = sse::next(&mut sse).await;
    assert_eq!(checkpoint.event, "checkpoint");
    assert!(checkpoint.id.parse::<u64>().unwrap() > 2_000, "{checkpoint:?}");

    // Both resume there, and miss nothing.
    drop((updates, sse));
    let rare = gateway.post(&serde_json::json!({"type": "Rare", "aggregate_id": "a", "data": {}})).await.created();
    let mut updates = open(&mut client, of_type("Rare", &last.to_string())).await;
    let Update::Event(event) = next(&mut updates).await else { panic!("the event") };
    assert_eq!(event.position, rare["position"].as_u64().unwrap());
    let mut sse = sse::open(&gateway, "/events/stream?type=Rare", Some(&checkpoint.id)).await;
    assert_eq!(sse::next(&mut sse).await.event, "Rare");
    // By the event's id as well.
    let mut updates = open(&mut client, of_type("Rare", &event.id)).await;
    assert!(matches!(next(&mut updates).await, Update::CaughtUp(_)));
    let mut sse = sse::open(&gateway, "/events/stream?type=Rare", Some(&event.id)).await;
    assert_eq!(sse::next(&mut sse).await.event, "caught_up");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_carry_the_lag_and_the_mark_comes_once() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    gateway.note("a", 1).await;
    let mut updates = open(&mut client, v1::SubscribeRequest::default()).await;
    assert!(matches!(news(&mut updates).await, Update::Event(_)));
    assert!(matches!(news(&mut updates).await, Update::CaughtUp(_)));
    let Update::Heartbeat(beat) = next(&mut updates).await else { panic!("a heartbeat") };
    assert_eq!((beat.position, beat.lag), (1, 0));
    for n in 2..30 {
        gateway.note("a", n).await;
        let Update::Event(event) = news(&mut updates).await else { panic!("no second mark") };
        assert_eq!(event.position, n as u64);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_by_source_and_cause_hold_for_what_comes_as_well() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let append = async |cause: Option<&serde_json::Value>, source: &str| {
        let mut metadata = serde_json::json!({ "source": source });
        if let Some(cause) = cause {
            metadata["causation_id"] = cause["id"].clone();
        }
        let event = serde_json::json!({"type": "NoteTaken", "aggregate_id": "a", "data": {}, "metadata": metadata});
        gateway.post(&event).await.created()
    };
    let root = append(None, "x").await;
    let child = append(Some(&root), "x").await;
    let follow = async |client: &mut EventStoreClient<Channel>, filter: v1::Filter| {
        let request = v1::SubscribeRequest { filter: Some(filter), ..v1::SubscribeRequest::default() };
        let mut updates = open(client, request).await;
        let mut seen = Vec::new();
        while let Update::Event(event) = news(&mut updates).await {
            seen.push(event.position);
        }
        (updates, seen)
    };
    let id = |receipt: &serde_json::Value| receipt["id"].as_str().unwrap().to_owned();
    let descendants = v1::Filter { descendants_of: id(&root), ..v1::Filter::default() };
    let (mut descendants, seen) = follow(&mut client, descendants).await;
    assert_eq!(seen, [2]);
    let children = v1::Filter { caused_by: id(&root), ..v1::Filter::default() };
    let (mut children, seen) = follow(&mut client, children).await;
    assert_eq!(seen, [2]);
    let (mut of_y, seen) = follow(&mut client, v1::Filter { source: "y".into(), ..v1::Filter::default() }).await;
    assert!(seen.is_empty());
    append(None, "x").await;
    let grandchild = append(Some(&child), "x").await;
    append(Some(&grandchild), "y").await;
    let second = append(Some(&root), "x").await;
    for (updates, expected) in [(&mut descendants, vec![4, 5, 6]), (&mut children, vec![6]), (&mut of_y, vec![5])] {
        for position in expected {
            let Update::Event(event) = news(updates).await else { panic!("an event") };
            assert_eq!(event.position, position);
        }
    }
    assert_eq!(second["position"], 6);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hear_everything_while_one_that_does_not_read_holds_up_nobody() {
    const SUBSCRIBERS: usize = 1_000;
    const EVENTS: usize = 200;
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let gateway = Gateway::start_with(&nats, config(dir.path(), Duration::from_secs(60))).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(gateway.grpc().await);
    }
    let from_now = || v1::SubscribeRequest { from_now: true, ..v1::SubscribeRequest::default() };
    let _slow = open(&mut clients[0].clone(), from_now()).await;
    let mut all = Vec::new();
    for index in 0..SUBSCRIBERS {
        let mut updates = open(&mut clients[1 + index % 7], from_now()).await;
        assert!(matches!(news(&mut updates).await, Update::CaughtUp(_)));
        all.push(updates);
    }
    let hear = all.into_iter().map(|mut updates| async move {
        for position in 1..=EVENTS as u64 {
            // A thousand of them share one limit.
            let update = updates.message().await.unwrap().expect("the stream goes on").update.unwrap();
            let Update::Event(event) = update else { panic!("{update:?}") };
            assert_eq!(event.position, position);
        }
    });
    let (heard, ()) = tokio::join!(timeout(Duration::from_secs(100), join_all(hear)), fill(&gateway, EVENTS));
    heard.expect("all of it in time");
    gateway.stop().await;
}
