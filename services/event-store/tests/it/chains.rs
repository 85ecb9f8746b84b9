//! Chains: the whole tree, why something happened, and what it led to.

use causeway_event_store::{Config, ReadModelConfig};
use causeway_proto::v1;
use causeway_testkit::NatsServer;
use serde_json::{Value, json};

use crate::harness::{Gateway, World};

/// Two chains that hang together: a question with an answer, and what the answer led to elsewhere.
struct Family {
    question: Value,
    claim: Value,
    answer: Value,
    elsewhere: Value,
    alone: Value,
}

impl Family {
    async fn of(gateway: &Gateway) -> Self {
        let append = async |event_type: &str, data: Value, cause: Option<&Value>, correlation: Option<&str>| {
            let mut metadata = json!({});
            if let Some(cause) = cause {
                metadata["causation_id"] = cause["id"].clone();
            }
            if let Some(correlation) = correlation {
                metadata["correlation_id"] = correlation.into();
            }
            let event = json!({"type": event_type, "aggregate_id": "s", "data": data, "metadata": metadata});
            gateway.post(&event).await.created()
        };
        let question = append("MessageReceived", json!({"content": "?"}), None, Some("first")).await;
        let claim = json!({"turn": "t", "inputs": [question["id"]], "owner": "o", "attempt": 1, "agent": "a", "model": "demo"});
        let claim = append("AIProcessingStarted", claim, Some(&question), None).await;
        let said = json!({"turn": "t", "content": "!", "model": "demo", "usage": {"input_tokens": 1000, "output_tokens": 100}});
        let answer = append("MessageGenerated", said, Some(&claim), None).await;
        let end = json!({"turn": "t", "steps": 1, "usage": {"input_tokens": 1000, "output_tokens": 100}, "duration_ms": 5});
        append("AIProcessingCompleted", end, Some(&claim), None).await;
        let elsewhere = append("NoteTaken", json!({}), Some(&answer), Some("second")).await;
        let alone = append("NoteTaken", json!({}), None, Some("third")).await;
        Self { question, claim, answer, elsewhere, alone }
    }
}

fn positions(tree: &Value) -> Vec<u64> {
    tree["nodes"].as_array().unwrap().iter().map(|node| node["position"].as_u64().unwrap()).collect()
}

