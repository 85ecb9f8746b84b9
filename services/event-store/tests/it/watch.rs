//! Views as they change: the whole state, then each change, without a gap.

use std::time::Duration;

use causeway_event_store::{Config, ReadModelConfig};
use causeway_proto::v1;
use causeway_proto::v1::watch_response::Update;
use causeway_testkit::NatsServer;
use eventsource_stream::{Event, Eventsource as _};
use futures::{Stream, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, LIMIT, World, message};
use crate::sse::{next, open};

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

/// The next word that is no heartbeat.
async fn told(events: &mut (impl Stream<Item = Event> + Unpin)) -> Event {
    loop {
        let event = next(events).await;
        if event.event != "heartbeat" {
            return event;
        }
    }
}

fn patched(document: &mut Value, patch: &Value) {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    json_patch::patch(document, &patch).unwrap();
}

async fn state(gateway: &Gateway, query: &str) -> Value {
    gateway.get(&format!("/projections/conversation/a{query}")).await.ok()["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_to_watch_while_others_append_misses_nothing() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    const WRITERS: usize = 4;
    const EACH: usize = 40;
    let write = async |writer: usize| {
        for number in 0..EACH {
            gateway.post(&message("a", &format!("{writer}-{number}"))).await.created();
            gateway.post(&message("b", "elsewhere")).await.created();
        }
    };
    let watch = async || {
        let mut events = open(&gateway, "/projections/conversation/a/watch", None).await;
        let first = told(&mut events).await;
        assert_eq!(first.event, "state");
        let mut document = data(&first)["state"].clone();
        let mut positions = vec![data(&first)["position"].as_u64().unwrap()];
        while document["messages"].as_array().unwrap().len() < WRITERS * EACH {
            let event = told(&mut events).await;
            assert_eq!(event.event, "change", "{event:?}");
            let change = data(&event);
            assert_eq!((event.id, &change["position"]), (change["position"].to_string(), &change["event"]["position"]));
            patched(&mut document, &change["patch"]);
            positions.push(change["position"].as_u64().unwrap());
            if positions.len() % 16 == 0 {
                assert_eq!(document, state(&gateway, &format!("?as_of={}", change["position"])).await);
            }
        }
        assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
        document
    };
    let (_, _, _, _, first, second) = tokio::join!(write(0), write(1), write(2), write(3), watch(), watch());
    let whole = state(&gateway, "").await;
    assert_eq!((&first, &second), (&whole, &whole));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_reconnects_begins_with_the_whole_state() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for content in ["one", "two"] {
        gateway.post(&message("a", content)).await.created();
    }
    let mut events = open(&gateway, "/projections/conversation/a/watch", Some("1")).await;
    let first = told(&mut events).await;
    assert_eq!((first.event.as_str(), data(&first)["state"].clone()), ("state", state(&gateway, "").await));
    gateway.stop().await;
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        assert_eq!(event.event, "heartbeat", "a watch ends with its gateway");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_states_are_sent_to_whoever_wants_them() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut events = open(&gateway, "/projections/conversation/a/watch?states=true", None).await;
    assert_eq!(data(&told(&mut events).await)["state"]["messages"], json!([]));
    for content in ["one", "two"] {
        let receipt = gateway.post(&message("a", content)).await.created();
        let event = told(&mut events).await;
        assert_eq!((event.event.as_str(), &data(&event)["position"]), ("state", &receipt["position"]));
        assert_eq!(data(&event)["state"], state(&gateway, "").await);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_a_watch_is_the_same_and_lives_while_nothing_changes() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let receipt = gateway.post(&message("a", "one")).await.created();
    let request = v1::WatchRequest {
        view: "conversation".into(),
        id: "a".into(),
        min_position: receipt["position"].as_u64().unwrap(),
        states: false,
    };
    let mut watch = gateway.grpc().await.watch(request.clone()).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(LIMIT, watch.message()).await.unwrap().unwrap().unwrap();
    let first = next().await;
    let Some(Update::State(json)) = first.update else { panic!("{first:?}") };
    let mut document: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(document, state(&gateway, "").await);
    let beat = next().await;
    assert!(matches!(beat.update, Some(Update::Heartbeat(v1::Heartbeat { position, lag: 0 })) if position == beat.position));
    let receipt = gateway.post(&message("a", "two")).await.created();
    let change = loop {
        let told = next().await;
        match told.update {
            Some(Update::Heartbeat(_)) => {}
            Some(Update::Change(change)) => {
                assert_eq!(told.position, receipt["position"].as_u64().unwrap());
                break change;
            }
            other => panic!("{other:?}"),
        }
    };
    patched(&mut document, &serde_json::from_slice(&change.patch).unwrap());
    assert_eq!((document, change.event.unwrap().id.as_str()), (state(&gateway, "").await, receipt["id"].as_str().unwrap()));
    let unknown = gateway.grpc().await.watch(v1::WatchRequest { view: "nonsense".into(), ..request }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_a_new_version_of_a_type_changes_is_sent_whole() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let register = async |body: Value| {
        let request = gateway.request(Method::POST, "/types").json(&body);
        assert!(gateway.send(request).await.status.is_success());
    };
    register(json!({"name": "Counted", "schema": {"type": "object"}})).await;
    gateway.post(&json!({"type": "Counted", "aggregate_id": "c", "data": {"number": 1}})).await.created();
    let mut events = open(&gateway, "/projections/state/c/watch", None).await;
    assert_eq!(data(&told(&mut events).await)["state"]["state"], json!({"number": 1}));
    // Another type's new version is nothing to this state.
    for schema in [json!({"type": "object"}), json!({})] {
        register(json!({"name": "Weighed", "schema": schema})).await;
    }
    gateway.post(&json!({"type": "Counted", "aggregate_id": "c", "data": {"number": 1, "by": "x"}})).await.created();
    assert_eq!(told(&mut events).await.event, "change");
    let upcast = json!([{"op": "move", "from": "/number", "path": "/count"}]);
    register(json!({"name": "Counted", "schema": {"type": "object"}, "upcast": upcast})).await;
    // Nothing else happens: the next heartbeat is when it is noticed.
    let again = tokio::time::timeout(Duration::from_secs(10), told(&mut events)).await.unwrap();
    assert_eq!((again.event.as_str(), &data(&again)["state"]["state"]), ("state", &json!({"count": 1, "by": "x"})));
    gateway.post(&json!({"type": "Counted", "aggregate_id": "c", "data": {"count": 2}})).await.created();
    let change = told(&mut events).await;
    assert_eq!((change.event.as_str(), &data(&change)["event"]["data"]), ("change", &json!({"count": 2})));
    gateway.stop().await;
}

/// By the clock, whatever the log does meanwhile: the subscription of a watcher has much to say that is nothing to it.
#[tokio::test(flavor = "multi_thread")]
async fn who_watches_hears_a_heartbeat_while_others_append() {
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let config = Config {
        read_model: ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() },
        // Longer than until a subscription says how far it is.
        heartbeat: Duration::from_secs(6),
        ..Config::default()
    };
    let gateway = Gateway::start_with(&nats, config).await;
    let response = gateway.request(Method::GET, "/projections/conversation/a/watch").send().await.unwrap();
    let mut events = response.bytes_stream().eventsource();
    let mut next = async || tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await.event, "state");
    let busy = async {
        loop {
            gateway.note("b", 1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let beat = tokio::select! {
        () = busy => unreachable!(),
        beat = next() => beat,
    };
    assert_eq!(beat.event, "heartbeat", "{beat:?}");
    let last = gateway.last_position().await;
    let position = data(&beat)["position"].as_u64().unwrap();
    assert!(0 < position && position <= last && data(&beat)["lag"].as_u64().unwrap() <= last, "{beat:?}");
    gateway.stop().await;
}
