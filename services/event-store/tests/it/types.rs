//! The users' own types: registered once, checked on the way in, and read in their newest version by everybody.

use causeway_event::{Data, Labels, Lineage, NewEvent};
use causeway_log::Append;
use causeway_proto::{Problem, v1};
use causeway_testkit::wait_until;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, LIMIT, World, note};

fn number(field: &str) -> Value {
    json!({"type": "object", "required": [field], "properties": {field: {"type": "number"}}})
}

async fn register(gateway: &Gateway, body: &Value) -> Answer {
    gateway.send(gateway.request(Method::POST, "/types").json(body)).await
}

fn order(data: Value) -> Value {
    json!({"type": "OrderPlaced", "aggregate_id": "order-1", "data": data})
}

/// `amount`, then `total`, then `total` with a `currency`.
fn version(number_of: u32) -> Value {
    match number_of {
        1 => json!({"name": "OrderPlaced", "schema": number("amount"), "description": "somebody bought something"}),
        2 => {
            json!({"name": "OrderPlaced", "schema": number("total"), "upcast": [{"op": "move", "from": "/amount", "path": "/total"}]})
        }
        _ => json!({"name": "OrderPlaced", "schema": {"required": ["total", "currency"]},
            "upcast": [{"op": "add", "path": "/currency", "value": "EUR"}]}),
    }
}

