//! Appends: one event a call, each client waiting for its acknowledgement before the next.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::process::{Durability, Setup};
use crate::stats::{Latency, median, rate, time};
use crate::table::table;
use crate::ways::{self, Append, Way};
use crate::{Outcome, disk};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Clients at once
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// What an acknowledgement promises
    #[arg(long, value_delimiter = ',', default_value = "synced,relaxed")]
    durability: Vec<Durability>,
    /// How often each way has its turn; the medians are told
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a turn takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// One turn of one way.
#[derive(Clone, Copy)]
struct Round {
    latency: Latency,
    per_second: f64,
}

/// All turns of one way.
#[derive(Serialize)]
struct Row {
    durability: Durability,
    clients: usize,
    way: Way,
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
    /// p50 and rate by those of the raw way, each turn by its neighbour.
    p50_to_raw: f64,
    rate_to_raw: f64,
    /// A synced write of the same size on the same disk, before each round.
    fsync_p50_us: f64,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let mut rows = Vec::new();
    for &durability in &options.durability {
        let home = setup.home()?;
        let causeway = setup.start(home.path(), durability, &[]).await?;
        for &clients in &options.clients {
            let mut ways = Vec::new();
            for way in Way::ALL {
                ways.push((way, ways::clients(&causeway, way, clients).await?));
            }
            let mut fsync = Vec::with_capacity(options.rounds);
            let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); ways.len()];
            for _ in 0..options.rounds {
                fsync.push(disk::probe(home.path()).await?.p50_us);
                for ((way, clients), rounds) in ways.iter().zip(&mut rounds) {
                    let done = round(clients, Duration::from_secs_f64(options.seconds)).await;
                    rounds.push(done.with_context(|| format!("{} {}", durability.name(), way.name()))?);
                }
            }
            let raw = rounds[0].clone();
            for ((way, _), rounds) in ways.iter().zip(&rounds) {
                rows.push(row(durability, clients, *way, rounds, &raw, median(fsync.clone())));
            }
        }
        causeway.stop().await?;
    }
    Ok(Outcome { text: text(&rows), json: serde_json::to_value(&rows)? })
}

/// All clients, each as fast as it is answered, for a time.
async fn round(clients: &[Append], length: Duration) -> Result<Round> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for append in clients {
        let append = append.clone();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            while start.elapsed() < length {
                let begin = Instant::now();
                append().await?;
                taken.push(begin.elapsed());
            }
            anyhow::Ok(taken)
        });
    }
    let mut taken = Vec::new();
    while let Some(done) = tasks.join_next().await {
        taken.extend(done??);
    }
    let per_second = taken.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Round { latency: Latency::of(taken), per_second })
}

fn row(durability: Durability, clients: usize, way: Way, rounds: &[Round], raw: &[Round], fsync_p50_us: f64) -> Row {
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
    let to_raw = |figure: fn(&Round) -> f64| median(rounds.iter().zip(raw).map(|(round, raw)| figure(round) / figure(raw)));
    Row {
        durability,
        clients,
        way,
        p50_us: of(|round| round.latency.p50_us),
        p99_us: of(|round| round.latency.p99_us),
        per_second: of(|round| round.per_second),
        p50_to_raw: to_raw(|round| round.latency.p50_us),
        rate_to_raw: to_raw(|round| round.per_second),
        fsync_p50_us,
    }
}

fn text(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        vec![
            row.durability.name().to_owned(),
            row.clients.to_string(),
            row.way.name().to_owned(),
            time(row.p50_us),
            time(row.p99_us),
            rate(row.per_second),
            format!("{:.2}", row.p50_to_raw),
            format!("{:.2}", row.rate_to_raw),
            time(row.fsync_p50_us),
        ]
    };
    let head = ["durability", "clients", "way", "p50", "p99", "rate", "p50 to raw", "rate to raw", "fsync p50"];
    table(&head, 3, &rows.iter().map(cells).collect::<Vec<_>>())
}
