//! Many appends over one stream: order, failures in between, and connections that break.

use std::time::Duration;

use causeway_client::{Append, Appended, Client, ClientError, Conflict, Draft, Kind, Options, Problem};
use causeway_event::{Category, Data, Position};
use tokio::net::TcpListener;

use crate::gateway::{Gateway, Step, event, options};

fn append(name: &str, key: Option<&str>) -> Append {
    let draft = Draft::new(name.parse().unwrap(), "me".parse().unwrap(), Data::from_json(b"{}").unwrap());
    Append { idempotency_key: key.map(str::to_owned), ..Append::one(draft) }
}

fn position(outcome: Result<Appended, ClientError>) -> u64 {
    outcome.unwrap().receipts[0].position.get()
}

#[tokio::test]
async fn answers_come_in_order_and_one_refusal_ends_nothing() {
    let conflict = Problem::from(Conflict {
        aggregate_id: "me".parse().unwrap(),
        category: Category::Custom,
        expected: Position::new(1),
        actual: Position::new(2),
        events: vec![event(2).try_into().unwrap()],
        more: false,
        others: vec![],
    });
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().streams = vec![vec![Step::Appended(1), Step::Problem(conflict), Step::Appended(3)]];
    let appender = gateway.start().await.appender();
    let first = appender.send(append("First", None)).await;
    let second = appender.send(append("Second", None)).await;
    let third = appender.send(append("Third", None)).await;
    assert_eq!(position(third.await), 3);
    let error = second.await.unwrap_err();
    assert_eq!(error.conflict().unwrap().events[0].position, Position::new(2));
    assert_eq!(position(first.await), 1);
    assert_eq!(gateway.asked(), ["stream", "First ", "Second ", "Third "]);
}

#[tokio::test]
async fn after_a_break_keyed_appends_are_sent_again_and_of_the_others_nobody_knows() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().streams = vec![
        vec![Step::Appended(1), Step::Broken],
        // The third may or may not have been sent before the break; it is in any case after it.
        vec![Step::Appended(2), Step::Appended(3)],
    ];
    let appender = gateway.start().await.appender();
    let first = appender.send(append("First", None)).await;
    assert_eq!(position(first.await), 1);
    let keyed = appender.send(append("Keyed", Some("k"))).await;
    let other = appender.send(append("Other", Some("o"))).await;
    assert_eq!(position(keyed.await), 2);
    assert_eq!(position(other.await), 3);
    let asked = gateway.asked();
    let again: Vec<&String> =
        asked.iter().skip_while(|line| *line != "stream").skip(1).skip_while(|line| *line != "stream").collect();
    assert_eq!(again, ["stream", "Keyed k", "Other o"]);

    let gateway = Gateway::default();
    gateway.0.lock().unwrap().streams = vec![vec![Step::Broken], vec![Step::Appended(7)]];
    let appender = gateway.start().await.appender();
    let bare = appender.send(append("Bare", None)).await;
    assert_eq!(bare.await.unwrap_err().kind(), Some(Kind::OutcomeUnknown));
    // The appender lives on.
    assert_eq!(position(appender.send(append("Next", None)).await.await), 7);
    assert_eq!(gateway.asked(), ["stream", "Bare ", "stream", "Next "], "sent once");
}

#[tokio::test]
async fn what_cannot_be_settled_is_given_up_after_the_retries() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().streams = (0..=options().retries_max).map(|_| vec![Step::Broken]).collect();
    let appender = gateway.start().await.appender();
    let keyed = appender.send(append("Keyed", Some("k"))).await;
    assert_eq!(keyed.await.unwrap_err().kind(), Some(Kind::OutcomeUnknown));
    assert_eq!(gateway.asked().iter().filter(|line| *line == "stream").count(), 4);
}

#[tokio::test]
async fn nothing_was_sent_where_nobody_was_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let appender = Client::connect_with(&server, options()).unwrap().appender();
    let error = appender.send(append("Bare", None)).await.await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_gateway_that_says_nothing_is_not_waited_for_for_ever() {
    // Takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let options = Options { request_timeout: Duration::from_millis(100), retries_max: 1, ..options() };
    let appender = Client::connect_with(&server, options).unwrap().appender();
    let error = appender.send(append("Keyed", Some("k"))).await.await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown));
}

#[tokio::test]
async fn no_more_than_allowed_are_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let appender = Client::connect_with(&server, options()).unwrap().appender_with(2);
    let _tickets = [appender.send(append("First", None)).await, appender.send(append("Second", None)).await];
    let third = tokio::time::timeout(Duration::from_millis(50), appender.send(append("Third", None))).await;
    assert!(third.is_err(), "it waits for room");
}

#[tokio::test]
async fn dropping_the_appender_lets_what_was_sent_come_to_its_end() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().streams = vec![vec![Step::Appended(1), Step::Appended(2)]];
    let appender = gateway.start().await.appender();
    let (first, second) = (appender.send(append("First", None)).await, appender.send(append("Second", None)).await);
    drop(appender);
    assert_eq!((position(first.await), position(second.await)), (1, 2));
}
