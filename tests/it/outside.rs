//! The log is open: whoever has a NATS client can read it, without any code of Causeway.

use causeway_e2e::{Setup, python};

#[tokio::test(flavor = "multi_thread")]
async fn nats_py_and_the_cloudevents_sdk_read_the_log() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    let session = "Ada Lovelace \u{1f980} \"q\" 100%";
    api.say(session, "Grüße, \u{1f980}").await.unwrap();
    let mut sse = api.stream("type=AIProcessingCompleted", None).await.unwrap();
    sse.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap();
    let events = api.events("").await.unwrap();

    let nats = &causeway.ready().nats;
    let count = events.len().to_string();
    let seen = python("read_stream.py", &[nats, "causeway_EVENTS", "causeway.ev.>", &count]).await.unwrap();
    let seen = seen.as_array().unwrap();
    assert_eq!(seen.len(), events.len());
    for (message, event) in seen.iter().zip(&events) {
        let attributes = &message["attributes"];
        assert_eq!(message["position"], event["position"]);
        assert_eq!(message["data"], event["data"], "the payload is the plain JSON of `data`");
        assert_eq!(message["sdk_agrees"], true, "{message}");
        assert_eq!(attributes["specversion"], "1.0");
        assert_eq!(attributes["id"], event["id"]);
        assert_eq!(attributes["type"], event["type"]);
        assert_eq!(attributes["subject"], session, "the aggregate, whatever characters it has");
        assert_eq!(attributes["correlationid"], event["metadata"]["correlation_id"]);
        let cause = &event["metadata"]["causation_id"];
        assert_eq!(attributes.get("causationid"), Some(cause).filter(|cause| !cause.is_null()), "{message}");
        assert!(attributes["source"].as_str().is_some_and(|source| !source.is_empty()), "{message}");
        assert!(attributes["datacontenttype"].as_str().is_some_and(|kind| kind.starts_with("application/json")), "{message}");
        let subject = message["subject"].as_str().unwrap();
        assert_eq!(subject.split('.').count(), 4, "one token for the aggregate: {subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloudevents_sdk_appends_in_each_of_its_forms() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    let posted = python("cloudevents_post.py", &[api.base()]).await.unwrap();
    assert_eq!(posted["binary_again"]["id"], posted["structured"]["id"], "the same source and id are the same event");
    assert_eq!(posted["binary_again"]["duplicate"], true);
    let events = api.events("").await.unwrap();
    assert_eq!(events.len(), 2);
    for (number, event) in (1..).zip(&events) {
        assert_eq!((&event["type"], &event["aggregate_id"]), (&"OrderPlaced".into(), &"order é 7".into()));
        assert_eq!(event["data"], serde_json::json!({"total": number, "note": "ünï"}));
        assert_eq!((&event["metadata"]["source"], &event["metadata"]["labels"]["tenant"]), (&"/python/sdk".into(), &"t1".into()));
    }
}
