//! Turns: what Causeway adds to a model's own time, from a message to its completed answer.
//!
//! The demo model computes its answer at once when its delay is nought, so what is left is Causeway: the log, the processor,
//! the tools.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::v1::subscribe_response::Update;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::process::{Causeway, Durability, Setup};
use crate::stats::{Latency, time};
use crate::table::table;
use crate::{Outcome, disk, ways};

/// A turn that takes longer hangs.
const TURN_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Turns, one after the other
    #[arg(long, default_value_t = 200)]
    turns: usize,
    /// What is asked
    #[arg(long, default_value = "What is 6 * 7?")]
    message: String,
    /// All turns in one conversation instead of one each
    #[arg(long)]
    one_conversation: bool,
    /// What an acknowledgement promises
    #[arg(long, value_delimiter = ',', default_value = "synced,relaxed")]
    durability: Vec<Durability>,
}

/// A finished turn.
struct Turn {
    /// Type and time of its events, the message's first.
    events: Vec<(String, Duration)>,
    steps: u64,
    /// From the call that appends the message to the sight of the last event.
    seen: Duration,
}

#[derive(Serialize)]
struct Summary {
    durability: Durability,
    turns: usize,
    events_per_turn: usize,
    steps_per_turn: u64,
    /// By the log's clock: from MessageReceived to AIProcessingCompleted.
    turn: Latency,
    /// By the client's clock: from the append to the sight of AIProcessingCompleted.
    seen: Latency,
    /// Medians of the first and the last quarter of the turns.
    first_quarter: Latency,
    last_quarter: Latency,
    per_step_p50_us: f64,
    per_event_p50_us: f64,
    gaps: Vec<Gap>,
    fsync_p50_us: f64,
}

/// Between an event of the turn and the one before it.
#[derive(Serialize)]
struct Gap {
    between: String,
    per_turn: f64,
    #[serde(flatten)]
    latency: Latency,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let mut summaries = Vec::new();
    for &durability in &options.durability {
        let home = setup.home()?;
        let env = [("CAUSEWAY__AI_PROCESSOR__MODEL__DEMO_DELAY", "0s")];
        let causeway = setup.start(home.path(), durability, &env).await?;
        let turns = turns(&causeway, options).await?;
        let fsync = disk::probe(home.path()).await?;
        causeway.stop().await?;
        summaries.push(summary(durability, &turns, fsync.p50_us));
    }
    Ok(Outcome { text: summaries.iter().map(text).collect(), json: serde_json::to_value(&summaries)? })
}

async fn turns(causeway: &Causeway, options: &Options) -> Result<Vec<Turn>> {
    let mut client = ways::connect(causeway).await?;
    let mut turns = Vec::with_capacity(options.turns);
    // The first one is not counted: it opens what the others find open.
    for index in 0..=options.turns {
        let aggregate = if options.one_conversation { "bench".to_owned() } else { format!("bench-{index}") };
        let turn = tokio::time::timeout(TURN_LIMIT, turn(&mut client, &aggregate, &options.message)).await;
        let turn = turn.with_context(|| format!("turn {index} is not done after {TURN_LIMIT:?}"))??;
        if index > 0 {
            turns.push(turn);
        }
    }
    Ok(turns)
}

