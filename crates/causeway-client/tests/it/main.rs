//! The client against a gateway of which only the wire is real: what it sends, what it makes of answers, and of none.

#![allow(clippy::unwrap_used)]

mod appender;
mod decide;
mod gateway;
mod groups;
mod read;
mod types;
mod views;

use std::time::{Duration, Instant};

use causeway_client::{Append, Client, ClientError, Draft, Kind, Problem, Start, Subscribe, Update};
use causeway_event::{Data, Position};
use causeway_proto::v1;
use causeway_proto::v1::subscribe_response::Update as Wire;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use gateway::{Gateway, appended, event, options};

fn note(idempotency_key: Option<&str>) -> Append {
    let draft = Draft::new("NoteTaken".parse().unwrap(), "me".parse().unwrap(), Data::from_json(b"{}").unwrap());
    Append { events: vec![draft], idempotency_key: idempotency_key.map(str::to_owned), ..Append::default() }
}

fn lost() -> Result<v1::AppendResponse, Status> {
    Err(Problem::new(Kind::OutcomeUnknown, "no acknowledgement came").into())
}

#[tokio::test]
async fn a_lost_answer_is_settled_with_a_key_and_told_without_one() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends = vec![lost(), appended(3), lost()];
    let client = gateway.start().await;
    let receipt = client.append(note(Some("k"))).await.unwrap().receipts.remove(0);
    assert_eq!(receipt.position, Position::new(3));
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown));
    let traceparent = (options().traceparent)().unwrap();
    assert_eq!(
        gateway.asked(),
        [format!("NoteTaken k {traceparent}"), format!("NoteTaken k {traceparent}"), format!("NoteTaken  {traceparent}")]
    );
}

/// What the transport says of a connection that broke, and many a proxy of anything: no details.
fn broken() -> Result<v1::AppendResponse, Status> {
    Err(Status::unavailable("upstream connect error or disconnect/reset before headers"))
}

#[tokio::test]
async fn an_append_that_may_have_arrived_is_sent_again_only_with_a_key() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends = vec![broken(), broken(), appended(3)];
    let client = gateway.start().await;
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error}");
    assert!(!error.is_transient());
    assert_eq!(gateway.asked().len(), 1, "sent once");
    assert_eq!(client.append(note(Some("k"))).await.unwrap().receipts[0].position, Position::new(3));
    assert_eq!(gateway.asked().len(), 3);
}

#[tokio::test]
async fn what_others_say_with_the_gateways_codes_does_not_prove_that_nothing_was_appended() {
    let of_others = b"\x08\x0e".to_vec();
    for status in [
        Status::resource_exhausted("HTTP/2 asked for calm"),
        Status::with_details(Code::Unavailable, "a proxy with words of its own", of_others.into()),
    ] {
        let gateway = Gateway::default();
        gateway.0.lock().unwrap().appends = vec![Err(status), appended(3)];
        let client = gateway.start().await;
        let error = client.append(note(None)).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error}");
        assert_eq!(gateway.asked().len(), 1, "sent once: {error}");
    }
}

#[tokio::test]
async fn an_append_is_sent_once_when_the_connection_is_cut_under_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect_with(&format!("http://{}", listener.local_addr().unwrap()), options()).unwrap();
    let connections = tokio::spawn(async move {
        let mut taken = 0;
        // Takes what is sent and hangs up without a word.
        while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await {
            taken += 1;
            let mut bytes = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await;
        }
        taken
    });
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error:?}");
    assert_eq!(connections.await.unwrap(), 1, "{error:?}");
}

