//! Appends: one event a call, many a call, and one after the other without waiting; each way in turns with JetStream itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::process::{Causeway, Durability, Setup};
use crate::stats::{Latency, median, rate, time};
use crate::table::table;
use crate::ways::{self, Append, Pipeline, Way};
use crate::{Outcome, disk, processor};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Clients at once, each of which appends one event a call
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// Events of one call, all or none, by one client
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    batches: Vec<usize>,
    /// Leave out the client that does not wait for its acknowledgements
    #[arg(long)]
    no_pipeline: bool,
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

/// What is done, whichever way.
#[derive(Clone, Copy)]
enum Load {
    Singles { clients: usize },
    Pipeline,
    Batches { events: usize },
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Singles { clients: 1 } => "1 client".to_owned(),
            Self::Singles { clients } => format!("{clients} clients"),
            Self::Pipeline => "pipelined".to_owned(),
            Self::Batches { events } => format!("batches of {events}"),
        }
    }

    fn ways(self) -> &'static [Way] {
        match self {
            Self::Singles { clients: 1 } => &[Way::Raw, Way::Grpc, Way::GrpcStream, Way::Http, Way::GrpcEmpty, Way::HttpEmpty],
            Self::Singles { .. } => &[Way::Raw, Way::Grpc, Way::GrpcStream, Way::Http],
            Self::Batches { .. } => &[Way::Raw, Way::Grpc, Way::Http],
            Self::Pipeline => &[Way::Raw, Way::Grpc],
        }
    }

    async fn clients(self, causeway: &Causeway, way: Way) -> Result<Clients> {
        Ok(match self {
            Self::Singles { clients } => Clients::Calling { clients: ways::clients(causeway, way, clients, 1).await?, events: 1 },
            Self::Batches { events } => Clients::Calling { clients: ways::clients(causeway, way, 1, events).await?, events },
            Self::Pipeline => Clients::Pipelined(ways::pipeline(causeway, way).await?),
        })
    }
}

/// Those who do it.
enum Clients {
    Calling { clients: Vec<Append>, events: usize },
    Pipelined(Pipeline),
}

/// One turn of one way.
#[derive(Clone, Copy)]
struct Round {
    /// Of a call; a pipeline has none.
    latency: Option<Latency>,
    events: usize,
    length: Duration,
    busy: Busy,
}

impl Round {
    fn per_second(&self) -> f64 {
        self.events as f64 / self.length.as_secs_f64()
    }
}

/// Processor time of each process.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    tool: Duration,
    gateway: Duration,
    server: Duration,
}

impl Busy {
    fn so_far(causeway: &Causeway) -> Result<Self> {
        let family = processor::family(causeway.pid())?;
        let below = family.iter().skip(1).map(|pid| processor::time(*pid));
        Ok(Self {
            tool: processor::time(std::process::id())?,
            gateway: processor::time(causeway.pid())?,
            server: below.sum::<Result<_>>()?,
        })
    }
}

/// All turns of one way.
#[derive(Serialize)]
struct Row {
    durability: Durability,
    load: String,
    way: Way,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    per_second: f64,
    /// p50 and rate by those of the raw way, each turn by its neighbour.
    p50_to_raw: Option<f64>,
    rate_to_raw: f64,
    /// Processor time an event, of the load tool, the gateway and nats-server.
    tool_us: f64,
    gateway_us: f64,
    server_us: f64,
    /// A synced write of the same size on the same disk, before each round.
    fsync_p50_us: f64,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let singles = options.clients.iter().map(|&clients| Load::Singles { clients });
    let pipeline = (!options.no_pipeline).then_some(Load::Pipeline);
    let batches = options.batches.iter().map(|&events| Load::Batches { events });
    let loads: Vec<_> = singles.chain(pipeline).chain(batches).collect();
    let mut rows = Vec::new();
    for &durability in &options.durability {
        let home = setup.home()?;
        let causeway = setup.start(home.path(), durability, &[]).await?;
        for &load in &loads {
            let mut ways = Vec::new();
            for &way in load.ways() {
                ways.push((way, load.clients(&causeway, way).await?));
            }
            let mut fsync = Vec::with_capacity(options.rounds);
            let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); ways.len()];
            for _ in 0..options.rounds {
                fsync.push(disk::probe(home.path()).await?.p50_us);
                for ((way, clients), rounds) in ways.iter().zip(&mut rounds) {
                    let done = round(&causeway, clients, Duration::from_secs_f64(options.seconds)).await;
                    rounds.push(done.with_context(|| format!("{} {} {}", durability.name(), load.name(), way.name()))?);
                }
            }
            let raw = rounds[0].clone();
            for ((way, _), rounds) in ways.iter().zip(&rounds) {
                rows.push(row(durability, load, *way, rounds, &raw, median(fsync.clone())));
            }
        }
        causeway.stop().await?;
    }
    Ok(Outcome { text: text(&rows), json: serde_json::to_value(&rows)? })
}

