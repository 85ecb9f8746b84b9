//! States as of a moment, from the newest snapshot before it. Snapshots are a cache: deleting them changes no answer.

use axum::body::Bytes;
use causeway_event::Position;
use causeway_proto::Problem;

use super::fold::Fold;
use super::held::Key;
use super::pace::Pace;
use super::pages::{Pages, Shown};
use super::{Subject, held};
use crate::gateway::Gateway;

/// A state that nobody else uses.
pub(super) struct Folded {
    pub(super) fold: Box<dyn Fold>,
    /// The last event in it.
    pub(super) last: Position,
    /// Events folded since the snapshot that it was made from.
    pub(super) folded: usize,
}

/// The JSON as of a moment, which must be readable.
pub(super) async fn state(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Bytes, Problem> {
    loop {
        let key = subject.key(gateway);
        let json = state_of(gateway, subject, key.clone(), at).await?;
        // A type that got a new version meanwhile may have been shown in both.
        if key == subject.key(gateway) {
            return Ok(json);
        }
    }
}

async fn state_of(gateway: &Gateway, subject: &Subject, key: Key, at: Position) -> Result<Bytes, Problem> {
    let views = &gateway.views;
    let key = (key, at);
    if let Some(held) = views.held.get(&key.0)
        && let Some(json) = held.state_at(at)?
    {
        return Ok(json);
    }
    if let Some(json) = views.past.get(&key) {
        return Ok(json);
    }
    let Folded { fold, last, folded } = fold(gateway, subject, at).await?;
    let json = Bytes::from(fold.shown()?);
    if key.0 != subject.key(gateway) {
        return Ok(json);
    }
    if held::is_due(folded, json.len()) {
        let state = if fold.shows_snapshot() { json.clone() } else { fold.snapshot()?.into() };
        keep(gateway, subject, &key.0, last, state);
    }
    views.past.insert(key, json.clone());
    Ok(json)
}

/// Folds up to a moment, which must be readable.
pub(super) async fn fold(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Folded, Problem> {
    let mut fold = (subject.view.start)(gateway.views.prices.clone());
    let mut last = Position::START;
    if let Some((position, state)) = snapshot(gateway, subject, subject.key(gateway).revision, at).await?
        && fold.restore(&state)
    {
        last = position;
    }
    let (mut folded, mut pace) = (0, Pace::begin());
    let mut pages = Pages::behind(gateway, subject, last, Some(at));
    while let Some(Shown { events, .. }) = pages.next().await? {
        for event in &events {
            fold.step(event);
            last = event.position;
            pace.give_way().await;
        }
        folded += events.len();
    }
    Ok(Folded { fold, last, folded })
}

/// The same, with a snapshot of it if that took long: whoever asks for about that moment again goes on from there.
pub(super) async fn fold_and_keep(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Folded, Problem> {
    let key = subject.key(gateway);
    let done = fold(gateway, subject, at).await?;
    if held::is_due(done.folded, 0) {
        let state = Bytes::from(done.fold.snapshot()?);
        if held::is_due(done.folded, state.len()) && key == subject.key(gateway) {
            keep(gateway, subject, &key, done.last, state);
        }
    }
    Ok(done)
}

/// Makes sure that there is a snapshot of the view's version for this id, as new as the log.
pub(crate) async fn refresh(gateway: &Gateway, view: &str, id: &str) -> Result<(), Problem> {
    let subject = Subject::of(view, id)?;
    let last = gateway.fresh().await?;
    let key = subject.key(gateway);
    let Folded { fold, last, folded } = fold(gateway, &subject, last).await?;
    if folded > 0 {
        let state = stamped(&subject, key.revision, fold.snapshot()?.into());
        let view = subject.view;
        gateway.store.keep_snapshot(key.epoch, view.name, view.version, &subject.id, last, state).await?;
    }
    Ok(())
}

/// The newest snapshot that is not newer than `at` and was folded from events as they are shown.
pub(super) async fn snapshot(
    gateway: &Gateway,
    subject: &Subject,
    revision: Position,
    at: Position,
) -> Result<Option<(Position, Vec<u8>)>, Problem> {
    let view = subject.view;
    let Some((position, mut state)) = gateway.store.snapshot(view.name, view.version, &subject.id, at).await? else {
        return Ok(None);
    };
    if view.own_types {
        match state.split_first_chunk() {
            Some((stamp, _)) if u64::from_be_bytes(*stamp) == revision.get() => _ = state.drain(..STAMP_BYTES),
            _ => return Ok(None),
        }
    }
    Ok(Some((position, state)))
}

/// Hands a snapshot over to be kept.
pub(super) fn keep(gateway: &Gateway, subject: &Subject, key: &Key, last: Position, state: Bytes) {
    let state = stamped(subject, key.revision, state);
    let view = subject.view;
    held::hand_over(gateway.store.keep_snapshot(key.epoch, view.name, view.version, &subject.id, last, state), view.name);
}

const STAMP_BYTES: usize = size_of::<u64>();

/// A snapshot of a view that depends on the registry of types begins with the registry's revision.
fn stamped(subject: &Subject, revision: Position, state: Bytes) -> Bytes {
    match subject.view.own_types {
        true => [&revision.get().to_be_bytes()[..], &state].concat().into(),
        false => state,
    }
}
