//! The log goes away and comes back.

use std::time::{Duration, Instant};

use causeway_testkit::wait_until;
use reqwest::{Method, StatusCode};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{LIMIT, World, note, position};
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
