//! What a `causeway up` costs that nobody talks to, and what there is to download.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use causeway_testkit::workspace_root;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::process::{Durability, Setup};
use crate::stats::{size, time};
use crate::table::table;
use crate::{Outcome, processor};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long it is watched
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Serialize)]
struct Process {
    name: String,
    rss_bytes: u64,
    /// With what it shares with others divided among them.
    pss_bytes: u64,
    threads: u64,
    /// Of one core, while it was watched.
    cpu_percent: f64,
}

#[derive(Serialize)]
struct Binary {
    build: &'static str,
    path: PathBuf,
    bytes: u64,
}

pub(crate) async fn run(setup: &Setup, options: &Options) -> Result<Outcome> {
    let home = setup.home()?;
    let causeway = setup.start(home.path(), Durability::Synced, &[]).await?;
    let started_us = causeway.started_in.as_secs_f64() * 1e6;
    let watched = Duration::from_secs_f64(options.seconds);
    let pids = processor::family(causeway.pid())?;
    ensure!(pids.len() > 1, "there is no nats-server below {}", causeway.pid());
    let before = pids.iter().map(|pid| processor::time(*pid)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(watched).await;
    let processes = pids.iter().zip(before).map(|(pid, before)| {
        let busy = processor::time(*pid)?.saturating_sub(before);
        look(*pid, 100.0 * busy.as_secs_f64() / watched.as_secs_f64())
    });
    let processes: Vec<Process> = processes.collect::<Result<_>>()?;
    causeway.stop().await?;
    let binaries = binaries(&setup.binary);
    let cells = |process: &Process| {
        vec![
            process.name.clone(),
            size(process.rss_bytes),
            size(process.pss_bytes),
            process.threads.to_string(),
            format!("{:.1} %", process.cpu_percent),
        ]
    };
    let binary = |binary: &Binary| vec![binary.build.to_owned(), size(binary.bytes)];
    let text = format!(
        "start to ready: {}; then watched for {watched:?}\n\n{}\n{}",
        time(started_us),
        table(&["process", "RSS", "PSS", "threads", "CPU"], 1, &processes.iter().map(cells).collect::<Vec<_>>()),
        table(&["binary", "size"], 1, &binaries.iter().map(binary).collect::<Vec<_>>()),
    );
    Ok(Outcome { text, json: json!({ "start_us": started_us, "processes": processes, "binaries": binaries }) })
}

fn look(pid: u32, cpu_percent: f64) -> Result<Process> {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("{name} of process {pid}"));
    let (status, memory) = (file("status")?, file("smaps_rollup")?);
    let number = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
        value.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
    };
    Ok(Process {
        name: file("comm")?.trim().to_owned(),
        rss_bytes: number(&status, "VmRSS") * 1024,
        pss_bytes: number(&memory, "Pss") * 1024,
        threads: number(&status, "Threads"),
        cpu_percent,
    })
}

fn binaries(measured: &Path) -> Vec<Binary> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
    let built = |profile: &str| target.join(profile).join("causeway").canonicalize().ok();
    let builds = [("release", built("release")), ("dev", built("debug"))];
    let other =
        (!builds.iter().any(|(_, path)| path.as_deref() == Some(measured))).then(|| ("measured", Some(measured.to_owned())));
    let binary = |(build, path): (&'static str, Option<PathBuf>)| {
        let path = path?;
        let bytes = fs::metadata(&path).ok()?.len();
        Some(Binary { build, path, bytes })
    };
    other.into_iter().chain(builds).filter_map(binary).collect()
}
