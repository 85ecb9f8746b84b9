//! One run of nats-server.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::guard;

/// A running nats-server. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

impl Child {
    /// Starts `program`; what it prints goes to `log`.
    pub(super) async fn start(program: &Path, arguments: &[OsString], log: &File) -> io::Result<Self> {
        let mut command = guard::command(program, arguments)?;
        // A group of its own: Ctrl-C on the terminal is for us, who stop things in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let (started_tx, started) = tokio::sync::oneshot::channel();
        let (ended_tx, ended) = watch::channel(None);
        // Not a task, and not a thread of the runtime's: the guard is bound to the thread that starts it, which therefore
        // does nothing but wait for its end.
        std::thread::Builder::new().name("nats-server".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started_tx.send(Err(error))),
            };
            let _ = started_tx.send(Ok(child.id()));
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let _ = ended_tx.send(Some(how));
        })?;
        let pid = started.await.map_err(|_| io::Error::other("the thread that starts it has gone"))??;
        Ok(Self { pid, ended })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end; says how it ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> String {
        match self.ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "nobody waits for it".to_owned(),
        }
    }

    /// Asks it to stop, and makes it after `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            tracing::warn!(pid = self.pid, "nats-server did not stop in time, killing it");
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // Once it has been waited for, its pid may be somebody else's.
        let alive = self.ended.borrow().is_none();
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| alive) {
            // The error says that it has just gone.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