/// The one registered type, as this gateway lists it.
async fn listed(gateway: &Gateway) -> Option<Value> {
    let types = gateway.get("/types").await.ok();
    types["types"].as_array().unwrap().iter().find(|known| known["name"] == "OrderPlaced").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_the_newest_version_unless_it_wants_what_was_appended() {
    let World { gateway, nats, dir } = World::start().await;
    let before = gateway.post(&order(json!({"amount": "before there were types"}))).await.created();
    for number in 1..=3 {
        let answer = register(&gateway, &version(number)).await.created();
        assert_eq!(answer["duplicate"], false);
        assert_eq!(answer["type"]["versions"].as_array().unwrap().len(), number as usize);
        assert_eq!(answer["type"]["description"], "somebody bought something");
        let data =
            [json!({"amount": 1}), json!({"total": 2}), json!({"total": 3, "currency": "USD"})][number as usize - 1].clone();
        gateway.post(&order(data)).await.created();
    }
    let stated =
        json!({"type": "OrderPlaced", "aggregate_id": "order-1", "data": {"amount": 4}, "metadata": {"schema_version": 1}});
    let last = gateway.post(&stated).await.created();

    let second_dir = tempfile::tempdir().unwrap();
    let second = Gateway::start(&nats, second_dir.path()).await;
    for gateway in [&gateway, &second] {
        let shown = |events: &Value| -> Vec<(Value, Value)> {
            let events = events["events"].as_array().unwrap();
            events.iter().map(|event| (event["metadata"]["schema_version"].clone(), event["data"].clone())).collect()
        };
        let events = gateway.get("/events?aggregate_id=order-1").await.ok();
        let newest = vec![
            (json!(null), json!({"amount": "before there were types"})),
            (json!(3), json!({"total": 1, "currency": "EUR"})),
            (json!(3), json!({"total": 2, "currency": "EUR"})),
            (json!(3), json!({"total": 3, "currency": "USD"})),
            (json!(3), json!({"total": 4, "currency": "EUR"})),
        ];
        assert_eq!(shown(&events), newest);
        let raw = gateway.get("/events?aggregate_id=order-1&raw=true").await.ok();
        assert_eq!(shown(&raw)[1], (json!(1), json!({"amount": 1})));
        assert_eq!(shown(&raw)[4], (json!(1), json!({"amount": 4})));
        let id = last["id"].as_str().unwrap();
        assert_eq!(gateway.get(&format!("/events/{id}")).await.ok()["data"], json!({"total": 4, "currency": "EUR"}));
        assert_eq!(gateway.get(&format!("/events/{id}?raw=true")).await.ok()["data"], json!({"amount": 4}));

        let mut grpc = gateway.grpc().await;
        for (raw, first) in [(false, r#"{"currency":"EUR","total":1}"#), (true, r#"{"amount":1}"#)] {
            let filter = v1::Filter { aggregate_id: "order-1".into(), ..v1::Filter::default() };
            let after = before["position"].to_string();
            let request = v1::SubscribeRequest { filter: Some(filter), after, raw, ..v1::SubscribeRequest::default() };
            let mut heard = grpc.subscribe(request).await.unwrap().into_inner();
            let event = loop {
                if let Some(v1::subscribe_response::Update::Event(event)) = heard.message().await.unwrap().unwrap().update {
                    break event;
                }
            };
            assert_eq!(String::from_utf8(event.data).unwrap(), first);
        }
    }
    second.stop().await;

    gateway.stop().await;
    let again = Gateway::start(&nats, dir.path()).await;
    assert_eq!(again.get(&format!("/events/{}", last["position"])).await.ok()["data"]["total"], 4);
    assert_eq!(again.post(&order(json!({"total": 1}))).await.status, StatusCode::BAD_REQUEST, "still checked after a restart");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_shows_what_stands_in_the_way_in_its_newest_version() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    register(&gateway, &version(1)).await.created();
    let stored = gateway.post(&order(json!({"amount": 1}))).await.created();
    register(&gateway, &version(2)).await.created();
    let newest = json!({"total": 1});

    let answer = gateway.post(&json!({"events": [order(json!({"total": 2}))], "expected": "empty"})).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    let problem = answer.json();
    let [shown] = &problem["events"].as_array().unwrap()[..] else { panic!("{answer:?}") };
    assert_eq!((&shown["id"], &shown["data"]), (&stored["id"], &newest));
    assert_eq!(shown["metadata"]["schema_version"], 2);
    assert_eq!(*shown, gateway.get(&format!("/events/{}", stored["position"])).await.ok(), "as it is read");

    let append = v1::AppendRequest {
        events: vec![v1::NewEvent {
            r#type: "OrderPlaced".into(),
            aggregate_id: "order-1".into(),
            data: br#"{"total":2}"#.to_vec(),
            ..v1::NewEvent::default()
        }],
        expected: vec![v1::Expected::default()],
        ..v1::AppendRequest::default()
    };
    let mut grpc = gateway.grpc().await;
    let by_call = Problem::from(grpc.append(append.clone()).await.unwrap_err());
    let in_stream = v1::AppendStreamRequest { request_id: "1".into(), append: Some(append) };
    let mut answers = grpc.append_stream(futures::stream::iter([in_stream])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().result.unwrap();
    let v1::append_stream_response::Result::Problem(by_stream) = answer else { panic!("{answer:?}") };
    for problem in [by_call, Problem::from(by_stream)] {
        let conflict = problem.conflict.unwrap();
        let [shown] = &conflict.events[..] else { panic!("{conflict:?}") };
        assert_eq!((shown.data.as_str(), shown.metadata.schema_version), (newest.to_string().as_str(), Some(2)));
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_brings_no_more_bytes_than_allowed_of_what_it_shows() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    register(&gateway, &version(1)).await.created();
    let orders: Vec<Value> = (0..60).map(|amount| order(json!({"amount": amount}))).collect();
    gateway.post(&Value::from(orders)).await.created();
    // What takes some bytes on the log takes many in its newest version.
    let terms = "x".repeat(32 << 10);
    let longer = json!({"name": "OrderPlaced", "schema": number("amount"),
        "upcast": [{"op": "add", "path": "/terms", "value": terms}]});
    register(&gateway, &longer).await.created();
    let problem = gateway.post(&json!({"events": [order(json!({"amount": 2}))], "expected": "empty"})).await.json();
    let shown = problem["events"].as_array().unwrap();
    assert_eq!((shown.len(), &problem["more"]), (31, &json!(true)));
    assert_eq!(shown[30]["data"]["amount"], 30, "the oldest first");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_does_not_fit_is_refused_by_its_pointer_and_nothing_is_written() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    register(&gateway, &version(1)).await.created();
    register(&gateway, &version(2)).await.created();
    let last = gateway.last_position().await;
    let stated = |version: u32| {
        let mut order = order(json!({"amount": 1}));
        order["metadata"] = json!({"schema_version": version});
        order
    };
    for (body, field) in [
        (json!({"events": [note("a", 1), order(json!({"total": "SECRET"}))]}), "/events/1/data/total"),
        (json!([order(json!({}))]), "/0/data/total"),
        (order(json!({"amount": 1})), "/data/total"),
        (stated(3), "/metadata/schema_version"),
        (stated(2), "/data/total"),
        (
            json!({"type": "Unregistered", "aggregate_id": "a", "data": 1, "metadata": {"schema_version": 1}}),
            "/metadata/schema_version",
        ),
    ] {
        let answer = gateway.post(&body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert_eq!(answer.json()["field"], field, "{answer:?}");
        assert!(!answer.text.contains("SECRET"), "{answer:?}");
    }
    assert_eq!(gateway.last_position().await, last);
    gateway.post(&stated(1)).await.created();
    gateway.post(&order(json!({"total": 1}))).await.created();
    gateway.note("a", 1).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_made_once_or_refused_with_a_reason() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    register(&gateway, &version(1)).await.created();
    let again = register(&gateway, &version(1)).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.json()["duplicate"], true);
    let last = gateway.last_position().await;
    for (change, status, field) in [
        (json!({"name": "MessageReceived"}), 400, "/name"),
        (json!({"name": "order"}), 400, "/name"),
        (json!({"schema": {"type": "objekt"}}), 400, "/schema/type"),
        (json!({"schema": {"$ref": "https://example.com/x"}}), 400, "/schema/$ref"),
        (json!({"upcast": [{"op": "jump"}]}), 400, "/upcast/0"),
        (json!({"version": 0}), 400, "/version"),
        (json!({"version": 3}), 409, "/version"),
        (json!({"version": 1}), 409, "/version"),
        (json!({"versoin": 1}), 400, "/versoin"),
    ] {
        let mut body = version(2);
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = register(&gateway, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{change}: {answer:?}");
        assert_eq!(answer.json()["field"], field, "{change}: {answer:?}");
    }
    assert_eq!(gateway.last_position().await, last, "nothing was written");
    let forged =
        json!({"type": "TypeRegistered", "aggregate_id": "causeway:types", "data": {"name": "A", "version": 1, "schema": {}}});
    let answer = gateway.post(&forged).await;
    assert_eq!((answer.status, answer.json()["field"].clone()), (StatusCode::BAD_REQUEST, json!("/type")), "{answer:?}");

    let mut grpc = gateway.grpc().await;
    let types = grpc.list_types(v1::ListTypesRequest {}).await.unwrap().into_inner().types;
    let known = types.iter().find(|known| known.name == "MessageReceived").unwrap();
    assert_eq!((known.category.as_str(), known.versions.len()), ("input", 1));
    let registered = types.last().unwrap();
    assert_eq!((registered.name.as_str(), registered.category.as_str()), ("OrderPlaced", "custom"));
    assert!(registered.versions[0].registered_by.starts_with("evt_"));
    let body = version(2);
    let request = v1::RegisterTypeRequest {
        name: "OrderPlaced".into(),
        schema: body["schema"].to_string().into(),
        upcast: body["upcast"].to_string().into(),
        version: 2,
        ..v1::RegisterTypeRequest::default()
    };
    let answer = grpc.register_type(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.duplicate, answer.r#type.unwrap().versions.len()), (false, 2));
    assert!(grpc.register_type(request.clone()).await.unwrap().into_inner().duplicate);
    let taken = grpc.register_type(v1::RegisterTypeRequest { schema: b"true".to_vec(), ..request }).await.unwrap_err();
    assert_eq!(taken.code(), tonic::Code::FailedPrecondition);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_of_any_origin_may_send_changes_nothing() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let event = order(json!({"amount": 1}));
    for (path, body) in [("/types", version(1)), ("/events", event)] {
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
            let mut request = gateway.request(Method::POST, path).body(body.to_string()).header("origin", "http://evil.example");
            if !content_type.is_empty() {
                request = request.header("content-type", content_type);
            }
            let answer = gateway.send(request).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {content_type}: {answer:?}");
            assert_eq!(answer.json()["field"], "Content-Type");
        }
    }
    assert_eq!(gateway.last_position().await, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_under_a_key_is_answered_though_it_would_be_refused_by_now() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    register(&gateway, &version(1)).await.created();
    let keyed = |number: u32, data: Value| json!({"events": [order(data)], "idempotency_key": format!("k{number}")});
    for number in 0..50 {
        let first = gateway.post(&keyed(number, json!({"amount": number}))).await.created();
        // Before the read model has the first one, mostly.
        let again = gateway.post(&keyed(number, json!({"total": number}))).await.created();
        assert_eq!((&again[0]["id"], &again[0]["duplicate"]), (&first[0]["id"], &json!(true)));
    }
    assert_eq!(gateway.post(&keyed(50, json!({"total": 1}))).await.status, StatusCode::BAD_REQUEST, "it is a new one");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_gateways_that_register_at_once_one_comes_first_and_all_agree() {
    let World { gateway, nats, dir: _dir } = World::start().await;
    let second_dir = tempfile::tempdir().unwrap();
    let second = Gateway::start(&nats, second_dir.path()).await;
    for round in 1..=10_u32 {
        let body =
            |who: &str| json!({"name": "OrderPlaced", "schema": number(&format!("{who}{round}")), "version": 2 * round - 1});
        let (body_a, body_b) = (body("a"), body("b"));
        let (a, b) = tokio::join!(register(&gateway, &body_a), register(&second, &body_b));
        let mut statuses = [a.status.as_u16(), b.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{a:?} {b:?}");
        // Without a version both come, one after the other.
        let free = |who: &str| json!({"name": "Free", "schema": number(&format!("{who}{round}"))});
        let (free_a, free_b) = (free("a"), free("b"));
        let (a, b) = tokio::join!(register(&gateway, &free_a), register(&second, &free_b));
        assert_eq!((a.status.as_u16(), b.status.as_u16()), (201, 201), "{a:?} {b:?}");
        let next = json!({"name": "OrderPlaced", "schema": {"const": round}, "version": 2 * round});
        register(&gateway, &next).await.created();
    }
    let wanted = listed(&gateway).await.unwrap();
    let versions: Vec<_> =
        wanted["versions"].as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (1..=20).collect::<Vec<_>>(), "without gaps");
    wait_until("the other gateway to know as much", LIMIT, async || {
        (listed(&second).await.as_ref() == Some(&wanted)).then_some(())
    })
    .await;
    // What was registered elsewhere just before is known as soon as it is named.
    register(&gateway, &json!({"name": "Fresh", "schema": number("a")})).await.created();
    let fresh = json!({"type": "Fresh", "aggregate_id": "a", "data": {"a": 1}, "metadata": {"schema_version": 1}});
    second.post(&fresh).await.created();
    second.stop().await;
    gateway.stop().await;
}

/// Whoever has access to the stream can publish anything, also what looks like a registration where none can be.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_elsewhere_is_no_registration_and_stops_no_reader() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let data = json!({"name": "OrderPlaced", "version": 1, "schema": {}, "upcast": [], "description": ""});
    let event = NewEvent {
        event_type: "TypeRegistered".parse().unwrap(),
        aggregate_id: "x".parse().unwrap(),
        data: Data::of(&data).unwrap(),
        source: "somebody".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    };
    gateway.log.append(Append { events: vec![event], ..Append::default() }).await.unwrap();
    let page = gateway.get("/events").await.ok();
    assert_eq!(page["events"][0]["type"], "TypeRegistered", "it is read like any other event");
    assert_eq!(listed(&gateway).await, None);
    register(&gateway, &version(1)).await.created();
    assert!(listed(&gateway).await.is_some());
    gateway.stop().await;
}
