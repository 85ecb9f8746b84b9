use std::time::Duration;

use causeway_event::{Delta, DeltaKind, Position};
use causeway_log::{Log, Record};
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
