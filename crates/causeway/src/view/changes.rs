//! What changes in a view: between two moments, and while somebody watches.

use anyhow::Context as _;
use causeway_client::{Change, Client, Diff, Projection, Watch, Watched};
use causeway_event::{Event, Position};
use causeway_runtime::shutdown::Signals;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::clock;
use crate::output::{Look, Output, one_line};

/// What every event changes, and the line of the event says.
const UNREMARKABLE: [&str; 7] = ["/position", "/updated_at", "/events", "/last", "/last/event_id", "/last/type", "/aggregate_id"];
/// The longest value that is shown on a line.
const VALUE_COLUMNS_MAX: usize = 160;

/// `causeway view VIEW ID --diff FROM [TO]`
pub(super) async fn diff(client: &Client, view: String, id: String, moments: Vec<String>, out: &Output) -> anyhow::Result<()> {
    let mut moments = moments.into_iter();
    let from = moments.next().context("no moment to begin at")?;
    let request = Diff { view, id, from, to: moments.next() };
    let diffed = client.diff(request.clone()).await?;
    if out.json {
        return out.json(&DiffJson {
            view: &request.view,
            id: &request.id,
            from_position: diffed.from,
            to_position: diffed.to,
            patch: diffed.patch.read()?,
            changes: diffed.changes.iter().map(ChangeJson::of).collect::<Result<_, _>>()?,
            more: diffed.more,
        });
    }
    for change in &diffed.changes {
        show(change, out)?;
    }
    if diffed.changes.is_empty() {
        out.note(&format!("nothing changed between position {} and position {}", diffed.from, diffed.to));
    }
    if let (true, Some(last)) = (diffed.more, diffed.changes.last()) {
        out.note(&format!("there is more: --diff {} {} goes on", last.event.position, diffed.to));
    }
    Ok(())
}

/// `causeway view VIEW ID --watch`
pub(super) async fn watch(
    client: &Client,
    view: String,
    id: String,
    min_position: Option<Position>,
    out: &Output,
) -> anyhow::Result<()> {
    let signals = Signals::watch();
    let stop = signals.token();
    let request = Watch { view: view.clone(), id: id.clone(), min_position, states: false };
    let mut told = client.watch(request).await?;
    loop {
        let update = tokio::select! {
            update = told.next() => update,
            () = stop.cancelled() => return Ok(()),
        };
        match update.context("the gateway ended the watch")?? {
            Watched::State { position, state } if out.json => {
                out.json(&StateJson { position, state: state.read()? })?;
            }
            Watched::State { position, state } => {
                let projection = Projection { view: view.clone(), id: id.clone(), position, state };
                super::show(&projection, out)?;
                out.note(&format!("as of position {position}, waiting for changes; Ctrl-C ends"));
            }
            Watched::Change(change) if out.json => out.json(&ChangeJson::of(&change)?)?,
            Watched::Change(change) => show(&change, out)?,
            Watched::Heartbeat { .. } => {}
        }
    }
}

/// What programs get: JSON as the gateway wrote it.
#[derive(Serialize)]
struct DiffJson<'a> {
    view: &'a str,
    id: &'a str,
    from_position: Position,
    to_position: Position,
    patch: &'a RawValue,
    changes: Vec<ChangeJson<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct StateJson<'a> {
    position: Position,
    state: &'a RawValue,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    position: Position,
    event: &'a Event,
    patch: &'a RawValue,
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a Change) -> anyhow::Result<Self> {
        Ok(Self { position: change.event.position, event: &change.event, patch: change.patch.read()? })
    }
}

/// An operation of a JSON Patch. What comes from the log is shown as it was written, be it what no program reads.
#[derive(Deserialize)]
struct Operation<'a> {
    op: String,
    #[serde(borrow)]
    path: &'a RawValue,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

impl Operation<'_> {
    fn path(&self) -> String {
        serde_json::from_str(self.path.get()).unwrap_or_else(|_| self.path.get().trim_matches('"').to_owned())
    }
}

/// The event and below it what it changed: `+` added, `~` replaced, `-` removed.
fn show(change: &Change, out: &Output) -> anyhow::Result<()> {
    let event = &change.event;
    let operations: Vec<Operation> = change.patch.read()?;
    let place = out.paint(Look::Dim, &format!("#{} {}", event.position, clock(event.timestamp.into())));
    out.line(&format!("{place} {}", out.paint(Look::Strong, event.event_type.as_str())))?;
    // The line above says where and when.
    for operation in operations {
        let path = operation.path();
        if UNREMARKABLE.contains(&path.as_str()) {
            continue;
        }
        let (look, sign) = match operation.op.as_str() {
            "add" => (Look::Good, '+'),
            "remove" => (Look::Bad, '-'),
            _ => (Look::Accent, '~'),
        };
        let shown = |value: &RawValue| format!(" {}", one_line(value.get(), Some(VALUE_COLUMNS_MAX)));
        let value = operation.value.map_or(String::new(), shown);
        out.line(&format!("  {} {}{value}", out.paint(look, &sign.to_string()), one_line(&path, None)))?;
    }
    Ok(())
}
