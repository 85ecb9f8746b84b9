//! Views: as fresh as the log, and as of any moment.

use std::time::Instant;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{World, message, position};

fn said(projection: &Value) -> Vec<String> {
    let messages = projection["state"]["messages"].as_array().unwrap();
    messages.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_seen_now_and_as_of_every_moment() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut receipts = Vec::new();
    for content in ["one", "two", "three"] {
        receipts.push(gateway.post(&message("web:1", content)).await.created());
        let now = gateway.get("/projections/conversation/web:1").await.ok();
        assert_eq!(said(&now).last().map(String::as_str), Some(content), "an append is seen by the next read");
        assert_eq!(now["position"], receipts.last().unwrap()["position"]);
        gateway.post(&message("web:2", "elsewhere")).await.created();
    }
    for moment in ["position", "id", "timestamp"] {
        let as_of = receipts[1][moment].to_string().replace('"', "");
        let then = gateway.get(&format!("/projections/conversation/web:1?as_of={as_of}")).await.ok();
        assert_eq!(said(&then), ["one", "two"], "as of {moment} {as_of}");
        assert_eq!(then["position"], receipts[1]["position"]);
        assert_eq!((then["view"].as_str(), then["id"].as_str()), (Some("conversation"), Some("web:1")));
    }
    let before = gateway.get("/projections/conversation/web:1?as_of=0").await.ok();
    assert_eq!(said(&before), Vec::<String>::new());
    let min = gateway.get(&format!("/projections/conversation/web:1?min_position={}", receipts[2]["position"])).await.ok();
    assert_eq!(said(&min).len(), 3);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_the_same_with_snapshots_and_without() {
    let World { nats, dir, gateway } = World::start().await;
    let mut positions = Vec::new();
    for batch in 0..5 {
        let messages: Vec<_> = (0..60).map(|number| message("a", &format!("{batch}-{number}"))).collect();
        let receipts = gateway.post(&json!(messages)).await.created();
        positions.extend(receipts.as_array().unwrap().iter().map(position));
        // Each look may keep a snapshot.
        assert_eq!(said(&gateway.get("/projections/conversation/a").await.ok()).len(), positions.len());
    }
    let mut seen = Vec::new();
    for at in [0, 59, 60, 150, 299] {
        let path = format!("/projections/conversation/a?as_of={}", positions[at]);
        let then = gateway.get(&path).await;
        assert_eq!(said(&then.ok()).len(), at + 1);
        seen.push((path, then.text));
    }
    gateway.stop().await;
    let fresh = dir.path().join("fresh");
    std::fs::create_dir(&fresh).unwrap();
    let gateway = crate::harness::Gateway::start(&nats, &fresh).await;
    for (path, text) in seen {
        assert_eq!(gateway.get(&path).await.text, text, "{path}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_never_comes_is_waited_for_only_so_long() {
    let World { nats, dir, gateway } = World::start().await;
    gateway.stop().await;
    let read_model = causeway_event_store::ReadModelConfig {
        path: dir.path().join("read-model.sqlite"),
        read_timeout: std::time::Duration::from_millis(300),
        ..Default::default()
    };
    let config = causeway_event_store::Config { read_model, ..Default::default() };
    let gateway = crate::harness::Gateway::start_with(&nats, config).await;
    let asked = Instant::now();
    let answer = gateway.get("/projections/conversation/a?min_position=1000").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["type"], "urn:causeway:problem:behind");
    assert!(asked.elapsed() < crate::harness::LIMIT);
    gateway.stop().await;
}
