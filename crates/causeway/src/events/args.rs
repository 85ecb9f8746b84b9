//! What can be typed behind `causeway events`.

use causeway_event::{AggregateId, Category, CorrelationId, EventId, EventType, IdempotencyKey, Position, Source};
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::{ServerArgs, place_or_ago};

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
    /// Only this category: input, ai, output, memory, custom or system
    #[arg(long)]
    pub(crate) category: Option<Category>,
    /// Only of this aggregate
    #[arg(long, value_name = "ID")]
    pub(crate) aggregate: Option<AggregateId>,
    /// Only of this chain
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<CorrelationId>,
    /// Only appended by this source: a service, http, grpc or what the client said
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<Source>,
    /// Only caused directly by this event
    #[arg(long, value_name = "ID")]
    pub(crate) caused_by: Option<EventId>,
    /// Only caused by this event, directly or over others
    #[arg(long, value_name = "ID")]
    pub(crate) descendants_of: Option<EventId>,
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
    /// At or behind this moment: a position, an event id, an RFC 3339 time, or so long ago (10m)
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) from: Option<String>,
    /// Before this moment
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) until: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_append_takes_is_read() {
        assert_eq!(expectation("empty"), Ok(Expectation::LastIs(Position::START)));
        assert_eq!(label("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
    }
}
