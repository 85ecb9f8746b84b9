use std::time::Duration;

use causeway_event::{Category, Position};
use causeway_log::{Append, Config, GroupCommit, Log, LogError};
use causeway_testkit::NatsServer;
use futures::future::join_all;

use crate::support::{config, connected, event, fence, fenced, id, keyed, note, server, single};

#[tokio::test]
async fn what_is_appended_reads_back_whole() {
    let (_nats, log) = server().await;
    let mut new = event("telegram:4.2 *é", "MessageReceived", &serde_json::json!({"content": "hi", "mood": [1, {"x": null}]}));
    new.labels.insert("k e y".into(), "\"v\" %20 é".into());
    new.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
    let appended = log.append(keyed(single(new.clone()), "key 1")).await.unwrap();
    let receipt = &appended.receipts[0];
    let stored = log.get(receipt.position).await.unwrap().unwrap();
    assert_eq!(stored.key.unwrap().as_str(), "key 1");
    assert_eq!(stored.event.id, receipt.id);
    assert_eq!(stored.event.data, new.data);
    assert_eq!(stored.event.metadata.labels, new.labels);
    assert_eq!(stored.event.metadata.traceparent, new.traceparent);
    assert_eq!(stored.event.metadata.correlation_id, receipt.correlation_id);
    assert_eq!(receipt.correlation_id.as_str().len(), 32);
    assert_eq!(log.get(Position::new(99)).await.unwrap(), None);
}

#[tokio::test]
async fn a_fence_holds_per_aggregate_and_category() {
    let (_nats, log) = server().await;
    log.append(fenced(note("a", "1"), 0)).await.unwrap();
    log.append(fenced(event("a", "MessageReceived", &serde_json::json!({"content": "x"})), 0)).await.unwrap();
    log.append(fenced(note("b", "1"), 0)).await.unwrap();
    match log.append(fenced(note("a", "2"), 0)).await {
        Err(LogError::Conflict { aggregate_id, category, expected, actual, others }) => {
            assert_eq!(others, []);
            assert_eq!((aggregate_id, category), (id("a"), Category::Custom));
            assert_eq!((expected.get(), actual.get()), (0, 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(log.append(fenced(note("a", "2"), 9)).await, Err(LogError::Conflict { .. })));
    assert_eq!(log.append(fenced(note("a", "2"), 1)).await.unwrap().receipts[0].position.get(), 4);
    assert_eq!(log.last_position().await.unwrap().get(), 4, "a refused append writes nothing");
}

#[tokio::test]
async fn the_same_key_again_answers_as_the_first_time() {
    let (_nats, log) = server().await;
    let first = log.append(keyed(single(note("a", "1")), "k")).await.unwrap();
    let again = log.append(keyed(single(note("a", "other")), "k")).await.unwrap();
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(first.receipts, again.receipts);
    let elsewhere = log.append(keyed(single(note("b", "1")), "k")).await.unwrap();
    assert!(!elsewhere.duplicate, "a key is one aggregate's");
}

#[tokio::test]
async fn a_retry_whose_fence_is_stale_because_of_itself_is_no_conflict() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "0"))).await.unwrap();
    let append = keyed(fenced(note("a", "1"), 1), "k");
    let first = log.append(append.clone()).await.unwrap();
    log.append(single(note("a", "2"))).await.unwrap();
    let again = log.append(append).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(first.receipts, again.receipts);
    let other = keyed(fenced(note("a", "3"), 1), "another");
    assert!(matches!(log.append(other).await, Err(LogError::Conflict { .. })));
}

