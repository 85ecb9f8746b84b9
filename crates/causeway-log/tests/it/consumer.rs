use std::time::Duration;

use causeway_event::{Category, Event, Position};
use causeway_log::{Consumer, ConsumerConfig, Delivery, Folded, Seen};
use serde_json::json;

use crate::support::{event, id, note, server, single};

const CONFIG: ConsumerConfig = ConsumerConfig {
    processor: "test",
    categories: &[Category::Input],
    ack_wait: Duration::from_millis(400),
    ack_pending_max: 10,
};

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(20), consumer.next()).await.expect("a delivery within 20 s")
}

#[tokio::test]
async fn an_event_comes_again_until_it_is_acknowledged_and_marks_hold_it() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "not for us"))).await.unwrap();
    let mut consumer = log.consumer(CONFIG).await.unwrap();
    log.append(single(event("a", "MessageReceived", &json!({"content": "x"})))).await.unwrap();
    let first = next(&mut consumer).await;
    assert_eq!((first.position().get(), first.seen), (2, Seen::First));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        first.mark_in_progress().await.unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), consumer.next()).await.is_err(), "marks hold it");
    let again = next(&mut consumer).await;
    assert_eq!((again.position().get(), again.seen, again.deliveries), (2, Seen::Again, 2));
    again.ack().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(900), consumer.next()).await.is_err());
}

#[tokio::test]
async fn what_stood_on_the_log_before_may_have_been_delivered_before_whatever_the_server_counts() {
    let (_nats, log) = server().await;
    let append = || single(event("a", "MessageReceived", &json!({"content": "x"})));
    log.append(append()).await.unwrap();
    let mut consumer = log.consumer(CONFIG).await.unwrap();
    log.append(append()).await.unwrap();
    let (old, new) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_eq!(((old.seen, old.deliveries), (new.seen, new.deliveries)), ((Seen::Again, 1), (Seen::First, 1)));
}

#[tokio::test]
async fn a_consumer_outlives_its_server() {
    let (mut nats, log) = server().await;
    let mut consumer = log.consumer(CONFIG).await.unwrap();
    nats.kill();
    nats.restart().await.unwrap();
    let append = single(event("a", "MessageReceived", &json!({"content": "x"})));
    while log.append(append.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    next(&mut consumer).await.ack().await.unwrap();
}

#[tokio::test]
async fn a_fold_costs_what_is_new_and_knows_the_tip_of_each_category() {
    let (_nats, log) = server().await;
    let count = |count: u32, _: &Event| count + 1;
    let mut folded: Folded<u32> = Folded::default();
    for n in 1..=700 {
        log.append(single(note("a", &n.to_string()))).await.unwrap();
    }
    log.append(single(event("a", "MessageReceived", &json!({"content": "x"})))).await.unwrap();
    log.append(single(note("b", "other"))).await.unwrap();
    log.catch_up(&id("a"), &mut folded, Position::new(701), count).await.unwrap();
    assert_eq!((*folded.state(), folded.position().get()), (701, 701));
    assert_eq!(
        (folded.tip(Category::Custom).get(), folded.tip(Category::Input).get(), folded.tip(Category::Ai).get()),
        (700, 701, 0)
    );
    log.append(single(note("a", "new"))).await.unwrap();
    log.catch_up(&id("a"), &mut folded, Position::START, |count, event| {
        assert_eq!(event.position.get(), 703);
        count + 1
    })
    .await
    .unwrap();
    assert_eq!(*folded.state(), 702);
}
