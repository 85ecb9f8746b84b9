//! The private server's life: its configuration, its start, and its restart when it dies.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::child::Child;
use super::{Binary, leftover};
use crate::data_dir::DataDir;
use crate::output::Output;

/// It opens its port after it has recovered its streams, which takes long for a long log.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// So many deaths ...
const RESTARTS_MAX: u32 = 5;
/// ... each so soon after a start are not to be mended by starting it again.
const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// The first restart is at once, each further one waits this much longer.
const RESTART_WAIT: Duration = Duration::from_millis(200);

/// How much of its log is quoted when it cannot start.
const LOG_TAIL_LINES: usize = 5;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is on the disk.
    Synced,
    /// The operating system has it; the disk follows within two minutes.
    Relaxed,
}

/// What the server is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) binary: Binary,
    pub(crate) port: u16,
    pub(crate) durability: Durability,
}

/// A nats-server of our own. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    settings: Settings,
    files: Files,
    child: Child,
}

#[derive(Debug)]
struct Files {
    conf: PathBuf,
    store: PathBuf,
    log: PathBuf,
    pid: PathBuf,
}

impl Server {
    /// Starts it on the data folder and waits until it serves.
    pub(crate) async fn start(settings: Settings, data: &DataDir, out: &Output) -> anyhow::Result<Self> {
        let files = Files {
            conf: data.join("nats.conf"),
            store: data.join(crate::data_dir::LOG),
            log: data.join("nats-server.log"),
            pid: data.join("nats-server.pid"),
        };
        leftover::stop(&files.pid, &files.conf).await?;
        write_conf(&files, &settings)?;
        let child = out.during("starting nats-server", start(&settings, &files)).await?;
        Ok(Self { settings, files, child })
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{}", Ipv4Addr::LOCALHOST, self.settings.port)
    }

    /// Keeps it running until it is to stop. A server that dies is started again at the same address; its clients
    /// reconnect by themselves.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut deaths = 0;
        loop {
            let started = Instant::now();
            let how = tokio::select! {
                how = self.child.ended() => how,
                () = stop.cancelled() => {
                    self.child.stop(STOP_TIMEOUT).await;
                    return Ok(());
                }
            };
            deaths = if started.elapsed() < RESTART_WINDOW { deaths + 1 } else { 1 };
            if RESTARTS_MAX < deaths {
                bail!("nats-server died {deaths} times in a row, at last with {how}; its log is {}", self.files.log.display());
            }
            warn!(how, deaths, "nats-server died, starting it again");
            tokio::select! {
                () = tokio::time::sleep(RESTART_WAIT * (deaths - 1)) => {}
                () = stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                child = start(&self.settings, &self.files) => self.child = child?,
                // Dropping the start kills what it has started.
                () = stop.cancelled() => return Ok(()),
            }
            info!(pid = self.child.pid(), "nats-server serves again");
        }
    }
}

/// Starts it and waits until it serves.
async fn start(settings: &Settings, files: &Files) -> anyhow::Result<Child> {
    let program = &settings.binary.path;
    let log = open_log(&files.log)?;
    let begin = log.metadata()?.len();
    let arguments = [OsString::from("--config"), files.conf.clone().into()];
    let cannot = || format!("cannot start {}", program.display());
    let mut child = Child::start(program, &arguments, &log).await.with_context(cannot)?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if serves(settings.port).await {
            return Ok(child);
        }
        tokio::select! {
            how = child.ended() => bail!("nats-server does not start ({how}): {}", log_tail(&files.log, begin)),
            () = tokio::time::sleep(POLL) => {}
        }
    }
    bail!("nats-server does not serve after {START_TIMEOUT:?}; its log is {}", files.log.display());
}

/// Whether *our* server answers: another program may have taken the port.
async fn serves(port: u16) -> bool {
    let hello = async {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()?;
        let mut line = String::new();
        // Its greeting is one line of JSON, some hundred bytes.
        BufReader::new(stream.take(64 * 1024)).read_line(&mut line).await.ok()?;
        let info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
        (info["server_name"].as_str()? == server_name()).then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), hello).await, Ok(Some(())))
}

fn server_name() -> String {
    format!("causeway-{}", std::process::id())
}

fn write_conf(files: &Files, settings: &Settings) -> anyhow::Result<()> {
    let conf = conf(files, settings);
    std::fs::write(&files.conf, conf).with_context(|| format!("cannot write {}", files.conf.display()))
}

/// No password: it listens on the loopback alone, as the gateway beside it does, which asks for none either.
fn conf(files: &Files, settings: &Settings) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let sync = match settings.durability {
        Durability::Synced => "\n  # An acknowledgement means: on the disk.\n  sync_interval: always",
        Durability::Relaxed => "",
    };
    format!(
        "# Written by `causeway up` at each start.\n\
         server_name: {name}\n\
         host: 127.0.0.1\n\
         port: {port}\n\
         pid_file: {pid}\n\
         log_file: {log}\n\
         logfile_size_limit: 8MB\n\
         logfile_max_num: 3\n\
         jetstream {{\n  store_dir: {store}{sync}\n}}\n",
        name = server_name(),
        port = settings.port,
        pid = quoted(&files.pid),
        log = quoted(&files.log),
        store = quoted(&files.store),
    )
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

/// What it said since `begin`: the last lines, those that complain first of all.
fn log_tail(path: &Path, begin: u64) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(bytes.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or(&bytes)).into_owned(),
        Err(error) => {
            error!(%error, "the log of nats-server cannot be read");
            return "it left no log".to_owned();
        }
    };
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| ["[ERR]", "[FTL]", "nats-server: ", "cannot run"].iter().any(|mark| line.contains(mark)))
        .collect();
    let lines = if complaints.is_empty() { text.lines().collect() } else { complaints };
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf_with(durability: Durability) -> String {
        let files = Files {
            conf: "/data/nats.conf".into(),
            store: "/da\"ta/nats".into(),
            log: "/data/nats-server.log".into(),
            pid: "/data/nats-server.pid".into(),
        };
        let binary = Binary { path: "nats-server".into(), version: "2.15.1".into() };
        conf(&files, &Settings { binary, port: 8471, durability })
    }

    #[test]
    fn an_acknowledgement_means_on_disk_unless_relaxed() {
        assert!(conf_with(Durability::Synced).contains("sync_interval: always"));
        assert!(!conf_with(Durability::Relaxed).contains("sync_interval"));
    }

    #[test]
    fn only_the_loopback_is_served_and_paths_are_quoted() {
        let conf = conf_with(Durability::Synced);
        assert!(conf.contains("host: 127.0.0.1\nport: 8471\n"));
        assert!(conf.contains(r#"store_dir: "/da\"ta/nats""#));
    }
}
