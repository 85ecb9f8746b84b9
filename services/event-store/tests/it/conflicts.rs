//! What a conflict brings along, and keys that come back long afterwards.

use std::time::Duration;

use causeway_event_store::{Config, ReadModelConfig};
use causeway_proto::{Problem, v1};
use causeway_testkit::SlowLink;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::grpc::draft;
use crate::harness::{Gateway, World, forget_ids, message, note, position};

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_brings_the_events_that_caused_it_and_no_others() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let first = position(&gateway.note("a", 1).await);
    gateway.note("b", 1).await;
    gateway.post(&message("a", "another category")).await.created();
    let second = gateway.note("a", 2).await;
    let third = gateway.note("a", 3).await;
    let fenced = |expected: Value, events: Vec<Value>| json!({"events": events, "expected": expected});
    for events in [vec![note("a", 4)], vec![note("a", 4), note("a", 5)]] {
        let answer = gateway.post(&fenced(json!(first), events)).await;
        assert_eq!(answer.status, StatusCode::CONFLICT);
        let problem = answer.json();
        assert_eq!((problem["actual_position"].as_u64(), &problem["more"]), (Some(position(&third)), &json!(false)));
        let conflicting = problem["events"].as_array().unwrap();
        assert_eq!(
            conflicting.iter().map(|event| event["id"].clone()).collect::<Vec<_>>(),
            [second["id"].clone(), third["id"].clone()]
        );
        assert_eq!(conflicting[1], gateway.get(&format!("/events/{}", third["position"])).await.ok());
    }
    let ahead = gateway.post(&fenced(json!(position(&third) + 99), vec![note("a", 4)])).await.json();
    assert_eq!((&ahead["events"], &ahead["more"]), (&json!([]), &json!(false)), "a fence ahead of the log has nothing behind it");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_of_several_aggregates_brings_the_events_of_each() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let [a, b, c] = [gateway.note("a", 1).await, gateway.note("b", 1).await, gateway.note("c", 1).await].map(|e| position(&e));
    gateway.note("b", 2).await;
    gateway.note("c", 2).await;
    let fence = |aggregate: &str, position: u64| json!({"aggregate_id": aggregate, "category": "custom", "position": position});
    let transfer = json!({
        "events": [note("a", 9), note("b", 9), note("c", 9)],
        "expected": [fence("a", a), fence("b", b), fence("c", c)],
    });
    let numbers = |conflict: &Value| {
        let events = conflict["events"].as_array().unwrap().iter();
        events.map(|event| (event["aggregate_id"].clone(), event["data"]["number"].clone())).collect::<Vec<_>>()
    };
    let problem = gateway.post(&transfer).await.json();
    assert_eq!(numbers(&problem), [(json!("b"), json!(2))]);
    let others = problem["others"].as_array().unwrap();
    assert_eq!((others.len(), numbers(&others[0]), &others[0]["more"]), (1, vec![(json!("c"), json!(2))], &json!(false)));
    assert_eq!((&others[0]["expected_position"], &others[0]["actual_position"]), (&json!(c), &json!(c + 2)));

    let mut client = gateway.grpc().await;
    let expected =
        |aggregate: &str, position| v1::Expected { aggregate_id: aggregate.to_owned(), category: "custom".to_owned(), position };
    let transfer = v1::AppendRequest {
        events: vec![draft("a", 9).into(), draft("b", 9).into(), draft("c", 9).into()],
        expected: vec![expected("a", a), expected("b", b), expected("c", c)],
        ..v1::AppendRequest::default()
    };
    let conflict = Problem::from(client.append(transfer).await.unwrap_err()).conflict.unwrap();
    let other = &conflict.others[0];
    assert_eq!((other.aggregate_id.as_str(), other.events.len(), other.more), ("c", 1, false));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_with_many_events_says_that_there_are_more() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let notes: Vec<_> = (0..150).map(|number| note("a", number)).collect();
    gateway.post(&json!(notes)).await.created();
    let problem = gateway.post(&json!({"events": [note("a", 4)], "expected": "empty"})).await.json();
    assert_eq!((problem["events"].as_array().unwrap().len(), &problem["more"]), (100, &json!(true)));
    assert_eq!(problem["events"][0]["data"]["number"], 0, "the oldest first");

    let mut client = gateway.grpc().await;
    let fenced = v1::AppendRequest {
        events: vec![draft("a", 1).into()],
        expected: vec![v1::Expected { position: 140, ..v1::Expected::default() }],
        ..v1::AppendRequest::default()
    };
    let conflict = Problem::from(client.append(fenced.clone()).await.unwrap_err()).conflict.unwrap();
    assert_eq!((conflict.events.len(), conflict.more, conflict.actual.get()), (10, false, 150));
    let all = v1::AppendRequest { expected: vec![v1::Expected::default()], ..fenced };
    let conflict = Problem::from(client.append(all).await.unwrap_err()).conflict.unwrap();
    assert!(conflict.more && (1..100).contains(&conflict.events.len()), "what trailers hold: {}", conflict.events.len());
    assert_eq!(conflict.events[0].position.get(), 1);
    gateway.stop().await;
}

