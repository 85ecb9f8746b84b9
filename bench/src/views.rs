//! A long conversation within a long log: what it costs to see it now, as of the past, and right after a start.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_proto::v1;
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::process::{Causeway, Durability, Setup};
use crate::seed::NO_CHECKPOINTS;
use crate::stats::{Latency, size, thousands, time};
use crate::table::table;
use crate::{Outcome, ways};

/// Events of one atomic append.
const BATCH: u64 = 1000;
/// The aggregate that is looked at.
const SESSION: &str = "web:long";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Events of the log
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Aggregates that share them
    #[arg(long, default_value_t = 100_000)]
    aggregates: u64,
    /// Messages of the conversation, spread over the whole log
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// How often each view is asked for again
    #[arg(long, default_value_t = 200)]
    repeats: usize,
}

struct Row {
    what: &'static str,
    first: Duration,
    again: Latency,
    /// Of the answer: what it takes to send that is in every time.
    bytes: usize,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let home = setup.home()?;
    let causeway = setup.start(home.path(), Durability::Relaxed, &NO_CHECKPOINTS).await?;
    seed(&causeway, options).await?;
    let middle = options.events / 2;
    let now = format!("{}/projections/conversation/{SESSION}", causeway.gateway());
    // An answer is as fresh as the log: what was seeded has to be in the read model first, which is not what is measured.
    ask(&format!("{}/events/count", causeway.gateway()), 1).await?;
    let folded = ask(&now, 1).await.context("the first time, folded from all its events")?;
    let peak = peak_memory(causeway.pid())?;
    causeway.stop().await?;

    // Without snapshots nothing but the events is left; with them a start finds the newest.
    let mut rows = vec![Row { what: "now, never seen before", ..folded }];
    let causeway = setup.start(home.path(), Durability::Relaxed, &NO_CHECKPOINTS).await?;
    let started = causeway.started_in;
    let now = format!("{}/projections/conversation/{SESSION}", causeway.gateway());
    let past = format!("{now}?as_of={middle}");
    rows.push(Row { what: "as of the middle", ..ask(&past, options.repeats).await? });
    rows.push(Row { what: "now, after a start", ..ask(&now, options.repeats).await? });
    let counted = format!("{}/events/count", causeway.gateway());
    rows.push(Row { what: "count of all events", ..ask(&counted, options.repeats).await? });
    let half = format!("{counted}?type=NoteTaken&before={middle}");
    rows.push(Row { what: "count of a type, half of the log", ..ask(&half, 20).await? });
    causeway.stop().await?;
    let answer = rows.iter().map(|row| row.bytes).max().unwrap_or_default();
    rows.push(Row { what: "the sending of so many bytes alone", ..ask(&sender(answer).await?, options.repeats).await? });
    let bytes = size_of_folder(&home.path().join("data/event-store"))?;
    Ok(outcome(options, &rows, started, peak, bytes))
}

fn outcome(options: &Options, rows: &[Row], started: Duration, peak: u64, bytes: u64) -> Outcome {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let cells = |row: &Row| {
        vec![row.what.to_owned(), time(micros(row.first)), time(row.again.p50_us), time(row.again.p99_us), size(row.bytes as u64)]
    };
    let text = format!(
        "{} messages among {} events of {} aggregates\n\n{}\nstart to ready with the read model: {}; read model: {}, {} bytes an \
         event; most memory of the gateway's process while it took them in: {}\n",
        thousands(options.messages),
        thousands(options.events),
        thousands(options.aggregates),
        table(&["view", "first", "p50 again", "p99 again", "answer"], 1, &rows.iter().map(cells).collect::<Vec<_>>()),
        time(micros(started)),
        size(bytes),
        bytes / options.events.max(1),
        size(peak),
    );
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| json!({ "what": row.what, "first_us": micros(row.first), "again": row.again, "bytes": row.bytes }))
        .collect();
    let json = json!({ "rows": rows, "start_us": micros(started), "read_model_bytes": bytes, "peak_bytes": peak });
    Outcome { text, json }
}

/// The conversation's messages stand evenly among notes of all the other aggregates.
async fn seed(causeway: &Causeway, options: &Options) -> Result<()> {
    let mut client = ways::connect(causeway).await?;
    let every = (options.events / options.messages.max(1)).max(1);
    let mut first = 0;
    while first < options.events {
        let end = options.events.min(first + BATCH);
        let events = (first..end)
            .map(|index| match index % every {
                0 => message(index),
                _ => ways::event(&format!("session-{}", index % options.aggregates.max(1))),
            })
            .collect();
        let request = v1::AppendRequest { events, ..v1::AppendRequest::default() };
        client.append(request).await.context("a batch of events to read")?;
        first = end;
    }
    Ok(())
}

/// Something that a model said, so that nobody answers it.
fn message(index: u64) -> v1::NewEvent {
    let data = json!({ "turn": format!("turn-{index}"), "content": format!("This is message number {index}, and not the last."),
                       "model": "demo", "finish_reason": "stop", "usage": {"input_tokens": 10, "output_tokens": 10} });
    v1::NewEvent {
        r#type: "MessageGenerated".into(),
        aggregate_id: SESSION.into(),
        data: data.to_string().into_bytes(),
        metadata: None,
    }
}

/// Once, and then so many times again.
async fn ask(url: &str, repeats: usize) -> Result<Row> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    // The connection is not what is measured.
    let health = format!("{}/healthz", url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/"));
    client.get(health).send().await?.error_for_status()?.bytes().await?;
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for _ in 0..=repeats {
        let start = Instant::now();
        let body = client.get(url).send().await?.error_for_status()?.bytes().await?;
        taken.push(start.elapsed());
        ensure!(!body.is_empty(), "an empty answer");
        bytes = body.len();
    }
    let first = taken.remove(0);
    Ok(Row { what: "", first, again: Latency::of(taken), bytes })
}

/// A server that has the answer at hand and does nothing but send it: the limit of any view of that size.
async fn sender(bytes: usize) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n");
    let answer: Arc<[u8]> = [head.into_bytes(), vec![b'0'; bytes]].concat().into();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = BufReader::new(connection);
                let mut line = String::new();
                // Requests have no body; each ends with an empty line.
                while connection.read_line(&mut line).await? > 0 {
                    if line == "\r\n" {
                        connection.write_all(&answer).await?;
                    }
                    line.clear();
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(url)
}

/// The most memory that a process ever had.
pub(crate) fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// The bytes of the files in a folder.
pub(crate) fn size_of_folder(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
