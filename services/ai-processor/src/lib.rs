//! The AI processor: an input becomes an answer, step by step, each step an event.
//!
//! `turn.rs` says what has happened and what is due; `shell.rs` does it; `prompt.rs` tells the model what has happened;
//! `model/` and `tools/` are the effects. It never calls another service: what it has to say goes onto the log.

mod config;
pub mod model;
mod prompt;
mod shell;
pub mod tools;
mod turn;

use causeway_log::{Log, LogError};
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// Why the AI processor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model is configured in a way that cannot work.
    #[error("ai_processor.model: {0}")]
    Model(#[from] model::ModelError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Answers inputs until `shutdown`.
pub async fn run(config: Config, log: Log, shutdown: CancellationToken) -> Result<(), Error> {
    let processing = config.processing.clone();
    let assistant = shell::Assistant::new(config)?;
    Ok(causeway_processor::run(assistant, log, processing, shutdown).await?)
}