/// No error can carry them: many clients allow 8 KiB of headers.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_asks_for_it_is_answered_with_the_large_events_of_a_conflict() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for number in 0..3 {
        let words = format!("{number}{}", "x".repeat(200 * 1024));
        gateway.post(&json!({"type": "NoteTaken", "aggregate_id": "a", "data": words})).await.created();
    }
    let mut client = gateway.grpc().await;
    let fenced = v1::AppendRequest {
        events: vec![draft("a", 1).into()],
        expected: vec![v1::Expected::default()],
        ..v1::AppendRequest::default()
    };
    let error = Problem::from(client.append(fenced.clone()).await.unwrap_err()).conflict.unwrap();
    assert_eq!((error.events.len(), error.more), (0, true));
    let asking = v1::AppendRequest { answer_conflict: true, ..fenced };
    let answer = client.append(asking.clone()).await.unwrap().into_inner();
    let conflict = answer.conflict.unwrap();
    let positions: Vec<_> = conflict.events.iter().map(|event| event.position).collect();
    assert_eq!((positions, conflict.actual_position, conflict.more), (vec![1, 2, 3], 3, false));
    assert_eq!((answer.events, gateway.last_position().await), (vec![], 3));
    let holds = v1::AppendRequest { expected: vec![v1::Expected { position: 3, ..v1::Expected::default() }], ..asking };
    let answer = client.append(holds).await.unwrap().into_inner();
    assert_eq!((answer.conflict, answer.events[0].position), (None, 4));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_causeways_own_cannot_be_appended() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let own = json!({"type": "LogCheckpointed", "aggregate_id": "causeway:log", "data": {}});
    let answer = gateway.post(&json!([note("a", 1), own])).await;
    assert_eq!((answer.status, answer.json()["field"].as_str()), (StatusCode::BAD_REQUEST, Some("/1/type")));
    assert_eq!(gateway.last_position().await, 0);
    gateway.stop().await;
}

/// The server forgets ids after its window; here that is over before it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_an_hour_and_a_restart_later_gives_the_first_answer() {
    let World { gateway, mut nats, dir } = World::start().await;
    let keyed = async |gateway: &Gateway, key: &str, body: &Value| {
        gateway.send(gateway.request(Method::POST, "/events").header("Idempotency-Key", key).json(body)).await
    };
    let (one, many) = (note("a", 1), json!([note("a", 2), note("b", 3)]));
    let first = keyed(&gateway, "k1", &one).await.created();
    let firsts = keyed(&gateway, "k2", &many).await.created();
    let last = gateway.last_position().await;
    gateway.stop().await;
    forget_ids(&mut nats).await;

    let again = |first: &Value| {
        let mut again = first.clone();
        again["duplicate"] = true.into();
        again
    };
    let fresh = dir.path().join("fresh");
    std::fs::create_dir_all(&fresh).unwrap();
    for folder in [dir.path(), &fresh] {
        let gateway = Gateway::start(&nats, folder).await;
        assert_eq!(keyed(&gateway, "k1", &one).await.created(), again(&first));
        assert_eq!(keyed(&gateway, "k2", &many).await.created(), json!([again(&firsts[0]), again(&firsts[1])]));
        assert_eq!(gateway.last_position().await, last);
        gateway.stop().await;
    }
}