/// All clients, each as fast as it is answered, for a time.
async fn round(causeway: &Causeway, clients: &Clients, length: Duration) -> Result<Round> {
    let (before, start) = (Busy::so_far(causeway)?, Instant::now());
    let (events, latency) = match clients {
        Clients::Calling { clients, events } => {
            let taken = calls(clients, start + length).await?;
            (taken.len() * events, Some(Latency::of(taken)))
        }
        Clients::Pipelined(pipeline) => (pipeline(start + length).await?, None),
    };
    let (length, after) = (start.elapsed(), Busy::so_far(causeway)?);
    let busy = Busy {
        tool: after.tool.saturating_sub(before.tool),
        gateway: after.gateway.saturating_sub(before.gateway),
        server: after.server.saturating_sub(before.server),
    };
    Ok(Round { latency, events, length, busy })
}

/// How long each call took.
async fn calls(clients: &[Append], until: Instant) -> Result<Vec<Duration>> {
    let mut tasks = JoinSet::new();
    for append in clients {
        let append = append.clone();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            while Instant::now() < until {
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
    Ok(taken)
}

fn row(durability: Durability, load: Load, way: Way, rounds: &[Round], raw: &[Round], fsync_p50_us: f64) -> Row {
    let latency = |figure: fn(&Latency) -> f64| -> Option<f64> {
        let figures: Option<Vec<f64>> = rounds.iter().map(|round| round.latency.as_ref().map(figure)).collect();
        figures.map(median)
    };
    let busy = |of: fn(&Busy) -> Duration| {
        let all: Duration = rounds.iter().map(|round| of(&round.busy)).sum();
        all.as_secs_f64() * 1e6 / rounds.iter().map(|round| round.events).sum::<usize>() as f64
    };
    let p50_to_raw = rounds.iter().zip(raw).map(|(round, raw)| Some(round.latency?.p50_us / raw.latency?.p50_us));
    Row {
        durability,
        load: load.name(),
        way,
        p50_us: latency(|latency| latency.p50_us),
        p99_us: latency(|latency| latency.p99_us),
        per_second: median(rounds.iter().map(Round::per_second)),
        p50_to_raw: p50_to_raw.collect::<Option<Vec<_>>>().map(median),
        rate_to_raw: median(rounds.iter().zip(raw).map(|(round, raw)| round.per_second() / raw.per_second())),
        tool_us: busy(|busy| busy.tool),
        gateway_us: busy(|busy| busy.gateway),
        server_us: busy(|busy| busy.server),
        fsync_p50_us,
    }
}

fn text(rows: &[Row]) -> String {
    let or_nothing = |figure: Option<String>| figure.unwrap_or_default();
    let cells = |row: &Row| {
        vec![
            row.durability.name().to_owned(),
            row.load.clone(),
            row.way.name().to_owned(),
            or_nothing(row.p50_us.map(time)),
            or_nothing(row.p99_us.map(time)),
            rate(row.per_second),
            or_nothing(row.p50_to_raw.map(|ratio| format!("{ratio:.2}"))),
            format!("{:.2}", row.rate_to_raw),
            [row.tool_us, row.gateway_us, row.server_us].map(|us| format!("{us:.0}")).join(" + ") + " µs",
            time(row.fsync_p50_us),
        ]
    };
    let head = ["durability", "load", "way", "p50", "p99", "events", "p50 to raw", "rate to raw", "CPU an event", "fsync p50"];
    table(&head, 3, &rows.iter().map(cells).collect::<Vec<_>>())
}
