//! Measures Causeway from outside: the built binary, real servers, real clients, on this machine's disk.
//!
//! Each measurement starts what it needs in a folder of its own, on free ports, and stops it afterwards. What is compared
//! is measured in the same run, in turns, beside the same nats-server. README.md says what each figure means.

#![allow(clippy::print_stdout, reason = "tables and JSON are what this program is for")]

mod append;
mod disk;
mod fanout;
mod idle;
mod machine;
mod process;
mod processor;
mod read;
mod seed;
mod stats;
mod table;
mod turn;
mod views;
mod ways;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::process::Setup;

/// What Causeway costs, measured from outside.
#[derive(Debug, Parser)]
#[command(name = "causeway-bench", max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Args)]
struct Common {
    /// The causeway to measure [default: target/release/causeway]
    #[arg(long, global = true, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// Where to keep data while measuring: which disk matters [default: the system's temporary folder]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// Appends through gRPC and HTTP beside raw JetStream publishes, synced and relaxed
    Append(append::Options),
    /// Reads of the whole log through gRPC and HTTP beside raw consumers
    Read(read::Options),
    /// A conversation of many messages in a long log: now, in the past, after a start; counts; the read model's size
    Views(views::Options),
    /// Many subscribers at once, and one who reads slowly
    Fanout(fanout::Options),
    /// Turns: from a message to its completed answer, with the demo model
    Turn(turn::Options),
    /// Memory, processor time and size of a `causeway up` that does nothing
    Idle(idle::Options),
}

/// What a measurement found, for people and for programs.
struct Outcome {
    text: String,
    json: Value,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { common, measure } = Cli::parse();
    // Nothing here is encrypted, but the HTTP client wants to know how it would be.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let setup = Setup::new(common.bin, common.dir)?;
    let before = Machine::look();
    let measured = async {
        match &measure {
            Measure::Append(options) => append::run(&setup, options).await,
            Measure::Read(options) => read::run(&setup, options).await,
            Measure::Views(options) => views::run(&setup, options).await,
            Measure::Fanout(options) => fanout::run(&setup, options).await,
            Measure::Turn(options) => turn::run(&setup, options).await,
            Measure::Idle(options) => idle::run(&setup, options).await,
        }
    };
    let outcome = tokio::select! {
        outcome = measured => outcome?,
        // What was started ends when it is dropped.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let after = Machine::look();
    if common.json {
        println!("{}", json!({ "binary": setup.binary, "before": before, "after": after, "results": outcome.json }));
    } else {
        println!("{}", setup.binary.display());
        println!("{before}; load average afterwards {}\n\n{}", after.load, outcome.text);
        if cfg!(debug_assertions) {
            println!("The load tool itself was built without optimisation: build it with --release.");
        }
    }
    Ok(())
}
