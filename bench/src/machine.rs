//! What it was measured on, and how busy that was.

use std::fmt;
use std::fs;

use serde::Serialize;

/// The machine at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// The load averages of 1, 5 and 15 minutes. What others do on the machine shows here.
    pub(crate) load: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = text("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load: Vec<_> = text("/proc/loadavg").split_whitespace().take(3).map(str::to_owned).collect();
        Self {
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.join(" "),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, load } = self;
        write!(f, "{cores} cores of {processor}, Linux {kernel}; load average before {load}")
    }
}
