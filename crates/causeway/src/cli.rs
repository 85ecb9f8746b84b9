//! What can be typed.

use std::path::PathBuf;

use causeway_event::{AggregateId, Category, CorrelationId, EventId, EventType, IdempotencyKey, Position, Source};
use causeway_runtime::config::{Flag, duration};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::dlq::{DlqArgs, GroupsArgs};
use crate::log::LogArgs;

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

Exit codes: 0 done, 1 failed, 2 usage, 3 conflict, 4 unreachable";

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

#[derive(Debug, Default, Args)]
#[command(after_help = "\
Examples:
  causeway up
  causeway up --data /var/lib/causeway --listen 0.0.0.0:8470
  causeway up --nats nats://nats.example:4222     use a NATS that runs already
  causeway up --listen 127.0.0.1:0 --json         free ports, told in one line of JSON")]
pub(crate) struct UpArgs {
    /// Folder that keeps everything [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Address of the gateway; NATS takes the next port; port 0 takes free ones [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Use this NATS instead of a private one [default: log.url, if it is set]
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// Acknowledge before the disk has it: faster, but a power cut may lose the last two minutes
    #[arg(long)]
    pub(crate) relaxed_durability: bool,
    /// The nats-server to start (2.12 or newer) [default: CAUSEWAY_NATS_SERVER, from PATH, or what `make nats` installed]
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Folder for the read model, which can always be rebuilt [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Address to serve at [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// The NATS to use [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
}

/// What every client takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The gateway to talk to
    #[arg(long, value_name = "URL", env = "CAUSEWAY_SERVER", hide_env_values = true, default_value = DEFAULT_SERVER)]
    pub(crate) server: String,
}

pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8470";

#[derive(Debug, Args)]
#[command(after_help = "\
Reads one message a line, also from a pipe, and waits for each answer.

Examples:
  causeway chat
  causeway chat --session web:42
  echo 'What is 6 * 7?' | causeway chat")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The conversation to go on with [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<AggregateId>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(subcommand)]
    pub(crate) command: EventsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Append one event
    Append(AppendArgs),
    /// Read events that stand in the log
    Read(ReadArgs),
    /// Watch events as they are appended
    Tail(TailArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway events append MessageReceived me --data '{\"content\": \"Hello\"}'
  causeway events append OrderPlaced order-7 --data @order.json --expected empty --idempotency-key order-7
  jq -n '{total: 12}' | causeway events append OrderPaid order-7 --data - --label shop=berlin")]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// What happened: MessageReceived, or a name of your own
    #[arg(value_name = "TYPE")]
    pub(crate) event_type: EventType,
    /// What it happened to: a user, a session, an order
    #[arg(value_name = "AGGREGATE")]
    pub(crate) aggregate_id: AggregateId,
    /// The particulars: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) data: String,
    /// Who says so
    #[arg(long, default_value = "cli")]
    pub(crate) source: Source,
    /// The event that directly caused this one
    #[arg(long, value_name = "EVENT_ID")]
    pub(crate) causation_id: Option<EventId>,
    /// The chain that it belongs to [default: that of its cause, or a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<CorrelationId>,
    /// A pair to keep with it; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Refuse unless this is the last event of the aggregate in the type's category: any, empty or a position
    #[arg(long, value_name = "POSITION", default_value = "any", value_parser = expectation)]
    pub(crate) expected: Expectation,
    /// Append at most once under this name
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<IdempotencyKey>,
}

/// What an append expects of its aggregate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expectation {
    Any,
    LastIs(Position),
}

fn expectation(text: &str) -> Result<Expectation, String> {
    match text {
        "any" => Ok(Expectation::Any),
        "empty" => Ok(Expectation::LastIs(Position::START)),
        text => text.parse().map(Expectation::LastIs).map_err(|_| "neither any, empty nor a position".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Which events; everything given must hold.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only this type; `Message*` for all that start so; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    /// Only this category: input, ai, output, memory or custom
    #[arg(long)]
    pub(crate) category: Option<Category>,
    /// Only of this aggregate
    #[arg(long, value_name = "ID")]
    pub(crate) aggregate: Option<AggregateId>,
    /// Only of this chain
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<CorrelationId>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway events read --aggregate me
  causeway events read --type 'Tool*' --from 1h --order desc
  causeway events read --limit 0 --json > log.ndjson")]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Stored at or after this time (RFC 3339), or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) from: Option<Timestamp>,
    /// Stored before this time (RFC 3339), or so long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<Timestamp>,
    /// Only behind this position or event id
    #[arg(long, value_name = "PLACE")]
    pub(crate) after: Option<String>,
    /// Only before this position or event id
    #[arg(long, value_name = "PLACE")]
    pub(crate) before: Option<String>,
    /// asc for the oldest first, desc for the newest
    #[arg(long, default_value = "asc")]
    pub(crate) order: Direction,
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Direction {
    Asc,
    Desc,
}

/// A time, or how long ago.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = causeway_event::parse_timestamp(text) {
        return Ok(time);
    }
    let ago = duration::parse(text).map_err(|_| "neither an RFC 3339 time nor a duration such as 10m")?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway events tail
  causeway events tail --after 0 --type 'Message*'   from the first event on
  causeway events tail --json | jq .type")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Begin behind this position or event id [default: with what is appended from now on]
    #[arg(long, value_name = "PLACE")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway view                                        which views there are
  causeway view conversation me
  causeway view conversation me --as-of 10m            time travel: as it was ten minutes ago
  causeway view conversation me --as-of 42             as it was at that position
  causeway view state order-7 --diff 2026-11-23T10:00:00Z
  causeway view state order-7 --watch")]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The view: conversation, chain or state [default: list them]
    #[arg(requires = "id")]
    pub(crate) view: Option<String>,
    /// Of what: a session or another aggregate; of a chain its correlation id
    pub(crate) id: Option<String>,
    /// The moment: a position, an event id, an RFC 3339 time, or so long ago (10m) [default: now]
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) as_of: Option<String>,
    /// What changed between two moments, and by which events [default of the second: now]
    #[arg(long, value_names = ["FROM", "TO"], num_args = 1..=2, value_parser = place_or_ago, conflicts_with = "as_of")]
    pub(crate) diff: Option<Vec<String>>,
    /// Stay, and show each change as it comes
    #[arg(long, conflicts_with_all = ["as_of", "diff"])]
    pub(crate) watch: bool,
    /// Wait until this position is taken account of
    #[arg(long, value_name = "POSITION", conflicts_with = "diff")]
    pub(crate) min_position: Option<Position>,
}

