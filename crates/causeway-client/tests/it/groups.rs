//! Groups: a member that joins again, that has other things to do, and that leaves.

use std::time::Duration;

use causeway_client::{Consume, Consumer, Delivery, Kind, Options, Problem};
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::gateway::{Gateway, options};

fn consume() -> Consume {
    Consume { group: "g".to_owned(), ..Consume::default() }
}

fn broken() -> Option<Status> {
    Some(Status::unknown("h2 protocol error"))
}

fn away() -> Status {
    Problem::new(Kind::Unavailable, "the log cannot be reached").into()
}

/// As a program asks that has other things to do: for a moment, again and again.
async fn next_in_steps(consumer: &mut Consumer, step: Duration) -> Delivery {
    let steps = async {
        loop {
            if let Ok(next) = timeout(step, consumer.next()).await {
                return next.unwrap();
            }
        }
    };
    timeout(Duration::from_secs(90), steps).await.expect("a delivery")
}

#[tokio::test]
async fn a_member_joins_again_until_it_is_refused_for_good() {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.refusals = vec![away(), Status::unknown("transport error")];
        // The second ends as a gateway does that shuts down.
        script.joins = vec![(vec![1], broken()), (vec![2], Some(away()))];
    }
    let mut consumer = gateway.start().await.consume(consume()).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().event.position.get(), 1);
    assert_eq!(consumer.next().await.unwrap().event.position.get(), 2);
    gateway.0.lock().unwrap().refusals = vec![away(), Problem::invalid("/start/filter", "is not the group's").into()];
    assert_eq!(consumer.next().await.map(drop).unwrap_err().kind(), Some(Kind::Invalid));
    assert_eq!(gateway.asked(), ["join g"; 6]);
}

#[tokio::test]
async fn a_member_that_is_asked_in_short_steps_waits_between_its_attempts() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().joins = vec![(vec![1], broken()), (vec![2], None)];
    let wait = Duration::from_millis(20);
    let client = gateway.start_with(Options { retry_wait: wait, ..options() }).await;
    let mut consumer = client.consume(consume()).await.unwrap();
    consumer.next().await.unwrap();
    gateway.0.lock().unwrap().refusals = vec![away(), away()];
    let asked = Instant::now();
    assert_eq!(next_in_steps(&mut consumer, wait / 4).await.event.position.get(), 2);
    assert!((1 + 2 + 4) * wait <= asked.elapsed(), "{:?}", asked.elapsed());
    assert_eq!(gateway.asked(), ["join g"; 4]);
}

#[tokio::test]
async fn a_member_that_is_asked_in_short_steps_comes_back_through_a_door_that_opens_slowly() {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.joins = vec![(vec![1], broken()), (vec![2], None)];
        script.member_wait = Duration::from_millis(100);
    }
    let mut consumer = gateway.start().await.consume(consume()).await.unwrap();
    consumer.next().await.unwrap();
    assert_eq!(next_in_steps(&mut consumer, Duration::from_millis(10)).await.event.position.get(), 2);
    assert_eq!(gateway.asked(), ["join g"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_asked_in_short_steps_gives_up_a_silent_connection() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().joins = vec![(vec![], None), (vec![1], None)];
    let mut consumer = gateway.start().await.consume(consume()).await.unwrap();
    let asked = Instant::now();
    assert_eq!(next_in_steps(&mut consumer, Duration::from_secs(7)).await.event.position.get(), 1);
    assert!(Duration::from_secs(59) < asked.elapsed(), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_listened_to_is_not_taken_for_a_silent_one() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().joins = vec![(vec![1], None)];
    let mut consumer = gateway.start().await.consume(consume()).await.unwrap();
    let _at_work_on = consumer.next().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(timeout(Duration::from_millis(900), consumer.next()).await.is_err());
    assert_eq!(gateway.asked(), ["join g"]);
}

#[tokio::test]
async fn answers_given_before_a_member_leaves_in_order_are_taken() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().joins = vec![((1..=200).collect(), None)];
    let mut consumer = gateway.start().await.consume(consume()).await.unwrap();
    // What nobody answers holds up nobody.
    let unanswered = consumer.next().await.unwrap();
    for _ in 2..200 {
        consumer.next().await.unwrap().ack().await;
    }
    consumer.close().await.unwrap();
    let acks = (2..200).map(|position| format!("ack {position}"));
    let told: Vec<String> = std::iter::once("join g".to_owned()).chain(acks).chain(["left".to_owned()]).collect();
    assert_eq!(gateway.asked(), told);
    unanswered.ack().await;
    assert_eq!(gateway.asked(), told, "too late");
}

#[tokio::test]
async fn a_member_that_leaves_says_so_where_nobody_confirms_it() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().joins = vec![(vec![1], None), (vec![1], broken())];
    let client = gateway.start_with(Options { request_timeout: Duration::from_millis(200), ..options() }).await;
    let mut consumer = client.consume(consume()).await.unwrap();
    consumer.next().await.unwrap().ack().await;
    gateway.0.lock().unwrap().member_wait = Duration::from_secs(60);
    let leaving = timeout(Duration::from_secs(10), consumer.close());
    assert_eq!(leaving.await.expect("an end").unwrap_err().kind(), Some(Kind::TimedOut));
    gateway.0.lock().unwrap().member_wait = Duration::ZERO;
    let mut consumer = client.consume(consume()).await.unwrap();
    consumer.next().await.unwrap().ack().await;
    assert_eq!(consumer.close().await.unwrap_err().kind(), Some(Kind::Unavailable));
}
