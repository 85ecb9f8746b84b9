//! Views: as fresh as the log, and as of any moment.

use std::time::Instant;

use reqwest::StatusCode;
use serde_json::{Value, json};

use causeway_proto::v1;
use causeway_testkit::wait_until;

use crate::harness::{Gateway, LIMIT, World, message, position, read_model};

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
    let gateway = Gateway::start(&nats, &fresh).await;
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
    let gateway = Gateway::start_with(&nats, config).await;
    let asked = Instant::now();
    let answer = gateway.get("/projections/conversation/a?min_position=1000").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["type"], "urn:causeway:problem:behind");
    assert!(asked.elapsed() < LIMIT);
    gateway.stop().await;
}

fn custom(event_type: &str, aggregate: &str, data: &Value) -> Value {
    json!({ "type": event_type, "aggregate_id": aggregate, "data": data })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_are_listed_alike_over_http_and_grpc() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let listed = gateway.get("/projections").await.ok();
    let views = listed["views"].as_array().unwrap();
    let names: Vec<_> = views.iter().map(|view| (view["name"].as_str().unwrap(), view["id_kind"].as_str().unwrap())).collect();
    assert_eq!(names, [("chain", "correlation"), ("conversation", "aggregate"), ("state", "aggregate")]);
    let over_grpc = gateway.grpc().await.list_views(v1::ListViewsRequest {}).await.unwrap().into_inner().views;
    let over_grpc = over_grpc.into_iter().map(
        |view| json!({"name": view.name, "version": view.version, "description": view.description, "id_kind": view.id_kind}),
    );
    assert_eq!(&over_grpc.collect::<Vec<_>>(), views);
    assert_eq!(gateway.get("/projections?x=1").await.status, StatusCode::BAD_REQUEST);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_aggregate_of_ones_own_is_seen_as_of_every_moment() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut receipts = Vec::new();
    for (event_type, data) in [
        ("OrderPlaced", json!({"total": 12, "note": "soon"})),
        ("OrderPaid", json!({"paid": true, "note": null})),
        ("OrderShipped", json!({"to": {"city": "Paris"}})),
    ] {
        receipts.push(gateway.post(&custom(event_type, "order-7", &data)).await.created());
        gateway.post(&message("order-7", "of another category")).await.created();
    }
    let state = async |query: &str| gateway.get(&format!("/projections/state/order-7{query}")).await.ok()["state"].clone();
    let now = state("").await;
    assert_eq!(now["state"], json!({"total": 12, "paid": true, "to": {"city": "Paris"}}));
    assert_eq!(
        (&now["events"], &now["position"], &now["last"]["event_id"]),
        (&3.into(), &receipts[2]["position"], &receipts[2]["id"])
    );
    for moment in ["position", "id", "timestamp"] {
        let as_of = receipts[1][moment].to_string().replace('"', "");
        assert_eq!(state(&format!("?as_of={as_of}")).await["state"], json!({"total": 12, "paid": true}), "{moment}");
    }
    assert_eq!(state(&format!("?min_position={}", receipts[2]["position"])).await, now);
    assert_eq!(state("?as_of=0").await, json!({"position": 0, "events": 0, "state": {}}));
    gateway.stop().await;
}

