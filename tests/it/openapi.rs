//! The HTTP API is what its OpenAPI document says: a tool of others' reads the document, and asks the running gateway whatever it
//! could mean by it.

use std::time::Duration;

use causeway_e2e::{Setup, tool};
use causeway_testkit::NatsServer;

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
    let arguments = ["--config-file", &config, "run", &url, "--checks", "all", "--phases", "examples,coverage,fuzzing"];
    // Streams do not end.
    let streams = ["--exclude-path", "/events/stream", "--exclude-path", "/projections/{view}/{id}/watch"];
    let bounds = ["-n", EXAMPLES, "--seed", "1", "--request-timeout", "10"];
    let arguments = [&arguments[..], &streams, &bounds].concat();
    let said = tool("schemathesis", &arguments, dir.path(), LIMIT).await.unwrap();
    assert!(said.contains("14 selected / 16 total"), "an operation more or less: {said}");
}
