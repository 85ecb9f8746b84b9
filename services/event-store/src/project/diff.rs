//! What changed in a view between two moments, and by which events.

use axum::body::Bytes;
use causeway_event::Position;
use causeway_proto::{Kind, Problem};

use super::pace::Pace;
use super::pages::{Pages, Shown};
use super::{Change, Subject, internal, past};
use crate::cursor::Moment;
use crate::gateway::Gateway;
use crate::problem::COME_BACK;

/// Changes of one answer.
const CHANGES_MAX: usize = 1000;
/// Their bytes, events and patches together.
const CHANGES_BYTES_MAX: usize = 8 << 20;
/// Times that it begins again because a type in it got a new version.
const ATTEMPTS_MAX: usize = 5;

/// Which view of what, between when and when.
#[derive(Clone, Debug)]
pub(crate) struct DiffRequest {
    pub(crate) view: String,
    pub(crate) id: String,
    pub(crate) from: Moment,
    /// Now where absent.
    pub(crate) to: Option<Moment>,
}

/// What changed.
#[derive(Clone, Debug)]
pub(crate) struct Diff {
    pub(crate) view: &'static str,
    pub(crate) id: String,
    pub(crate) from: Position,
    pub(crate) to: Position,
    /// From the one state to the other: JSON Patch (RFC 6902), as JSON.
    pub(crate) patch: Bytes,
    /// The same, event by event.
    pub(crate) changes: Vec<Change>,
    /// Whether there are more of them; they begin behind the last one.
    pub(crate) more: bool,
}

/// What changed between two moments.
pub(crate) async fn diff(gateway: &Gateway, request: DiffRequest) -> Result<Diff, Problem> {
    let subject = Subject::of(&request.view, &request.id)?;
    let store = &gateway.store;
    let last = gateway.fresh().await?;
    let from = request.from.resolve(store, "/from", last).await?;
    let to = match request.to {
        Some(moment) => moment.resolve(store, "/to", last).await?,
        None => last,
    };
    if to < from {
        return Err(Problem::invalid("/to", format!("is position {to}, which lies before {from}")));
    }
    for _ in 0..ATTEMPTS_MAX {
        if let Some(diff) = between(gateway, &subject, from, to).await? {
            return Ok(diff);
        }
    }
    Err(Problem::new(Kind::Unavailable, "the types in it got new versions meanwhile, again and again").retry_after(COME_BACK))
}

/// What changed; `None` if the states are others by now.
async fn between(gateway: &Gateway, subject: &Subject, from: Position, to: Position) -> Result<Option<Diff>, Problem> {
    let key = subject.key(gateway);
    let mut folded = past::fold_and_keep(gateway, subject, from).await?;
    let fold = &mut folded.fold;
    fold.mark();
    let mut pace = Pace::begin();
    let (mut changes, mut bytes, mut more) = (Vec::new(), 0, false);
    let mut pages = Pages::behind(gateway, subject, from, Some(to));
    while let Some(Shown { events, revision, .. }) = pages.next().await? {
        for event in events {
            pace.give_way().await;
            if subject.view.own_types {
                folded.basis.take(&event, revision);
            }
            if more {
                fold.step(&event);
                continue;
            }
            let patch = fold.change(&event)?;
            if patch.is_empty() {
                continue;
            }
            let patch = Bytes::from(serde_json::to_vec(&patch).map_err(internal)?);
            let change = Change { event, patch };
            // One change is told however large it is: else nobody could go on behind it.
            if changes.len() >= CHANGES_MAX || (!changes.is_empty() && bytes + change.bytes() > CHANGES_BYTES_MAX) {
                more = true;
                continue;
            }
            bytes += change.bytes();
            changes.push(change);
        }
    }
    let patch = serde_json::to_vec(&fold.changed()?).map_err(internal)?.into();
    let diff = Diff { view: subject.view.name, id: subject.id.to_string(), from, to, patch, changes, more };
    Ok(subject.stands(gateway, &key, &folded.basis).then_some(diff))
}
