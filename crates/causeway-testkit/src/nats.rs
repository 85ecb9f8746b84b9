//! A private nats-server for one test: its own port, its own folder, and a hand on its life.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::wait::{wait_until, workspace_root};

/// How long a server may take until it answers. Recovery of a large stream on a busy machine is the slow case.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a start is tried again when somebody else took the port in between.
const START_ATTEMPTS: usize = 5;

/// When the server's acknowledgement means that a message is on the disk, not only in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The server's default: synced every two minutes. Survives the death of the process, which is all that most tests want.
    #[default]
    Relaxed,
    /// `sync_interval: always`.
    Synced,
}

/// A running nats-server with JetStream. Dropping it kills it and deletes all that it stored.
#[derive(Debug)]
pub struct NatsServer {
    child: Option<Child>,
    port: u16,
    name: String,
    durability: Durability,
    /// The `cluster` block of the configuration, or nothing.
    cluster: String,
    dir: TempDir,
}

impl NatsServer {
    /// Starts a server on a free port of 127.0.0.1 and waits until it takes clients.
    pub async fn start() -> Result<Self> {
        Self::start_with(Durability::Relaxed).await
    }

    /// The same with a choice of durability.
    pub async fn start_with(durability: Durability) -> Result<Self> {
        Self::started(durability, "").await
    }

    /// The same with more in its configuration.
    pub async fn start_configured(more: &str) -> Result<Self> {
        Self::started(Durability::Relaxed, more).await
    }

    async fn started(durability: Durability, more: &str) -> Result<Self> {
        let mut log = String::new();
        for _ in 0..START_ATTEMPTS {
            let mut server = Self::spawned("test".into(), durability, more.to_owned())?;
            if server.answers().await {
                return Ok(server);
            }
            log = server.log();
        }
        bail!("nats-server did not start; its log:\n{log}")
    }

    /// A process that has been started and may not answer yet.
    pub(crate) fn spawned(name: String, durability: Durability, cluster: String) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("causeway-nats-").tempdir().context("a folder for nats-server")?;
        let mut server = Self { child: None, port: free_port()?, name, durability, cluster, dir };
        server.spawn()?;
        Ok(server)
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port that it has, also after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it stores its streams.
    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A client of its own.
    pub async fn client(&self) -> Result<async_nats::Client> {
        async_nats::connect(self.url()).await.with_context(|| format!("connect to {}", self.url()))
    }

    /// SIGKILL, and wait for the end. Its data stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; both calls then fail, and there is nothing left to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, after [`kill`](Self::kill) or instead of it: same port, same data.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        for _ in 0..START_ATTEMPTS {
            self.spawn()?;
            if self.answers().await {
                return Ok(());
            }
            self.kill();
        }
        bail!("nats-server did not start again on port {}; its log:\n{}", self.port, self.log())
    }

    /// SIGSTOP: it holds its connections and answers nobody, as soon as this has returned.
    pub fn pause(&self) -> Result<()> {
        let pid = self.signal(Signal::STOP)?;
        // A thread that runs at that moment runs on for a while.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        Ok(())
    }

    /// SIGCONT: the end of a [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT).map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<Pid> {
        let child = self.child.as_ref().context("nats-server is not running")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("process id")?;
        kill_process(pid, signal)?;
        Ok(pid)
    }

    fn spawn(&mut self) -> Result<()> {
        let Self { port, name, cluster, .. } = &*self;
        let config = self.dir.path().join("nats.conf");
        let (log, store) = (self.dir.path().join("log"), self.store_dir());
        let sync = if self.durability == Durability::Synced { "sync_interval: always" } else { "" };
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: {name:?}\nlog_file: {log:?}\n\
             jetstream {{\n  store_dir: {store:?}\n  {sync}\n}}\n{cluster}"
        );
        fs::write(&config, text)?;
        let child = Command::new(binary()?)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start nats-server")?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it takes clients and has JetStream ready; false as soon as its process has ended.
    pub(crate) async fn answers(&mut self) -> bool {
        let url = self.url();
        let Some(child) = self.child.as_mut() else { return false };
        wait_until("nats-server to answer", START_LIMIT, async || {
            if !matches!(child.try_wait(), Ok(None)) {
                return Some(false);
            }
            let client = async_nats::connect(&url).await.ok()?;
            async_nats::jetstream::new(client).query_account().await.ok()?;
            // Somebody else's server on this port answers too, while ours has died of it.
            Some(matches!(child.try_wait(), Ok(None)))
        })
        .await
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The nats-server to use: `CAUSEWAY_NATS_SERVER`, else one on the PATH, else the one that `make nats` installed.
pub fn binary() -> Result<PathBuf> {
    let private = workspace_root().join(".causeway/nats/bin/nats-server");
    let named = std::env::var_os("CAUSEWAY_NATS_SERVER").map(PathBuf::from);
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).map(|dir| dir.join("nats-server")).collect::<Vec<_>>());
    let mut candidates = named.into_iter().chain(on_path).chain([private]);
    candidates
        .find(|path| is_program(path))
        .context("no nats-server: run `make nats`, or put one of 2.12.2 or newer on the PATH, or name it in CAUSEWAY_NATS_SERVER")
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Ports to choose from: below those that the system gives to outgoing connections, so that nobody takes one while its owner is
/// being restarted.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port that was free a moment ago. The caller tries again when somebody else was quicker.
pub fn free_port() -> Result<u16> {
    // Other tests choose at the same time, in this process and in others: each starts somewhere else.
    let start = RandomState::new().hash_one(std::process::id());
    let ports = u64::from(PORTS.end - PORTS.start);
    let candidates = (0..ports).map(|n| PORTS.start + u16::try_from((start.wrapping_add(n * 7)) % ports).unwrap_or_default());
    let mut free = candidates.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().context("a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_stored_survives_a_kill() {
        let mut server = NatsServer::start_with(Durability::Synced).await.unwrap();
        let url = server.url();
        let js = async_nats::jetstream::new(server.client().await.unwrap());
        js.create_stream(async_nats::jetstream::stream::Config {
            name: "S".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        })
        .await
        .unwrap();
        js.publish("s.a", "one".into()).await.unwrap().await.unwrap();
        server.kill();
        assert!(server.pid().is_none());
        server.restart().await.unwrap();
        assert_eq!(server.url(), url);
        let js = async_nats::jetstream::new(server.client().await.unwrap());
        assert_eq!(js.get_stream("S").await.unwrap().cached_info().state.messages, 1);
        server.pause().unwrap();
        server.resume().unwrap();
        let (dir, pid) = (server.dir.path().to_owned(), server.pid().unwrap());
        drop(server);
        assert!(!dir.exists());
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    }
}
