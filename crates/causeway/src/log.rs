//! `causeway log ..`: looking after the log itself, on JetStream and past every gateway.

mod args;
mod backup;
mod export;
mod files;
mod import;
mod info;
pub(crate) mod keys;
mod target;
mod verify;

pub(crate) use args::{LogArgs, LogCommand};

use std::fmt;
use std::path::Path;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

use crate::cli::Common;
use crate::output::Output;

/// Runs one of them.
pub(crate) async fn run(common: &Common, args: LogArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        LogCommand::Info(args) => info::run(common, &args, out).await,
        LogCommand::Verify(args) => verify::run(common, &args, out).await,
        LogCommand::Export(args) => export::run(common, &args, out).await,
        LogCommand::Import(args) => import::run(common, &args, out).await,
        LogCommand::Backup(args) => backup::backup(common, &args, out).await,
        LogCommand::Restore(args) => backup::restore(common, &args, out).await,
    }
}

/// What a person watches while it takes long; nothing for a program.
fn progress(out: &Output, what: &str, length: u64) -> ProgressBar {
    if !out.person() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = "{msg} [{bar:30}] {human_pos}/{human_len}  {rate}/s, {eta} left";
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
    };
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

/// The same for bytes.
fn progress_bytes(out: &Output, what: &str, length: u64) -> ProgressBar {
    let bar = progress(out, what, length);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// An error of the file system with the file it is about.
fn about(path: &Path) -> impl FnOnce(std::io::Error) -> anyhow::Error {
    move |error| anyhow::Error::from(error).context(format!("{}", path.display()))
}