#[tokio::test]
async fn a_server_that_is_away_is_reported_at_once_and_an_append_in_the_middle_is_settled() {
    let (mut nats, log) = server().await;
    log.append(single(note("a", "0"))).await.unwrap();
    nats.pause().unwrap();
    let in_flight = {
        let log = log.clone();
        tokio::spawn(async move { log.append(keyed(fenced(note("a", "1"), 1), "k")).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    nats.kill();
    nats.restart().await.unwrap();
    let appended = in_flight.await.unwrap().unwrap();
    assert_eq!(appended.receipts[0].position.get(), 2);
    assert_eq!(crate::support::texts(&log).await, ["0", "1"]);
    nats.kill();
    causeway_testkit::wait_until("the loss to be noticed", Duration::from_secs(10), async || (!log.is_connected()).then_some(()))
        .await;
    let began = std::time::Instant::now();
    assert!(matches!(log.append(single(note("a", "2"))).await, Err(LogError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn a_fence_on_something_else_is_refused() {
    let (_nats, log) = server().await;
    let append = Append { expected: vec![fence("b", Category::Custom, 0)], ..single(note("a", "1")) };
    assert!(matches!(log.append(append).await, Err(LogError::Invalid(invalid)) if invalid.field == "/expected/0"));
    assert_eq!(log.last_position().await.unwrap().get(), 0);
}

#[tokio::test]
async fn a_sequence_keeps_its_order_whatever_the_order_in_which_its_appends_are_waited_for() {
    let nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&Config { group_commit: GroupCommit::Never, ..config(&nats.url()) }).await.unwrap();
    let mut sequence = log.sequence();
    let all = async {
        // More than the connection queues, and none of them looked after before the last has begun.
        let mut begun = Vec::new();
        for n in 0..5000 {
            begun.push(sequence.begin(single(note("a", &n.to_string()))).await.unwrap());
        }
        let pair = Append { events: vec![note("a", "x"), note("a", "y")], ..Append::default() };
        begun.push(sequence.begin(pair).await.unwrap());
        begun.push(sequence.begin(single(note("a", "z"))).await.unwrap());
        begun.reverse();
        join_all(begun).await
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await.expect("an end");
    let positions = all.into_iter().rev().flat_map(|appended| appended.unwrap().receipts).map(|receipt| receipt.position.get());
    assert!(positions.eq(1..=5003));
}

#[tokio::test]
async fn what_is_answered_as_unknown_is_not_sent_once_the_log_is_back() {
    let mut nats = NatsServer::start().await.unwrap();
    let impatient = Config { append_timeout: Duration::from_secs(1), ..config(&nats.url()) };
    let log = Log::connect(&impatient).await.unwrap();
    nats.pause().unwrap();
    // More than the sockets hold: the rest waits in queues of this process.
    let large = "x".repeat(200_000);
    let appends: Vec<_> = (0..200).map(|n| keyed(single(note("a", &large)), &format!("k{n}"))).collect();
    let there = log.clone();
    let appends = tokio::spawn(async move { join_all(appends.into_iter().map(|append| there.append(append))).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    nats.kill();
    for appended in appends.await.unwrap() {
        assert!(appended.is_err_and(|error| error.is_transient()));
    }
    nats.restart().await.unwrap();
    connected(&log).await;
    let next = log.append(single(note("a", "after"))).await.unwrap();
    assert_eq!(next.receipts[0].position.get(), 1);
}

#[tokio::test]
async fn a_duplicate_has_the_receipts_of_the_earlier_append_and_no_others() {
    let (_nats, log) = server().await;
    let batch = |count: usize| Append {
        events: (0..count).map(|n| note("a", &n.to_string())).collect(),
        expected: vec![fence("a", Category::Custom, 0)],
        idempotency_key: "k".parse().ok(),
    };
    let first = log.append(batch(2)).await.unwrap();
    let check = async |append: Append, positions: &[u64]| {
        let again = tokio::time::timeout(Duration::from_secs(5), log.append(append)).await.expect("no retries").unwrap();
        assert!(again.duplicate);
        assert!(again.receipts.iter().map(|receipt| receipt.position.get()).eq(positions.iter().copied()), "{again:?}");
    };
    // At the end of the log, and in its middle.
    for _ in 0..2 {
        check(batch(2), &[1, 2]).await;
        check(batch(3), &[1, 2]).await;
        check(keyed(single(note("a", "0")), "k"), &[1, 2]).await;
        log.append(single(note("a", "foreign"))).await.unwrap();
    }
    assert_eq!(log.append(batch(2)).await.unwrap().receipts, first.receipts);
}

#[tokio::test]
async fn a_duplicate_of_one_that_went_in_a_group_is_that_one_alone() {
    let nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&Config { group_commit: GroupCommit::Always, ..config(&nats.url()) }).await.unwrap();
    let appends = || (0..20).map(|n| log.append(keyed(single(note("a", &n.to_string())), &format!("k{n}")))).collect::<Vec<_>>();
    let first = join_all(appends()).await;
    for (first, again) in first.into_iter().zip(join_all(appends()).await) {
        let again = again.unwrap();
        assert!(again.duplicate);
        assert_eq!(again.receipts, first.unwrap().receipts);
    }
}

#[tokio::test]
async fn an_append_that_is_not_answered_ends_when_it_is_said_to_and_not_an_attempt_later() {
    let (nats, _) = server().await;
    let config =
        Config { request_timeout: Duration::from_secs(4), append_timeout: Duration::from_secs(5), ..config(&nats.url()) };
    let log = Log::connect(&config).await.unwrap();
    log.append(single(note("a", "1"))).await.unwrap();
    nats.pause().unwrap();
    let begun = std::time::Instant::now();
    let (alone, fenced) = futures::join!(log.append(single(note("a", "2"))), log.append(fenced(note("b", "1"), 0)));
    for append in [alone, fenced] {
        assert!(matches!(append, Err(LogError::Unknown)), "{append:?}");
    }
    let taken = begun.elapsed();
    assert!((5..7).contains(&taken.as_secs()), "{taken:?}: not 4 s, a pause, and 4 s again");
    nats.resume().unwrap();
}
