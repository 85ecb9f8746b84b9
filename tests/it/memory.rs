//! The gateway's memory while two clients stream a long log slowly, over gRPC and as server-sent events, and others append.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_e2e::grpc::v1;
use causeway_e2e::{Api, Client, Plant, gateway, plant};
use causeway_testkit::{NatsServer, wait_until};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

/// Held in memory they would be seen.
const EVENTS: u64 = 1_000_000;
const AGGREGATES: u64 = 10_000;
/// How long the gateway may take to read it, and each client.
const LIMIT: Duration = Duration::from_secs(900);
/// How long the readers take their time.
const SLOWLY: Duration = Duration::from_secs(20);
/// What the gateway may take on top of what it had: caches of its database, and the newest events.
const GROWTH_MAX_MIB: u64 = 64;

/// What it may take at most until it has read all of it, its caches and what is on the way to the database included.
const CATCHING_UP_MAX_MIB: u64 = 256;

/// Of a process: `VmRSS`, or `VmHWM` for the most that it ever had.
fn memory_mib(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn resident_mib(pid: u32) -> u64 {
    memory_mib(pid, "VmRSS:")
}

async fn append(api: &Api, count: usize) {
    let event = json!({"type": "Counted", "aggregate_id": "a", "data": {"text": "x".repeat(1000)}});
    let (status, answer) = api.post("/events", &Value::Array(vec![event; count])).await.unwrap();
    assert_eq!(status, 201, "{answer}");
}

/// Whether the gateway says that it is catching up, and how fast.
async fn tells_how_far_it_is(api: &Api) -> bool {
    let answer = api.request(Method::GET, "/readyz").send().await.unwrap();
    let status = answer.status();
    let told: Value = answer.json().await.unwrap();
    let number = |name: &str| told[name].as_u64();
    status == 503 && number("position") < number("target") && number("per_second") > Some(0)
}

fn small(number: u64) -> Plant {
    Plant {
        number,
        event_type: "Counted",
        category: "custom",
        aggregate_id: format!("counter-{}", number % AGGREGATES),
        source: "test",
        correlation_id: format!("{number:032x}"),
        cause: None,
        labels: None,
        data: format!("{{\"n\":{number}}}"),
    }
}

/// What the readers share: whether they take their time.
struct Pace(AtomicBool);

impl Pace {
    async fn keep(&self) {
        if self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Reads until the log's end. Returns where that was: nothing was left out.
async fn over_grpc(client: Client, pace: &Pace) -> u64 {
    let mut events = client.grpc.client().read(v1::ReadRequest::default()).await.unwrap().into_inner();
    let mut last = 0;
    while let Some(response) = events.message().await.unwrap() {
        let position = response.event.unwrap().position;
        assert_eq!(position, last + 1, "a gap, or an event twice");
        last = position;
        if last.is_multiple_of(100) {
            pace.keep().await;
        }
    }
    last
}

/// Reads until the end that is named then, of a stream that goes on.
async fn over_sse(api: Api, pace: &Pace, end: tokio::sync::watch::Receiver<Option<u64>>) {
    let open = async |last: u64| {
        let request = api.request(Method::GET, "/events/stream").timeout(LIMIT).header("accept", "text/event-stream");
        request.header("last-event-id", last.to_string()).send().await.unwrap().bytes_stream()
    };
    let mut chunks = open(0).await;
    let (mut rest, mut last) = (Vec::new(), 0);
    while end.borrow().is_none_or(|end| last < end) {
        // A stream may end; a client goes on where it was, as any client of server-sent events does.
        let Some(chunk) = chunks.next().await else {
            rest.clear();
            chunks = open(last).await;
            continue;
        };
        let chunk = chunk.unwrap();
        rest.extend_from_slice(&chunk);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (mut id, mut of_the_log) = (None, true);
        // A chunk may end within a message: that one is looked at with the next chunk.
        let messages = rest[..whole].windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
        for line in rest[..messages].split(|byte| *byte == b'\n') {
            if let Some(text) = line.strip_prefix(b"id:") {
                id = std::str::from_utf8(text).unwrap().trim().parse::<u64>().ok();
            } else if let Some(name) = line.strip_prefix(b"event:") {
                of_the_log = name.trim_ascii().first().is_some_and(u8::is_ascii_uppercase);
            } else if line.is_empty() {
                if let (Some(position), true) = (id, of_the_log) {
                    assert_eq!(position, last + 1, "a gap, or an event twice");
                    last = position;
                }
                (id, of_the_log) = (None, true);
            }
        }
        rest.drain(..messages);
        pace.keep().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_while_two_read_a_long_log_slowly_and_others_append() {
    let nats = NatsServer::start().await.unwrap();
    let gateway = gateway(&nats.url()).unwrap().start().await.unwrap();
    let (client, pid) = (Client::of(&gateway).unwrap(), gateway.pid());
    assert_eq!(plant(nats.port(), (0..EVENTS).map(small)).await.unwrap(), EVENTS);
    let told = AtomicBool::new(false);
    wait_until("the gateway to have all of it", LIMIT, async || {
        told.fetch_or(tells_how_far_it_is(&client.http).await, Ordering::Relaxed);
        client.http.last_position().await.ok().filter(|last| *last == EVENTS)
    })
    .await;
    assert!(told.into_inner(), "so much takes its time, and nobody was told how far it was");
    let (before, most) = (resident_mib(pid), memory_mib(pid, "VmHWM:"));
    assert!(most <= CATCHING_UP_MAX_MIB, "{most} MiB to read {EVENTS} events");

    let pace = Pace(AtomicBool::new(true));
    let (ends, end) = tokio::sync::watch::channel(None);
    let read = AtomicBool::new(false);
    let readers = async {
        let (last, ()) = tokio::join!(over_grpc(client.clone(), &pace), over_sse(client.http.clone(), &pace, end));
        read.store(true, Ordering::Relaxed);
        last
    };
    let others = async {
        let (start, mut most) = (Instant::now(), before);
        while start.elapsed() < SLOWLY {
            append(&client.http, 10).await;
            most = most.max(resident_mib(pid));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!read.load(Ordering::Relaxed), "they read slowly");
        ends.send_replace(Some(client.http.last_position().await.unwrap()));
        pace.0.store(false, Ordering::Relaxed);
        while !read.load(Ordering::Relaxed) {
            append(&client.http, 10).await;
            most = most.max(resident_mib(pid));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        most
    };
    let (last, most) = tokio::join!(readers, others);
    assert!(EVENTS <= last, "gRPC ended at {last}");
    assert!(most <= before + GROWTH_MAX_MIB, "{before} MiB before, {most} MiB meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_while_clients_do_not_read_their_conflicts() {
    const STREAMS: usize = 4;
    const REQUESTS: usize = 1500;
    let nats = NatsServer::start().await.unwrap();
    let gateway = gateway(&nats.url()).unwrap().start().await.unwrap();
    let client = Client::of(&gateway).unwrap();
    client.wait_ready().await;
    let event = json!({"type": "Counted", "aggregate_id": "a", "data": {"text": "x".repeat(50_000)}});
    for _ in 0..2 {
        let (status, answer) = client.http.post("/events", &Value::Array(vec![event.clone(); 20])).await.unwrap();
        assert_eq!(status, 201, "{answer}");
    }
    let before = resident_mib(gateway.pid());
    // Each is answered with a MiB of what stands in its way, if somebody takes that.
    let stale = v1::AppendRequest {
        events: vec![v1::NewEvent { r#type: "Counted".into(), aggregate_id: "a".into(), data: b"1".to_vec(), metadata: None }],
        expected: vec![v1::Expected::default()],
        ..v1::AppendRequest::default()
    };
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        let request = v1::AppendStreamRequest { request_id: String::new(), append: Some(stale.clone()) };
        let requests = futures::stream::iter(vec![request; REQUESTS]).chain(futures::stream::pending());
        let mut own = Client::of(&gateway).unwrap().grpc.client();
        unread.push(own.append_stream(requests).await.unwrap().into_inner());
    }
    let mut highest = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        highest = highest.max(resident_mib(gateway.pid()));
    }
    assert!(highest < before + 2 * GROWTH_MAX_MIB, "from {before} MiB to {highest}");
    // They are all there, whole, for whoever takes them after all.
    for mut answers in unread {
        for _ in 0..100 {
            let answer = answers.message().await.unwrap().unwrap();
            let Some(v1::append_stream_response::Result::Problem(problem)) = answer.result else { panic!("{answer:?}") };
            let conflict = problem.conflict.unwrap();
            assert_eq!((conflict.events.len(), conflict.more), (20, true));
        }
    }
}
