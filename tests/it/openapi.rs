//! The HTTP API is what its OpenAPI document says: a tool of others' reads the document, and asks the running gateway whatever it
//! could mean by it.

use std::time::Duration;

use causeway_e2e::{Api, Setup, reference_page, tool};
use causeway_testkit::NatsServer;
use serde_json::{Value, json};

/// How many requests are made up for each operation. With them the test takes about half a minute.
const EXAMPLES: &str = "15";
/// How long the tool may take before it is taken for hung.
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_does_what_its_document_says() {
    let nats = NatsServer::start().await.unwrap();
    let gateway = Setup::event_store(&nats.url())
        // A position that the log has not reached is waited for: not for long.
        .env("CAUSEWAY__EVENT_STORE__READ_MODEL__READ_TIMEOUT", "300ms")
        .start()
        .await
        .unwrap();
    seed(&gateway.api()).await;
    let before = gateway.api().fetch("/events/count?category=custom").await.unwrap()["count"].as_u64().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("openapi.json");
    let served = gateway.api().fetch("/openapi.json").await.unwrap();
    std::fs::write(&document, served.to_string()).unwrap();
    let document = document.display().to_string();
    tool("openapi-spec-validator", &[&document], dir.path(), LIMIT).await.unwrap();

    std::fs::write(&document, closed(served).to_string()).unwrap();
    let config = causeway_e2e::script("schemathesis.toml").display().to_string();
    let arguments = ["--config-file", &config, "run", &document, "--url", &gateway.ready().gateway, "--checks", "all"];
    // Streams do not end.
    let streams = ["--exclude-path", "/events/stream", "--exclude-path", "/projections/{view}/{id}/watch"];
    let bounds = ["-n", EXAMPLES, "--seed", "1", "--request-timeout", "10"];
    let arguments = [&arguments[..], &streams, &bounds].concat();
    let said = tool("schemathesis", &arguments, dir.path(), LIMIT).await.unwrap();
    assert!(said.contains("15 selected / 17 total"), "an operation more or less: {said}");
    // The document cannot say of each request whether it is accepted; that many are is seen on the log.
    for (filter, at_least) in [("?category=custom", before + 1), ("?type=TypeRegistered", 1)] {
        let counted = gateway.api().fetch(&format!("/events/count{filter}")).await.unwrap();
        assert!(counted["count"].as_u64().unwrap() > at_least, "{filter}: {counted}: {said}");
    }
    for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
        assert!(said.contains(&format!("✅ {phase}")), "{phase}: {said}");
    }
}

/// A log that has what the document's examples name: its chain, its aggregate, and its positions.
async fn seed(api: &Api) {
    let append = async |event_type: &str, data: Value, cause: Option<&Value>| {
        let metadata = json!({ "correlation_id": "0af7651916cd43dd8448eb211c80319c", "causation_id": cause });
        api.append(&json!({ "type": event_type, "aggregate_id": "user_123", "data": data, "metadata": metadata })).await.unwrap()
    };
    let said = append("MessageReceived", json!({ "content": "What is 6 * 7?" }), None).await;
    let claim = json!({ "turn": "t", "inputs": [said["id"]], "owner": "o", "attempt": 1, "agent": "a", "model": "demo" });
    let started = append("AIProcessingStarted", claim, Some(&said["id"])).await;
    let usage = json!({ "input_tokens": 90, "output_tokens": 12 });
    let end = json!({ "turn": "t", "steps": 1, "duration_ms": 41, "usage": usage });
    append("AIProcessingCompleted", end, Some(&started["id"])).await;
    for n in 0..50 {
        append("NoteTaken", json!({ "n": n }), Some(&said["id"])).await;
    }
}

/// The document as it would be if answers never had more members than it names. Clients are promised less: there may be more some day.
fn closed(mut document: Value) -> Value {
    for (name, schema) in document["components"]["schemas"].as_object_mut().unwrap() {
        let schema = schema.as_object_mut().unwrap();
        // A CloudEvent may have extensions.
        if schema.contains_key("properties") && name != "CloudEvent" {
            schema.entry("additionalProperties").or_insert(Value::Bool(false));
        }
    }
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_page_shows_all_that_the_document_has() {
    let nats = NatsServer::start().await.unwrap();
    let gateway = Setup::event_store(&nats.url()).start().await.unwrap();
    let document = gateway.api().fetch("/openapi.json").await.unwrap();
    let page = reference_page(&format!("{}/docs", gateway.ready().gateway)).await.unwrap();
    let sorted = |names: Vec<&str>| {
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    let shown = |list: &str| sorted(page[list].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect());
    let operations: Vec<&Value> =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()).collect();
    assert_eq!(
        shown("operations"),
        sorted(operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect())
    );
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert_eq!(shown("schemas"), sorted(schemas.keys().map(String::as_str).collect()));
    assert_eq!((&page["errors"], &page["dead_links"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    // The name of a parameter that these have and no other operation.
    assert_eq!(shown("found"), ["count_events", "list_events", "stream_events"], "the search hides the others");
    assert!(page["title"].as_str().unwrap().starts_with("Causeway "));
}
