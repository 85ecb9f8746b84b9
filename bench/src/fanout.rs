//! One gateway and many subscribers: how much it delivers, how late, and what it needs for that; and one who reads a long log slowly.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::v1::subscribe_response::Update;
use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::process::{Causeway, Durability, Setup};
use crate::stats::{Latency, rate, thousands, time};
use crate::{Outcome, seed, ways};

/// Subscriptions of one connection.
const STREAMS_PER_CONNECTION: usize = 100;
/// Of the deliveries, every so many is timed.
const TIMED_EVERY: u64 = 10;
const LIMIT: Duration = Duration::from_secs(600);
/// Events of one append of the burst.
const BATCH: u64 = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Subscribers of everything
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Events a second while delays are measured
    #[arg(long, default_value_t = 20)]
    per_second: u64,
    /// For how long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Events that are appended as fast as it goes, to see how many are delivered
    #[arg(long, default_value_t = 1000)]
    burst: u64,
    /// Events of the log that one client reads slowly while others append; 0 leaves that out
    #[arg(long, default_value_t = 1_000_000)]
    slow_events: u64,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let home = setup.home()?;
    let causeway = setup.start(home.path(), Durability::Relaxed, &seed::NO_CHECKPOINTS).await?;
    let alone_mib = resident_mib(&causeway)?;
    let start = Instant::now();
    let paced = options.per_second * options.seconds;
    let total = paced + options.burst;
    let delivered = Arc::new(AtomicU64::new(0));
    let mut hearing = JoinSet::new();
    let mut client = ways::connect(&causeway).await?;
    for index in 0..options.subscribers {
        if index % STREAMS_PER_CONNECTION == 0 {
            client = ways::connect(&causeway).await?;
        }
        let request = v1::SubscribeRequest { from_now: true, ..v1::SubscribeRequest::default() };
        let mut updates = client.subscribe(request).await?.into_inner();
        while !matches!(next(&mut updates).await?, Update::CaughtUp(_)) {}
        hearing.spawn(hear(updates, start, paced, total, Arc::clone(&delivered)));
    }
    let with_all_mib = resident_mib(&causeway)?;
    let mut writer = ways::connect(&causeway).await?;
    let mut pace = interval(Duration::from_secs(1) / u32::try_from(options.per_second.max(1))?);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..paced {
        pace.tick().await;
        append(&mut writer, start, 1).await?;
    }
    let subscribers = options.subscribers as u64;
    let waiting = Instant::now();
    while delivered.load(Ordering::Relaxed) < paced * subscribers {
        ensure!(waiting.elapsed() < LIMIT, "the paced events were not all delivered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let burst = Instant::now();
    for _ in 0..options.burst / BATCH {
        append(&mut writer, start, BATCH).await?;
    }
    let mut taken = Vec::new();
    while let Some(heard) = timeout(LIMIT, hearing.join_next()).await.context("the burst was not delivered in time")? {
        taken.extend(heard??);
    }
    let per_second = (options.burst * subscribers) as f64 / burst.elapsed().as_secs_f64();
    let busy_mib = resident_mib(&causeway)?;
    causeway.stop().await?;
    let delay = Latency::of(taken);
    let slow = if options.slow_events > 0 { Some(slow(setup, options.slow_events).await?) } else { None };
    let mut text = format!(
        "{} subscribers of everything over gRPC, events of {} bytes\n\
         {} events/s appended: {} deliveries/s, delay p50 {}, p99 {}\n\
         a burst of {} events: {} deliveries\n\
         memory of the process: {alone_mib} MiB alone, {with_all_mib} MiB with all subscribers, {busy_mib} MiB after the burst\n",
        thousands(subscribers),
        ways::DATA_BYTES,
        options.per_second,
        thousands(options.per_second * subscribers),
        time(delay.p50_us),
        time(delay.p99_us),
        thousands(options.burst),
        rate(per_second),
    );
    if let Some((events, before, most)) = slow {
        text.push_str(&format!(
            "one client reads {} events slowly while others append: {before} MiB before, at most {most} MiB meanwhile\n",
            thousands(events)
        ));
    }
    let json = json!({
        "subscribers": subscribers, "paced_per_second": options.per_second, "delay": delay, "delivered_per_second": per_second,
        "alone_mib": alone_mib, "with_all_mib": with_all_mib, "busy_mib": busy_mib,
        "slow": slow.map(|(events, before, most)| json!({"events": events, "before_mib": before, "most_mib": most})),
    });
    Ok(Outcome { text, json })
}

/// Hears `total` events. The delays of some of the first `paced`.
async fn hear(
    mut updates: Streaming<v1::SubscribeResponse>,
    start: Instant,
    paced: u64,
    total: u64,
    delivered: Arc<AtomicU64>,
) -> Result<Vec<Duration>> {
    let (mut heard, mut taken) = (0, Vec::new());
    while heard < total {
        let Update::Event(event) = next(&mut updates).await? else { continue };
        heard += 1;
        delivered.fetch_add(1, Ordering::Relaxed);
        if heard <= paced && heard % TIMED_EVERY == 0 {
            let data: serde_json::Value = serde_json::from_slice(&event.data)?;
            let sent = Duration::from_micros(data["sent_us"].as_u64().context("the time of sending")?);
            taken.push(start.elapsed().saturating_sub(sent));
        }
    }
    Ok(taken)
}

async fn next(updates: &mut Streaming<v1::SubscribeResponse>) -> Result<Update> {
    let message = timeout(LIMIT, updates.message()).await.context("nothing is heard")??;
    message.and_then(|response| response.update).context("the stream ended")
}

async fn append(writer: &mut EventStoreClient<Channel>, start: Instant, count: u64) -> Result<()> {
    let data = json!({ "sent_us": start.elapsed().as_micros() as u64, "padding": "x".repeat(ways::DATA_BYTES - 40) });
    let event = v1::NewEvent { data: data.to_string().into_bytes(), ..ways::event("fan-out") };
    let events = std::iter::repeat_n(event, usize::try_from(count)?).collect();
    writer.append(v1::AppendRequest { events, ..v1::AppendRequest::default() }).await?;
    Ok(())
}

/// Reads a log slowly while others append: the events of it, the memory before, and the most meanwhile.
async fn slow(setup: &Setup, events: u64) -> Result<(u64, u64, u64)> {
    let home = setup.home()?;
    let causeway = setup.start(home.path(), Durability::Relaxed, &seed::NO_CHECKPOINTS).await?;
    seed::seed(&causeway, events).await?;
    let before = resident_mib(&causeway)?;
    let (mut reader, mut writer) = (ways::connect(&causeway).await?, ways::connect(&causeway).await?);
    let mut updates = reader.subscribe(v1::SubscribeRequest::default()).await?.into_inner();
    let (start, mut most) = (Instant::now(), before);
    for _ in 0..events / 100 {
        for _ in 0..100 {
            next(&mut updates).await?;
        }
        append(&mut writer, start, 1).await?;
        most = most.max(resident_mib(&causeway)?);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(updates);
    causeway.stop().await?;
    Ok((events, before, most))
}

fn resident_mib(causeway: &Causeway) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", causeway.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("its value")?.parse::<u64>()? / 1024)
}
