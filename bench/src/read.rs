//! Reads of the whole log by one client, beside what a NATS client gets from the same stream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull, push};
use causeway_proto::v1;
use clap::Args;
use futures::{Stream, StreamExt as _};
use serde::Serialize;
use serde_json::json;

use crate::process::{Causeway, Durability, Setup};
use crate::stats::{median, rate, size, thousands, time};
use crate::table::table;
use crate::{Outcome, seed, views, ways};

/// As Causeway's own follower of the log pulls.
const PULL_BATCH: usize = 1000;
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How long a copy of the read model may take.
const COPY_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Events of the log
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// How often each way has its turn; the medians are told
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// What the others are compared with.
    RawPull,
    RawOrdered,
    GrpcRead,
    GrpcSubscribe,
    HttpNdjson,
}

impl Way {
    const ALL: [Self; 5] = [Self::RawPull, Self::RawOrdered, Self::GrpcRead, Self::GrpcSubscribe, Self::HttpNdjson];

    fn name(self) -> &'static str {
        match self {
            Self::RawPull => "raw pull consumer",
            Self::RawOrdered => "raw ordered consumer",
            Self::GrpcRead => "gRPC Read",
            Self::GrpcSubscribe => "gRPC Subscribe, catching up",
            Self::HttpNdjson => "HTTP NDJSON",
        }
    }

    /// Reads `events` events; fails if there are fewer.
    async fn read(self, causeway: &Causeway, events: u64) -> Result<()> {
        match self {
            Self::RawPull => raw_pull(causeway, events).await,
            Self::RawOrdered => raw_ordered(causeway, events).await,
            Self::GrpcRead => grpc_read(causeway, events).await,
            Self::GrpcSubscribe => grpc_subscribe(causeway, events).await,
            Self::HttpNdjson => http_ndjson(causeway, events).await,
        }
    }
}

#[derive(Serialize)]
struct Row {
    way: Way,
    per_second: f64,
    to_raw: f64,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let home = setup.home()?;
    let causeway = setup.start(home.path(), Durability::Relaxed, &seed::NO_CHECKPOINTS).await?;
    let events = options.events;
    let seeding = Instant::now();
    seed::seed(&causeway, events).await?;
    let seeded_us = micros(seeding.elapsed());
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..options.rounds {
        for (way, rates) in Way::ALL.into_iter().zip(&mut rates) {
            let start = Instant::now();
            way.read(&causeway, events).await.with_context(|| way.name())?;
            rates.push(events as f64 / start.elapsed().as_secs_f64());
        }
    }
    causeway.stop().await?;
    let model_bytes = views::size_of_folder(&home.path().join("data/event-store"))?;
    let Restarts { warm_us, rebuilt_us, copied_us, peak_bytes } = restarts(setup, home.path(), events).await?;
    let raw = rates[0].clone();
    let rows: Vec<Row> = Way::ALL
        .into_iter()
        .zip(rates)
        .map(|(way, rates)| Row {
            way,
            to_raw: median(rates.iter().zip(&raw).map(|(rate, raw)| rate / raw)),
            per_second: median(rates),
        })
        .collect();
    let rebuild_per_second = events as f64 / ((rebuilt_us - warm_us).max(1.0) / 1e6);
    let cells = |row: &Row| vec![row.way.name().to_owned(), rate(row.per_second), format!("{:.2}", row.to_raw)];
    let text = format!(
        "{} events of {} bytes of data\n\n{}\nseeded in atomic appends of 1000 within {} ({})\n\
         start to ready: {} with the read model, {} without it (made again from the log: {}), {} from a copy\n\
         read model: {}, {} bytes an event; most memory of the process that made it again: {}\n",
        thousands(events),
        ways::DATA_BYTES,
        table(&["way", "rate", "to raw"], 1, &rows.iter().map(cells).collect::<Vec<_>>()),
        time(seeded_us),
        rate(events as f64 / (seeded_us / 1e6)),
        time(warm_us),
        time(rebuilt_us),
        rate(rebuild_per_second),
        time(copied_us),
        size(model_bytes),
        model_bytes / events.max(1),
        size(peak_bytes),
    );
    let json = json!({
        "events": events, "data_bytes": ways::DATA_BYTES, "rows": rows, "seeded_us": seeded_us,
        "start_us": warm_us, "start_without_read_model_us": rebuilt_us, "rebuild_per_second": rebuild_per_second,
        "start_from_copy_us": copied_us, "read_model_bytes": model_bytes, "rebuild_peak_bytes": peak_bytes,
    });
    Ok(Outcome { text, json })
}

/// From start to ready, and the memory that it took to make the read model again.
struct Restarts {
    warm_us: f64,
    rebuilt_us: f64,
    copied_us: f64,
    peak_bytes: u64,
}

