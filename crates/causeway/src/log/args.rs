//! What can be typed behind `causeway log`.

use std::path::PathBuf;

use causeway_event::Position;
use causeway_proof::Head;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    pub(crate) command: LogCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show what the log holds and who reads it
    Info(InfoArgs),
    /// Check that nothing was altered or removed
    Verify(VerifyArgs),
    /// Write the log as lines of JSON
    Export(ExportArgs),
    /// Put an export onto an empty log
    Import(ImportArgs),
    /// Copy everything that NATS keeps: the log, dead letters, groups and consumers
    Backup(BackupArgs),
    /// Put a backup onto a NATS that has nothing of it
    Restore(RestoreArgs),
}

/// Which log.
#[derive(Debug, Default, Args)]
pub(crate) struct TargetArgs {
    /// The NATS that keeps the log [default: log.url, if it is set, else that of a `causeway up` on this machine]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    pub(crate) nats: Option<String>,
    /// The data folder of a `causeway up` that is not running: its NATS is started for this command alone
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Count events by type too: reads the whole log
    #[arg(long)]
    pub(crate) types: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Checks order, envelopes, causes, ids, keys and fences, and holds the hash chain against every checkpoint.
Exit code 1 if anything is wrong. Prints a head, POSITION:HASH: keep it elsewhere and give it back with
--checkpoint, and a log that lost its end is found out.

Examples:
  causeway log verify
  causeway log verify --public-key data/signing-key.pub --checkpoint 42:9f86d081884c7d65...
  causeway log verify --from-export log.ndjson")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Who may sign checkpoints: a file or the key itself; may be given several times
    #[arg(long = "public-key", value_name = "FILE|KEY")]
    pub(crate) public_keys: Vec<String>,
    /// Check an export instead of a log; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nats", "data"])]
    pub(crate) from_export: Option<PathBuf>,
    /// A head that was kept; may be given several times
    #[arg(long = "checkpoint", value_name = "POSITION:HASH")]
    pub(crate) heads: Vec<Head>,
    /// An export that was kept: names each position at which the log differs from it
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway log export --file log.ndjson
  causeway log export | zstd > log.ndjson.zst
  causeway log export --after 1000 --file rest.ndjson")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Where to, a file that is not there yet; - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// Only behind this position
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<Position>,
    /// Only before this position
    #[arg(long, value_name = "POSITION")]
    pub(crate) before: Option<Position>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The export is checked first, and the log is compared with it at the end. An import that broke off is taken
up where it was: give the same command again. Nobody else may write to the log meanwhile; for the NATS of a
`causeway up`, stop that and give --data.

Examples:
  causeway log import log.ndjson --data data --public-key kept/signing-key.pub
  causeway log import log.ndjson --nats nats://nats.example:4222")]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The export
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Who must have signed its checkpoints: a file or the key itself; may be given several times [default: the key of the data
    /// folder, if it has one]
    #[arg(long = "public-key", value_name = "FILE|KEY")]
    pub(crate) public_keys: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The log may be written to meanwhile: each stream is copied as it is at one moment, the log first.

Examples:
  causeway log backup /backups/2026-11-23")]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// A folder that does not exist yet, or is empty
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Refuses to overwrite a stream. For the NATS of a `causeway up`: stop it, name an empty folder with --data,
then start it on that.

Examples:
  causeway log restore /backups/2026-11-23 --data fresh && causeway up --data fresh
  causeway log restore /backups/2026-11-23 --nats nats://nats.example:4222 --replicas 3")]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The folder of the backup
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Copies of each stream [default: as many as it had]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<usize>,
}
