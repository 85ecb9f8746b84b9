use std::time::Duration;

use causeway_event::{Delta, DeltaKind, Position};
use causeway_log::{Append, Log, Record, Replaced};
use causeway_testkit::SlowLink;
use futures::StreamExt as _;

use crate::support::{config, id, next, note, server, single, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_catches_up_and_goes_live_across_restarts_without_gap_or_repeat() {
    let (mut nats, log) = server().await;
    for n in 1..=50 {
        log.append(single(note("a", &n.to_string()))).await.unwrap();
    }
    let mut subscription = log.subscribe(Position::new(10));
    let writer = {
        let log = log.clone();
        tokio::spawn(async move {
            for n in 51..=400 {
                let append = crate::support::keyed(single(note("a", &n.to_string())), &n.to_string());
                while let Err(error) = log.append(append.clone()).await {
                    assert!(error.is_transient(), "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    for n in 11..=400 {
        let record = next(&mut subscription).await;
        assert_eq!((record.position().get(), text(&record)), (n, n.to_string()));
        if n == 100 || n == 250 {
            nats.kill();
            nats.restart().await.unwrap();
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_subscription_goes_on_where_its_log_stands_and_ends_where_another_does() {
    let (nats, log) = server().await;
    for text in ["1", "2", "3"] {
        log.append(single(note("a", text))).await.unwrap();
    }
    let (mut read, mut late) = (log.subscribe(Position::START), log.subscribe(Position::new(3)));
    for text_of in ["1", "2", "3"] {
        assert_eq!(text(&next(&mut read).await), text_of);
    }
    assert!(tokio::time::timeout(Duration::from_millis(500), late.next()).await.is_err(), "nothing is there");
    let client = nats.client().await.unwrap();
    // Breaks what is under way, and leaves the log what it is.
    for consumer in consumers(&client).await {
        client.request(format!("$JS.API.CONSUMER.DELETE.causeway_EVENTS.{consumer}"), "".into()).await.unwrap();
    }
    log.append(single(note("a", "4"))).await.unwrap();
    assert_eq!(text(&next(&mut read).await), "4");
    assert_eq!(text(&next(&mut late).await), "4");

    client.request("$JS.API.STREAM.DELETE.causeway_EVENTS", "".into()).await.unwrap();
    let other = Log::connect(&config(&nats.url())).await.unwrap();
    // Never what the one before had: it is longer at once.
    other
        .append(Append { events: ["a", "b", "c", "d", "e", "f"].map(|text| note("a", text)).to_vec(), ..Append::default() })
        .await
        .unwrap();
    for subscription in [&mut read, &mut late] {
        let ended = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await.expect("in time");
        assert_eq!(ended, Err(Replaced(Position::new(4))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_slow_for_its_events_is_caught_up_over() {
    let (nats, log) = server().await;
    // Each takes as long as a silent server is given over a good link, and longer than a request.
    let large = |n: u64| "x".repeat(500_000 + usize::try_from(n).unwrap());
    for n in 1..=4 {
        log.append(single(note("a", &large(n)))).await.unwrap();
    }
    let link = SlowLink::to(nats.port(), 110_000).await.unwrap();
    let far = Log::open(&config(&link.url())).await.unwrap();
    let mut subscription = far.subscribe(Position::START);
    for n in 1..=4 {
        let record = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await.expect("in time").unwrap();
        assert_eq!((record.position().get(), text(&record).len()), (n, large(n).len()));
    }
    log.append(single(note("a", "live"))).await.unwrap();
    assert_eq!(text(&next(&mut subscription).await), "live");
}

async fn consumers(client: &async_nats::Client) -> Vec<String> {
    let names = client.request("$JS.API.CONSUMER.NAMES.causeway_EVENTS", "".into()).await.unwrap();
    let names: serde_json::Value = serde_json::from_slice(&names.payload).unwrap();
    names["consumers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_no_event_is_reported_and_passed_by() {
    let (nats, log) = server().await;
    let client = nats.client().await.unwrap();
    client.request("causeway.ev.a.custom", "garbage".into()).await.unwrap();
    log.append(single(note("a", "1"))).await.unwrap();
    let mut subscription = log.subscribe(Position::START);
    assert!(matches!(next(&mut subscription).await, Record::Unreadable { position, .. } if position.get() == 1));
    assert_eq!(text(&next(&mut subscription).await), "1");
    assert_eq!(log.get(Position::new(1)).await.unwrap(), None);
}

#[tokio::test]
async fn live_deltas_reach_who_listens_and_are_not_stored() {
    let (nats, log) = server().await;
    let mut deltas = log.deltas(&id("s")).await.unwrap();
    let delta = Delta { turn: "t".into(), step: 1, kind: DeltaKind::Text, text: "hel".into() };
    log.publish_delta(&id("s"), &delta).await;
    log.publish_delta(&id("other"), &delta).await;
    assert_eq!(deltas.next().await, Some(delta));
    assert_eq!(log.last_position().await.unwrap(), Position::START);
    let other = Log::connect(&config(&nats.url())).await.unwrap();
    for round in 0..200 {
        let aggregate = id(&format!("s{round}"));
        let delta = Delta { turn: "t".into(), step: 1, kind: DeltaKind::Text, text: "hel".into() };
        let mut deltas = log.deltas(&aggregate).await.unwrap();
        other.publish_delta(&aggregate, &delta).await;
        let heard = tokio::time::timeout(Duration::from_secs(30), deltas.next()).await;
        assert_eq!(heard, Ok(Some(delta)), "round {round}: whoever listens hears what is said from then on");
    }
}
