//! Sees to it that nats-server never outlives us, not even a `kill -9`.
//!
//! The kernel can be asked to kill a process when its parent dies, but only the process itself can ask. So we start
//! ourselves once more under a hidden name; that copy asks, makes sure that its parent still lives, and becomes nats-server.
//!
//! ```text
//! causeway up ── a thread that waits for its child ──> causeway nats-guard PID ──(exec)──> nats-server
//! ```
//!
//! The kernel means the parent *thread*: whoever starts the guard keeps its thread alive as long as the child.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The hidden name.
const NAME: &str = "nats-guard";

/// What the guard's own failures look like; nats-server exits with 1.
const EXIT_GUARD: u8 = 70;

/// What a guard is asked to become.
#[derive(Debug)]
pub(crate) struct Guarded {
    parent: u32,
    program: OsString,
    arguments: Vec<OsString>,
}

/// The command that runs `program` under guard. Its parent must be this process.
pub(crate) fn command(program: &Path, arguments: &[OsString]) -> std::io::Result<Command> {
    // On Linux this name is right even when the file was replaced by an upgrade while we run.
    let ourselves = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(ourselves);
    command.arg(NAME).arg(std::process::id().to_string()).arg(program).args(arguments);
    Ok(command)
}

/// Whether this process was started as a guard.
pub(crate) fn requested() -> Option<Guarded> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|name| name == NAME)?;
    let parent = arguments.next()?.to_str()?.parse().ok()?;
    Some(Guarded { parent, program: arguments.next()?, arguments: arguments.collect() })
}

/// Becomes the guarded program. Comes back only if that fails.
pub(crate) fn run(guarded: Guarded) -> ExitCode {
    #[cfg(target_os = "linux")]
    if rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).is_err() {
        return ExitCode::from(EXIT_GUARD);
    }
    // A parent that died before the kernel was asked will never be noticed by it.
    if std::os::unix::process::parent_id() != guarded.parent {
        return ExitCode::from(EXIT_GUARD);
    }
    let error = Command::new(&guarded.program).args(guarded.arguments).exec();
    // Stderr is nats-server's own log.
    crate::output::Output::new(false).note(&format!("cannot run {}: {error}", guarded.program.display()));
    ExitCode::from(EXIT_GUARD)
}
