//! `causeway dlq list | show | retry | discard`: what was given up, and by whom.

use anyhow::bail;
use causeway_client::{Client, Parked};
use causeway_event::{Event, format_timestamp};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::cli::ServerArgs;
use crate::output::{Look, Output, clean, one_line};
use crate::{events, view};

/// Letters that are fetched at a time.
const PAGE: u32 = 100;
/// The reason's share of a line.
const REASON_COLUMNS: usize = 60;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway dlq list --group invoices
  causeway dlq show 7
  causeway dlq retry invoices 7 9
  causeway dlq retry invoices --all
  causeway dlq discard invoices 8")]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// List events that were given up
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Only those of this group or processor
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
    },
    /// Show one of them with its reason
    Show {
        #[command(flatten)]
        server: ServerArgs,
        /// Its number in the list
        letter: u64,
    },
    /// Deliver them to their group again
    #[command(override_usage = "causeway dlq retry [OPTIONS] <GROUP> <LETTERS...|--all>")]
    Retry {
        #[command(flatten)]
        server: ServerArgs,
        /// The group
        group: String,
        #[command(flatten)]
        which: Which,
    },
    /// Take them off the list for good; the events stay on the log
    #[command(override_usage = "causeway dlq discard [OPTIONS] <GROUP> <LETTERS...|--all>")]
    Discard {
        #[command(flatten)]
        server: ServerArgs,
        /// The group or processor
        group: String,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Their numbers in the list
    letters: Vec<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// `causeway dlq ..`
pub(crate) async fn run(args: DlqArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        DlqCommand::List { server, group } => list(&events::client(&server)?, group.as_deref(), out).await,
        DlqCommand::Show { server, letter } => show(&events::client(&server)?, letter, out).await,
        DlqCommand::Retry { server, group, which } => {
            let replayed = events::client(&server)?.replay_parked(&group, &which.letters).await?;
            told(&group, &which, ("replayed", replayed), "will be delivered again", out)
        }
        DlqCommand::Discard { server, group, which } => {
            let discarded = events::client(&server)?.discard_parked(&group, &which.letters).await?;
            told(&group, &which, ("discarded", discarded), "taken off the list", out)
        }
    }
}

async fn list(client: &Client, group: Option<&str>, out: &Output) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let page = client.parked(group, after, PAGE).await?;
        if page.is_empty() && after == 0 && !out.json {
            out.note("nothing was given up");
        }
        for parked in &page {
            match out.json {
                true => out.json(&as_json(parked))?,
                false => out.line(&line(parked, out))?,
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = last.letter,
            _ => return Ok(()),
        }
    }
}

async fn show(client: &Client, letter: u64, out: &Output) -> anyhow::Result<()> {
    let page = client.parked(None, letter.saturating_sub(1), 1).await?;
    let Some(parked) = page.first().filter(|parked| parked.letter == letter) else {
        bail!("there is no letter {letter}");
    };
    if out.json {
        return out.json(&as_json(parked));
    }
    out.line(&line(parked, out))?;
    let Parked { reason, parked_at, deliveries, .. } = parked;
    let times = match deliveries {
        // They were not counted.
        0 => String::new(),
        1 => ", delivered once".to_owned(),
        times => format!(", delivered {times} times"),
    };
    let when = format!("given up {}{times}", view::clock((*parked_at).into()));
    out.line(&out.paint(Look::Dim, &when))?;
    out.line(&clean(reason))?;
    Ok(out.line(&clean(&serde_json::to_string_pretty(&parked.event)?))?)
}

/// Says how many there were. That none is there of those that were named is a mistake.
fn told(group: &str, which: &Which, (name, count): (&str, u32), done: &str, out: &Output) -> anyhow::Result<()> {
    if count == 0 && !which.all {
        let letters: Vec<_> = which.letters.iter().map(u64::to_string).collect();
        bail!("none of these was given up by {}: {} (causeway dlq list says what was)", clean(group), letters.join(", "));
    }
    if out.json {
        return out.json(&json!({ name: count }));
    }
    let of = match which.letters.len() {
        named if named > count as usize => format!(" of {named}"),
        _ => String::new(),
    };
    Ok(out.line(&format!("{count}{of} {done}"))?)
}

fn line(parked: &Parked, out: &Output) -> String {
    let Parked { letter, group, event, reason, .. } = parked;
    let event_type = out.paint(Look::Strong, event.event_type.as_str());
    let of = format!("{} at {}", one_line(event.aggregate_id.as_str(), None), event.position);
    let reason = out.paint(Look::Dim, &one_line(reason, Some(REASON_COLUMNS)));
    format!("{letter}  {}  {event_type} of {of}  {reason}", one_line(group, None))
}

/// What a program gets; the event's data as it was written.
#[derive(Serialize)]
struct ParkedJson<'a> {
    letter: u64,
    group: &'a str,
    reason: &'a str,
    deliveries: u32,
    parked_at: String,
    event: &'a Event,
}

fn as_json(parked: &Parked) -> ParkedJson<'_> {
    let Parked { letter, group, event, reason, parked_at, deliveries } = parked;
    ParkedJson { letter: *letter, group, reason, deliveries: *deliveries, parked_at: format_timestamp(*parked_at), event }
}

#[cfg(test)]
mod tests {
    use causeway_event::parse_timestamp;

    use super::*;

    #[test]
    fn a_program_gets_the_data_as_it_was_written() {
        let event = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":42,"timestamp":"2026-11-23T10:00:00.123456Z","type":"Oddity","aggregate_id":"me","data":{"n":1e400,"x":1,"x":2},"metadata":{"source":"cli","correlation_id":"c"}}"#;
        let parked = Parked {
            letter: 7,
            group: "g".to_owned(),
            event: serde_json::from_str(event).unwrap(),
            reason: "why".to_owned(),
            parked_at: parse_timestamp("2026-11-23T10:00:01Z").unwrap(),
            deliveries: 2,
        };
        let json = serde_json::to_string(&as_json(&parked)).unwrap();
        let told = r#"{"letter":7,"group":"g","reason":"why","deliveries":2,"parked_at":"2026-11-23T10:00:01.000000Z","event":"#;
        assert_eq!(json, format!("{told}{event}}}"));
    }
}
