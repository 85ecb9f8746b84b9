//! Subscriptions over gRPC: one mark, heartbeats with the lag, checkpoints, many at once, and slow ones that slow only themselves.

use std::time::Duration;

use causeway_event::{Data, Labels, Lineage, NewEvent};
use causeway_event_store::{Config, ReadModelConfig};
use causeway_log::Append;
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::v1::subscribe_response::Update;
use causeway_testkit::{NatsServer, wait_until};
use eventsource_stream::Event;
use futures::future::join_all;
use futures::{Stream, StreamExt as _};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::{Gateway, LIMIT, World};
use crate::{grpc_web, sse};

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

fn small() -> NewEvent {
    NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "a".parse().unwrap(),
        data: Data::from_json(b"{}").unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    }
}

/// Appends many events quickly, past the gateway.
async fn fill(gateway: &Gateway, count: usize) {
    let batch = count.min(500);
    for _ in 0..count / batch {
        let append = Append { events: vec![small(); batch], ..Append::default() };
        gateway.log.append(append).await.unwrap();
    }
}

fn config(nats_dir: &std::path::Path, heartbeat: Duration) -> Config {
    let read_model = ReadModelConfig { path: nats_dir.join("read-model.sqlite"), ..ReadModelConfig::default() };
    Config { read_model, heartbeat, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_subscriptions_and_the_calls_beside_them_share_one_connection() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let client = gateway.grpc().await;
    let subscribe = || {
        let mut client = client.clone();
        async move { open(&mut client, of_type("NoteTaken", "")).await }
    };
    let mut all = timeout(LIMIT, join_all((0..300).map(|_| subscribe()))).await.expect("no subscription waits for a place");
    let append = v1::AppendRequest { events: vec![crate::grpc::draft("a", 1).into()], ..v1::AppendRequest::default() };
    timeout(LIMIT, client.clone().append(append)).await.expect("nor does a call").unwrap();
    let heard = join_all(all.iter_mut().map(async |updates| {
        loop {
            if let Update::Event(event) = news(updates).await {
                break event.position;
            }
        }
    }));
    assert_eq!(heard.await, vec![1; 300]);
    gateway.stop().await;
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
async fn who_is_held_behind_a_backlog_hears_how_far_and_that_it_falls() {
    const EVENTS: u64 = 10_000;
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let gateway = Gateway::start_with(&nats, config(dir.path(), Duration::from_secs(60))).await;
    fill(&gateway, EVENTS as usize).await;
    wait_until("all of it to be there", LIMIT, async || {
        gateway.get(&format!("/events/{EVENTS}")).await.status.is_success().then_some(())
    })
    .await;
    gateway.stop().await;
    // A gateway that has just begun has nothing in memory: it reads page by page, each of which takes longer than a beat.
    let gateway = Gateway::start_with(&nats, config(dir.path(), Duration::from_millis(1))).await;
    let mut client = gateway.grpc().await;
    let mut updates = open(&mut client, v1::SubscribeRequest::default()).await;
    let (mut last, mut lags) = (0, Vec::new());
    loop {
        match next(&mut updates).await {
            Update::Event(event) => last = event.position,
            Update::Heartbeat(beat) => {
                assert_eq!((beat.position, beat.lag), (last, EVENTS - last), "what is known to be on the log and was not told");
                lags.push(beat.lag);
            }
            Update::CaughtUp(mark) => break assert_eq!((mark.position, mark.head), (EVENTS, EVENTS)),
            update => panic!("{update:?}"),
        }
    }
    lags.dedup();
    assert!(lags.len() >= 2 && lags[1] > 0, "several beats on the way: {lags:?}");
    assert!(lags.is_sorted_by(|before, after| after < before), "it falls: {lags:?}");
    let Update::Heartbeat(beat) = next(&mut updates).await else { panic!("a heartbeat") };
    assert_eq!((beat.position, beat.lag), (EVENTS, 0));
    gateway.stop().await;
}

/// What many hear.
const SMALL: u64 = 200;
/// What those hear who want everything: far more than a window of HTTP/2 and the buffers of a connection hold.
const LARGE: u64 = 1_200;
const LARGE_BYTES: usize = 32 << 10;
/// A thousand of them share one limit.
const ALL_LIMIT: Duration = Duration::from_secs(100);

/// What is large, then what is small, then what is large.
async fn flood(gateway: &Gateway) {
    let large = async || {
        let data = serde_json::json!("x".repeat(LARGE_BYTES)).to_string();
        let large = NewEvent { event_type: "Large".parse().unwrap(), data: Data::from_json(data.as_bytes()).unwrap(), ..small() };
        for _ in 0..LARGE / 2 / 20 {
            let append = Append { events: vec![large.clone(); 20], ..Append::default() };
            gateway.log.append(append).await.unwrap();
        }
    };
    large().await;
    fill(gateway, SMALL as usize).await;
    large().await;
}

/// Reads all of it over gRPC, however long it has waited.
async fn hear_all(mut updates: Updates) {
    let mut last = 0;
    while last < LARGE + SMALL {
        match news(&mut updates).await {
            Update::Event(event) => {
                assert_eq!(event.position, last + 1);
                last = event.position;
            }
            update => assert!(matches!(update, Update::CaughtUp(_)), "{update:?}"),
        }
    }
}

/// The same over server-sent events.
async fn hear_all_sse(mut events: impl Stream<Item = Event> + Unpin) {
    let mut last = 0;
    while last < LARGE + SMALL {
        let event = sse::next(&mut events).await;
        if event.event != "caught_up" {
            assert_eq!(event.id, (last + 1).to_string());
            last += 1;
        }
    }
}

/// The same over gRPC-Web.
async fn hear_all_web(response: reqwest::Response) {
    let (mut bytes, mut last) = (Vec::new(), 0);
    let mut stream = response.bytes_stream();
    while last < LARGE + SMALL {
        let chunk = timeout(LIMIT, stream.next()).await.expect("more in time").expect("the stream goes on").unwrap();
        bytes.extend_from_slice(&chunk);
        while let Some((_, message)) = grpc_web::take_frame(&mut bytes) {
            let response: v1::SubscribeResponse = prost::Message::decode(message.as_slice()).unwrap();
            if let Update::Event(event) = response.update.unwrap() {
                assert_eq!(event.position, last + 1);
                last = event.position;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hear_everything_while_those_that_do_not_read_hold_up_nobody_and_lose_nothing() {
    const SUBSCRIBERS: usize = 1_000;
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let gateway = Gateway::start_with(&nats, config(dir.path(), Duration::from_secs(60))).await;
    let everything = || v1::SubscribeRequest { from_now: true, ..v1::SubscribeRequest::default() };
    let grpc = async || open(&mut gateway.grpc().await, everything()).await;
    let sse = async || sse::open(&gateway, "/events/stream?from_now=true", None).await;
    let web = async || {
        let call = grpc_web::call(&gateway, "Subscribe", &everything()).timeout(ALL_LIMIT * 2);
        call.send().await.unwrap()
    };
    // Each has a connection of its own, and nobody reads from it.
    let slow = (grpc().await, sse().await, web().await);
    let quick = (grpc().await, sse().await, [web().await, web().await, web().await]);

    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(gateway.grpc().await);
    }
    let small = v1::SubscribeRequest { from_now: true, ..of_type("NoteTaken", "") };
    let mut many = Vec::new();
    for index in 0..SUBSCRIBERS {
        let mut updates = open(&mut clients[index % 8], small.clone()).await;
        assert!(matches!(news(&mut updates).await, Update::CaughtUp(_)));
        many.push(updates);
    }
    let hear = many.into_iter().map(|mut updates| async move {
        for number in 1..=SMALL {
            let update = loop {
                match updates.message().await.unwrap().expect("the stream goes on").update.unwrap() {
                    Update::Checkpoint(_) => {}
                    update => break update,
                }
            };
            let Update::Event(event) = update else { panic!("{update:?}") };
            assert_eq!(event.position, LARGE / 2 + number);
        }
    });
    let (quick_grpc, quick_sse, quick_web) = quick;
    let others = async {
        tokio::join!(join_all(hear), hear_all(quick_grpc), hear_all_sse(quick_sse), join_all(quick_web.map(hear_all_web)));
    };
    let (heard, ()) = tokio::join!(timeout(ALL_LIMIT, others), flood(&gateway));
    heard.expect("all of it in time");

    let (slow_grpc, slow_sse, slow_web) = slow;
    tokio::join!(hear_all(slow_grpc), hear_all_sse(slow_sse), hear_all_web(slow_web));
    gateway.stop().await;
}
