//! `causeway log info`

use std::collections::BTreeMap;

use causeway_event::payload::LogCheckpointed;
use causeway_event::{AggregateId, Category, Payload, Position, format_timestamp};
use causeway_log::{Log, LogInfo};
use causeway_proof::{Content, LOG_AGGREGATE};
use indicatif::HumanBytes;
use jiff::Timestamp;

use super::args::InfoArgs;
use super::progress;
use super::target::{NoLog, Target};
use crate::cli::Common;
use crate::output::{Look, Output, clean};

/// The newest checkpoint, with its place.
type Newest = Option<(Position, Timestamp, LogCheckpointed)>;

pub(super) async fn run(common: &Common, args: &InfoArgs, out: &Output) -> anyhow::Result<()> {
    let target = Target::find(common, &args.target, NoLog::Refuse, out).await?;
    let log = target.reach("opening the log", Log::open(&target.config), out).await?;
    let mut info = log.info().await?;
    // An imported event keeps its own time.
    info.first_time = time(&log, info.stream.first).await.or(info.first_time);
    info.last_time = time(&log, info.stream.last).await.or(info.last_time);
    let aggregate: AggregateId = LOG_AGGREGATE.parse()?;
    let newest = log.last_event(&aggregate, Category::System).await?.and_then(|stored| match stored.event.payload() {
        Payload::LogCheckpointed(data) => Some((stored.event.position, stored.event.timestamp, data)),
        _ => None,
    });
    let types = match args.types {
        true => Some(types(&log, Position::new(info.stream.last), out).await?),
        false => None,
    };
    let url = target.config.url.to_string();
    target.leave().await?;
    match out.json {
        true => out.json(&json(&url, &info, &newest, types.as_ref())),
        false => show(&url, &info, &newest, types.as_ref(), out),
    }
}

/// The time of the event at this position, if there is one.
async fn time(log: &Log, position: u64) -> Option<Timestamp> {
    log.get(Position::new(position)).await.ok().flatten().map(|stored| stored.event.timestamp)
}

/// How many events each type has.
async fn types(log: &Log, last: Position, out: &Output) -> anyhow::Result<BTreeMap<String, u64>> {
    let bar = progress(out, "counting", last.get());
    let mut counts = BTreeMap::new();
    let mut walk = log.walk(Position::START, last);
    loop {
        let page = walk.page().await?;
        let Some(end) = page.last().map(|entry| entry.position) else { break };
        for entry in page {
            if let Content::Event(event) = entry.content {
                *counts.entry(event.event_type.to_string()).or_default() += 1;
            }
        }
        bar.set_position(end.get());
    }
    bar.finish_and_clear();
    Ok(counts)
}

fn json(url: &str, info: &LogInfo, newest: &Newest, types: Option<&BTreeMap<String, u64>>) -> serde_json::Value {
    let time = |time: Option<Timestamp>| time.map(format_timestamp);
    let consumers: Vec<_> = info
        .consumers
        .iter()
        .map(|consumer| {
            serde_json::json!({
                "name": consumer.name, "pending": consumer.pending, "unacknowledged": consumer.unacknowledged,
                "redelivered": consumer.redelivered, "acknowledged": consumer.acknowledged,
            })
        })
        .collect();
    let newest = newest.as_ref().map(|(position, time, data)| {
        serde_json::json!({
            "position": position, "timestamp": format_timestamp(*time), "vouches_for": data.position, "hash": data.hash,
            "key_id": data.key_id,
        })
    });
    serde_json::json!({
        "nats": url, "stream": info.stream.name, "created": time(info.created), "replicas": info.replicas,
        "entries": info.stream.messages, "bytes": info.stream.bytes, "first": info.stream.first, "last": info.stream.last,
        "first_time": time(info.first_time), "last_time": time(info.last_time),
        "categories": info.categories, "types": types, "consumers": consumers, "checkpoint": newest,
    })
}

fn show(url: &str, info: &LogInfo, newest: &Newest, types: Option<&BTreeMap<String, u64>>, out: &Output) -> anyhow::Result<()> {
    let row = |name: &str, text: &str| out.line(&format!("{}{text}", out.paint(Look::Dim, &format!("{name:<12}"))));
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), format_timestamp);
    let stream = &info.stream;
    row("log", &format!("{} at {url}", stream.name))?;
    row("entries", &format!("{}, positions {} to {}", stream.messages, stream.first, stream.last))?;
    row("size", &HumanBytes(stream.bytes).to_string())?;
    row("first", &time(info.first_time))?;
    row("last", &time(info.last_time))?;
    let copies = match info.replicas {
        1 => "one copy; whether it is on the disk when it is acknowledged is the server's sync_interval".to_owned(),
        copies => format!("{copies} copies; acknowledged by most of them"),
    };
    row("durability", &copies)?;
    let checkpoint = match newest {
        Some((position, at, data)) => {
            format!(
                "at position {position} ({}), vouches for position {}, key {}",
                format_timestamp(*at),
                data.position,
                clean(&data.key_id)
            )
        }
        None => "none".to_owned(),
    };
    row("checkpoint", &checkpoint)?;
    for (name, count) in info.categories.iter().filter(|(_, count)| **count > 0) {
        row("", &format!("{count:>10}  {name}"))?;
    }
    if let Some(types) = types {
        out.line(&out.paint(Look::Strong, "types"))?;
        for (name, count) in types {
            row("", &format!("{count:>10}  {name}"))?;
        }
    }
    if !info.consumers.is_empty() {
        out.line(&out.paint(Look::Strong, "consumers"))?;
    }
    for consumer in &info.consumers {
        let text = format!("{:>10} behind, {} in hand  {}", consumer.pending, consumer.unacknowledged, clean(&consumer.name));
        row("", &text)?;
    }
    Ok(())
}