/// Starts with the read model as it was left, without it, and without it but with a copy in the object store.
async fn restarts(setup: &Setup, home: &Path, events: u64) -> Result<Restarts> {
    let forget = || std::fs::remove_dir_all(home.join("data/event-store")).context("the folder of the read model");
    let causeway = setup.start(home, Durability::Relaxed, &seed::NO_CHECKPOINTS).await?;
    let warm_us = micros(causeway.started_in);
    causeway.stop().await?;
    forget()?;
    let every = events.to_string();
    let [off, rarely] = seed::NO_CHECKPOINTS;
    let copies = [
        off,
        rarely,
        ("CAUSEWAY__EVENT_STORE__READ_MODEL__COPIES__EVERY_EVENTS", every.as_str()),
        ("CAUSEWAY__EVENT_STORE__READ_MODEL__COPIES__LOOK_EVERY", "1s"),
    ];
    let causeway = setup.start(home, Durability::Relaxed, &copies).await?;
    let rebuilt_us = micros(causeway.started_in);
    let peak_bytes = views::peak_memory(causeway.pid())?;
    copy_made(&causeway).await?;
    causeway.stop().await?;
    forget()?;
    let causeway = setup.start(home, Durability::Relaxed, &copies).await?;
    let copied_us = micros(causeway.started_in);
    causeway.stop().await?;
    Ok(Restarts { warm_us, rebuilt_us, copied_us, peak_bytes })
}

/// Waits until a copy of the read model is complete: its description is what the store gets last.
async fn copy_made(causeway: &Causeway) -> Result<()> {
    let js = jetstream::new(async_nats::connect(causeway.nats()).await?);
    let deadline = Instant::now() + COPY_LIMIT;
    loop {
        let stored = match js.get_stream("OBJ_causeway_read-models").await {
            Ok(stream) => {
                let described = stream.info_with_subjects("$O.causeway_read-models.M.>").await?.next().await;
                described.is_some()
            }
            Err(_) => false,
        };
        if stored {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no copy of the read model was made");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn raw_pull(causeway: &Causeway, events: u64) -> Result<()> {
    let js = jetstream::new(async_nats::connect(causeway.nats()).await?);
    let stream = ways::events_stream(&js).await?;
    let config = pull::Config { ack_policy: AckPolicy::None, memory_storage: true, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await?;
    let messages = consumer.stream().max_messages_per_batch(PULL_BATCH).expires(PULL_EXPIRES).messages().await?;
    take(messages, events).await
}

async fn raw_ordered(causeway: &Causeway, events: u64) -> Result<()> {
    let client = async_nats::connect(causeway.nats()).await?;
    let js = jetstream::new(client.clone());
    let stream = ways::events_stream(&js).await?;
    let config = push::OrderedConfig { deliver_subject: client.new_inbox(), ..push::OrderedConfig::default() };
    take(stream.create_consumer(config).await?.messages().await?, events).await
}

/// Looks at each message as far as any reader must: its place in the stream.
async fn take<E>(messages: impl Stream<Item = Result<jetstream::Message, E>>, events: u64) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut messages = std::pin::pin!(messages);
    let mut last = 0;
    while last < events {
        let message = messages.next().await.context("the consumer ended")??;
        let sequence = message.info().map_err(|error| anyhow::anyhow!(error))?.stream_sequence;
        ensure!(sequence == last + 1, "{sequence} came after {last}");
        last = sequence;
    }
    Ok(())
}

async fn grpc_read(causeway: &Causeway, events: u64) -> Result<()> {
    let mut client = ways::connect(causeway).await?;
    let mut stream = client.read(v1::ReadRequest::default()).await?.into_inner();
    let mut last = 0;
    while let Some(response) = stream.message().await? {
        let event = response.event.context("a response without an event")?;
        ensure!(event.position == last + 1, "{} came after {last}", event.position);
        last = event.position;
    }
    ensure!(last == events, "the read ended at {last}");
    Ok(())
}

async fn grpc_subscribe(causeway: &Causeway, events: u64) -> Result<()> {
    use v1::subscribe_response::Update;
    let mut client = ways::connect(causeway).await?;
    let mut stream = client.subscribe(v1::SubscribeRequest::default()).await?.into_inner();
    let mut last = 0;
    loop {
        let response = stream.message().await?.context("the subscription ended")?;
        match response.update {
            Some(Update::Event(event)) => {
                ensure!(event.position == last + 1, "{} came after {last}", event.position);
                last = event.position;
            }
            Some(Update::CaughtUp(_)) => break,
            Some(Update::Heartbeat(_) | Update::Delta(_) | Update::Checkpoint(_)) | None => {}
        }
    }
    ensure!(last == events, "it had caught up at {last}");
    Ok(())
}

async fn http_ndjson(causeway: &Causeway, events: u64) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.get(format!("{}/events", causeway.gateway())).header("accept", "application/x-ndjson");
    let mut body = request.send().await?.error_for_status()?.bytes_stream();
    let mut lines = 0;
    while let Some(bytes) = body.next().await {
        lines += bytes?.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    ensure!(lines == events, "there were {lines} lines");
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