#[tokio::test]
async fn an_append_without_a_key_did_nothing_where_nobody_was_there_to_get_it() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let client = Client::connect_with(&server, options()).unwrap();
    let error = client.append(note(None)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_append_that_was_refused_for_the_moment_is_sent_again_even_without_a_key() {
    let refusals = [Kind::Unavailable, Kind::Overloaded, Kind::Behind];
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends =
        refusals.map(|kind| Err(Problem::new(kind, "not now").into())).into_iter().chain([appended(3)]).collect();
    let client = gateway.start().await;
    assert_eq!(client.append(note(None)).await.unwrap().receipts[0].position, Position::new(3));
    assert_eq!(gateway.asked().len(), 4);
}

#[tokio::test]
async fn a_refusal_comes_back_as_it_was() {
    let gateway = Gateway::default();
    let problem = Problem::invalid("/events/0/data/content", "is missing");
    gateway.0.lock().unwrap().appends = vec![Err(problem.clone().into())];
    let client = gateway.start().await;
    match client.append(note(Some("k"))).await.unwrap_err() {
        ClientError::Problem(told) => assert_eq!(told, problem),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_gateway_that_says_when_to_come_back_is_believed_up_to_a_limit() {
    let busy = |wait| Err(Problem::new(Kind::Overloaded, "too much is under way").retry_after(wait).into());
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends = vec![busy(Duration::from_millis(200)), appended(3)];
    let client = gateway.start().await;
    let asked = Instant::now();
    client.append(note(None)).await.unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(200), "{:?}", asked.elapsed());
    // Whoever waits an hour wants to know why.
    gateway.0.lock().unwrap().appends = vec![busy(Duration::from_secs(3_600))];
    assert_eq!(client.append(note(None)).await.unwrap_err().kind(), Some(Kind::Overloaded));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_says_why() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let client = Client::connect_with(&server, options()).unwrap();
    let error = client.get("7").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
    assert!(matches!(Client::connect("localhost:8470"), Err(ClientError::Address { .. })));
}

#[tokio::test]
async fn a_subscription_goes_on_where_its_connection_broke() {
    let told = |position| Ok(Wire::Event(event(position)));
    let caught_up = |position| Ok(Wire::CaughtUp(v1::CaughtUp { position, head: position }));
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().subscriptions = vec![
        // Ends as a gateway does that shuts down.
        vec![told(1), told(2), caught_up(2)],
        // Breaks as a connection does; repeats an event.
        vec![told(2), told(3), Ok(Wire::Checkpoint(v1::Checkpoint { position: 6 })), Err(Status::unknown("h2 protocol error"))],
        vec![Err(Problem::new(Kind::Unavailable, "the log cannot be reached").into())],
        vec![caught_up(7), Ok(Wire::Heartbeat(v1::Heartbeat { position: 9, lag: 4 }))],
        vec![Err(Problem::invalid("/filter", "is wrong").into())],
    ];
    let client = gateway.start().await;
    let subscribe = Subscribe { start: Start::Now, ..Subscribe::default() };
    let updates: Vec<_> = client.subscribe(subscribe).await.unwrap().collect().await;
    let told: Vec<String> = updates
        .iter()
        .map(|update| match update {
            Ok(Update::Event(event)) => format!("event {}", event.position),
            Ok(Update::CaughtUp { position, head }) => format!("caught up {position} of {head}"),
            Ok(Update::Checkpoint(position)) => format!("checkpoint {position}"),
            Ok(Update::Heartbeat { position, lag }) => format!("heartbeat {position} lag {lag}"),
            Ok(Update::Delta(..)) => "delta".to_owned(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(
        told,
        [
            "event 1",
            "event 2",
            "caught up 2 of 2",
            "event 3",
            "checkpoint 6",
            "heartbeat 7 lag 0",
            "heartbeat 9 lag 4",
            "/filter: is wrong"
        ]
    );
    assert_eq!(
        gateway.asked(),
        ["after= now=true", "after=2 now=false", "after=6 now=false", "after=6 now=false", "after=9 now=false"]
    );
}

#[tokio::test]
async fn subscriptions_that_nobody_polls_hold_up_no_other_call() {
    let large = || Ok(Wire::Event(v1::Event { data: format!("\"{}\"", "x".repeat(100_000)).into(), ..event(1) }));
    let gateway = Gateway::default();
    // Together more than HTTP/2 lets lie unread in one connection unless told otherwise.
    gateway.0.lock().unwrap().subscriptions = (0..5).map(|_| (0..40).map(|_| large()).collect()).collect();
    let client = gateway.start().await;
    let calls = async {
        let mut unread = Vec::new();
        for _ in 0..5 {
            unread.push(client.subscribe(Subscribe::default()).await.unwrap());
        }
        client.get("7").await.unwrap().unwrap()
    };
    let got = tokio::time::timeout(Duration::from_secs(10), calls).await.expect("an answer");
    assert_eq!(got.position, Position::new(7));
}

#[tokio::test]
async fn a_bad_subscription_is_refused_at_once() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().subscriptions = vec![vec![Err(Problem::invalid("/after", "is no position").into())]];
    let error = gateway.start().await.subscribe(Subscribe::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Some(Kind::Invalid));
}
