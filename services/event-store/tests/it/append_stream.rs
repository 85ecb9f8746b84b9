//! Many appends over one stream.

use std::time::Duration;

use causeway_event_store::{Config, ReadModelConfig};
use causeway_proto::v1::append_stream_response::Result as Said;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::{Kind, Problem, v1};
use futures::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::grpc::draft;
use crate::harness::{Gateway, LIMIT, World, forget_ids};

fn request(id: usize, aggregate: &str) -> v1::AppendStreamRequest {
    let append = v1::AppendRequest { events: vec![draft(aggregate, id).into()], ..v1::AppendRequest::default() };
    v1::AppendStreamRequest { request_id: id.to_string(), append: Some(append) }
}

fn fenced(id: usize, aggregate: &str, position: u64) -> v1::AppendStreamRequest {
    let mut request = request(id, aggregate);
    request.append.as_mut().unwrap().expected.push(v1::Expected { position, ..v1::Expected::default() });
    request
}

fn keyed(id: usize) -> v1::AppendStreamRequest {
    let mut request = request(id, "a");
    request.append.as_mut().unwrap().idempotency_key = format!("k{id}");
    request
}

/// With a name so long that a few answers fill what is on the way to a client.
fn large(id: usize) -> v1::AppendStreamRequest {
    v1::AppendStreamRequest { request_id: format!("{id}{}", " ".repeat(64 * 1024)), ..keyed(id) }
}

/// Sends until the gateway takes no more. Returns how many that are.
async fn send_all_it_takes(requests: &mpsc::Sender<v1::AppendStreamRequest>) -> usize {
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(2), requests.send(large(sent))).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "a client that reads nothing may send for ever");
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn of_large_requests_fewer_are_in_hand() {
    let World { gateway, nats, dir: _dir } = World::start().await;
    let (requests, mut answers) = open(&mut gateway.grpc().await).await;
    // What was sent stays in hand until the log answers.
    nats.pause().unwrap();
    let large = |id: usize| {
        let data = causeway_event::Data::of(&"x".repeat(500 * 1024)).unwrap();
        let event: v1::NewEvent = causeway_proto::Draft { data, ..draft("a", id) }.into();
        let append = v1::AppendRequest { events: vec![event; 4], ..v1::AppendRequest::default() };
        v1::AppendStreamRequest { request_id: id.to_string(), append: Some(append) }
    };
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(1), requests.send(large(sent))).await.is_ok() {
        sent += 1;
        assert!(sent < 30, "of 2 MiB each, where 16 MiB are in hand");
    }
    nats.resume().unwrap();
    drop(requests);
    for id in 0..sent {
        assert_eq!(next(&mut answers).await.0, id.to_string());
    }
    gateway.stop().await;
}

async fn open(
    client: &mut EventStoreClient<Channel>,
) -> (mpsc::Sender<v1::AppendStreamRequest>, Streaming<v1::AppendStreamResponse>) {
    let (requests, sent) = mpsc::channel(8);
    (requests, client.append_stream(ReceiverStream::new(sent)).await.unwrap().into_inner())
}

async fn next(answers: &mut Streaming<v1::AppendStreamResponse>) -> (String, Said) {
    let answer = tokio::time::timeout(LIMIT, answers.message()).await.expect("an answer in time").unwrap().expect("an answer");
    (answer.request_id, answer.result.unwrap())
}

