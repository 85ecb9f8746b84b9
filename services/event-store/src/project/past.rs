//! States as of a moment, from the newest snapshot before it. Snapshots are a cache: deleting them changes no answer.

use std::sync::Arc;

use axum::body::Bytes;
use causeway_event::Position;
use causeway_proto::Problem;

use super::basis::Basis;
use super::fold::Fold;
use super::held::Key;
use super::pace::Pace;
use super::pages::{Pages, Shown};
use super::{Subject, held, internal};
use crate::gateway::{Gateway, Pass};

/// A state that nobody else uses.
pub(super) struct Folded {
    pub(super) fold: Box<dyn Fold>,
    pub(super) basis: Basis,
    /// The last event in it.
    last: Position,
    /// Events folded since the snapshot that it was made from.
    folded: usize,
    /// As long as it is in memory.
    _pass: Pass,
}

/// A snapshot as it was kept.
pub(super) struct Kept {
    pub(super) position: Position,
    pub(super) basis: Basis,
    pub(super) state: Vec<u8>,
}

/// The JSON as of a moment, which must be readable.
pub(super) async fn state(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Bytes, Problem> {
    let views = &gateway.views;
    loop {
        if let Some(json) = in_memory(gateway, subject, at)? {
            return Ok(json);
        }
        let pass = views.folds.enter(1).await?;
        // Mostly others who were inside before have asked the same.
        if let Some(json) = in_memory(gateway, subject, at)? {
            return Ok(json);
        }
        let key = subject.key(gateway);
        let Folded { fold, basis, last, folded, _pass } = fold(gateway, subject, at, pass).await?;
        let json = Bytes::from(fold.shown()?);
        if !subject.stands(gateway, &key, &basis) {
            continue;
        }
        if held::is_due(folded, json.len()) {
            let state = if fold.shows_snapshot() { json.clone() } else { fold.snapshot()?.into() };
            keep(gateway, subject, &key, last, &basis, state)?;
        }
        views.past.insert((key, at), (Arc::new(basis), json.clone()));
        return Ok(json);
    }
}

/// The JSON as of a moment, if it is at hand.
fn in_memory(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Option<Bytes>, Problem> {
    let (views, key) = (&gateway.views, subject.key(gateway));
    if let Some(held) = views.held.get(&key)
        && let Some(json) = held.state_at(gateway, at)?
    {
        return Ok(Some(json));
    }
    let past = views.past.get(&(key, at));
    Ok(past.filter(|(basis, _)| basis.holds(&gateway.types)).map(|(_, json)| json))
}

/// Folds up to a moment, which must be readable.
async fn fold(gateway: &Gateway, subject: &Subject, at: Position, pass: Pass) -> Result<Folded, Problem> {
    let mut fold = (subject.view.start)(gateway.views.prices.clone());
    let (mut last, mut basis) = (Position::START, Basis::default());
    if let Some(kept) = snapshot(gateway, subject, at).await?
        && fold.restore(&kept.state)
    {
        (last, basis) = (kept.position, kept.basis);
    }
    let (mut folded, mut pace) = (0, Pace::begin());
    let mut pages = Pages::behind(gateway, subject, last, Some(at));
    while let Some(Shown { events, revision, .. }) = pages.next().await? {
        for event in &events {
            fold.step(event);
            if subject.view.own_types {
                basis.take(event, revision);
            }
            last = event.position;
            pace.give_way().await;
        }
        folded += events.len();
    }
    Ok(Folded { fold, basis, last, folded, _pass: pass })
}

/// The same, with a snapshot of it if that took long: whoever asks for about that moment again goes on from there.
pub(super) async fn fold_and_keep(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Folded, Problem> {
    let pass = gateway.views.folds.enter(1).await?;
    let key = subject.key(gateway);
    let done = fold(gateway, subject, at, pass).await?;
    if held::is_due(done.folded, 0) {
        let state = Bytes::from(done.fold.snapshot()?);
        if held::is_due(done.folded, state.len()) && subject.stands(gateway, &key, &done.basis) {
            keep(gateway, subject, &key, done.last, &done.basis, state)?;
        }
    }
    Ok(done)
}

/// Makes sure that there is a snapshot for this id that can be used: of the view's version, and of the types as they are. Says
/// whether it had to be made.
pub(crate) async fn refresh(gateway: &Gateway, view: &str, id: &str) -> Result<bool, Problem> {
    let subject = Subject::of(view, id)?;
    let last = gateway.fresh().await?;
    if snapshot(gateway, &subject, last).await?.is_some() {
        return Ok(false);
    }
    let pass = gateway.views.folds.enter_in_turn(1).await?;
    let epoch = gateway.store.epoch();
    let Folded { fold, basis, last, folded, _pass } = fold(gateway, &subject, last, pass).await?;
    // One whose basis no longer holds would only not be used.
    if folded > 0 {
        let view = subject.view;
        let state = basis.sealed(view, fold.snapshot()?.into()).map_err(internal)?;
        gateway.store.keep_snapshot(epoch, view.name, view.version, &subject.id, last, state).await?;
    }
    Ok(folded > 0)
}

/// The newest snapshot that is not newer than `at`, if its events would still be shown as they were.
pub(super) async fn snapshot(gateway: &Gateway, subject: &Subject, at: Position) -> Result<Option<Kept>, Problem> {
    let view = subject.view;
    let newest = gateway.store.snapshot(view.name, view.version, &subject.id, at).await?;
    Ok(newest.and_then(|(position, sealed)| {
        let (basis, state) = Basis::opened(view, sealed)?;
        basis.holds(&gateway.types).then_some(Kept { position, basis, state })
    }))
}

/// Hands a snapshot over to be kept.
pub(super) fn keep(
    gateway: &Gateway,
    subject: &Subject,
    key: &Key,
    last: Position,
    basis: &Basis,
    state: Bytes,
) -> Result<(), Problem> {
    let view = subject.view;
    let state = basis.sealed(view, state).map_err(internal)?;
    held::hand_over(gateway.store.keep_snapshot(key.epoch, view.name, view.version, &subject.id, last, state), view.name);
    Ok(())
}
