//! Server-sent events: catch up, go live, resume.

use std::time::Duration;

use causeway_event::{Delta, DeltaKind};
use eventsource_stream::{Event, Eventsource as _};
use futures::{Stream, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, LIMIT, World, message, note, position};

pub(crate) async fn open(gateway: &Gateway, path: &str, last: Option<&str>) -> impl Stream<Item = Event> + Unpin + use<> {
    let mut request = gateway.request(Method::GET, path).timeout(Duration::from_secs(120));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert!(response.headers()["cache-control"].to_str().unwrap().contains("no-transform"));
    let events = response.bytes_stream().eventsource().filter_map(|event| std::future::ready(event.ok()));
    // The tests beat fast, and most of them do not ask whether the stream lives.
    Box::pin(events.filter(|event| std::future::ready(event.event != "heartbeat")).fuse())
}

pub(crate) async fn next(events: &mut (impl Stream<Item = Event> + Unpin)) -> Event {
    tokio::time::timeout(LIMIT, events.next()).await.expect("an event in time").expect("the stream goes on")
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_news_tells_where_it_is_and_how_far_behind() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    gateway.note("b", 1).await;
    let response = gateway.request(Method::GET, "/events/stream?aggregate_id=a").send().await.unwrap();
    let mut events = response.bytes_stream().eventsource();
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap());
    }
    let mark = told.remove(0);
    assert_eq!((mark.event.as_str(), data(&mark)), ("caught_up", json!({"position": 1, "head": 1})));
    for beat in told {
        assert_eq!((beat.event.as_str(), beat.id.as_str()), ("heartbeat", "1"));
        assert_eq!(data(&beat), json!({"position": 1, "lag": 0}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_sent_then_a_mark_then_what_comes() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let first = gateway.note("a", 1).await;
    gateway.note("b", 2).await;
    let third = gateway.post(&message("a", "hi")).await.created();
    let mut events = open(&gateway, "/events/stream?aggregate_id=a", None).await;
    for receipt in [&first, &third] {
        let event = next(&mut events).await;
        assert_eq!(event.id, receipt["position"].to_string());
        assert_eq!(data(&event)["id"], receipt["id"]);
        assert_eq!(event.event, data(&event)["type"].as_str().unwrap());
    }
    let mark = next(&mut events).await;
    assert_eq!(
        (mark.event.as_str(), data(&mark)),
        ("caught_up", json!({"position": third["position"], "head": third["position"]}))
    );
    gateway.note("b", 4).await;
    let fifth = gateway.note("a", 5).await;
    assert_eq!(data(&next(&mut events).await)["id"], fifth["id"]);

    let mut events = open(&gateway, "/events/stream?from_now=true", None).await;
    assert_eq!(next(&mut events).await.event, "caught_up");
    let sixth = gateway.note("c", 6).await;
    assert_eq!(data(&next(&mut events).await)["id"], sixth["id"]);
    gateway.stop().await;
    assert!(events.next().await.is_none(), "a stream ends with its gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_cut_off_again_and_again_sees_every_event_once() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    const EVENTS: usize = 400;
    let write = async {
        for number in 0..EVENTS {
            gateway.note("a", number).await;
        }
    };
    let read = async {
        let (mut seen, mut last) = (Vec::new(), None::<String>);
        while seen.len() < EVENTS {
            let mut events = open(&gateway, "/events/stream?aggregate_id=a", last.as_deref()).await;
            for _ in 0..37 {
                let event = next(&mut events).await;
                if event.event == "NoteTaken" {
                    seen.push(data(&event)["data"]["number"].as_u64().unwrap() as usize);
                    last = Some(event.id);
                }
                if seen.len() == EVENTS {
                    break;
                }
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(write, read);
    assert_eq!(seen, (0..EVENTS).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_are_heard_by_those_who_follow_the_aggregate() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut followed = open(&gateway, "/events/stream?aggregate_id=a&from_now=true", None).await;
    let mut all = open(&gateway, "/events/stream?from_now=true", None).await;
    assert_eq!(next(&mut followed).await.event, "caught_up");
    assert_eq!(next(&mut all).await.event, "caught_up");
    let delta = |text: &str| Delta { turn: "t".into(), step: 1, kind: DeltaKind::Text, text: text.into() };
    gateway.log.publish_delta(&"b".parse().unwrap(), &delta("not for us")).await;
    gateway.log.publish_delta(&"a".parse().unwrap(), &delta("Hel")).await;
    let heard = next(&mut followed).await;
    assert_eq!((heard.event.as_str(), heard.id.as_str()), ("delta", "0"), "it moves nothing");
    assert_eq!(data(&heard), json!({"turn": "t", "step": 1, "kind": "text", "text": "Hel"}));
    let receipt = gateway.post(&note("a", 1)).await.created();
    assert_eq!(position(&data(&next(&mut followed).await)), position(&receipt));
    assert_eq!(position(&data(&next(&mut all).await)), position(&receipt), "no delta without an aggregate");
    gateway.stop().await;
}
