//! A gateway whose read model has a long way to go yet.

use std::time::{Duration, Instant};

use causeway_event::{Data, Event, Labels, Lineage, NewEvent, Position};
use causeway_log::Append;
use causeway_proto::v1;
use causeway_testkit::wait_until;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::grpc::draft;
use crate::harness::{Answer, Gateway, LIMIT, World, forget_ids, message, note, position};

/// What a read model that commits each event by itself has to do for a while.
const EVENTS: usize = 60_000;

/// A log of many events, a gateway that has them, and one that has a long way to go.
async fn world() -> (World, Gateway) {
    let world = World::start().await;
    let event = NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "old".parse().unwrap(),
        data: Data::from_json(b"{}").unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    };
    for _ in 0..EVENTS / 500 {
        world.gateway.log.append(Append { events: vec![event.clone(); 500], ..Append::default() }).await.unwrap();
    }
    let behind = Gateway::start_behind(&world.nats, world.dir.path()).await;
    (world, behind)
}

#[track_caller]
fn still_behind(readyz: &Answer) {
    assert_eq!(readyz.status, StatusCode::SERVICE_UNAVAILABLE, "it caught up before anything was tested: {readyz:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_appends_is_answered_promptly_with_the_logs_own_times() {
    let (World { gateway, nats: _nats, dir: _dir }, behind) = world().await;
    let asked = Instant::now();
    let receipts = futures::future::join_all((0..50).map(|n| behind.note("a", n))).await;
    let batch = behind.post(&json!([note("b", 1), note("b", 2), note("c", 3)])).await.created();
    let mut client = behind.grpc().await;
    let append = v1::AppendRequest { events: vec![draft("d", 1).into()], ..v1::AppendRequest::default() };
    let over_grpc = client.append(append).await.unwrap().into_inner();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    still_behind(&behind.get("/readyz").await);
    for receipt in receipts.iter().chain(batch.as_array().unwrap()) {
        let stored: Event = gateway.log.get(Position::new(position(receipt))).await.unwrap().unwrap().event;
        let stored = serde_json::to_value(&stored).unwrap();
        assert_eq!((&receipt["id"], &receipt["timestamp"]), (&stored["id"], &stored["timestamp"]));
        assert_eq!(receipt["correlation_id"], stored["metadata"]["correlation_id"]);
    }
    assert_eq!(over_grpc.events[0].position, gateway.last_position().await);
    behind.stop().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_under_a_key_is_not_appended_again() {
    let (World { gateway, mut nats, dir: _dir }, behind) = world().await;
    let keyed = async |gateway: &Gateway, key: &str, body: &Value| {
        gateway.send(gateway.request(Method::POST, "/events").header("Idempotency-Key", key).json(body)).await
    };
    let (one, many) = (note("a", 1), json!([note("a", 2), note("b", 3)]));
    let first = keyed(&gateway, "k1", &one).await.created();
    let firsts = keyed(&gateway, "k2", &many).await.created();
    // What an hour does: the server remembers no key.
    forget_ids(&mut nats).await;
    gateway.is_ready().await;
    wait_until("a connection", LIMIT, async || behind.log.is_connected().then_some(())).await;
    let again = |first: &Value| {
        let mut again = first.clone();
        again["duplicate"] = true.into();
        again
    };
    assert_eq!(keyed(&behind, "k1", &one).await.created(), again(&first));
    assert_eq!(keyed(&behind, "k2", &many).await.created(), json!([again(&firsts[0]), again(&firsts[1])]));
    assert_eq!(keyed(&behind, "k1", &message("a", "hi")).await.status, StatusCode::BAD_REQUEST);
    // Of more events than stand there: the log ends behind the last of them.
    let more = json!([note("a", 2), note("b", 3), note("b", 4)]);
    let asked = Instant::now();
    assert_eq!(keyed(&behind, "k2", &more).await.status, StatusCode::BAD_REQUEST);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let new = keyed(&behind, "k3", &many).await.created();
    assert_eq!(new[0]["duplicate"], false);
    assert_eq!(keyed(&behind, "k3", &many).await.created(), json!([again(&new[0]), again(&new[1])]), "the server remembers it");
    still_behind(&behind.get("/readyz").await);
    behind.stop().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_appends_fits_the_types_that_others_registered_meanwhile() {
    let (World { gateway, nats: _nats, dir: _dir }, behind) = world().await;
    let order = |data: Value| json!({"type": "OrderPlaced", "aggregate_id": "order-1", "data": data});
    behind.post(&order(json!({"amount": "before there were types"}))).await.created();
    let schema = json!({"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}});
    let body = json!({"name": "OrderPlaced", "schema": schema});
    gateway.send(gateway.request(Method::POST, "/types").json(&body)).await.created();
    // The registry may be as old as this.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = behind.post(&order(json!({"amount": "many"}))).await;
    assert_eq!((refused.status, &refused.json()["field"]), (StatusCode::BAD_REQUEST, &json!("/data/amount")));
    let types = behind.get("/types").await.ok();
    assert!(types["types"].as_array().unwrap().iter().any(|known| known["name"] == "OrderPlaced"), "{types}");
    let stored = behind.post(&order(json!({"amount": 1}))).await.created();
    still_behind(&behind.get("/readyz").await);
    let stored = gateway.get(&format!("/events/{}", stored["position"])).await.ok();
    assert_eq!(stored["metadata"]["schema_version"], 1);
    behind.stop().await;
    gateway.stop().await;
}