fn id(receipt: &Value) -> &str {
    receipt["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_found_by_its_id_and_by_each_of_its_events() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let family = Family::of(&gateway).await;
    let tree = gateway.get("/chains/first").await.ok();
    assert_eq!((&tree["scope"], &tree["correlation_id"], &tree["events"]), (&json!("chain"), &json!("first"), &json!(4)));
    assert_eq!((&tree["orphans"], &tree["unfinished"], &tree["more"]), (&json!(0), &json!(0), &json!(false)));
    assert!(tree.get("url").is_none() && tree.get("cost").is_none(), "nothing is configured: {tree}");
    for name in [id(&family.answer), &family.claim["position"].to_string()] {
        assert_eq!(gateway.get(&format!("/chains/{name}")).await.ok(), tree, "{name}");
    }
    assert_eq!(gateway.get("/projections/chain/first").await.ok()["state"]["nodes"], tree["nodes"]);
    let then = gateway.get(&format!("/chains/first?as_of={}", id(&family.claim))).await.ok();
    assert_eq!((&then["events"], &then["unfinished"]), (&json!(2), &json!(1)));
    let by_position = gateway.get(&format!("/chains/{}?as_of={}", family.claim["position"], id(&family.claim))).await.ok();
    assert_eq!(by_position, then);
    let before = gateway.get(&format!("/chains/second?as_of={}", id(&family.claim))).await.ok();
    assert_eq!(before["events"], 0, "it began later");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn causes_and_effects_are_followed_into_other_chains() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let Family { question, claim, answer, elsewhere, alone } = Family::of(&gateway).await;
    let at = |receipt: &Value| receipt["position"].as_u64().unwrap();
    let why = gateway.get(&format!("/chains/{}?scope=ancestors", id(&elsewhere))).await.ok();
    assert_eq!(positions(&why), [&question, &claim, &answer, &elsewhere].map(at));
    assert_eq!((&why["scope"], &why["event_id"], &why["orphans"]), (&json!("ancestors"), &elsewhere["id"], &json!(0)));
    assert_eq!((&why["nodes"][3]["correlation_id"], &why["nodes"][2].get("correlation_id")), (&json!("second"), &None));
    let claimed = |tree: &Value| tree["nodes"].as_array().unwrap().iter().find(|node| node["id"] == claim["id"]).unwrap().clone();
    let whole = claimed(&gateway.get("/chains/first").await.ok());
    assert!(whole["duration_us"].is_i64(), "{whole}");
    assert_eq!((&why["unfinished"], &claimed(&why)["duration_us"]), (&json!(0), &whole["duration_us"]), "its end is no cause");
    let effects = gateway.get(&format!("/chains/{}?scope=descendants", at(&claim))).await.ok();
    assert_eq!((&effects["orphans"], &effects["unfinished"]), (&json!(0), &json!(0)), "its cause is none of its effects");
    let further = gateway.get(&format!("/chains/{}?scope=descendants", id(&elsewhere))).await.ok();
    assert_eq!(further["orphans"], json!(0), "its cause stands in another chain");
    let asked = gateway.get(&format!("/chains/{}?scope=ancestors&as_of={}", id(&answer), id(&answer))).await.ok();
    assert_eq!((&asked["unfinished"], &claimed(&asked)["unfinished"]), (&json!(1), &json!(true)), "then it had not ended");
    let mut expected: Vec<u64> = [at(&claim), at(&answer), at(&elsewhere), at(&answer) + 1].into();
    assert_eq!(positions(&effects), expected, "depth first");
    let then = gateway.get(&format!("/chains/{}?scope=descendants&as_of={}", id(&claim), id(&answer))).await.ok();
    expected.truncate(2);
    assert_eq!(positions(&then), expected);
    for scope in ["ancestors", "descendants"] {
        assert_eq!(positions(&gateway.get(&format!("/chains/{}?scope={scope}", id(&alone))).await.ok()), [at(&alone)]);
    }
    let request = v1::TraceRequest { id: id(&elsewhere).into(), scope: v1::TraceScope::Ancestors.into(), as_of: String::new() };
    let over_grpc = gateway.grpc().await.trace(request).await.unwrap().into_inner();
    assert_eq!(serde_json::from_slice::<Value>(&over_grpc.tree).unwrap(), why);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_takes_so_many_events_says_that_there_are_more_and_knows_their_ends() {
    const EVENTS_MAX: usize = 10_000;
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let event = |event_type: &str, data: Value, cause: Option<&Value>| {
        let cause = cause.map_or(Value::Null, |cause| cause["id"].clone());
        let metadata = json!({"correlation_id": "long", "causation_id": cause});
        json!({"type": event_type, "aggregate_id": "s", "data": data, "metadata": metadata})
    };
    let claim = json!({"turn": "t", "inputs": [], "owner": "o", "attempt": 1, "agent": "a", "model": "demo"});
    let mut claim = event("AIProcessingStarted", claim, None);
    claim["metadata"].as_object_mut().unwrap().remove("causation_id");
    let claim = gateway.post(&claim).await.created();
    let note = |_| event("NoteTaken", json!({}), Some(&claim));
    let mut last = Value::Null;
    for _ in 0..10 {
        let receipts = gateway.post(&(0..1000).map(note).collect()).await.created();
        last = receipts.as_array().unwrap()[998].clone();
    }
    let end = json!({"turn": "t", "steps": 1, "usage": {"input_tokens": 1, "output_tokens": 1}, "duration_ms": 5});
    gateway.post(&event("AIProcessingCompleted", end, Some(&claim))).await.created();
    let sizes = |tree: &Value| (positions(tree).len(), tree["events"].as_u64().unwrap() as usize, tree["more"] == true);
    let full = gateway.get(&format!("/chains/long?as_of={}", last["position"])).await.ok();
    assert_eq!((sizes(&full), &full["unfinished"]), ((EVENTS_MAX, EVENTS_MAX, false), &json!(1)));
    for path in ["/chains/long".to_owned(), format!("/chains/{}?scope=descendants", id(&claim))] {
        let tree = gateway.get(&path).await.ok();
        assert_eq!(sizes(&tree), (EVENTS_MAX, EVENTS_MAX, true), "{path}");
        assert_eq!((&tree["unfinished"], tree["nodes"][0]["duration_us"].is_i64()), (&json!(0), true), "its end is on the log");
    }
    let view = gateway.get("/projections/chain/long").await.ok();
    assert_eq!(sizes(&view["state"]), (EVENTS_MAX, EVENTS_MAX, true));
    let request = v1::TraceRequest { id: "long".into(), ..v1::TraceRequest::default() };
    assert!(gateway.grpc().await.max_decoding_message_size(64 << 20).trace(request).await.unwrap().into_inner().more);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_may_be_called_as_an_event_is() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for name in ["evt_import_2026", "evt_01k9x3m5v8e7rs2q4n6p8t0w1y"] {
        let note = json!({"type": "NoteTaken", "aggregate_id": "a", "data": 1, "metadata": {"correlation_id": name}});
        let receipt = gateway.post(&note).await.created();
        let tree = gateway.get(&format!("/chains/{name}")).await.ok();
        assert_eq!(positions(&tree), [receipt["position"].as_u64().unwrap()], "{name}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_traced_is_refused_by_its_name() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    Family::of(&gateway).await;
    for (path, status, field) in [
        ("/chains/nothing", 404, "id"),
        ("/chains/4711", 404, "id"),
        ("/chains/nothing?as_of=1", 404, "id"),
        ("/chains/4711?as_of=1", 404, "id"),
        ("/chains/evt_01k9x3m5v8e7rs2q4n6p8t0w1y", 404, "id"),
        ("/chains/evt_?scope=ancestors", 400, "id"),
        ("/chains/first?scope=ancestors", 400, "id"),
        ("/chains/first?scope=everything", 400, "scope"),
        ("/chains/first?as_of=yesterday", 400, "as_of"),
        ("/chains/first?scpe=chain", 400, "scpe"),
        ("/chains/a%00b", 400, "id"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.json()["field"].as_str()), (status, Some(field)), "{path}: {answer:?}");
    }
    gateway.stop().await;
}

/// A gateway that knows what the model `demo` costs.
async fn priced() -> World {
    let nats = NatsServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        read_model: ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() },
        pricing: serde_json::from_value(json!([{"model": "demo", "input": 2.5, "output": 10.0}])).unwrap(),
        trace_url: Some("https://jaeger.example/trace/{trace_id}".to_owned().try_into().unwrap()),
        ..Config::default()
    };
    World { gateway: Gateway::start_with(&nats, config).await, nats, dir }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_chain_takes_and_costs_what_the_model_calls_in_it_do() {
    let World { gateway, nats: _nats, dir: _dir } = priced().await;
    let tokens = |input, output| json!({"input_tokens": input, "output_tokens": output});
    let call =
        |call_id| json!({"turn": "t", "step": 1, "call_id": call_id, "tool": "calculate", "arguments": {}, "effect": "pure"});
    let done = |call_id| json!({"turn": "t", "step": 1, "call_id": call_id, "tool": "calculate", "result": 1, "duration_ms": 1});
    let claim = json!({"turn": "t", "inputs": [], "owner": "o", "attempt": 1, "agent": "a", "model": "demo"});
    let thought = json!({"turn": "t", "step": 1, "text": "Hm", "kind": "reasoning", "usage": tokens(25, 28)});
    let said = json!({"turn": "t", "content": "42", "model": "demo", "usage": tokens(39, 84)});
    let end = json!({"turn": "t", "steps": 2, "usage": tokens(64, 112), "duration_ms": 5});
    let history = [
        ("MessageReceived", json!({"content": "What is 6 * 7, and what time is it?"}), 0),
        ("AIProcessingStarted", claim, 1),
        ("ThinkingGenerated", thought, 2),
        ("ToolCalled", call("1"), 2),
        ("ToolCalled", call("2"), 2),
        ("ToolCompleted", done("1"), 4),
        ("ToolCompleted", done("2"), 5),
        ("MessageGenerated", said, 6),
        ("AIProcessingCompleted", end, 8),
    ];
    let mut receipts: Vec<Value> = Vec::new();
    for (event_type, data, cause) in history {
        let cause = match cause {
            0 => json!({"correlation_id": "first"}),
            cause => json!({"causation_id": receipts[cause - 1]["id"]}),
        };
        let event = json!({"type": event_type, "aggregate_id": "s", "data": data, "metadata": cause});
        receipts.push(gateway.post(&event).await.created());
    }
    let get = async |at: usize, query: &str| gateway.get(&format!("/chains/{}?{query}", id(&receipts[at - 1]))).await.ok();
    let sums = |tree: &Value| (tree["usage"].clone(), tree["cost"].clone());
    let nothing_unknown = |tree: &Value| tree.get("unpriced").is_none() && tree.get("model_unknown").is_none();
    let whole = get(1, "scope=chain").await;
    let all = (tokens(64, 112), json!(0.00128));
    assert_eq!(sums(&whole), all);
    let (thinking, answer) = ((tokens(25, 28), json!(0.000_342_5)), (tokens(39, 84), json!(0.000_937_5)));
    for (at, scope, expected) in [
        (1, "descendants", &all),
        (2, "descendants", &all),
        (3, "descendants", &thinking),
        (4, "descendants", &answer),
        (8, "descendants", &answer),
        (9, "descendants", &(tokens(0, 0), Value::Null)),
        (3, "ancestors", &thinking),
        (8, "ancestors", &answer),
        (9, "ancestors", &answer),
    ] {
        let part = get(at, &format!("scope={scope}")).await;
        assert_eq!(&sums(&part), expected, "{scope} of {at}");
        assert!(nothing_unknown(&part), "{scope} of {at}: {part}");
        let same = |node: &Value| {
            let whole = whole["nodes"].as_array().unwrap().iter().find(|whole| whole["id"] == node["id"]).unwrap();
            ["model", "usage", "cost", "duration_us", "unfinished"].iter().all(|field| whole[field] == node[field])
        };
        assert!(part["nodes"].as_array().unwrap().iter().all(same), "each event as in the whole: {scope} of {at}: {part}");
    }
    let then = get(4, &format!("scope=descendants&as_of={}", id(&receipts[7]))).await;
    assert_eq!(sums(&then), answer);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_and_links_are_given_as_they_are_configured() {
    let World { gateway, nats: _nats, dir: _dir } = priced().await;
    let family = Family::of(&gateway).await;
    let tree = gateway.get("/chains/first").await.ok();
    assert_eq!(tree["cost"], json!(0.0035));
    assert_eq!(tree["nodes"].as_array().unwrap().iter().filter(|node| node["cost"] == json!(0.0035)).count(), 2);
    // The first bytes of sha256("first").
    let url = "https://jaeger.example/trace/a7937b64b8caa58f03721bb6bacf5c78";
    assert_eq!(tree["url"], url);
    let request = v1::TraceRequest { id: id(&family.claim).into(), ..v1::TraceRequest::default() };
    assert_eq!(gateway.grpc().await.trace(request).await.unwrap().into_inner().url, url);
    gateway.stop().await;
}