/// Applies a patch as JSON.
fn patched(document: &mut Value, patch: &Value) {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    json_patch::patch(document, &patch).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_leads_from_one_moment_to_the_other_event_by_event_and_at_once() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut receipts = Vec::new();
    for content in ["one", "two", "three", "four"] {
        receipts.push(gateway.post(&message("s", content)).await.created());
        gateway.post(&message("elsewhere", content)).await.created();
    }
    let state = async |at: &Value| {
        gateway.get(&format!("/projections/conversation/s?as_of={}", at["position"])).await.ok()["state"].clone()
    };
    let path =
        format!("/projections/conversation/s/diff?from={}&to={}", receipts[0]["id"].as_str().unwrap(), receipts[2]["position"]);
    let diff = gateway.get(&path).await.ok();
    assert_eq!(
        (&diff["from_position"], &diff["to_position"], &diff["more"]),
        (&receipts[0]["position"], &receipts[2]["position"], &json!(false))
    );
    let (before, after) = (state(&receipts[0]).await, state(&receipts[2]).await);
    let mut at_once = before.clone();
    patched(&mut at_once, &diff["patch"]);
    assert_eq!(at_once, after);
    let mut step = before;
    let changes = diff["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2);
    for (change, receipt) in changes.iter().zip(&receipts[1..]) {
        patched(&mut step, &change["patch"]);
        assert_eq!(step, state(receipt).await);
        assert_eq!((&change["position"], &change["event"]["id"]), (&receipt["position"], &receipt["id"]));
        assert_eq!(change["event"]["type"], "MessageReceived");
    }
    let request = v1::DiffRequest {
        view: "conversation".into(),
        id: "s".into(),
        from: receipts[0]["id"].as_str().unwrap().into(),
        to: receipts[2]["position"].to_string(),
    };
    let over_grpc = gateway.grpc().await.diff(request).await.unwrap().into_inner();
    assert_eq!(serde_json::from_slice::<Value>(&over_grpc.patch).unwrap(), diff["patch"]);
    assert_eq!(over_grpc.changes.len(), 2);
    let refused = async |query: &str| {
        let answer = gateway.get(&format!("/projections/conversation/s/diff{query}")).await;
        (answer.status.as_u16(), answer.json()["field"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(refused("").await, (400, "from".into()));
    assert_eq!(refused("?from=3&to=2").await, (400, "to".into()));
    assert_eq!(refused("?from=yesterday").await, (400, "from".into()));
    assert_eq!(refused("?from=1000000").await, (400, "from".into()));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_of_more_changes_than_one_answer_takes_is_gone_on_with() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for batch in [0..1000, 1000..1200] {
        let events: Vec<_> = batch.map(|number| custom("Counted", "c", &json!({"number": number}))).collect();
        gateway.post(&json!(events)).await.created();
    }
    let diff = async |from: &Value| gateway.get(&format!("/projections/state/c/diff?from={from}")).await.ok();
    let (mut document, mut from, mut answers) = (json!({"position": 0, "events": 0, "state": {}}), json!(0), 0);
    loop {
        let part = diff(&from).await;
        let changes = part["changes"].as_array().unwrap();
        changes.iter().for_each(|change| patched(&mut document, &change["patch"]));
        from = changes.last().unwrap()["position"].clone();
        answers += 1;
        if part["more"] == json!(false) {
            break;
        }
    }
    assert_eq!((answers, document), (2, gateway.get("/projections/state/c").await.ok()["state"].clone()));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_type_is_seen_in_every_state_at_once() {
    let World { nats, dir, gateway } = World::start().await;
    let register = async |gateway: &Gateway, body: &Value| {
        let request = gateway.request(reqwest::Method::POST, "/types").json(body);
        assert!(gateway.send(request).await.status.is_success());
    };
    register(&gateway, &json!({"name": "Counted", "schema": {"type": "object"}})).await;
    let events: Vec<_> = (0..150).map(|number| custom("Counted", "c", &json!({"number": number}))).collect();
    let receipts = gateway.post(&json!(events)).await.created();
    let middle = receipts[70]["position"].to_string();
    let states = async |gateway: &Gateway| {
        let now = gateway.get("/projections/state/c").await.ok()["state"]["state"].clone();
        let then = gateway.get(&format!("/projections/state/c?as_of={middle}")).await.ok()["state"]["state"].clone();
        (now, then)
    };
    // So many events make a snapshot.
    assert_eq!(states(&gateway).await, (json!({"number": 149}), json!({"number": 70})));
    let upcast = json!([{"op": "move", "from": "/number", "path": "/count"}]);
    register(&gateway, &json!({"name": "Counted", "schema": {"type": "object"}, "upcast": upcast})).await;
    assert_eq!(states(&gateway).await, (json!({"count": 149}), json!({"count": 70})));
    gateway.stop().await;
    let gateway = Gateway::start(&nats, dir.path()).await;
    assert_eq!(states(&gateway).await, (json!({"count": 149}), json!({"count": 70})));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_another_type_keeps_the_snapshots_of_a_state() {
    let World { nats, dir, gateway } = World::start().await;
    let register = async |gateway: &Gateway, name: &str, upcast: Value| {
        let body = json!({"name": name, "schema": {"type": "object"}, "upcast": upcast});
        let request = gateway.request(reqwest::Method::POST, "/types").json(&body);
        assert!(gateway.send(request).await.status.is_success());
    };
    let state = async |gateway: &Gateway| gateway.get("/projections/state/c").await.ok()["state"]["state"].clone();
    register(&gateway, "Counted", json!([])).await;
    register(&gateway, "Weighed", json!([])).await;
    for aggregate in ["c", "d"] {
        let events: Vec<_> = (0..150).map(|_| custom("Counted", aggregate, &json!({"in": aggregate}))).collect();
        gateway.post(&json!(events)).await.created();
        gateway.get(&format!("/projections/state/{aggregate}")).await.ok();
    }
    wait_until("a snapshot of each", LIMIT, async || {
        let count = "SELECT count(DISTINCT id) FROM snapshots WHERE view = 'state'";
        let count = read_model(dir.path()).ok()?.query_row(count, [], |row| row.get::<_, u32>(0)).ok()?;
        (count == 2).then_some(())
    })
    .await;
    register(&gateway, "Weighed", json!([{"op": "add", "path": "/unit", "value": "g"}])).await;
    gateway.stop().await;

    // The one's snapshots now show the other: what is answered says whether they are used.
    let file = read_model(dir.path()).unwrap();
    file.execute("DELETE FROM snapshots WHERE id = 'c'", []).unwrap();
    file.execute("UPDATE snapshots SET id = 'c' WHERE id = 'd'", []).unwrap();
    file.close().unwrap();
    let gateway = Gateway::start(&nats, dir.path()).await;
    assert_eq!(state(&gateway).await, json!({"in": "d"}));
    register(&gateway, "Counted", json!([{"op": "move", "from": "/in", "path": "/of"}])).await;
    assert_eq!(state(&gateway).await, json!({"of": "c"}));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_look_while_it_grows_never_see_it_go_back() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    const EVENTS: usize = 150;
    let write = async {
        for number in 0..EVENTS {
            gateway.post(&message("a", &number.to_string())).await.created();
        }
    };
    let read = async || {
        let mut seen = 0;
        while seen < EVENTS {
            let before = gateway.last_position().await as usize;
            let texts = said(&gateway.get("/projections/conversation/a").await.ok());
            assert!(before.max(seen) <= texts.len(), "as fresh as the log was: {before}, {seen}, {}", texts.len());
            assert!(texts.iter().enumerate().all(|(number, text)| *text == number.to_string()));
            seen = texts.len();
        }
    };
    tokio::join!(write, read(), read(), read());
    gateway.stop().await;
}
