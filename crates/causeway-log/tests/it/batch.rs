use std::time::{Duration, Instant};

use causeway_event::{Category, Position};
use causeway_log::{Append, LogError, StaleFence};

use crate::support::{connected, event, fence, keyed, note, server, single, texts, until_settled};

fn batch(texts: &[&str]) -> Append {
    Append { events: texts.iter().map(|text| note("a", text)).collect(), ..Append::default() }
}

#[tokio::test]
async fn a_batch_is_stored_all_in_order() {
    let (_nats, log) = server().await;
    let appended = log.append(batch(&["1", "2", "3"])).await.unwrap();
    let positions: Vec<u64> = appended.receipts.iter().map(|receipt| receipt.position.get()).collect();
    assert_eq!(positions, [1, 2, 3]);
    assert_eq!(texts(&log).await, ["1", "2", "3"]);
    let stored = log.get(appended.receipts[2].position).await.unwrap().unwrap();
    assert_eq!(stored.event.id, appended.receipts[2].id);
}

#[tokio::test]
async fn a_batch_of_a_thousand_fits_and_one_more_does_not() {
    let (_nats, log) = server().await;
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(log.append(batch(&many[..1000])).await.unwrap().receipts.len(), 1000);
    assert!(matches!(log.append(batch(&many)).await, Err(LogError::Invalid(invalid)) if invalid.field == "/events"));
    assert_eq!(log.last_position().await.unwrap().get(), 1000);
}

#[tokio::test]
async fn a_conflict_of_a_large_batch_names_every_fence_that_does_not_hold() {
    let (_nats, log) = server().await;
    let names: Vec<String> = (0..1000).map(|n| format!("a{n}")).collect();
    let over_all = |expected: u64| Append {
        events: names.iter().map(|name| note(name, "1")).collect(),
        expected: names.iter().map(|name| fence(name, Category::Custom, expected)).collect(),
        idempotency_key: None,
    };
    log.append(over_all(0)).await.unwrap();
    match log.append(over_all(0)).await {
        Err(LogError::Conflict { aggregate_id, actual, others, .. }) => {
            assert_eq!((aggregate_id.as_str(), actual.get()), ("a0", 1));
            let stale = names.iter().zip(1..).skip(1);
            let stale = stale.map(|(name, at)| StaleFence { fence: fence(name, Category::Custom, 0), actual: Position::new(at) });
            assert_eq!(others, stale.collect::<Vec<_>>());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fences_of_several_aggregates_hold_together_or_nothing_is_written() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let both = |b: u64| Append {
        events: vec![note("a", "2"), note("b", "1"), event("b", "MessageReceived", &serde_json::json!({"content": "x"}))],
        expected: vec![fence("a", Category::Custom, 1), fence("b", Category::Custom, b)],
        idempotency_key: None,
    };
    match log.append(both(1)).await {
        Err(LogError::Conflict { aggregate_id, actual, others, .. }) => {
            assert_eq!((aggregate_id.as_str(), actual.get(), others), ("b", 0, vec![]));
        }
        other => panic!("{other:?}"),
    }
    let mut three = both(1);
    three.expected[0].position = Position::START;
    three.expected.insert(1, fence("b", Category::Input, 0));
    match log.append(three).await {
        Err(LogError::Conflict { aggregate_id, actual, others, .. }) => {
            assert_eq!((aggregate_id.as_str(), actual.get()), ("a", 1));
            let other = StaleFence { fence: fence("b", Category::Custom, 1), actual: Position::START };
            assert_eq!(others, [other], "each that does not hold, and none that does");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(log.last_position().await.unwrap().get(), 1);
    log.append(both(0)).await.unwrap();
    assert_eq!(log.last_position().await.unwrap().get(), 4);
}

#[tokio::test]
async fn a_conflict_with_the_first_event_of_the_log_is_a_conflict_wherever_it_stands_in_the_batch() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let stale = Append {
        events: vec![note("b", "1"), note("a", "2")],
        expected: vec![fence("a", Category::Custom, 0)],
        idempotency_key: None,
    };
    match log.append(stale).await {
        Err(LogError::Conflict { aggregate_id, actual, .. }) => assert_eq!((aggregate_id.as_str(), actual.get()), ("a", 1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fenced_batch_again_answers_as_the_first_time_and_an_unfenced_one_says_that_it_stands() {
    let (_nats, log) = server().await;
    let append = || keyed(Append { expected: vec![fence("a", Category::Custom, 0)], ..batch(&["1", "2"]) }, "k");
    let first = log.append(append()).await.unwrap();
    let again = log.append(append()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(first.receipts, again.receipts);
    let unfenced = || keyed(batch(&["3", "4"]), "k2");
    log.append(unfenced()).await.unwrap();
    assert!(matches!(log.append(unfenced()).await, Err(LogError::AlreadyAppended)));
    assert_eq!(texts(&log).await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_batch_cut_by_a_crash_is_settled() {
    let (mut nats, log) = server().await;
    for round in 0..3 {
        connected(&log).await;
        nats.pause().unwrap();
        let in_flight = tokio::spawn(until_settled(log.clone(), keyed(batch(&["x", "y"]), &format!("k{round}"))));
        tokio::time::sleep(Duration::from_millis(100)).await;
        nats.resume().unwrap();
        nats.kill();
        nats.restart().await.unwrap();
        in_flight.await.unwrap().unwrap();
    }
    assert_eq!(texts(&log).await, ["x", "y", "x", "y", "x", "y"]);
}

/// The server keeps fifty batches of a stream open, for ten seconds each; whoever leaves in the middle of one must not leave it so.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_in_the_middle_of_a_batch_holds_up_no_other() {
    let (_nats, log) = server().await;
    let large = || Append { events: vec![note("a", "x"); 300], ..Append::default() };
    for _ in 0..100 {
        let log = log.clone();
        let leaving = tokio::spawn(async move { log.append(large()).await });
        tokio::time::sleep(Duration::from_millis(3)).await;
        leaving.abort();
    }
    let asked = Instant::now();
    log.append(Append { events: vec![note("b", "1"), note("b", "2")], ..Append::default() }).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}
