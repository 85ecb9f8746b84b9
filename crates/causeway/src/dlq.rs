//! `causeway dlq list | show | retry | discard` and `causeway groups list | delete`: what was given up, and by whom.

use anyhow::bail;
use causeway_client::{Client, GroupInfo, GroupTerms, Parked};
use causeway_event::{Event, format_timestamp};
use causeway_runtime::config::duration;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

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
    Retry {
        #[command(flatten)]
        server: ServerArgs,
        /// The group
        group: String,
        #[command(flatten)]
        which: Which,
    },
    /// Take them off the list for good; the events stay on the log
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
struct Which {
    /// Their numbers in the list
    #[arg(required_unless_present = "all")]
    letters: Vec<u64>,
    /// All of them
    #[arg(long, conflicts_with = "letters")]
    all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway groups list
  causeway groups delete invoices")]
pub(crate) struct GroupsArgs {
    #[command(subcommand)]
    command: GroupsCommand,
}

#[derive(Debug, Subcommand)]
enum GroupsCommand {
    /// List the groups of consumers, and how far they are
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End a group: its place in the log is forgotten, what it gave up stays listed
    Delete {
        #[command(flatten)]
        server: ServerArgs,
        /// The group
        group: String,
    },
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

/// `causeway groups ..`
pub(crate) async fn groups(args: GroupsArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        GroupsCommand::List { server } => list_groups(&events::client(&server)?, out).await,
        GroupsCommand::Delete { server, group } => delete_group(&events::client(&server)?, &group, out).await,
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

async fn list_groups(client: &Client, out: &Output) -> anyhow::Result<()> {
    let groups = client.groups().await?;
    if out.json {
        return out.json(&groups.iter().map(group_json).collect::<Vec<_>>());
    }
    if groups.is_empty() {
        out.note("there are no groups");
    }
    let width = groups.iter().map(|group| group.name.len()).max().unwrap_or(0);
    for group in groups {
        let name = out.paint(Look::Strong, &format!("{:width$}", one_line(&group.name, None)));
        let GroupInfo { terms, acknowledged, in_flight, pending, parked, .. } = group;
        let of = out.paint(Look::Dim, &terms.map_or_else(String::new, |terms| format!("  {}", said(&terms))));
        out.line(&format!("{name}  done up to {acknowledged}, {in_flight} at work, {pending} waiting, {parked} parked{of}"))?;
    }
    Ok(())
}

async fn delete_group(client: &Client, group: &str, out: &Output) -> anyhow::Result<()> {
    client.delete_group(group).await?;
    match out.json {
        true => out.json(&json!({ "deleted": group })),
        false => Ok(out.line(&format!("the group {} is gone", one_line(group, None)))?),
    }
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

/// What a group is, as whoever joins it must say it.
fn said(terms: &GroupTerms) -> String {
    let GroupTerms { types, category, aggregate_id, correlation_id, source, ack_wait, deliveries_max } = terms;
    let parts = [
        ("types", types.join(",")),
        ("category", category.clone()),
        ("aggregate", aggregate_id.clone()),
        ("chain", correlation_id.clone()),
        ("source", source.clone()),
        ("ack_wait", duration::format(*ack_wait)),
        ("deliveries_max", deliveries_max.to_string()),
    ];
    let given = parts.into_iter().filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| format!("{name}={}", one_line(&value, None))).collect::<Vec<_>>().join(" ")
}

fn terms_json(terms: &GroupTerms) -> Value {
    let GroupTerms { types, category, aggregate_id, correlation_id, source, ack_wait, deliveries_max } = terms;
    json!({
        "types": types, "category": category, "aggregate_id": aggregate_id, "correlation_id": correlation_id, "source": source,
        "ack_wait_ms": u64::try_from(ack_wait.as_millis()).unwrap_or(u64::MAX), "deliveries_max": deliveries_max,
    })
}

fn group_json(group: &GroupInfo) -> Value {
    json!({
        "name": group.name, "terms": group.terms.as_ref().map(terms_json), "acknowledged_position": group.acknowledged, "in_flight": group.in_flight,
        "pending": group.pending, "parked": group.parked,
    })
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
