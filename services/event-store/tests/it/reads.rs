//! Filters, counts, pages that stay whole while the log grows, lists of aggregates, and streams that do not fill the memory.

use std::time::Duration;

use causeway_proto::v1;
use futures::TryStreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Gateway, World, note, position};

/// A root with two effects, of which one has an effect: positions 1 to 4; and something else at 5. Answers their ids.
async fn family(gateway: &Gateway) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for (cause, source) in [(None, "a"), (Some(0), "a"), (Some(1), "b"), (Some(0), "b"), (None, "b")] {
        let mut event = note("family", ids.len());
        event["metadata"] = json!({ "source": source });
        if let Some(cause) = cause {
            event["metadata"]["causation_id"] = json!(ids[cause]);
        }
        let receipt = gateway.post(&event).await.created();
        assert_eq!(position(&receipt), ids.len() as u64 + 1);
        ids.push(receipt["id"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn whence_an_event_came_is_a_filter_over_http_and_grpc() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let ids = family(&gateway).await;
    let root = &ids[0];
    for (query, expected) in [
        ("source=b".to_owned(), vec![3, 4, 5]),
        ("source=nobody".to_owned(), vec![]),
        (format!("caused_by={root}"), vec![2, 4]),
        (format!("descendants_of={root}"), vec![2, 3, 4]),
        (format!("descendants_of={root}&order=desc&limit=2"), vec![4, 3]),
        (format!("descendants_of={root}&source=b&after=3"), vec![4]),
        (format!("descendants_of={}", ids[4]), vec![]),
        ("source=b&type=Note*&aggregate_id=family&before=5".to_owned(), vec![3, 4]),
    ] {
        assert_eq!(gateway.positions(&format!("/events?{query}")).await, expected, "{query}");
        let counted = gateway.get(&format!("/events/count?{}", query.replace("&order=desc&limit=2", ""))).await.ok();
        let expected = if query.contains("limit") { 3 } else { expected.len() };
        assert_eq!(counted, json!({ "count": expected, "last_position": 5 }), "{query}");
    }
    let filter = v1::Filter { descendants_of: root.clone(), source: "b".into(), ..v1::Filter::default() };
    let mut grpc = gateway.grpc().await;
    let request = v1::CountRequest { filter: Some(filter.clone()), after: ids[2].clone(), ..v1::CountRequest::default() };
    let counted = grpc.count(request).await.unwrap().into_inner();
    assert_eq!(counted, v1::CountResponse { count: 1, last_position: 5 });
    let read = v1::ReadRequest { filter: Some(filter), ..v1::ReadRequest::default() };
    let mut events = grpc.read(read).await.unwrap().into_inner();
    let mut positions = Vec::new();
    while let Some(answer) = events.message().await.unwrap() {
        positions.push(answer.event.unwrap().position);
    }
    assert_eq!(positions, [3, 4]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_cut_by_position_id_and_time() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let ids = family(&gateway).await;
    let times: Vec<String> = {
        let page = gateway.get("/events").await.ok();
        page["events"].as_array().unwrap().iter().map(|event| event["timestamp"].as_str().unwrap().to_owned()).collect()
    };
    let mut grpc = gateway.grpc().await;
    let names =
        [vec!["2".to_owned(), "4".to_owned()], vec![ids[1].clone(), ids[3].clone()], vec![times[1].clone(), times[3].clone()]];
    for [second, fourth] in names.map(|names| <[String; 2]>::try_from(names).unwrap()) {
        for (query, expected) in [
            (format!("after={second}&before={fourth}"), vec![3]),
            (format!("from={second}&until={fourth}"), vec![2, 3]),
            (format!("from={second}&before={fourth}&order=desc"), vec![3, 2]),
            (format!("after={fourth}"), vec![5]),
            (format!("after={fourth}&before={second}"), vec![]),
        ] {
            assert_eq!(gateway.positions(&format!("/events?{query}")).await, expected, "{query}");
            let counted = gateway.get(&format!("/events/count?{}", query.replace("&order=desc", ""))).await.ok();
            assert_eq!(counted["count"], expected.len(), "{query}");
            let said = |name: &str| {
                let named = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                named.unwrap_or_default().to_owned()
            };
            let (after, before, from, until) = (said("after"), said("before"), said("from"), said("until"));
            let order = if query.contains("desc") { v1::Order::Backwards } else { v1::Order::Forwards }.into();
            let count = v1::CountRequest {
                filter: None,
                after: after.clone(),
                before: before.clone(),
                from: from.clone(),
                until: until.clone(),
            };
            let counted = grpc.count(count).await.unwrap().into_inner();
            assert_eq!(counted.count, expected.len() as u64, "{query}");
            let read = v1::ReadRequest { after, before, from, until, order, ..v1::ReadRequest::default() };
            let read: Vec<_> = grpc.read(read).await.unwrap().into_inner().try_collect().await.unwrap();
            let read: Vec<_> = read.into_iter().map(|answer| answer.event.unwrap().position).collect();
            assert_eq!(read, expected, "{query}");
        }
    }
    for (path, field) in [
        ("/events?after=yesterday", "after"),
        ("/events?until=-1", "until"),
        ("/events/count?limit=7", "limit"),
        ("/events/count?caused_by=x", "caused_by"),
        ("/events?before=evt_01k9x3m5v8e7rs2q4n6p8t0w1y", "before"),
        ("/events?raw=yes", "raw"),
        ("/aggregates?limit=0", "limit"),
        ("/aggregates?order=desc", "order"),
        ("/aggregates?prefix=%00", "prefix"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {answer:?}");
        assert_eq!(answer.json()["field"], field, "{path}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_no_gap_and_no_repeat_while_the_log_grows() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let batch = |from: usize| {
        Value::from((from..from + 20).map(|number| note(&format!("user:{:03}", number % 50), number)).collect::<Vec<_>>())
    };
    for from in (0..200).step_by(20) {
        gateway.post(&batch(from)).await.created();
    }
    let appending = async {
        for from in (200..600).step_by(20) {
            gateway.post(&batch(from)).await.created();
        }
    };
    let forwards = async {
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let page = gateway.get(&format!("/events?limit=7&type=NoteTaken&after={after}")).await.ok();
            seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["data"]["number"].as_u64().unwrap()));
            let Some(next) = page["next"].as_u64() else { break };
            after = next;
        }
        seen
    };
    let backwards = async {
        let (mut seen, mut before) = (Vec::new(), String::new());
        loop {
            let page = gateway.get(&format!("/events?limit=7&order=desc{before}")).await.ok();
            seen.extend(page["events"].as_array().unwrap().iter().map(position));
            let Some(next) = page["next"].as_u64() else { break };
            before = format!("&before={next}");
        }
        seen
    };
    let aggregates = async {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = gateway.get(&format!("/aggregates?limit=3&prefix=user%3A{after}")).await.ok();
            seen.extend(
                page["aggregates"].as_array().unwrap().iter().map(|one| one["aggregate_id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={}", next.replace(':', "%3A"));
        }
        seen
    };
    let ((), forwards, backwards, aggregates) = tokio::join!(appending, forwards, backwards, aggregates);
    assert!(forwards.len() >= 200 && forwards.iter().copied().eq(0..forwards.len() as u64), "{forwards:?}");
    let first = backwards[0];
    assert!(first >= 200 && backwards.iter().copied().eq((1..=first).rev()), "{backwards:?}");
    assert_eq!(aggregates, (0..50).map(|number| format!("user:{number:03}")).collect::<Vec<_>>());

    let mut grpc = gateway.grpc().await;
    let request = v1::ListAggregatesRequest { prefix: "user:01".into(), after: "user:011".into(), limit: 2 };
    let list = grpc.list_aggregates(request).await.unwrap().into_inner();
    assert_eq!(list.aggregates.iter().map(|one| one.aggregate_id.as_str()).collect::<Vec<_>>(), ["user:012", "user:013"]);
    assert_eq!(list.next, "user:013");
    let one = &list.aggregates[0];
    assert_eq!((one.first_position, one.last_position), (13, 563));
    assert!(one.last_timestamp.is_some());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_fill_no_memory() {
    const EVENTS: usize = 600;
    const READERS: usize = 4;
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let large = "x".repeat(100_000);
    for _ in 0..EVENTS / 15 {
        let events: Vec<Value> = (0..15).map(|_| json!({"type": "NoteTaken", "aggregate_id": "a", "data": large})).collect();
        gateway.post(&Value::from(events)).await.created();
    }
    // Once at full speed, so that all caches are as full as they get.
    let fast = gateway.send(gateway.request(Method::GET, "/events").header("accept", "application/x-ndjson")).await;
    assert_eq!(fast.text.lines().count(), EVENTS);
    let bytes = fast.text.len();
    drop(fast);
    let before = resident();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap();
        let request = "GET /events HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        readers.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < bytes, "{grown} bytes more for {READERS} readers of {bytes} bytes each");
    // They were slowed, not cut off.
    for mut stream in readers {
        let (mut total, mut piece) = (0, vec![0; 1 << 20]);
        loop {
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                read => total += read,
            }
        }
        assert!(total >= bytes, "{total} of {bytes} bytes");
    }
    gateway.stop().await;
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