/// However long ago, and whatever others appended behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_again_with_more_or_fewer_events_is_refused() {
    let World { gateway, mut nats, dir: _dir } = World::start().await;
    let keyed = async |key: &str, count: usize| {
        let notes: Vec<_> = (0..count).map(|number| note("a", number)).collect();
        gateway.send(gateway.request(Method::POST, "/events").header("Idempotency-Key", key).json(&notes)).await
    };
    for (key, count) in [("one", 1), ("two", 2), ("three", 3)] {
        keyed(key, count).await.created();
        // They look as if they were of the same append.
        gateway.post(&note("a", 7)).await.created();
        gateway.post(&json!([note("a", 8), note("a", 9)])).await.created();
    }
    for forgotten in [false, true] {
        let last = gateway.last_position().await;
        for (key, count) in [("one", 1), ("two", 2), ("three", 3)] {
            for other in 1..=4 {
                let answer = keyed(key, other).await;
                match other == count {
                    true => {
                        let answer = answer.created();
                        let receipts = answer.as_array().unwrap();
                        assert!(receipts.len() == count && receipts.iter().all(|receipt| receipt["duplicate"] == true));
                    }
                    false => {
                        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key} with {other}, {forgotten}: {answer:?}");
                        assert_eq!(answer.json()["field"], "Idempotency-Key");
                    }
                }
            }
        }
        assert_eq!(gateway.last_position().await, last);
        if !forgotten {
            forget_ids(&mut nats).await;
            gateway.is_ready().await;
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_is_answered_before_its_fence_is_looked_at() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let keyed = async |expected: u64| {
        let body = json!({"events": [note("a", 1)], "expected": expected, "idempotency_key": "k"});
        gateway.post(&body).await
    };
    let before = gateway.post(&note("a", 0)).await.created();
    assert_eq!(keyed(0).await.status, StatusCode::CONFLICT);
    let first = keyed(before["position"].as_u64().unwrap()).await.created();
    // At once, while the read model may not have it.
    let again = keyed(0).await.created();
    assert_eq!((&again[0]["id"], &again[0]["duplicate"]), (&first[0]["id"], &json!(true)));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_append_has_come_in_part_is_not_refused() {
    let World { gateway, nats, dir } = World::start().await;
    let link = SlowLink::to(nats.port(), 150_000).await.unwrap();
    let log = causeway_log::Config { url: link.url().as_str().into(), ..causeway_log::Config::default() };
    let config = Config {
        read_model: ReadModelConfig { path: dir.path().join("far.sqlite"), ..ReadModelConfig::default() },
        ..Config::default()
    };
    let far = Gateway::start_on(log, config).await;
    let notes: Vec<_> = (0..300)
        .map(|number| json!({"type": "NoteTaken", "aggregate_id": "a", "data": {"n": number, "text": "x".repeat(1000)}}))
        .collect();
    let keyed = async |gateway: &Gateway| {
        gateway.send(gateway.request(Method::POST, "/events").header("Idempotency-Key", "k").json(&notes)).await
    };
    let first = keyed(&gateway).await.created();
    // One after the other, while its events come in: none waits for what the one before waits for.
    let again = join_all((0..40).map(async |number| {
        tokio::time::sleep(Duration::from_millis(100) * number).await;
        keyed(&far).await
    }));
    let answers = again.await;
    assert_eq!(answers.last().unwrap().status, StatusCode::CREATED, "all of it is there by then");
    for answer in answers {
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            let again = answer.created();
            assert_eq!(again.as_array().unwrap().len(), 300);
            assert_eq!((&again[299]["id"], &again[299]["duplicate"]), (&first[299]["id"], &json!(true)));
        }
    }
    far.stop().await;
    gateway.stop().await;
}
