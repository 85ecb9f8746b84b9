//! What a `causeway up` costs that nobody talks to, and what there is to download.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use causeway_testkit::workspace_root;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::Outcome;
use crate::process::{Durability, Setup};
use crate::stats::{size, time};
use crate::table::table;

/// Linux tells processor time in these, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

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
    let pids = family(causeway.pid())?;
    ensure!(pids.len() > 1, "there is no nats-server below {}", causeway.pid());
    let before = ticks(&pids)?;
    tokio::time::sleep(watched).await;
    let after = ticks(&pids)?;
    let busy = |pid: &u32| {
        let ticks = after.get(pid).zip(before.get(pid)).map_or(0, |(after, before)| after.saturating_sub(*before));
        100.0 * ticks as f64 / TICKS_PER_SECOND / watched.as_secs_f64()
    };
    let processes: Vec<Process> = pids.iter().map(|pid| look(*pid, busy(pid))).collect::<Result<_>>()?;
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

/// The process and all below it.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc, which only Linux has")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may have ended meanwhile.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat")) {
            parents.insert(pid, field(&stat, 4).unwrap_or_default());
        }
    }
    let mut family = vec![pid];
    let mut looked_at = 0;
    while let Some(parent) = family.get(looked_at).copied() {
        family.extend(parents.iter().filter(|(_, of)| **of == u64::from(parent)).map(|(pid, _)| *pid));
        looked_at += 1;
    }
    Ok(family)
}

/// Processor time so far, in clock ticks.
fn ticks(pids: &[u32]) -> Result<HashMap<u32, u64>> {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let [user, system] = [14, 15].map(|number| field(&stat, number).unwrap_or_default());
        Ok((*pid, user + system))
    };
    pids.iter().map(of).collect()
}

/// A number of `/proc/PID/stat` by its place as proc(5) counts, behind the name in brackets.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "17 (a (b) c) S 4 17 17 0 -1 4194560 100 0 0 0 250 31 0 0";
        assert_eq!(field(stat, 4), Some(4));
        assert_eq!(field(stat, 14), Some(250));
        assert_eq!(field(stat, 15), Some(31));
    }
}
