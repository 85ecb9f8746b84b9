//! A processor in another language, as docs/consumers.md shows it, and what an operator sees of it.

use std::collections::BTreeMap;

use causeway_e2e::{Causeway, Setup, python};
use causeway_testkit::workspace_root;
use serde_json::{Value, json};

/// What a command prints, which must succeed.
async fn command(causeway: &Causeway, arguments: &[&str]) -> String {
    let setup = Setup::command(arguments).env("CAUSEWAY_SERVER", causeway.ready().gateway.clone());
    let finished = setup.run().await.unwrap();
    assert!(finished.status.success(), "{arguments:?}: {finished:?}");
    finished.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_in_python_works_in_order_and_an_operator_sees_it() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    for number in 1..=5 {
        for aggregate in ["a", "b"] {
            api.append(&json!({"type": "Counted", "aggregate_id": aggregate, "data": {"number": number}})).await.unwrap();
        }
    }
    let target = api.base().trim_start_matches("http://").to_owned();
    let proto = workspace_root().join("proto").display().to_string();
    let seen = python("consumer.py", &[&target, &proto, "counters", "Counted", "10"]).await.unwrap();
    let mut by_aggregate: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for one in seen.as_array().unwrap() {
        let delivery = (one[1].as_u64().unwrap(), one[2].as_u64().unwrap());
        by_aggregate.entry(one[0].as_str().unwrap().to_owned()).or_default().push(delivery);
    }
    for (aggregate, deliveries) in by_aggregate {
        assert_eq!(deliveries, [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)], "{aggregate}");
    }
    let groups: Value = serde_json::from_str(&command(&causeway, &["groups", "list", "--json"]).await).unwrap();
    assert_eq!((&groups[0]["name"], &groups[0]["pending"], &groups[0]["parked"]), (&json!("counters"), &json!(0), &json!(0)));
    assert_eq!(command(&causeway, &["dlq", "list"]).await, "");
    let replayed = command(&causeway, &["dlq", "retry", "counters", "--all"]).await;
    assert_eq!(replayed, "0 will be delivered again\n");
    assert!(command(&causeway, &["groups", "delete", "counters"]).await.contains("is gone"));
    assert_eq!(command(&causeway, &["groups", "list"]).await, "");
}
