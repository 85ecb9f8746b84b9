//! The log goes away and comes back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_event_store::{Config, Limits, ReadModelConfig};
use causeway_testkit::{NatsServer, wait_until};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Gateway, LIMIT, World, note, position};
use crate::sse;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_everything_fails_at_once_and_comes_back_with_it() {
    let World { mut nats, gateway, dir: _dir } = World::start().await;
    let first = gateway.note("a", 1).await;
    let mut events = sse::open(&gateway, "/events/stream?aggregate_id=a", None).await;
    assert_eq!(sse::next(&mut events).await.event, "NoteTaken");
    assert_eq!(sse::next(&mut events).await.event, "caught_up");
    let mut health = HealthClient::new(gateway.channel().await);
    let mut serving = async || {
        let request = tonic_health::pb::HealthCheckRequest { service: "causeway.v1.EventStore".into() };
        health.check(request).await.unwrap().into_inner().status() == ServingStatus::Serving
    };

    nats.kill();
    wait_until("the loss to be noticed", LIMIT, async || (!gateway.log.is_connected()).then_some(())).await;
    let asked = Instant::now();
    for (method, path) in [
        (Method::POST, "/events"),
        (Method::GET, "/events"),
        (Method::GET, "/projections/conversation/a"),
        (Method::GET, "/readyz"),
    ] {
        let request = gateway.request(method.clone(), path);
        let request = if method == Method::POST { request.json(&note("a", 2)) } else { request };
        let answer = gateway.send(request).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer:?}");
        assert_eq!(answer.json()["type"], "urn:causeway:problem:unavailable", "{path}");
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "at once, not after a timeout: {:?}", asked.elapsed());
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK, "the process lives");
    let known = gateway.get(&format!("/events/{}", first["position"])).await;
    assert_eq!(known.status, StatusCode::OK, "an event never changes: what is known needs no log");
    wait_until("health to say so", LIMIT, async || (!serving().await).then_some(())).await;

    nats.restart().await.unwrap();
    wait_until("the gateway to be ready again", LIMIT, async || {
        (gateway.get("/readyz").await.status == StatusCode::OK).then_some(())
    })
    .await;
    wait_until("health to say so", LIMIT, async || serving().await.then_some(())).await;
    let second = gateway.note("a", 2).await;
    let event = sse::next(&mut events).await;
    assert_eq!(event.id, position(&second).to_string(), "the old stream goes on without gap or repeat");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_the_log_is_slow_with_do_not_pile_up_before_it() {
    let nats = NatsServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        read_model: ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() },
        // One batch of ten, and a few single events.
        limits: Limits { appends_max: 70, append_wait: Duration::from_millis(300), ..Limits::default() },
        ..Config::default()
    };
    let gateway = Gateway::start_with(&nats, config).await;
    let batch = |aggregate: &str| {
        let events: Vec<_> = (0..10).map(|n| note(aggregate, n)).collect();
        gateway.request(Method::POST, "/events").json(&events)
    };
    nats.pause().unwrap();
    let first = tokio::spawn(batch("a").send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = gateway.send(batch("b")).await;
    assert_eq!((second.status, &second.headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap()));
    let single = tokio::time::timeout(Duration::from_millis(600), gateway.post(&note("c", 1))).await;
    assert!(single.is_err(), "there is room for a single one, which waits for the log");
    nats.resume().unwrap();
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::CREATED);
    gateway.send(batch("b")).await.created();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_without_acknowledgement_is_unknown_and_its_key_settles_it() {
    let nats = NatsServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = causeway_log::Config {
        url: nats.url().into(),
        request_timeout: Duration::from_secs(2),
        append_timeout: Duration::from_secs(4),
        ..causeway_log::Config::default()
    };
    let config = Config {
        read_model: ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() },
        limits: Limits { appends_max: 1, appends_waiting_max: 0, ..Limits::default() },
        ..Config::default()
    };
    let gateway = Gateway::start_on(log, config).await;
    let append = || gateway.send(gateway.request(Method::POST, "/events").header("idempotency-key", "k").json(&note("a", 1)));

    nats.pause().unwrap();
    let crowd = async {
        // Ours goes first: the gateway soon knows that the log is away, and then refuses before it sends.
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The one place is taken: whoever comes now is turned away at once.
        wait_until("the gateway to be full", LIMIT, async || {
            let answer = gateway.post(&note("b", 1)).await;
            (answer.status == StatusCode::TOO_MANY_REQUESTS).then_some(answer)
        })
        .await
    };
    let ours = wait_until("our append to get in", LIMIT, async || {
        let answer = append().await;
        (answer.status != StatusCode::TOO_MANY_REQUESTS).then_some(answer)
    });
    let (unknown, refused) = tokio::join!(ours, crowd);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(unknown.status, StatusCode::GATEWAY_TIMEOUT, "{unknown:?}");
    assert_eq!(unknown.json()["type"], "urn:causeway:problem:outcome-unknown");

    nats.resume().unwrap();
    let settled = wait_until("the outcome to be settled", LIMIT, async || {
        let answer = append().await;
        (answer.status == StatusCode::CREATED).then_some(answer)
    })
    .await;
    let again = append().await.created();
    assert_eq!((&again["id"], &again["duplicate"]), (&settled.created()["id"], &true.into()));
    assert_eq!(gateway.positions("/events?aggregate_id=a").await.len(), 1);
    gateway.stop().await;
}

/// Puts a copy of a folder in the place of another.
fn put_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => put_folder(&entry.path(), &to.join(entry.file_name())),
            false => _ = fs::copy(entry.path(), to.join(entry.file_name())).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_came_back_older_and_went_on_without_this_gateway_is_noticed() {
    let World { gateway, mut nats, dir: _dir } = World::start().await;
    let keyed = |text: &str| json!({"events": [{"type": "Noted", "aggregate_id": text, "data": {}}], "idempotency_key": text});
    for number in 1..=5 {
        gateway.note("kept", number).await;
    }
    nats.kill();
    let older = tempfile::tempdir().unwrap();
    put_folder(&nats.store_dir(), older.path());
    nats.restart().await.unwrap();
    wait_until("the gateway to append", LIMIT, async || {
        (gateway.post(&keyed("lost")).await.status == StatusCode::CREATED).then_some(())
    })
    .await;
    assert_eq!(gateway.positions("/events").await, (1..=6).collect::<Vec<_>>());

    // The old one goes on elsewhere, until it has more than was lost, and comes back.
    nats.kill();
    let (mut elsewhere, other_dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    elsewhere.kill();
    put_folder(older.path(), &elsewhere.store_dir());
    elsewhere.restart().await.unwrap();
    let other = Gateway::start(&elsewhere, other_dir.path()).await;
    for number in 1..=5 {
        other.note("other", number).await;
    }
    other.stop().await;
    elsewhere.kill();
    put_folder(&elsewhere.store_dir(), &nats.store_dir());
    nats.restart().await.unwrap();

    let others = async || {
        let events = gateway.get("/events").await;
        (events.status == StatusCode::OK && events.json()["events"][5]["aggregate_id"] == "other").then_some(events.json())
    };
    let events = wait_until("the gateway to read what is there", LIMIT, others).await;
    assert_eq!(events["events"].as_array().unwrap().len(), 10);
    let again = gateway.post(&keyed("lost")).await.created();
    assert_eq!((&again[0]["duplicate"], &again[0]["position"]), (&json!(false), &json!(11)), "it is not there any more");
    gateway.stop().await;
}
