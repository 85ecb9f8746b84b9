//! A `causeway up` of our own: in its own folder, on free ports, ended with us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_testkit::{binary, workspace_root};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A start, with a read model that is made again from a large log.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What is measured, and where.
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    /// Data lies below this.
    pub(crate) dir: PathBuf,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// It is on the disk: the default of `causeway up`.
    Synced,
    /// The operating system has it: `--relaxed-durability`.
    Relaxed,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Relaxed => "relaxed",
        }
    }
}

impl Setup {
    pub(crate) fn new(named: Option<PathBuf>, dir: Option<PathBuf>) -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
        let binary = named.unwrap_or_else(|| target.join("release/causeway"));
        let binary = binary.canonicalize().with_context(|| {
            format!("{}: build it with `cargo build --release -p causeway`, or name one with --bin", binary.display())
        })?;
        Ok(Self { binary, dir: dir.unwrap_or_else(std::env::temp_dir) })
    }

    /// A folder for one life or several.
    pub(crate) fn home(&self) -> Result<TempDir> {
        let home = tempfile::Builder::new().prefix("causeway-bench-").tempdir_in(&self.dir);
        home.with_context(|| format!("a folder in {}", self.dir.display()))
    }

    /// Starts `causeway up` in `home` and waits until it is ready.
    pub(crate) async fn start(&self, home: &Path, durability: Durability, env: &[(&str, &str)]) -> Result<Causeway> {
        let mut command = Command::new(&self.binary);
        command.args(["up", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(home.join("data"));
        if durability == Durability::Relaxed {
            command.arg("--relaxed-durability");
        }
        let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("CAUSEWAY"));
        for name in ours {
            command.env_remove(name);
        }
        let log = home.join("stderr");
        command.env("CAUSEWAY_NATS_SERVER", binary()?).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").envs(env.iter().copied());
        command.current_dir(home).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).kill_on_drop(true);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.binary.display()))?;
        let stdout = child.stdout.take().context("its output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_LIMIT, lines.next_line()).await;
        let Some(line) = line.with_context(|| format!("it is not ready after {START_LIMIT:?}"))?? else {
            bail!("it did not start:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        };
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("its ready line: {line}"))?;
        Ok(Causeway { child, ready, started_in: start.elapsed() })
    }
}

/// A running `causeway up`. Dropping it kills it, and its nats-server with it.
pub(crate) struct Causeway {
    child: Child,
    ready: Ready,
    /// From the start of the process to its ready line.
    pub(crate) started_in: Duration,
}

#[derive(Debug, Deserialize)]
struct Ready {
    gateway: String,
    nats: String,
    pid: u32,
}

impl Causeway {
    /// `http://127.0.0.1:PORT`
    pub(crate) fn gateway(&self) -> &str {
        &self.ready.gateway
    }

    /// `nats://127.0.0.1:PORT`
    pub(crate) fn nats(&self) -> &str {
        &self.ready.nats
    }

    pub(crate) fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Asks it to stop and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.ready.pid)?).context("its process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.context("it does not stop")??;
        ensure!(status.success(), "it stopped with {status}");
        Ok(())
    }
}
