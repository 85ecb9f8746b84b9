//! The registry over a log that is not always there, nor always what it was.

use causeway_log::Config;
use causeway_testkit::NatsServer;
use serde_json::json;

use super::*;

async fn server() -> (NatsServer, Log, Types) {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let types = Types::open(&log).await.unwrap();
    (nats, log, types)
}

async fn connect(nats: &NatsServer) -> Log {
    let config = Config { url: nats.url().into(), request_timeout: Duration::from_millis(500), ..Config::default() };
    Log::connect(&config).await.unwrap()
}

async fn register(types: &Types, log: &Log, name: &str) -> Registered {
    let registration = registration(name, json!({ "type": "object" }), vec![], None, String::new()).unwrap();
    types.register(log, registration, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_takes_long_keeps_back_nobody_else() {
    let (others, heard) = std::sync::mpsc::channel();
    let working = tokio::spawn(async move {
        // On the thread that would have to run it.
        tokio::spawn(async move { others.send(()).unwrap() });
        aside(ASIDE_BYTES + 1, || heard.recv_timeout(Duration::from_secs(30)))
    });
    working.await.unwrap().expect("the other one ran meanwhile");
}

#[tokio::test]
async fn what_the_log_lost_is_no_longer_registered() {
    let (nats, log, types) = server().await;
    register(&types, &log, "Lost").await;
    let seen = Position::new(types.seen.load(Ordering::Acquire));
    assert_ne!(seen, Position::START);
    nats.client().await.unwrap().request("$JS.API.STREAM.DELETE.causeway_EVENTS", "".into()).await.unwrap();
    connect(&nats).await;
    types.refresh(&log, Position::START).await.unwrap();
    assert_eq!(types.current().types().count(), 1, "it only looks behind what it has");
    types.begin_again(&log).await.unwrap();
    assert_eq!(types.current().types().count(), 0);
    // Also one that stands before what was seen is.
    assert_eq!(types.seen.load(Ordering::Acquire), 0);
    assert!(!register(&types, &log, "Lost").await.duplicate);
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_asked_once_for_all() {
    let (nats, log, types) = server().await;
    types.asked(&log).await.unwrap();
    nats.pause().unwrap();
    tokio::time::sleep(STALE).await;
    let asked = Instant::now();
    let answers = futures::future::join_all((0..20).map(|_| types.asked(&log))).await;
    nats.resume().unwrap();
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}
