//! Processor time of processes, as Linux counts it.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Linux tells processor time in these, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// The process and all below it.
pub(crate) fn family(pid: u32) -> Result<Vec<u32>> {
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

/// Processor time so far, of all its threads.
pub(crate) fn time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("processor time of process {pid}"))?;
    let ticks = [14, 15].iter().filter_map(|number| field(&stat, *number)).sum::<u64>();
    Ok(TICK * u32::try_from(ticks)?)
}

/// A number of `/proc/PID/stat` by its place as proc(5) counts, behind the name in brackets.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
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
