//! Names that a gateway on loopback is called by: one that leads here from a foreign web page is not its own.

use causeway_event_store::{Config, ReadModelConfig};
use causeway_log::Log;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::{Problem, v1};
use causeway_testkit::NatsServer;
use reqwest::{Method, StatusCode, header};
use serde_json::json;
use tonic::transport::Endpoint;

use crate::grpc_web;
use crate::harness::{Gateway, log_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_name_was_made_to_lead_here_reads_and_appends_nothing() {
    let nats = NatsServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let hosts = vec!["proxied.example".to_owned()];
    let gateway = Gateway::start_with(&nats, Config { read_model, hosts, ..Config::default() }).await;
    let called = |method, path: &str, host: &str| gateway.request(method, path).header(header::HOST, host);

    let note = json!({ "type": "NoteTaken", "aggregate_id": "a", "data": {} });
    for path in ["/events", "/events/stream", "/projections/state/a", "/readyz", "/reference"] {
        let answer = gateway.send(called(Method::GET, path, "evil.example:8470")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {answer:?}");
        assert_eq!(answer.json()["field"], "host", "{answer:?}");
    }
    let answer = gateway.send(called(Method::POST, "/events", "evil.example").json(&note)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let subscribe = v1::SubscribeRequest::default();
    let answer = grpc_web::call(&gateway, "Subscribe", &subscribe).header(header::HOST, "evil.example").send().await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "3");
    assert_eq!(gateway.last_position().await, 0, "nothing was appended");

    for ours in ["localhost:8470", "127.0.0.1", "[::1]:1", "workstation", "proxied.example"] {
        gateway.send(called(Method::POST, "/events", ours).json(&note)).await.created();
    }
    // gRPC names it in the URI.
    let by = async |name: &str| {
        let endpoint: Endpoint = gateway.url.parse().unwrap();
        let channel = endpoint.origin(format!("http://{name}").parse().unwrap()).connect().await.unwrap();
        EventStoreClient::new(channel).count(v1::CountRequest::default()).await
    };
    assert_eq!(by("localhost:8470").await.unwrap().into_inner().count, 5);
    assert_eq!(Problem::from(by("evil.example:8470").await.unwrap_err()).field.as_deref(), Some("host"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elsewhere_any_name_is_answered_unless_there_is_a_list() {
    let nats = NatsServer::start().await.unwrap();
    for (hosts, answered) in [(vec![], StatusCode::OK), (vec!["proxied.example.".to_owned()], StatusCode::BAD_REQUEST)] {
        let dir = tempfile::tempdir().unwrap();
        let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
        let log = Log::connect(&log_of(&nats)).await.unwrap();
        let gateway = Gateway::listening("0.0.0.0:0", log, Config { read_model, hosts, ..Config::default() }).await;
        gateway.is_ready().await;
        let called =
            async |host: &str| gateway.send(gateway.request(Method::GET, "/events").header(header::HOST, host)).await.status;
        assert_eq!(called("anything.example").await, answered);
        assert_eq!(called("proxied.example:8470").await, StatusCode::OK);
        assert_eq!(called("").await, StatusCode::OK, "who names nobody");
        gateway.stop().await;
    }
}
