//! Every chain is one trace, and its id is the correlation id's.

use std::process::Command;

use causeway_event::{CorrelationId, Position, TraceParent};
use causeway_runtime::telemetry;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, World};

/// Spans are recorded only where a collector is named, which a process learns once, at its start: this one is started again.
#[test]
fn every_event_carries_the_span_that_appended_it() {
    if std::env::var_os(telemetry::ENDPOINT).is_none() {
        let myself = std::env::current_exe().unwrap();
        let mut again = Command::new(myself);
        again.args(["--exact", "traces::every_event_carries_the_span_that_appended_it", "--nocapture"]);
        let done = again.env(telemetry::ENDPOINT, "http://127.0.0.1:1").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let telemetry = telemetry::init("event-store", &telemetry::Config::default()).unwrap();
        let World { gateway, nats: _nats, dir: _dir } = World::start().await;
        check(&gateway).await;
        gateway.stop().await;
        telemetry.shutdown().await;
    });
}

async fn check(gateway: &Gateway) {
    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let caller: TraceParent = CALLER.parse().unwrap();
    let append = async |metadata: Value, traceparent: Option<&str>| {
        let body = json!({"type": "NoteTaken", "aggregate_id": "a", "data": 1, "metadata": metadata});
        let mut request = gateway.request(Method::POST, "/events").json(&body);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let receipt = gateway.send(request).await.created();
        let position = Position::new(receipt["position"].as_u64().unwrap());
        let metadata = gateway.log.get(position).await.unwrap().unwrap().event.metadata;
        let chain: CorrelationId = receipt["correlation_id"].as_str().unwrap().parse().unwrap();
        let span = metadata.traceparent.expect("a span");
        assert_eq!(span.trace_id, chain.trace_id(), "whoever has an event can open its trace");
        assert_ne!(span.span_id, caller.span_id, "a span of our own");
        (receipt["id"].clone(), span)
    };
    let (root, span) = append(json!({}), None).await;
    let (_, caused) = append(json!({"causation_id": root}), None).await;
    assert_eq!(caused.trace_id, span.trace_id);
    let (_, called) = append(json!({}), Some(CALLER)).await;
    assert_eq!(called.trace_id, caller.trace_id);
    let (_, named) = append(json!({"correlation_id": "order 7"}), Some(CALLER)).await;
    assert_ne!(named.trace_id, caller.trace_id, "the chain's own trace wins");
    append(json!({"causation_id": root, "correlation_id": "order 7"}), None).await;
}
