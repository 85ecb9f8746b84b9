//! The gateway's memory while one client streams a long log slowly and others append.

use std::fs;
use std::time::{Duration, Instant};

use causeway_e2e::{Api, Setup};
use causeway_testkit::NatsServer;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

/// A log that would be seen in the memory of whoever held it: about 130 MB as JSON.
const EVENTS: usize = 40_000;
const BATCH: usize = 250;
const DATA_BYTES: usize = 3_000;
/// How long the slow reader takes its time.
const SLOWLY: Duration = Duration::from_secs(6);
/// What the gateway may take on top of what it had: caches of its database, and the newest events.
const GROWTH_MAX_MIB: u64 = 64;

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn append(api: &Api, count: usize) {
    let event = json!({"type": "Counted", "aggregate_id": "a", "data": {"text": "x".repeat(DATA_BYTES)}});
    let (status, answer) = api.post("/events", &Value::Array(vec![event; count])).await.unwrap();
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_while_one_reads_slowly_and_others_append() {
    let nats = NatsServer::start().await.unwrap();
    let gateway = Setup::event_store(&nats.url()).start().await.unwrap();
    let (api, pid) = (gateway.api(), gateway.pid());
    for _ in 0..EVENTS / BATCH {
        append(&api, BATCH).await;
    }
    let before = resident_mib(pid);
    let mut readers = Vec::new();
    for (path, accept) in [("/events/stream", "text/event-stream"), ("/events", "application/x-ndjson")] {
        let request = api.request(Method::GET, path).timeout(Duration::from_secs(100)).header("accept", accept);
        readers.push(request.send().await.unwrap().bytes_stream());
    }
    let (start, mut most, mut read) = (Instant::now(), before, 0);
    while start.elapsed() < SLOWLY {
        for reader in &mut readers {
            read += reader.next().await.unwrap().unwrap().len();
        }
        append(&api, 10).await;
        most = most.max(resident_mib(pid));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(0 < read && read < EVENTS * DATA_BYTES, "{read} bytes: slowly");
    assert!(most <= before + GROWTH_MAX_MIB, "{before} MiB before, {most} MiB meanwhile");
}
