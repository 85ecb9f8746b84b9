//! Appending and reading over HTTP.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Gateway, World, message, note, position};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_posted_is_read_back_as_it_was() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let raw = r#"{"type":"MessageReceived","aggregate_id":"telegram:42 é","data":{"content" : "Hello \u00e9",
        "mood": 1.0},"metadata":{"source":"telegram","labels":{"k":"v"}}}"#;
    let answer = gateway
        .send(gateway.request(Method::POST, "/events").header("content-type", "application/json; charset=utf-8").body(raw))
        .await;
    let receipt = answer.created();
    assert_eq!(answer.headers["location"], format!("/events/{}", receipt["id"].as_str().unwrap()));
    assert_eq!(receipt["duplicate"], false);
    assert_eq!(receipt["correlation_id"].as_str().unwrap().len(), 32);

    let by_id = gateway.get(answer.headers["location"].to_str().unwrap()).await;
    let event = by_id.ok();
    assert_eq!(event["type"], "MessageReceived");
    assert_eq!(event["aggregate_id"], "telegram:42 é");
    assert_eq!(event["metadata"], json!({"source":"telegram","correlation_id":receipt["correlation_id"],"labels":{"k":"v"}}));
    for name in ["id", "position", "timestamp"] {
        assert_eq!(event[name], receipt[name], "{name}");
    }
    assert!(
        by_id.text.contains("{\"content\" : \"Hello \\u00e9\",\n        \"mood\": 1.0}"),
        "the data's bytes are kept: {}",
        by_id.text
    );
    assert_eq!(gateway.get(&format!("/events/{}", receipt["position"])).await.text, by_id.text);
    let page = gateway.get("/events?aggregate_id=telegram:42+%C3%A9").await.ok();
    assert_eq!(page, json!({"events": [event], "next": null, "last_position": receipt["position"]}));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_appended_all_or_none() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let receipts = gateway.post(&json!([note("a", 1), note("b", 2), message("a", "hi")])).await.created();
    let positions: Vec<_> = receipts.as_array().unwrap().iter().map(position).collect();
    assert_eq!(positions, [positions[0], positions[0] + 1, positions[0] + 2]);
    let times = |receipt: &Value| receipt["timestamp"].as_str().unwrap().to_owned();
    assert_eq!(times(&receipts[1]), gateway.get(&format!("/events/{}", positions[1])).await.ok()["timestamp"].as_str().unwrap());

    let last = gateway.last_position().await;
    let answer =
        gateway.post(&json!([note("a", 1), message("a", "hi"), {"type":"MessageReceived","aggregate_id":"a","data":{}}])).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["field"], "/2/data/content", "{answer:?}");
    let bad_fence = json!({"events": [note("a", 3), note("b", 3)], "expected": [
        {"aggregate_id": "a", "category": "custom", "position": positions[0]},
        {"aggregate_id": "b", "category": "custom", "position": 0},
    ]});
    assert_eq!(gateway.post(&bad_fence).await.status, StatusCode::CONFLICT);
    assert_eq!(gateway.last_position().await, last);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_does_not_hold_is_a_conflict_with_the_actual_position() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let fenced = |expected: Value| json!({"events": [note("a", 1)], "expected": expected});
    let first = position(&gateway.post(&fenced(json!("empty"))).await.created()[0]);
    let conflict = gateway.post(&fenced(json!("empty"))).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    let problem = conflict.json();
    assert_eq!(problem["type"], "urn:causeway:problem:conflict");
    assert_eq!((problem["expected_position"].as_u64(), problem["actual_position"].as_u64()), (Some(0), Some(first)));
    assert_eq!((problem["aggregate_id"].as_str(), problem["category"].as_str()), (Some("a"), Some("custom")));
    // Another category of the same aggregate moves on by itself.
    gateway.post(&message("a", "hi")).await.created();
    gateway.post(&fenced(json!(first))).await.created();
    gateway.post(&fenced(json!("any"))).await.created();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gives_the_first_answer_also_after_a_restart() {
    let World { nats, dir, gateway } = World::start().await;
    let keyed = async |gateway: &Gateway, key: &str, body: &Value| {
        gateway.send(gateway.request(Method::POST, "/events").header("Idempotency-Key", key).json(body)).await
    };
    let first = keyed(&gateway, "k 1", &note("a", 1)).await.created();
    let list = json!([note("a", 2), note("b", 3)]);
    let firsts = keyed(&gateway, "k2", &list).await.created();
    let last = gateway.last_position().await;

    let again = |first: &Value| {
        let mut again = first.clone();
        again["duplicate"] = true.into();
        again
    };
    assert_eq!(keyed(&gateway, "\"k 1\"", &note("a", 1)).await.created(), again(&first));
    let in_body = json!({"events": list, "idempotency_key": "k2"});
    assert_eq!(gateway.post(&in_body).await.created(), json!([again(&firsts[0]), again(&firsts[1])]));
    let fenced = json!({"events": [note("a", 1)], "expected": "empty", "idempotency_key": "k 1"});
    assert_eq!(gateway.post(&fenced).await.created(), json!([again(&first)]), "its fence held when it counted");
    assert_ne!(keyed(&gateway, "k 1", &note("b", 1)).await.created()["id"], first["id"], "a key is the aggregate's own");
    let other = keyed(&gateway, "k 1", &message("a", "other")).await;
    assert_eq!((other.status, other.json()["field"].as_str()), (StatusCode::BAD_REQUEST, Some("Idempotency-Key")));
    gateway.stop().await;

    for folder in ["same", "fresh"] {
        let fresh = dir.path().join(folder);
        std::fs::create_dir_all(&fresh).unwrap();
        let gateway = Gateway::start(&nats, if folder == "same" { dir.path() } else { &fresh }).await;
        assert_eq!(keyed(&gateway, "k 1", &note("a", 1)).await.created(), again(&first), "{folder} read model");
        assert_eq!(keyed(&gateway, "k2", &list).await.created(), json!([again(&firsts[0]), again(&firsts[1])]));
        assert_eq!(gateway.last_position().await, last + 1);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_the_causes_or_the_callers_trace_or_a_new_one() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let traced = async |body: &Value| {
        let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
        gateway.send(gateway.request(Method::POST, "/events").header("traceparent", traceparent).json(body)).await.created()
    };
    let with = |metadata: Value| json!({"type": "NoteTaken", "aggregate_id": "a", "data": 1, "metadata": metadata});
    let root = traced(&note("a", 1)).await;
    assert_eq!(root["correlation_id"], TRACE);
    let caused = gateway.post(&with(json!({"causation_id": root["id"]}))).await.created();
    assert_eq!(caused["correlation_id"], TRACE);
    let event = gateway.get(&format!("/events/{}", caused["position"])).await.ok();
    assert_eq!(event["metadata"]["causation_id"], root["id"]);
    assert_eq!(event["metadata"]["source"], "http");
    assert_eq!(traced(&with(json!({"correlation_id": "order 7"}))).await["correlation_id"], "order 7");
    let fresh = gateway.post(&json!([note("a", 1), note("a", 2)])).await.created();
    assert_ne!(fresh[0]["correlation_id"], fresh[1]["correlation_id"]);

    let unknown = gateway.post(&with(json!({"causation_id": "evt_01k9x3m5v8e7rs2q4n6p8t0w1y"}))).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert_eq!(unknown.json()["field"], "/metadata/causation_id");
    assert_eq!(gateway.get(&format!("/events?correlation_id={TRACE}")).await.ok()["events"].as_array().unwrap().len(), 2);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_append_is_read_by_the_next_read() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for number in 1..=50 {
        let receipt = gateway.note("a", number).await;
        let page = gateway.get("/events?order=desc&limit=1").await.ok();
        assert_eq!(page["events"][0]["id"], receipt["id"]);
        assert_eq!(page["last_position"], receipt["position"]);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_line_up_in_both_directions() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let notes: Vec<_> = (0..25).map(|number| note(if number % 2 == 0 { "even" } else { "odd" }, number)).collect();
    let receipts = gateway.post(&json!(notes)).await.created();
    gateway.post(&message("even", "hi")).await.created();
    let even: Vec<u64> = receipts.as_array().unwrap().iter().step_by(2).map(position).collect();

    for (order, cursor) in [("asc", "after"), ("desc", "before")] {
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let page = gateway.get(&format!("/events?aggregate_id=even&type=Note*&limit=5&order={order}{next}")).await.ok();
            seen.extend(page["events"].as_array().unwrap().iter().map(position));
            match page["next"].as_u64() {
                Some(position) => next = format!("&{cursor}={position}"),
                None => break,
            }
        }
        if order == "desc" {
            seen.reverse();
        }
        assert_eq!(seen, even, "{order}");
    }
    let id = receipts[4]["id"].as_str().unwrap();
    assert_eq!(gateway.positions(&format!("/events?aggregate_id=even&before={id}")).await, even[..2]);
    assert_eq!(gateway.positions(&format!("/events?aggregate_id=even&after={id}&category=input")).await.len(), 1);
    let time = receipts[0]["timestamp"].as_str().unwrap();
    assert_eq!(gateway.positions(&format!("/events?until={time}")).await, Vec::<u64>::new());
    assert_eq!(gateway.positions(&format!("/events?from={time}&limit=1000")).await.len(), 26);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_range_comes_as_lines() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for _ in 0..3 {
        gateway.post(&json!((0..300).map(|number| note("a", number)).collect::<Vec<_>>())).await.created();
    }
    let read = async |path: &str| {
        let answer = gateway.send(gateway.request(Method::GET, path).header("accept", "application/x-ndjson")).await;
        assert_eq!(answer.headers["content-type"], "application/x-ndjson");
        answer.text.lines().map(|line| position(&serde_json::from_str(line).unwrap())).collect::<Vec<_>>()
    };
    let all = read("/events").await;
    assert_eq!(all.len(), 900);
    assert!(all.is_sorted());
    assert_eq!(read("/events?limit=450&order=desc").await, all.iter().rev().take(450).copied().collect::<Vec<_>>());
    assert_eq!(read("/events?aggregate_id=nobody").await.len(), 0);
    gateway.stop().await;
}
