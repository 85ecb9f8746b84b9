//! Whatever is wrong is refused with a problem that names the field; the log stays as it was, and the server alive.

use std::time::Duration;

use causeway_event_store::{Config, ReadModelConfig};
use causeway_testkit::NatsServer;
use futures::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, World, note};

#[track_caller]
fn check(answer: &Answer, status: u16, field: Option<&str>, what: &str) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{what}");
    assert_eq!(problem["field"].as_str(), field, "{what}: {answer:?}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_they_must_be() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let last = gateway.last_position().await;
    let event = |change: Value| {
        let mut event = note("a", 1);
        event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        event.to_string()
    };
    let large = "x".repeat(512 * 1024);
    let many: Vec<_> = (0..1001).map(|number| note("a", number)).collect();
    let labels = json!({"metadata": {"labels": {"k": "v".repeat(9_000)}}});
    for (body, status, field) in [
        (String::new(), 400, ""),
        ("{\"type\"".into(), 400, ""),
        ("\u{feff}{}".into(), 400, ""),
        ("[]".into(), 400, ""),
        ("{}".into(), 400, "/type"),
        (json!({"events": []}).to_string(), 400, "/events"),
        (json!(many).to_string(), 400, ""),
        (event(json!({"type": "noteTaken"})), 400, "/type"),
        (event(json!({"aggregate_id": "a\u{0}"})), 400, "/aggregate_id"),
        (event(json!({"aggregate_id": "x".repeat(129)})), 400, "/aggregate_id"),
        (event(json!({"sauce": "x"})), 400, "/sauce"),
        (event(json!({"metadata": {"source": ""}})), 400, "/metadata/source"),
        (event(json!({"metadata": {"traceparent": "x"}})), 400, "/metadata/traceparent"),
        (event(json!({"type": "MessageReceived", "data": {"content": 7}})), 400, "/data/content"),
        (event(json!({"type": "MessageReceived", "data": "text"})), 400, "/data"),
        (format!(r#"{{"type":"A","aggregate_id":"a","data":{}{}}}"#, "[".repeat(101), "]".repeat(101)), 400, "/data"),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), 400, "/0"),
        (event(json!({"data": large})), 413, "/data"),
        (json!([note("a", 1), {"type": "A", "aggregate_id": "a", "data": large}]).to_string(), 413, "/1/data"),
        (event(labels), 413, "/metadata/labels"),
        (" ".repeat(2 * 1024 * 1024 + 1), 413, ""),
        (json!({"events": [note("a", 1)], "expected": -1}).to_string(), 400, "/expected"),
        (json!({"events": [note("a", 1), note("b", 1)], "expected": 1}).to_string(), 400, "/expected"),
        (json!({"events": [note("a", 1)], "expected": [{"aggregate_id": "b", "position": 0}]}).to_string(), 400, "/expected/0"),
        (json!({"events": [note("a", 1)], "idempotency_key": "\n"}).to_string(), 400, "/idempotency_key"),
    ] {
        let request = gateway.request(Method::POST, "/events").header("content-type", "application/json").body(body.clone());
        check(&gateway.send(request).await, status, Some(field), &format!("{body:.100}"));
    }
    for path in ["/events?x=1", "/types?x=1"] {
        check(&gateway.send(gateway.request(Method::POST, path).json(&note("a", 1))).await, 400, Some("x"), path);
    }
    let post = |content_type: &str| gateway.request(Method::POST, "/events").header("content-type", content_type).body("{}");
    check(&gateway.send(post("text/plain")).await, 415, Some("Content-Type"), "text");
    check(&gateway.send(gateway.request(Method::POST, "/events").body("{}")).await, 415, Some("Content-Type"), "untyped");
    let packed = post("application/json").header("content-encoding", "gzip");
    check(&gateway.send(packed).await, 415, Some("Content-Encoding"), "packed");
    let keyed = gateway.request(Method::POST, "/events").header("idempotency-key", "x".repeat(257)).json(&note("a", 1));
    check(&gateway.send(keyed).await, 400, Some("Idempotency-Key"), "a long key");
    let invalid_utf8 = gateway.request(Method::POST, "/events").header("content-type", "application/json");
    let invalid_utf8 = invalid_utf8.body(b"{\"type\":\"A\",\"aggregate_id\":\"a\xff\",\"data\":1}".to_vec());
    assert_eq!(gateway.send(invalid_utf8).await.status, StatusCode::BAD_REQUEST);

    assert_eq!(gateway.last_position().await, last, "nothing was written");
    gateway.note("a", 1).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive() {
    let nats = NatsServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let config = Config { read_model, request_timeout: Duration::from_secs(1), ..Config::default() };
    let gateway = Gateway::start_with(&nats, config).await;
    for path in ["/events", "/types"] {
        let body = stream::iter([Ok::<_, std::io::Error>("{")]).chain(stream::pending());
        let request = gateway.request(Method::POST, path).header("content-type", "application/json");
        check(&gateway.send(request.body(reqwest::Body::wrap_stream(body))).await, 408, None, path);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_not_what_they_must_be() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    gateway.note("a", 1).await;
    let unknown = "evt_01k9x3m5v8e7rs2q4n6p8t0w1y";
    for (path, status, field) in [
        ("/events?limit=-1".to_owned(), 400, Some("limit")),
        ("/events?limit=1001".into(), 400, Some("limit")),
        ("/events?after=yesterday".into(), 400, Some("after")),
        (format!("/events?before={unknown}"), 400, Some("before")),
        ("/events?order=up".into(), 400, Some("order")),
        ("/events?aggregate=a".into(), 400, Some("aggregate")),
        ("/events?aggregate_id=%00".into(), 400, Some("aggregate_id")),
        ("/events/stream?after=99999".into(), 400, Some("after")),
        (format!("/events/stream?after={unknown}"), 400, Some("after")),
        ("/events/stream?limit=3".into(), 400, Some("limit")),
        ("/events/evt_".into(), 400, Some("id")),
        ("/events/-1".into(), 400, Some("id")),
        ("/events/%FF".into(), 400, Some("id")),
        ("/projections/conversation/%FF".into(), 400, Some("id")),
        ("/events/99999".into(), 404, Some("id")),
        ("/events/18446744073709551615".into(), 404, Some("id")),
        (format!("/events/{unknown}"), 404, Some("id")),
        (format!("/events/{unknown}?full=1"), 400, Some("full")),
        ("/projections/mood/a".into(), 404, Some("view")),
        ("/projections/conversation/%0A".into(), 400, Some("id")),
        ("/projections/conversation/a?as_of=soon".into(), 400, Some("as_of")),
        ("/projections/conversation/a?as_of=99999".into(), 400, Some("as_of")),
        (format!("/projections/conversation/a?as_of={unknown}"), 400, Some("as_of")),
        ("/projections/conversation/a?min_position=-1".into(), 400, Some("min_position")),
        ("/nothing".into(), 404, None),
        ("/events/1/2".into(), 404, None),
        ("/".into(), 404, None),
    ] {
        check(&gateway.get(&path).await, status, field, &path);
    }
    for (method, path) in
        [(Method::DELETE, "/events"), (Method::PUT, "/events/1"), (Method::POST, "/events/stream"), (Method::POST, "/readyz")]
    {
        let answer = gateway.send(gateway.request(method.clone(), path)).await;
        check(&answer, 405, None, &format!("{method} {path}"));
        assert!(answer.headers["allow"].to_str().unwrap().contains("GET"), "{answer:?}");
    }
    let accepts = |path: &str, accept: &str| gateway.send(gateway.request(Method::GET, path).header("accept", accept));
    check(&accepts("/events", "text/html").await, 406, Some("Accept"), "a list as a page");
    check(&accepts("/events/stream", "application/json").await, 406, Some("Accept"), "a stream as JSON");
    // The largest numbers are numbers like others.
    let huge = u64::MAX;
    assert_eq!(gateway.positions(&format!("/events?after={huge}")).await, Vec::<u64>::new());
    assert_eq!(gateway.positions(&format!("/events?before={huge}&order=desc")).await.len(), 1);
    let fenced = json!({"events": [note("a", 1)], "expected": huge});
    check(&gateway.post(&fenced).await, 409, None, "a fence far ahead");
    let last_id = gateway.request(Method::GET, "/events/stream").header("last-event-id", "x");
    check(&gateway.send(last_id).await, 400, Some("Last-Event-ID"), "a bad Last-Event-ID");
    gateway.stop().await;
}
