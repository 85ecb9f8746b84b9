//! The HTTP API is what its OpenAPI document says: a tool of others' reads the document, and asks the running gateway whatever it
//! could mean by it.

use std::time::Duration;

use causeway_e2e::{Setup, reference_page, tool};
use causeway_testkit::NatsServer;
use serde_json::Value;

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
    let url = format!("{}/openapi.json", gateway.ready().gateway);
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("openapi.json");
    let served = gateway.api().fetch("/openapi.json").await.unwrap();
    std::fs::write(&document, served.to_string()).unwrap();
    tool("openapi-spec-validator", &[&document.display().to_string()], dir.path(), LIMIT).await.unwrap();

    let config = causeway_e2e::script("schemathesis.toml").display().to_string();
    let arguments = ["--config-file", &config, "run", &url, "--checks", "all"];
    // Streams do not end.
    let streams = ["--exclude-path", "/events/stream", "--exclude-path", "/projections/{view}/{id}/watch"];
    let bounds = ["-n", EXAMPLES, "--seed", "1", "--request-timeout", "10"];
    let arguments = [&arguments[..], &streams, &bounds].concat();
    let said = tool("schemathesis", &arguments, dir.path(), LIMIT).await.unwrap();
    assert!(said.contains("14 selected / 16 total"), "an operation more or less: {said}");
    // The document cannot say of each request whether it is accepted; that many are is seen on the log.
    for (filter, at_least) in [("?category=custom", 1), ("?type=TypeRegistered", 1)] {
        let counted = gateway.api().fetch(&format!("/events/count{filter}")).await.unwrap();
        assert!(counted["count"].as_u64().unwrap() > at_least, "{filter}: {counted}: {said}");
    }
    for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
        assert!(said.contains(&format!("✅ {phase}")), "{phase}: {said}");
    }
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
