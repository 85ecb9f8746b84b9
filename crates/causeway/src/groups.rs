//! `causeway groups list | delete`: groups of consumers, and how far they are.

use causeway_client::{Client, GroupInfo, GroupTerms};
use causeway_runtime::config::duration;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::ServerArgs;
use crate::events;
use crate::output::{Look, Output, one_line};

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

/// `causeway groups ..`
pub(crate) async fn run(args: GroupsArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        GroupsCommand::List { server } => list(&events::client(&server)?, out).await,
        GroupsCommand::Delete { server, group } => delete(&events::client(&server)?, &group, out).await,
    }
}

async fn list(client: &Client, out: &Output) -> anyhow::Result<()> {
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

async fn delete(client: &Client, group: &str, out: &Output) -> anyhow::Result<()> {
    client.delete_group(group).await?;
    match out.json {
        true => out.json(&json!({ "deleted": group })),
        false => Ok(out.line(&format!("the group {} is gone", one_line(group, None)))?),
    }
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
