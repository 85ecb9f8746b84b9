//! CloudEvents in, in their three forms.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, World, position};

const CAUSE: &str = "evt_01k9x3m5v8e7rs2q4n6p8t0w1y";

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "type": "OrderPlaced", "source": "/shop", "id": id, "subject": "order-7",
        "time": "2026-11-23T10:00:00Z", "correlationid": "chain 7", "tenant": "t1", "data": {"total": 12},
    })
}

async fn post(gateway: &Gateway, content_type: &str, body: &Value) -> Answer {
    let request = gateway.request(Method::POST, "/events").header("content-type", content_type);
    gateway.send(request.body(body.to_string())).await
}

const ONE: &str = "application/cloudevents+json; charset=utf-8";
const MANY: &str = "application/cloudevents-batch+json";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_in_every_form_is_appended_once() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let answer = post(&gateway, ONE, &event("1")).await;
    let receipt = answer.created();
    assert_eq!(answer.headers["location"], format!("/events/{}", receipt["id"].as_str().unwrap()));
    let stored = gateway.get(&format!("/events/{}", receipt["position"])).await.ok();
    assert_eq!(
        (&stored["type"], &stored["aggregate_id"], &stored["data"]),
        (&json!("OrderPlaced"), &json!("order-7"), &json!({"total": 12}))
    );
    let labels = json!({"id": "1", "tenant": "t1", "time": "2026-11-23T10:00:00Z"});
    assert_eq!(stored["metadata"], json!({"source": "/shop", "correlation_id": "chain 7", "labels": labels}));

    let again = post(&gateway, ONE, &event("1")).await.created();
    assert_eq!((&again["id"], &again["duplicate"]), (&receipt["id"], &json!(true)), "source and id are its key");
    let alone = post(&gateway, MANY, &json!([event("1")])).await.created();
    assert_eq!((&alone[0]["id"], &alone[0]["duplicate"]), (&receipt["id"], &json!(true)));
    let binary = async |id: &str| {
        let request = gateway.request(Method::POST, "/events").header("content-type", "application/json");
        let attributes = [("ce-specversion", "1.0"), ("ce-type", "OrderPlaced"), ("ce-source", "/shop"), ("ce-id", id)];
        let request = attributes.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        gateway.send(request.header("ce-subject", "order%2D7").body("{\"total\" : 12}")).await.created()
    };
    assert_eq!(binary("1").await["id"], receipt["id"]);
    let other = binary("2").await;
    assert_eq!(gateway.get(&format!("/events/{}", other["position"])).await.text.matches("{\"total\" : 12}").count(), 1);
    assert_eq!(gateway.last_position().await, 2);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_atomic_and_has_a_key_of_its_own() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let list = json!([event("1"), event("2")]);
    let receipts = post(&gateway, MANY, &list).await.created();
    assert_eq!(position(&receipts[1]), position(&receipts[0]) + 1);
    let again = post(&gateway, MANY, &list).await.created();
    assert_eq!((&again[0]["id"], &again[0]["duplicate"]), (&receipts[0]["id"], &json!(true)));
    let mut bad = event("4");
    bad["type"] = json!("MessageReceived");
    let answer = post(&gateway, MANY, &json!([event("3"), bad])).await;
    assert_eq!((answer.status, answer.json()["field"].as_str()), (StatusCode::BAD_REQUEST, Some("/1/data/content")));
    assert_eq!(gateway.last_position().await, 2);
    let keyed = gateway.request(Method::POST, "/events").header("content-type", ONE).header("Idempotency-Key", "mine");
    let own = gateway.send(keyed.body(event("1").to_string())).await.created();
    assert_eq!(own["duplicate"], false, "the header's key counts, if there is one");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_by_its_attribute() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let with = |name: &str, value: Value| {
        let mut event = event("1");
        event[name] = value;
        event
    };
    for (body, field) in [
        (with("type", json!("com.example.order")), "/type"),
        (with("subject", Value::Null), "/subject"),
        (with("datacontenttype", json!("application/xml")), "/datacontenttype"),
        (with("causationid", json!("42")), "/causationid"),
        (with("nested", json!({})), "/nested"),
        (with("type", json!("LogCheckpointed")), "/type"),
    ] {
        let answer = post(&gateway, ONE, &body).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (StatusCode::BAD_REQUEST, Some(field)), "{answer:?}");
    }
    let mut orphan = with("causationid", json!(CAUSE));
    orphan["correlationid"] = Value::Null;
    assert_eq!(post(&gateway, ONE, &orphan).await.json()["field"], "/causationid");
    let other = gateway.request(Method::POST, "/events").header("content-type", "text/xml").header("ce-specversion", "1.0");
    assert_eq!(gateway.send(other.body("<x/>")).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(gateway.last_position().await, 0);
    gateway.stop().await;
}
