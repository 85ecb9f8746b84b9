//! What can be typed: the commands, and what several of them take. The flags of a command stand with it, in its own file or in `args.rs`
//! of its folder.

use std::path::PathBuf;

use causeway_event::EventId;
use causeway_runtime::config::{Flag, duration};
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use crate::chat::ChatArgs;
use crate::config::ConfigArgs;
use crate::dlq::DlqArgs;
use crate::events::EventsArgs;
use crate::groups::GroupsArgs;
use crate::log::LogArgs;
use crate::services::{GatewayArgs, ServiceArgs};
use crate::trace::TraceArgs;
use crate::types::TypesArgs;
use crate::up::UpArgs;
use crate::view::ViewArgs;

/// An event-sourced backend for AI assistants.
///
/// Everything is an event: what comes in, what the assistant thinks, the tools it calls, what it answers. `causeway up`
/// starts all of it on this machine; the other commands talk to it.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  causeway up                                     start everything, data in ./data
  causeway chat                                   talk to the assistant
  causeway events append MessageReceived me --data '{\"content\": \"What is 6 * 7?\"}'
  causeway events tail                            watch the log
  causeway view conversation me                   read a conversation
  causeway trace 0af7651916cd43dd8448eb211c80319c

Exit codes: 0 done, 1 failed, 2 usage, 3 conflict, 4 unreachable, 130 interrupted";

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Configuration file [default: causeway.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "CAUSEWAY_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process, with a private NATS server
    Up(UpArgs),
    /// Start the gateway alone: gRPC and HTTP over the log
    EventStore(GatewayArgs),
    /// Start an AI processor alone
    AiProcessor(ServiceArgs),
    /// Talk to the assistant
    Chat(ChatArgs),
    /// Append, read and watch events
    Events(EventsArgs),
    /// Show a view: a fold of the log, now or as of a moment
    View(ViewArgs),
    /// Show what caused what, as a tree with durations
    Trace(TraceArgs),
    /// Look after the log: verify, export, back up
    Log(LogArgs),
    /// List and end groups of consumers
    Groups(GroupsArgs),
    /// Show what was given up, and have it tried again
    Dlq(DlqArgs),
    /// List the types of events, and register your own
    Types(TypesArgs),
    /// Show and check the configuration
    Config(ConfigArgs),
}

/// What every client takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The gateway to talk to
    #[arg(long, value_name = "URL", env = "CAUSEWAY_SERVER", hide_env_values = true, default_value = DEFAULT_SERVER)]
    pub(crate) server: String,
}

pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8470";

/// A time, or how long ago.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = causeway_event::parse_timestamp(text) {
        return Ok(time);
    }
    let ago = duration::parse(text).map_err(|_| "neither an RFC 3339 time nor a duration such as 10m")?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

/// A moment as the gateway takes it: how long ago becomes a time.
pub(crate) fn place_or_ago(text: &str) -> Result<String, String> {
    if (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) || text.parse::<EventId>().is_ok() {
        return Ok(text.to_owned());
    }
    let time = moment(text).map_err(|_| "neither a position, an event id, an RFC 3339 time nor a duration such as 10m")?;
    Ok(causeway_event::format_timestamp(time))
}

/// Flags that are keys of the configuration, as it takes them.
pub(crate) fn flags<const N: usize>(given: [(&'static str, &'static str, Option<String>); N]) -> Vec<Flag> {
    // An empty value (`--nats "$NATS"` where that is not set) is one that is not given.
    let given = given.into_iter().filter_map(|(name, key, value)| Some((name, key, value.filter(|text| !text.is_empty())?)));
    given.map(|(name, key, value)| Flag { name, key, value }).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// What `--help` prints.
    fn help(path: &[&str]) -> String {
        let arguments = ["causeway"].iter().chain(path).chain(&["--help"]);
        let help = Cli::command().term_width(110).try_get_matches_from(arguments).unwrap_err().render().to_string();
        help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn help_is_complete() {
        insta::assert_snapshot!("help", help(&[]));
        insta::assert_snapshot!("help_up", help(&["up"]));
        insta::assert_snapshot!("help_chat", help(&["chat"]));
        insta::assert_snapshot!("help_events_append", help(&["events", "append"]));
        insta::assert_snapshot!("help_events_read", help(&["events", "read"]));
        insta::assert_snapshot!("help_events_tail", help(&["events", "tail"]));
        insta::assert_snapshot!("help_view", help(&["view"]));
        insta::assert_snapshot!("help_trace", help(&["trace"]));
        insta::assert_snapshot!("help_types", help(&["types"]));
        insta::assert_snapshot!("help_types_register", help(&["types", "register"]));
        insta::assert_snapshot!("help_log", help(&["log"]));
        insta::assert_snapshot!("help_log_verify", help(&["log", "verify"]));
        insta::assert_snapshot!("help_groups", help(&["groups"]));
        insta::assert_snapshot!("help_dlq", help(&["dlq"]));
        insta::assert_snapshot!("help_config", help(&["config"]));
    }

    #[test]
    fn values_are_checked_before_anything_happens() {
        let parse = |text: &str| Cli::try_parse_from(text.split(' ')).map_err(|error| error.kind());
        use clap::error::ErrorKind::{ArgumentConflict, InvalidSubcommand, MissingRequiredArgument, ValueValidation};
        assert_eq!(parse("causeway events append note me").unwrap_err(), ValueValidation);
        assert_eq!(parse("causeway events append NoteTaken me --expected soon").unwrap_err(), ValueValidation);
        assert_eq!(parse("causeway events append NoteTaken me --label k").unwrap_err(), ValueValidation);
        assert_eq!(parse("causeway events read --from yesterday").unwrap_err(), ValueValidation);
        assert_eq!(parse("causeway view s --watch").unwrap_err(), MissingRequiredArgument);
        assert_eq!(parse("causeway view s a --watch --diff 1").unwrap_err(), ArgumentConflict);
        assert_eq!(parse("causeway trace a --why --effects").unwrap_err(), ArgumentConflict);
        assert_eq!(parse("causeway dance").unwrap_err(), InvalidSubcommand);
        for place in ["42", "evt_01k9x3m5v8e7rs2q4n6p8t0w1y"] {
            assert_eq!(place_or_ago(place).as_deref(), Ok(place));
        }
        assert_eq!(parse("causeway view s a --as-of +7").unwrap_err(), ValueValidation);
        assert_eq!(parse("causeway view s a --as-of 1hour").unwrap_err(), ValueValidation);
        assert!(place_or_ago("10m").unwrap().parse::<Timestamp>().unwrap() < Timestamp::now());
        assert!(moment("10m").unwrap() < Timestamp::now());
    }
}
