//! A gateway whose read model cannot be opened yet.

use std::time::{Duration, Instant};

use causeway_event_store::{Config, ReadModelConfig};
use causeway_log::Log;
use causeway_proto::{Kind, Problem, v1};
use causeway_testkit::NatsServer;
use reqwest::{Method, StatusCode};

use crate::harness::{Gateway, note};

/// A gateway that waits for a server which says nothing.
async fn waiting(nats: &NatsServer, dir: &std::path::Path, request_timeout: Duration) -> Gateway {
    causeway_runtime::install_crypto();
    let log = causeway_log::Config { url: nats.url().into(), request_timeout, ..causeway_log::Config::default() };
    let log = Log::connect(&log).await.unwrap();
    let read_model = ReadModelConfig { path: dir.join("read-model.sqlite"), ..ReadModelConfig::default() };
    nats.pause().unwrap();
    Gateway::over(log, Config { read_model, ..Config::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_answers_before_the_read_model_is_there_and_then_serves_on_the_same_connections() {
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let asked = Instant::now();
    let gateway = waiting(&nats, dir.path(), Duration::from_millis(300)).await;
    let mut client = gateway.grpc().await;
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    let append = gateway.request(Method::POST, "/events").json(&note("a", 1));
    for answer in [gateway.get("/readyz").await, gateway.get("/events").await, gateway.send(append).await] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(answer.json()["detail"].as_str().unwrap().contains("starting"), "{answer:?}");
    }
    let get = || v1::GetRequest { id: "1".into(), ..v1::GetRequest::default() };
    let refused = Problem::from(client.get(get()).await.unwrap_err());
    assert_eq!(refused.kind, Kind::Behind);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // Longer than it waits for an answer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    nats.resume().unwrap();
    gateway.is_ready().await;
    gateway.note("a", 1).await;
    client.get(get()).await.unwrap();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_to_stop_before_the_read_model_is_there_stops_at_once() {
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let gateway = waiting(&nats, dir.path(), Duration::from_secs(60)).await;
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    let asked = Instant::now();
    gateway.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    nats.resume().unwrap();
}
