//! The one binary: every service, all of them at once (`up`), and the clients of the command line.
//!
//! Wiring only. What a command prints goes through `output`, what it failed with through `failure`.

mod chat;
mod cli;
mod config;
mod data_dir;
mod dlq;
mod events;
mod failure;
mod groups;
mod log;
mod nats;
mod output;
mod services;
mod trace;
mod types;
mod up;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::output::Output;

/// An event passes through many short-lived allocations, on every thread: the system's allocator took a third of an append's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long tasks that nobody waits for any more may keep the process.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    if let Some(guarded) = nats::guard::requested() {
        // What was said for this program is inherited, and is not for nats-server to follow.
        huge_pages(true);
        return nats::guard::run(guarded);
    }
    huge_pages(false);
    let cli = Cli::parse();
    let out = Output::new(cli.common.json);
    causeway_runtime::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&out, &error.into()),
    };
    let outcome = runtime.block_on(run(cli, &out));
    runtime.shutdown_timeout(LEAVE_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&out, &error),
    }
}

/// The allocator asks the system for pages of 2 MiB, each of which is zeroed when it is first touched: that was half of the time in
/// which a view is made that nobody looked at before. Where they cannot be refused it is slower, and nothing else.
fn huge_pages(wanted: bool) {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(!wanted);
    #[cfg(not(target_os = "linux"))]
    let _ = wanted;
}

async fn run(cli: Cli, out: &Output) -> anyhow::Result<()> {
    let common = cli.common;
    // What serves has its own, as it is configured.
    let telemetry = match &cli.command {
        Command::Up(_) | Command::EventStore(_) | Command::AiProcessor(_) | Command::Log(_) | Command::Config(_) => None,
        _ => Some(events::telemetry()?),
    };
    let outcome = match cli.command {
        Command::Up(args) => up::run(&common, &args, out).await,
        Command::EventStore(args) => services::event_store(&common, &args, out).await,
        Command::AiProcessor(args) => services::ai_processor(&common, &args, out).await,
        Command::Chat(args) => chat::run(args, out).await,
        Command::Events(args) => events::run(args, out).await,
        Command::View(args) => view::run(args, out).await,
        Command::Trace(args) => trace::run(args, out).await,
        Command::Log(args) => log::run(&common, args, out).await,
        Command::Groups(args) => groups::run(args, out).await,
        Command::Dlq(args) => dlq::run(args, out).await,
        Command::Types(args) => types::run(args, out).await,
        Command::Config(args) => config::run(&common, &args, out),
    };
    if let Some(telemetry) = telemetry {
        telemetry.shutdown().await;
    }
    outcome
}