#[track_caller]
fn position(said: Said) -> u64 {
    let Said::Appended(appended) = said else { panic!("{said:?}") };
    appended.events[0].position
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests_and_so_do_the_events() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let requests: Vec<_> = (0..2000).map(|id| request(id, &format!("a{}", id % 5))).collect();
    let mut answers = client.append_stream(stream::iter(requests)).await.unwrap().into_inner();
    for id in 0..2000 {
        let (request_id, said) = next(&mut answers).await;
        assert_eq!((request_id, position(said)), (id.to_string(), id as u64 + 1));
    }
    assert!(answers.message().await.unwrap().is_none(), "the end comes after the last answer");
    for id in [0, 777, 1999] {
        assert_eq!(gateway.get(&format!("/events/{}", id + 1)).await.ok()["data"], id);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_fails_is_answered_and_the_stream_goes_on() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let mut bad = request(2, "a");
    bad.append.as_mut().unwrap().events[0].r#type = "lower".into();
    let mut keyed = request(7, "a");
    keyed.append.as_mut().unwrap().idempotency_key = "k".into();
    let system = v1::AppendStreamRequest {
        append: Some(v1::AppendRequest {
            events: vec![v1::NewEvent { r#type: "LogCheckpointed".into(), ..draft("a", 3).into() }],
            ..v1::AppendRequest::default()
        }),
        ..v1::AppendStreamRequest::default()
    };
    let batch = v1::AppendStreamRequest {
        append: Some(v1::AppendRequest {
            events: vec![draft("a", 5).into(), draft("b", 5).into()],
            ..v1::AppendRequest::default()
        }),
        request_id: "5".into(),
    };
    let requests = vec![
        fenced(0, "a", 0),
        fenced(1, "a", 0),
        bad,
        system,
        v1::AppendStreamRequest { request_id: "4".into(), append: None },
        batch,
        request(6, "a"),
        keyed.clone(),
        keyed,
    ];
    let mut answers = client.append_stream(stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(position(next(&mut answers).await.1), 1);
    let (id, Said::Problem(conflict)) = next(&mut answers).await else { panic!("a conflict") };
    assert_eq!((id.as_str(), conflict.reason.as_str(), conflict.code), ("1", "CONFLICT", 9));
    let conflict = Problem::from(conflict).conflict.unwrap();
    assert_eq!((conflict.actual.get(), conflict.events.len(), conflict.more), (1, 1, false));
    assert_eq!(conflict.events[0].data.as_str(), "0");
    for field in ["/events/0/type", "/events/0/type", "/append"] {
        let (_, Said::Problem(refused)) = next(&mut answers).await else { panic!("a refusal") };
        assert_eq!((refused.reason.as_str(), refused.field.as_str()), ("INVALID", field));
    }
    assert_eq!(position(next(&mut answers).await.1), 2);
    assert_eq!(position(next(&mut answers).await.1), 4);
    assert_eq!(position(next(&mut answers).await.1), 5);
    let Said::Appended(again) = next(&mut answers).await.1 else { panic!("the first answer") };
    assert_eq!((again.events[0].position, again.duplicate), (5, true));
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(gateway.last_position().await, 5);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_slowed_and_holds_nobody_up() {
    let World { gateway, nats, dir } = World::start().await;
    gateway.stop().await;
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let mut config = Config { read_model, ..Config::default() };
    (config.limits.stream_appends_max, config.limits.appends_max) = (16, 16);
    let gateway = Gateway::start_with(&nats, config).await;
    let mut client = gateway.grpc().await;
    let (requests, mut answers) = open(&mut client).await;
    let sent = send_all_it_takes(&requests).await;
    // Its places are free, and all readers: what it has in hand is done, and waits for nothing but the client.
    for number in 0..20 {
        gateway.note("other", number).await;
        gateway.get("/events?aggregate_id=other").await.ok();
    }
    for id in 0..sent {
        let (request_id, said) = next(&mut answers).await;
        assert_eq!(request_id.trim_end(), id.to_string());
        position(said);
    }
    drop(requests);
    while answers.message().await.unwrap().is_some() {}
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_answers_are_not_taken_keeps_back_no_other_call_of_its_connection() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let mut streams = Vec::new();
    // More would fill what this client takes of one connection.
    for _ in 0..2 {
        let (requests, answers) = open(&mut client).await;
        let sent = send_all_it_takes(&requests).await;
        streams.push((requests, answers, sent));
    }
    let data = causeway_event::Data::of(&"x".repeat(500 * 1024)).unwrap();
    let event: v1::NewEvent = causeway_proto::Draft { data, ..draft("b", 1) }.into();
    let append = v1::AppendRequest { events: vec![event; 4], ..v1::AppendRequest::default() };
    tokio::time::timeout(LIMIT, client.append(append)).await.expect("in time").unwrap();
    for (requests, mut answers, sent) in streams {
        drop(requests);
        let mut answered = 0;
        while answers.message().await.unwrap().is_some() {
            answered += 1;
        }
        assert_eq!(answered, sent);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_used_while_the_stream_stood_still_is_known_though_the_server_forgot_it() {
    let World { gateway, mut nats, dir } = World::start().await;
    gateway.stop().await;
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let mut config = Config { read_model, ..Config::default() };
    config.limits.stream_appends_max = 16;
    let gateway = Gateway::start_with(&nats, config).await;
    let (mut client, mut other) = (gateway.grpc().await, gateway.grpc().await);
    let (requests, mut answers) = open(&mut client).await;
    let sent = send_all_it_takes(&requests).await;
    let prepared = Instant::now();
    // Its key was looked up, and not found; what stands before it is not answered.
    let waits = gateway.last_position().await as usize + 2;
    assert!(waits < sent, "{waits} of {sent}");
    let first = other.append(keyed(waits).append.unwrap()).await.unwrap().into_inner();
    forget_ids(&mut nats).await;

    tokio::time::sleep_until(prepared + Duration::from_secs(31)).await;
    for id in 0..sent {
        let (request_id, said) = next(&mut answers).await;
        assert_eq!(request_id.trim_end(), id.to_string());
        let Said::Appended(appended) = said else { panic!("{said:?}") };
        assert_eq!(appended.duplicate, id == waits);
        assert!(id != waits || appended.events[0].position == first.events[0].position);
    }
    drop(requests);
    while answers.message().await.unwrap().is_some() {}
    assert_eq!(gateway.last_position().await as usize, sent);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_shutdown_what_was_begun_is_answered_and_the_rest_is_unavailable() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let (requests, mut answers) = open(&mut client).await;
    for id in 0..50 {
        requests.send(request(id, "a")).await.unwrap();
    }
    assert_eq!(next(&mut answers).await.0, "0");
    let stopped = tokio::spawn(gateway.stop());
    let mut answered = 1;
    let status = loop {
        match tokio::time::timeout(LIMIT, answers.message()).await.unwrap() {
            Ok(Some(answer)) => {
                assert_eq!(answer.request_id, answered.to_string());
                position(answer.result.unwrap());
                answered += 1;
            }
            Ok(None) => panic!("an end that looks like success"),
            Err(status) => break status,
        }
    };
    assert_eq!(Problem::from(status).kind, Kind::Unavailable);
    stopped.await.unwrap();
}

fn batch(id: usize, aggregate: &str) -> v1::AppendStreamRequest {
    let mut request = request(id, aggregate);
    request.append.as_mut().unwrap().events = (0..10).map(|n| draft(aggregate, n).into()).collect();
    request
}

async fn with_room(appends_max: usize) -> World {
    let World { gateway, nats, dir } = World::start().await;
    gateway.stop().await;
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let mut config = Config { read_model, ..Config::default() };
    (config.limits.appends_max, config.limits.append_wait) = (appends_max, Duration::from_millis(300));
    World { gateway: Gateway::start_with(&nats, config).await, nats, dir }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_streams_take_turns_however_little_room_there_is() {
    for appends_max in [70, 1] {
        let World { gateway, nats: _nats, dir: _dir } = with_room(appends_max).await;
        let streams = ["a", "b"].map(|aggregate| {
            let gateway = &gateway;
            async move {
                let (requests, mut answers) = open(&mut gateway.grpc().await).await;
                let all = async {
                    for id in 0..20 {
                        requests.send(batch(id, aggregate)).await.unwrap();
                    }
                    drop(requests);
                };
                let answered = async {
                    for id in 0..20 {
                        let (request_id, said) = next(&mut answers).await;
                        assert_eq!(request_id, id.to_string());
                        position(said);
                    }
                };
                tokio::join!(all, answered);
            }
        });
        futures::future::join_all(streams).await;
        assert_eq!(gateway.last_position().await, 400);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_stream_takes_the_room_of_many() {
    let World { gateway, nats, dir: _dir } = with_room(70).await;
    let (requests, _answers) = open(&mut gateway.grpc().await).await;
    nats.pause().unwrap();
    requests.send(batch(0, "a")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = gateway.grpc().await.append(batch(1, "b").append.unwrap()).await.unwrap_err();
    assert_eq!(Problem::from(second).kind, Kind::Overloaded, "it waits at the gate, and not in the server");
    nats.resume().unwrap();
    gateway.stop().await;
}