async fn turn(client: &mut EventStoreClient<Channel>, aggregate: &str, message: &str) -> Result<Turn> {
    let filter = v1::Filter { aggregate_id: aggregate.to_owned(), ..v1::Filter::default() };
    let request = v1::SubscribeRequest { filter: Some(filter), from_now: true, ..v1::SubscribeRequest::default() };
    let mut updates = client.subscribe(request).await?.into_inner();
    while !matches!(next(&mut updates).await?, Update::CaughtUp(_)) {}
    let data = json!({ "content": message }).to_string().into_bytes();
    let event = v1::NewEvent { r#type: "MessageReceived".into(), aggregate_id: aggregate.into(), data, metadata: None };
    let start = Instant::now();
    client.append(v1::AppendRequest { events: vec![event], ..v1::AppendRequest::default() }).await?;
    let mut events = Vec::new();
    loop {
        let Update::Event(event) = next(&mut updates).await? else { continue };
        let at = event.timestamp.context("an event without a time")?;
        let at = Duration::new(u64::try_from(at.seconds)?, u32::try_from(at.nanos)?);
        events.push((event.r#type.clone(), at));
        match event.r#type.as_str() {
            "AIProcessingCompleted" => {
                let seen = start.elapsed();
                let data: Value = serde_json::from_slice(&event.data)?;
                return Ok(Turn { events, steps: data["steps"].as_u64().context("steps")?, seen });
            }
            "AIProcessingFailed" => bail!("a turn failed: {}", String::from_utf8_lossy(&event.data)),
            _ => {}
        }
    }
}

async fn next(updates: &mut Streaming<v1::SubscribeResponse>) -> Result<Update> {
    updates.message().await?.context("the subscription ended")?.update.context("an empty update")
}

fn summary(durability: Durability, turns: &[Turn], fsync_p50_us: f64) -> Summary {
    let length = |turn: &Turn| match (turn.events.first(), turn.events.last()) {
        (Some((_, first)), Some((_, last))) => last.saturating_sub(*first),
        _ => Duration::ZERO,
    };
    let of = |turns: &[Turn]| Latency::of(turns.iter().map(length).collect());
    let quarter = turns.len() / 4;
    let turn = of(turns);
    let (events, steps) = turns.last().map_or((0, 0), |turn| (turn.events.len(), turn.steps));
    Summary {
        durability,
        turns: turns.len(),
        events_per_turn: events,
        steps_per_turn: steps,
        turn,
        seen: Latency::of(turns.iter().map(|turn| turn.seen).collect()),
        first_quarter: of(&turns[..quarter]),
        last_quarter: of(&turns[turns.len() - quarter..]),
        per_step_p50_us: turn.p50_us / steps.max(1) as f64,
        per_event_p50_us: turn.p50_us / events.saturating_sub(1).max(1) as f64,
        gaps: gaps(turns),
        fsync_p50_us,
    }
}

/// In the order in which they were first seen.
fn gaps(turns: &[Turn]) -> Vec<Gap> {
    let mut gaps: Vec<(String, Vec<Duration>)> = Vec::new();
    for turn in turns {
        for pair in turn.events.windows(2) {
            let ((before, from), (after, to)) = (&pair[0], &pair[1]);
            let (between, taken) = (format!("{before} to {after}"), to.saturating_sub(*from));
            match gaps.iter_mut().find(|(known, _)| *known == between) {
                Some((_, all)) => all.push(taken),
                None => gaps.push((between, vec![taken])),
            }
        }
    }
    let gap = |(between, taken): (String, Vec<Duration>)| Gap {
        between,
        per_turn: taken.len() as f64 / turns.len() as f64,
        latency: Latency::of(taken),
    };
    gaps.into_iter().map(gap).collect()
}

fn text(summary: &Summary) -> String {
    let row = |name: &str, latency: &Latency| vec![name.to_owned(), time(latency.p50_us), time(latency.p99_us)];
    let mut rows = vec![
        row("MessageReceived to AIProcessingCompleted", &summary.turn),
        row("as the client sees it, append included", &summary.seen),
        row("first quarter of the turns", &summary.first_quarter),
        row("last quarter of the turns", &summary.last_quarter),
    ];
    rows.extend(summary.gaps.iter().map(|gap| row(&gap.between, &gap.latency)));
    format!(
        "{}, {} turns of {} events and {} model calls, fsync p50 {}\n\n{}\nadded a model call: {}; an event: {}\n\n",
        summary.durability.name(),
        summary.turns,
        summary.events_per_turn,
        summary.steps_per_turn,
        time(summary.fsync_p50_us),
        table(&["time", "p50", "p99"], 1, &rows),
        time(summary.per_step_p50_us),
        time(summary.per_event_p50_us),
    )
}
