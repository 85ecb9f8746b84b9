//! A nats-server of an earlier run that still works on our data folder.
//!
//! On Linux there is none: the kernel kills it with us. Elsewhere a `kill -9` leaves it behind, and two servers on one store
//! would destroy it. The data folder's lock is ours, so whoever serves the store was started by a causeway that is dead.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Stops it, if there is one.
pub(super) async fn stop(pid_file: &Path, conf: &Path) -> anyhow::Result<()> {
    let Some(pid) = std::fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok()) else { return Ok(()) };
    let Some(process) = Pid::from_raw(pid).filter(|_| serves(pid, conf)) else { return Ok(()) };
    tracing::warn!(pid, "stopping a nats-server that an earlier run left behind");
    for signal in [Signal::TERM, Signal::KILL] {
        let _ = kill_process(process, signal);
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        while tokio::time::Instant::now() < deadline {
            if test_kill_process(process).is_err() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    bail!("nats-server (pid {pid}) of an earlier run still works on this data folder and cannot be stopped");
}

/// Whether this pid is a nats-server with our configuration: by now it may be any program.
fn serves(pid: i32, conf: &Path) -> bool {
    let output = Command::new("ps").args(["-p", &pid.to_string(), "-o", "args="]).output();
    let arguments = match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => arguments,
        Err(_) => output.map(|output| output.stdout).unwrap_or_default(),
    };
    String::from_utf8_lossy(&arguments).contains(&*conf.to_string_lossy())
}
