//! The log goes away, or loses its majority, or the gateway does, and comes back: whoever asks is told at once, and whoever follows
//! loses nothing and hears nothing twice.

use std::time::{Duration, Instant};

use causeway_e2e::grpc::{request_of, v1};
use causeway_e2e::{Append, Causeway, Client, Draft, Follower, Grpc, Outcome, Told, Wanted, Wire, gateway, gateways};
use causeway_testkit::{NatsCluster, NatsServer, wait_until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What "at once" means to whoever waits for an answer.
const AT_ONCE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);
const WIRES: [Wire; 2] = [Wire::Http, Wire::Grpc];

fn note(number: usize) -> Append {
    Append::one(Draft::new("NoteTaken", "notes", json!({ "number": number })))
}

/// Appends, and says how long the answer took.
async fn timed(client: &Client, wire: Wire, append: &Append) -> (Outcome, Duration) {
    let asked = Instant::now();
    let outcome = client.try_append(wire, append).await.unwrap();
    (outcome, asked.elapsed())
}

/// An open stream of appends.
struct Pipeline {
    requests: mpsc::Sender<v1::AppendStreamRequest>,
    answers: tonic::Streaming<v1::AppendStreamResponse>,
    sent: usize,
}

impl Pipeline {
    async fn open(client: &Client) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let answers = client.grpc.client().append_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, answers, sent: 0 }
    }

    async fn append(&mut self, append: &Append) -> Outcome {
        self.sent += 1;
        let request_id = self.sent.to_string();
        let append = Some(request_of(append));
        self.requests.send(v1::AppendStreamRequest { request_id: request_id.clone(), append }).await.unwrap();
        let answer = self.answers.message().await.unwrap().expect("one problem does not end the stream");
        assert_eq!(answer.request_id, request_id);
        Grpc::streamed(answer).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_log_and_without_it_appends_fail_at_once() {
    let mut nats = NatsServer::start().await.unwrap();
    let started = gateways(1, &nats.url(), 1).await.unwrap();
    let client = Client::of(&started[0]).unwrap();
    let mut health = client.grpc.watch_health().await.unwrap();
    assert!(health.next().await.unwrap());
    let mut pipeline = Pipeline::open(&client).await;
    pipeline.append(&note(0)).await.receipts().unwrap();

    for round in 1..=2 {
        nats.kill();
        let noticed = Instant::now();
        assert!(!health.next().await.unwrap(), "health says so of its own accord");
        assert!(noticed.elapsed() < Duration::from_secs(3), "and soon: {:?}", noticed.elapsed());
        assert!(!client.ready().await && !client.grpc.serving().await.unwrap());
        for wire in WIRES {
            let (outcome, took) = timed(&client, wire, &note(100)).await;
            assert!(outcome.is_refused("unavailable"), "{wire:?}: {outcome:?}");
            assert!(took < AT_ONCE, "{wire:?} took {took:?}");
        }
        let asked = Instant::now();
        let outcome = pipeline.append(&note(100)).await;
        assert!(outcome.is_refused("unavailable"), "the pipeline: {outcome:?}");
        assert!(asked.elapsed() < AT_ONCE, "the pipeline took {:?}", asked.elapsed());

        nats.restart().await.unwrap();
        assert!(health.next().await.unwrap());
        client.wait_ready().await;
        for append in [note(10 * round), note(10 * round + 1)] {
            pipeline.append(&append).await.receipts().unwrap();
        }
    }
    let notes = client.http.events("type=NoteTaken").await.unwrap();
    let numbers: Vec<u64> = notes.iter().map(|note| note["data"]["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 10, 11, 20, 21], "what was refused is not there, what was acknowledged is");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_beyond_the_limit_of_files_do_not_keep_the_gateway_from_the_log() {
    const FILES_MAX: u32 = 128;
    let mut nats = NatsServer::start().await.unwrap();
    let gateway = gateway(&nats.url()).unwrap().files_max(FILES_MAX).start().await.unwrap();
    let client = Client::of(&gateway).unwrap();
    client.wait_ready().await;
    // What asks later has its connection already.
    let mut health = client.grpc.watch_health().await.unwrap();
    assert!(health.next().await.unwrap());
    let address = gateway.ready().gateway.strip_prefix("http://").unwrap().to_owned();
    let crowd = (0..FILES_MAX).map(|_| async {
        let mut client = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET /events/stream HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        client
    });
    let crowd = join_all(crowd).await;
    // As many as get in are there.
    crowd[0].readable().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    nats.kill();
    assert!(!health.next().await.unwrap());
    nats.restart().await.unwrap();
    assert!(tokio::time::timeout(LIMIT, health.next()).await.expect("a file is left for the log").unwrap());
    client.wait_ready().await;
    client.try_append(Wire::Http, &note(1)).await.unwrap().receipts().unwrap();
    let log = gateway.stderr();
    assert!(!log.contains("was not accepted"), "{log}");
    assert_eq!(log.matches("connections_max is 8192, and only 64 are let in").count(), 1, "{log}");

    // Who waited is let in as soon as others leave.
    let last = crowd.into_iter().next_back().unwrap();
    tokio::time::timeout(LIMIT, last.readable()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_majority_is_no_log_and_one_with_it_is() {
    let mut nats = NatsCluster::start().await.unwrap();
    let setup = gateway(&nats.url()).unwrap().env("CAUSEWAY__LOG__REPLICAS", "3");
    let setup = setup.env("CAUSEWAY__LOG__REQUEST_TIMEOUT", "1s").env("CAUSEWAY__LOG__APPEND_TIMEOUT", "3s");
    let gateway = setup.start().await.unwrap();
    let client = Client::of(&gateway).unwrap();
    client.wait_ready().await;
    client.settle(Wire::Grpc, &note(1).keyed("1")).await.unwrap().receipts().unwrap();
    let ready = |wanted: bool| {
        let client = client.clone();
        async move {
            wait_until(&format!("readiness to be {wanted}"), LIMIT, async || {
                let told = (client.ready().await, client.grpc.serving().await.ok()?);
                (told == (wanted, wanted)).then_some(())
            })
            .await;
        }
    };

    // One node less is business as usual, whichever it is.
    let first = nats.kill_leader("causeway_EVENTS").await;
    nats.successor_of(first, "causeway_EVENTS").await;
    client.settle(Wire::Http, &note(2).keyed("2")).await.unwrap().receipts().unwrap();
    ready(true).await;

    let second = nats.kill_leader("causeway_EVENTS").await;
    ready(false).await;
    for (number, wire) in [3, 4].into_iter().zip(WIRES) {
        let (outcome, took) = timed(&client, wire, &note(number).keyed(number.to_string())).await;
        // The last node takes the request and cannot say what becomes of it.
        assert!(matches!(&outcome, Outcome::Refused { .. } | Outcome::Unknown(_)), "{wire:?}: {outcome:?}");
        assert!(took < Duration::from_secs(6), "within the limit of an append: {took:?}");
    }
    nats.node(first).restart().await.unwrap();
    nats.node(second).restart().await.unwrap();
    ready(true).await;
    for number in 1..=4 {
        client.settle(Wire::Http, &note(number).keyed(number.to_string())).await.unwrap().receipts().unwrap();
    }
    let notes = client.http.events("type=NoteTaken").await.unwrap();
    let mut numbers: Vec<u64> = notes.iter().map(|note| note["data"]["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4], "each once");
}

/// What different subscribers ask for: all, much, little, and almost nothing until the end.
fn subscriptions() -> [Wanted; 4] {
    [
        Wanted::default(),
        Wanted { types: vec!["Note*", "TheEnd"], ..Wanted::default() },
        Wanted { types: vec!["NoteLost", "TheEnd"], ..Wanted::default() },
        Wanted { types: vec!["TheEnd"], aggregate: Some("crowd") },
    ]
}

fn follow(client: &Client, after: u64) -> Vec<(Wanted, u64, Follower)> {
    let each = subscriptions().into_iter().flat_map(|wanted| WIRES.map(|wire| (wanted.clone(), wire)));
    each.map(|(wanted, wire)| {
        let follower = Follower::start(client.clone(), wire, wanted.clone(), after, "TheEnd");
        (wanted, after, follower)
    })
    .collect()
}

/// Appends many notes at once, some of a kind that few ask for, each until it is acknowledged.
async fn crowd(client: &Client, from: usize, count: usize) {
    join_all((from..from + count).map(|number| async move {
        let kind = if number % 10 == 3 { "NoteLost" } else { "NoteTaken" };
        let append = Append::one(Draft::new(kind, "crowd", json!({ "number": number }))).keyed(number.to_string());
        client.settle(WIRES[number % 2], &append).await.unwrap().receipts().unwrap();
    }))
    .await;
}

/// Ends the story and asserts that each follower heard all that it asked for, once and in order.
async fn check_followers(client: &Client, followers: Vec<(Wanted, u64, Follower)>, notes: usize) -> Vec<Told> {
    let end = Append::one(Draft::new("TheEnd", "crowd", json!({}))).keyed("end");
    client.settle(Wire::Http, &end).await.unwrap().receipts().unwrap();
    let log = client.http.events("").await.unwrap();
    assert_eq!(log.len(), notes + 1, "each stands there once");
    let mut all = Vec::new();
    for (wanted, after, follower) in followers {
        let told = tokio::time::timeout(LIMIT, follower.end()).await.expect("the last event").unwrap();
        let due = |event: &&Value| after < event["position"].as_u64().unwrap() && wanted.holds(event);
        let due: Vec<&Value> = log.iter().filter(due).collect();
        let wrong = told.events.iter().zip(&due).find(|(told, due)| told != *due);
        assert!(wrong.is_none(), "{wanted:?} after {after}: {wrong:?}");
        assert_eq!(told.events.len(), due.len(), "{wanted:?} after {after}");
        all.push(told);
    }
    all
}

async fn wait_caught_up(followers: &[(Wanted, u64, Follower)]) {
    wait_until("all to have caught up", LIMIT, async || {
        followers.iter().all(|(.., follower)| 0 < follower.caught_up()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_through_restarts_of_the_log_without_being_opened_again() {
    let mut nats = NatsServer::start().await.unwrap();
    let started = gateways(1, &nats.url(), 1).await.unwrap();
    let client = Client::of(&started[0]).unwrap();
    crowd(&client, 0, 100).await;
    let mut followers = follow(&client, 0);
    followers.extend(follow(&client, 50));
    wait_caught_up(&followers).await;
    for round in 1..=3 {
        let (appending, restarted) = tokio::join!(crowd(&client, 100 * round, 100), nats.restart());
        restarted.unwrap();
        let () = appending;
    }
    for told in check_followers(&client, followers, 400).await {
        assert_eq!((told.streams, told.caught_up), (1, 1), "one stream and one mark for all of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_resume_through_kills_and_stops_of_the_gateway() {
    let nats = NatsServer::start().await.unwrap();
    let mut started = gateways(2, &nats.url(), 1).await.unwrap();
    let (client, other) = (Client::of(&started[0]).unwrap(), Client::of(&started[1]).unwrap());
    crowd(&client, 0, 100).await;
    let mut followers = follow(&client, 0);
    followers.extend(follow(&client, 50));
    wait_caught_up(&followers).await;
    for round in 1..=3 {
        // The log goes on while the subscribers' gateway is away.
        tokio::join!(crowd(&other, 100 * round, 100), restart(&mut started[0], round));
    }
    for told in check_followers(&client, followers, 400).await {
        assert!(1 < told.streams, "it went through it: {} streams", told.streams);
    }
}

async fn restart(gateway: &mut Causeway, round: usize) {
    if round.is_multiple_of(2) {
        let stopped = Instant::now();
        assert!(gateway.terminate().await.unwrap().success());
        assert!(stopped.elapsed() < Duration::from_secs(5), "open streams hold up nobody: {:?}", stopped.elapsed());
    }
    gateway.restart().await.unwrap();
}