/// A moment as the gateway takes it: how long ago becomes a time.
fn place_or_ago(text: &str) -> Result<String, String> {
    match duration::parse(text) {
        // A bare number is a position.
        Ok(_) if !text.bytes().all(|byte| byte.is_ascii_digit()) => moment(text).map(causeway_event::format_timestamp),
        _ => Ok(text.to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway trace 0af7651916cd43dd8448eb211c80319c
  causeway trace evt_01k9x3m5v8e7rs2q4n6p8t0w1y --why
  causeway trace 42 --effects --format mermaid > effects.mmd")]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The chain's correlation id, or the id or position of any of its events
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Why this event happened: its causes up to the root
    #[arg(long)]
    pub(crate) why: bool,
    /// What this event led to
    #[arg(long, conflicts_with = "why")]
    pub(crate) effects: bool,
    /// The moment: a position, an event id, an RFC 3339 time, or so long ago (10m) [default: now]
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) as_of: Option<String>,
    /// A drawing for a terminal, JSON for programs, or a Mermaid flowchart
    #[arg(long, default_value = "tree")]
    pub(crate) format: TraceFormat,
}

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum TraceFormat {
    Tree,
    Json,
    Mermaid,
}

#[derive(Debug, Args)]
pub(crate) struct TypesArgs {
    #[command(subcommand)]
    pub(crate) command: TypesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TypesCommand {
    /// List the types that Causeway knows, and those that were registered
    List(ServerArgs),
    /// Show the versions of a type with their schemas
    Show(ShowTypeArgs),
    /// Register a type of your own, or its next version
    Register(RegisterTypeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowTypeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The type
    #[arg(value_name = "TYPE")]
    pub(crate) name: EventType,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Events that are appended from then on are checked; all are read in the newest version.

Examples:
  causeway types register OrderPlaced --schema @order.json
  causeway types register OrderPlaced --schema @order-2.json --version 2 \\
    --upcast '[{\"op\": \"move\", \"from\": \"/amount\", \"path\": \"/total\"}]'")]
pub(crate) struct RegisterTypeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The type
    #[arg(value_name = "TYPE")]
    pub(crate) name: EventType,
    /// The JSON Schema (draft 2020-12) of its data: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    pub(crate) schema: String,
    /// How data of the version before becomes data of this one: JSON Patch (RFC 6902), as JSON, @FILE or -
    #[arg(long, value_name = "JSON")]
    pub(crate) upcast: Option<String>,
    /// The version that this is: refused if it is another one's [default: the next]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) version: Option<u32>,
    /// What it says, for a person
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show what is in force, and where each value comes from
    Show,
    /// Check the file and the environment
    Check,
    /// Print a file that names every key, its meaning and its default
    Example,
}

impl UpArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let relaxed = self.relaxed_durability.then(|| "true".to_owned());
        flags([
            ("--data", "up.data", self.data.clone()),
            ("--listen", "up.listen", self.listen.clone()),
            ("--nats", "up.nats", self.nats.clone()),
            ("--relaxed-durability", "up.relaxed_durability", relaxed),
            ("--nats-server", "up.nats_server", self.nats_server.clone()),
        ])
    }
}

impl GatewayArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let mut all = flags([("--data", "up.data", self.data.clone()), ("--listen", "up.listen", self.listen.clone())]);
        all.extend(self.service.flags());
        all
    }
}

impl ServiceArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        flags([("--nats", "log.url", self.nats.clone())])
    }
}

fn flags<const N: usize>(given: [(&'static str, &'static str, Option<String>); N]) -> Vec<Flag> {
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
        assert_eq!(place_or_ago("42").as_deref(), Ok("42"));
        assert!(place_or_ago("10m").unwrap().parse::<Timestamp>().unwrap() < Timestamp::now());
        assert_eq!(expectation("empty"), Ok(Expectation::LastIs(Position::START)));
        assert_eq!(label("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
        assert!(moment("10m").unwrap() < Timestamp::now());
    }
}
