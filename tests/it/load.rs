//! Ten thousand appends by sixteen clients while the gateway and then NATS are killed: nothing acknowledged is lost, nothing
//! stands there twice, and every reader sees one order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use causeway_e2e::{Api, gateway, python};
use causeway_testkit::{NatsServer, wait_until, workspace_root};
use futures::StreamExt as _;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const CLIENTS: usize = 16;
const EVENTS_EACH: usize = 625;
const EVENTS: usize = CLIENTS * EVENTS_EACH;
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How long one append may be retried through the outages.
const RETRIES_MAX: usize = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_appends_survive_the_kill_of_the_gateway_and_of_nats() {
    let mut nats = NatsServer::start().await.unwrap();
    // The clients come back to the address that they know.
    let mut gateway = gateway(&nats.url()).unwrap().start().await.unwrap();
    let api = gateway.api();

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|client| tokio::spawn(append_all(api.clone(), client, Arc::clone(&acknowledged))));
    let clients: Vec<_> = clients.collect();
    let reached = |count| {
        let acknowledged = Arc::clone(&acknowledged);
        async move {
            wait_until(&format!("{count} acknowledged appends"), LIMIT, async || {
                (count <= acknowledged.load(Ordering::SeqCst)).then_some(())
            })
            .await;
        }
    };
    reached(EVENTS / 5).await;
    let middle = api.last_position().await.unwrap();
    let subscriber = tokio::spawn(follow(api.clone(), middle));
    let there = api.events(&format!("type=Counted&before={}", middle + 1)).await.unwrap().len();
    let (after, left) = (middle.to_string(), (EVENTS - there).to_string());
    let subscriber_by_grpc = tokio::spawn(by_python(api.clone(), ["follow".into(), "Counted".into(), after, left]));
    reached(EVENTS * 2 / 5).await;
    gateway.kill();
    gateway.restart().await.unwrap();
    reached(EVENTS * 3 / 5).await;
    nats.kill();
    nats.restart().await.unwrap();

    let receipts: BTreeMap<(usize, usize), Value> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(receipts.len(), EVENTS);

    let by_http = api.events("type=Counted").await.unwrap();
    assert_eq!(by_http.len(), EVENTS, "each stands there once, whatever was retried");
    assert!(by_http.is_sorted_by(|a, b| a["position"].as_u64() < b["position"].as_u64()));
    let found: BTreeMap<(usize, usize), &Value> = by_http.iter().map(|event| (name(event), event)).collect();
    for (name, receipt) in &receipts {
        let event = found[name];
        assert_eq!((&event["id"], &event["position"]), (&receipt["id"], &receipt["position"]), "as acknowledged");
        assert_eq!(event["timestamp"], receipt["timestamp"]);
    }
    // One client waits for each acknowledgement before it goes on: its own events stand in its order.
    for client in 0..CLIENTS {
        let own = by_http.iter().map(name).filter(|(of, _)| *of == client).map(|(_, n)| n);
        assert!(own.eq(0..EVENTS_EACH), "client {client}");
    }
    let ids = |events: &[Value]| events.iter().map(|event| event["id"].clone()).collect::<Vec<_>>();
    assert_eq!(from_nats(&nats).await, ids(&by_http), "JetStream has the same order");
    let after: Vec<Value> = by_http.iter().filter(|event| middle < event["position"].as_u64().unwrap()).cloned().collect();
    let subscribed = tokio::time::timeout(LIMIT, subscriber).await.expect("the subscriber's end").unwrap();
    assert_eq!(subscribed, ids(&after), "the subscriber from the middle saw each once, through both outages");
    let by_grpc = tokio::time::timeout(LIMIT, subscriber_by_grpc).await.expect("the gRPC subscriber's end").unwrap();
    assert!(0 < by_grpc["breaks"].as_u64().unwrap(), "it went through the kill of the gateway");
    same(by_grpc["events"].as_array().unwrap(), &after, "the gRPC subscriber from the middle");
    let by_grpc = by_python(api.clone(), ["read".into(), "Counted".into()]).await;
    same(by_grpc.as_array().unwrap(), &by_http, "gRPC has the same events in the same order");
    let backwards = api.events("type=Counted&order=desc").await.unwrap();
    assert!(ids(&backwards).iter().rev().eq(ids(&by_http).iter()));
}

/// The third-party client's answer.
async fn by_python<const N: usize>(api: Api, arguments: [String; N]) -> Value {
    let target = api.base().trim_start_matches("http://").to_owned();
    let proto = workspace_root().join("proto").display().to_string();
    let arguments: Vec<&str> = [&target, &proto].into_iter().chain(&arguments).map(String::as_str).collect();
    python("grpc_client.py", &arguments).await.unwrap()
}

/// Asserts that both readers saw the same, without printing ten thousand events if not.
#[track_caller]
fn same(one: &[Value], other: &[Value], what: &str) {
    let differ = one.iter().zip(other).find(|(one, other)| one != other);
    assert!(differ.is_none(), "{what}: {differ:?}");
    assert_eq!(one.len(), other.len(), "{what}");
}

fn name(event: &Value) -> (usize, usize) {
    let number = |field: &str| usize::try_from(event["data"][field].as_u64().unwrap()).unwrap();
    (number("client"), number("n"))
}

/// Appends one after the other, each with a key, each again until it is acknowledged.
async fn append_all(api: Api, client: usize, acknowledged: Arc<AtomicUsize>) -> Vec<((usize, usize), Value)> {
    let mut receipts = Vec::new();
    for n in 0..EVENTS_EACH {
        let event = json!({"type": "Counted", "aggregate_id": format!("client-{client}"), "data": {"client": client, "n": n},
                           "metadata": {"source": "load"}});
        receipts.push(((client, n), append(&api, &event, &format!("key-{n}")).await));
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    receipts
}

async fn append(api: &Api, event: &Value, key: &str) -> Value {
    for _ in 0..RETRIES_MAX {
        let request = api.request(Method::POST, "/events").header("idempotency-key", key).json(event);
        if let Ok(response) = request.send().await {
            let status = response.status();
            let body: Value = response.json().await.unwrap_or(Value::Null);
            match status {
                // The answer itself may have been cut off by the kill.
                StatusCode::CREATED | StatusCode::OK if body["id"].is_string() => return body,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {}
                _ if body.is_null() => {}
                status => panic!("{event}: {status} {body}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{event} was never acknowledged");
}

/// Follows over SSE from a position, and comes back with `Last-Event-ID` whenever the stream breaks, until all are there.
async fn follow(api: Api, after: u64) -> Vec<Value> {
    let (mut last, mut ids, mut done) = (after, Vec::new(), [false; CLIENTS]);
    while !done.iter().all(|done| *done) {
        let Ok(mut stream) = api.stream("type=Counted", Some(last)).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(Some(seen)) = stream.next().await {
            if seen.kind == "Counted" {
                last = seen.id.parse().unwrap();
                ids.push(seen.data["id"].clone());
                let (client, n) = name(&seen.data);
                done[client] |= n + 1 == EVENTS_EACH;
                if done.iter().all(|done| *done) {
                    break;
                }
            }
        }
    }
    ids
}

/// The ids of all events as JetStream itself has them.
async fn from_nats(nats: &NatsServer) -> Vec<Value> {
    let stream = async_nats::jetstream::new(nats.client().await.unwrap()).get_stream("causeway_EVENTS").await.unwrap();
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let ids = messages.take(EVENTS).map(|message| {
        let message = message.unwrap();
        Value::String(message.headers.as_ref().unwrap().get("ce-id").unwrap().to_string())
    });
    ids.collect().await
}
