//! The newest state of a view, in memory: folded on by whoever comes, for all who look or watch.
//!
//! A state only ever moves forward, and over every event of its id: a reader fetches what is behind `through`, a watcher
//! brings each event of its subscription, and what is known already is passed over. While somebody watches, what each event
//! changed is kept for the other watchers, so that a change is computed once however many watch.
//!
//! A watched state stays in memory whatever the cache drops: such states have a budget of their own, and who wants to watch
//! one more beyond it is turned away.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::Prices;
use futures::FutureExt as _;

use super::basis::Basis;
use super::fold::Fold;
use super::pace::Pace;
use super::pages::{Pages, Shown};
use super::past::{self, Kept};
use super::{Change, Subject, View, Views, internal};
use crate::gateway::Gateway;
use crate::problem::COME_BACK;

/// A snapshot is kept when at least so many events were folded since the last; more of a large state.
const SNAPSHOT_EVENTS_MIN: usize = 100;
/// For each so many bytes of a state one event more: what snapshots write stays in proportion to what is new.
const SNAPSHOT_BYTES_PER_EVENT: usize = 4096;
/// Changes that are kept for watchers who come later, and their bytes. A slower one gets the whole state instead.
const CHANGES_MAX: usize = 256;
const CHANGES_BYTES_MAX: usize = 1 << 20;
/// A state in memory takes about so many times its JSON, which is kept beside it.
const WEIGHT: usize = 3;
/// What an entry takes in any case.
const ENTRY_BYTES: usize = 1024;
/// A state whose size is only guessed at is measured when it may have become twice as large, and this much larger.
const UNMEASURED_BYTES_MAX: usize = 1 << 20;

/// Under what a state is cached. What is behind a key becomes wrong only when its [`Basis`] no longer holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) view: &'static str,
    pub(super) id: Arc<str>,
    /// Of the read model.
    pub(super) epoch: u64,
}

/// A state and all who use it.
pub(super) struct Held {
    view: &'static View,
    prices: Arc<Prices>,
    budget: Arc<Budget>,
    /// Whoever fetches events: the others wait, and mostly find their work done.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

struct Inner {
    fold: Box<dyn Fold>,
    /// Empty for a view that does not depend on the registry of types.
    basis: Basis,
    own_types: bool,
    /// Whether a snapshot was looked for.
    begun: bool,
    /// The snapshot that `fold` is to go on from, as long as no event asks for it: what readers get is at hand without.
    unread: Option<Bytes>,
    /// Whether there was one that could not be read.
    unreadable: bool,
    /// The last event folded.
    last: Position,
    /// All events of the id up to here are folded.
    through: Position,
    /// What readers get, until the next event.
    json: Option<Bytes>,
    /// About how long that is: no longer than it was when it was last made, and all that has been folded since.
    bytes: usize,
    measured: usize,
    /// Events folded since the last snapshot.
    unkept: usize,
    watchers: usize,
    /// What is taken of the budget for it.
    pinned: usize,
    /// In the order of the log, without a gap up to `last`.
    changes: VecDeque<Arc<Change>>,
    changes_bytes: usize,
}

/// Memory for states that are watched.
pub(super) struct Budget {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// Takes so much, unless that is more than is left.
    fn take(&self, bytes: usize) -> Result<(), Problem> {
        let within = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).map(drop).map_err(|_| {
            let detail = format!("the views that are watched take {} bytes, which is the limit", self.bytes_max);
            Problem::new(Kind::Overloaded, detail).retry_after(COME_BACK)
        })
    }

    /// Takes note of a state that is watched already: it may grow beyond what is left.
    fn exchange(&self, before: usize, after: usize) {
        self.bytes.fetch_add(after, Ordering::AcqRel);
        self.bytes.fetch_sub(before, Ordering::AcqRel);
    }
}

/// The newest state, with at least all events up to `last`.
pub(super) async fn newest(gateway: &Gateway, subject: &Subject, last: Position) -> Result<Arc<Held>, Problem> {
    let views = &gateway.views;
    loop {
        let key = subject.key(gateway);
        let held = views.held.get_with_by_ref(&key, || Arc::new(Held::new(subject.view, views)));
        let grown = held.advance(gateway, subject, &key, last).await?;
        if !held.stands(gateway, subject, &key) {
            if views.held.get(&key).is_some_and(|cached| Arc::ptr_eq(&cached, &held)) {
                views.held.invalidate(&key);
            }
            continue;
        }
        if grown {
            held.weigh_in(gateway, &key);
        }
        return Ok(held);
    }
}

impl Held {
    fn new(view: &'static View, views: &Views) -> Self {
        let (prices, budget) = (views.prices.clone(), views.watched.clone());
        let inner = Mutex::new(Inner::new(view, prices.clone()));
        Self { view, prices, budget, turn: tokio::sync::Mutex::default(), inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            // A fold that panicked has lost its state: it begins again.
            self.inner.clear_poison();
            let mut inner = poisoned.into_inner();
            self.reset(&mut inner);
            inner
        })
    }

    /// Begins again, but for those who watch.
    fn reset(&self, inner: &mut Inner) {
        let Inner { watchers, pinned, unreadable, .. } = *inner;
        *inner = Inner { watchers, pinned, unreadable, ..Inner::new(self.view, self.prices.clone()) };
    }

    /// The state of somebody who is in the middle of folding on.
    fn begun(&self) -> Result<MutexGuard<'_, Inner>, Problem> {
        let inner = self.lock();
        inner.begun.then_some(inner).ok_or_else(|| internal("it failed for somebody else at this moment"))
    }

    /// The same, ready to take an event.
    fn ready(&self) -> Result<MutexGuard<'_, Inner>, Problem> {
        let mut inner = self.begun()?;
        if let Some(snapshot) = inner.unread.take()
            && !inner.fold.restore(&snapshot)
        {
            // Of another shape than its version says. From now on only the events count.
            inner.unreadable = true;
            self.reset(&mut inner);
            let detail = "a snapshot of the view cannot be read: the next answer comes from its events";
            return Err(Problem::new(Kind::Internal, detail));
        }
        Ok(inner)
    }

    fn stands(&self, gateway: &Gateway, subject: &Subject, key: &Key) -> bool {
        subject.stands(gateway, key, &self.lock().basis)
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.lock().weight()
    }

    /// The position up to which it takes account of the log, and the JSON that readers get.
    pub(super) fn state(&self) -> Result<(Position, Bytes), Problem> {
        let mut inner = self.begun()?;
        Ok((inner.through, inner.json()?))
    }

    /// The JSON as of this moment, if the state is of it and holds.
    pub(super) fn state_at(&self, gateway: &Gateway, at: Position) -> Result<Option<Bytes>, Problem> {
        let mut inner = self.lock();
        let known = inner.begun && inner.last <= at && at <= inner.through && inner.basis.holds(&gateway.types);
        known.then(|| inner.json()).transpose()
    }

    /// The cache learns how large it has become.
    fn weigh_in(self: &Arc<Self>, gateway: &Gateway, key: &Key) {
        gateway.views.held.insert(key.clone(), self.clone());
    }

    /// Folds what is there behind it, at least up to `last`, which must be readable. Says whether something was.
    async fn advance(self: &Arc<Self>, gateway: &Gateway, subject: &Subject, key: &Key, last: Position) -> Result<bool, Problem> {
        if self.lock().has(last) {
            return Ok(false);
        }
        let _turn = self.turn.lock().await;
        let (begun, unreadable, mut through) = {
            let inner = self.lock();
            (inner.begun, inner.unreadable, inner.through)
        };
        if begun && last <= through {
            return Ok(false);
        }
        // What is not in memory has to be made, and only so many are at once.
        let mut pass = if begun { None } else { Some(gateway.views.folds.enter(1).await?) };
        if !begun {
            let snapshot = match unreadable {
                true => None,
                false => past::snapshot(gateway, subject, Position::new(u64::MAX >> 1)).await?,
            };
            through = self.lock().begin(snapshot);
        }
        let (mut grown, mut folded, mut kept, mut pace) = (false, 0, 0, Pace::begin());
        let mut pages = Pages::behind(gateway, subject, through, None);
        while let Some(Shown { events, revision, reached }) = pages.next().await? {
            grown |= !events.is_empty();
            for event in &events {
                self.ready()?.take(event, revision)?;
                pace.give_way().await;
            }
            self.begun()?.reach(reached)?;
            folded += events.len();
            if pages.is_more() {
                // Whoever waits may leave before the end, and come again: then it goes on here, and weighs what it does.
                self.weigh_in(gateway, key);
                // Who asks for the past finds snapshots on the way; together they are a third longer than the last of them.
                if folded >= 4 * kept {
                    self.keep(gateway, subject, key)?;
                    kept = folded;
                }
                if pass.is_none() {
                    pass = Some(gateway.views.folds.enter(1).await?);
                }
            }
        }
        if grown || !begun {
            self.keep(gateway, subject, key)?;
        }
        Ok(grown || !begun)
    }

    /// Keeps a snapshot, if one is due.
    fn keep(&self, gateway: &Gateway, subject: &Subject, key: &Key) -> Result<(), Problem> {
        let mut inner = self.lock();
        let json = inner.json()?;
        if !is_due(inner.unkept, json.len()) {
            return Ok(());
        }
        inner.unkept = 0;
        let state = if inner.fold.shows_snapshot() { json } else { inner.fold.snapshot()?.into() };
        let (last, basis) = (inner.last, inner.basis.clone());
        drop(inner);
        past::keep(gateway, subject, key, last, &basis, state)
    }

    /// Counts somebody who watches, for as long as the answer is held. Who watches what is watched already costs nothing more.
    pub(super) fn watch(self: Arc<Self>) -> Result<Watching, Problem> {
        let mut inner = self.lock();
        if inner.watchers == 0 {
            let weight = inner.weight();
            self.budget.take(weight)?;
            inner.pinned = weight;
        }
        inner.watchers += 1;
        drop(inner);
        Ok(Watching(self))
    }

    /// Takes as much of the budget as it weighs, while it is watched.
    fn weigh(&self, inner: &mut Inner, weight: usize) {
        let before = std::mem::replace(&mut inner.pinned, weight);
        self.budget.exchange(before, weight);
    }
}

/// Whether so many events make a snapshot of so many bytes worth its while.
pub(super) fn is_due(events: usize, bytes: usize) -> bool {
    events >= SNAPSHOT_EVENTS_MIN.max(bytes / SNAPSHOT_BYTES_PER_EVENT)
}

/// A state that somebody watches.
pub(super) struct Watching(Arc<Held>);

impl Watching {
    /// The state as it is.
    pub(super) fn state(&self) -> Result<(Position, Bytes), Problem> {
        self.0.state()
    }

    /// Gives back what it takes of the budget: whoever watches is about to leave it for another.
    pub(super) fn leave(&self) {
        self.0.weigh(&mut self.0.lock(), 0);
    }

    /// Whether it is right: a fold that panicked left nothing, and what it depends on may have changed.
    pub(super) fn stands(&self, gateway: &Gateway, subject: &Subject, key: &Key) -> bool {
        self.0.lock().begun && self.0.stands(gateway, subject, key)
    }

    /// What this event changed; `None` if that is no longer at hand. The caller has brought, or seen in a state, every event of
    /// the id before it, and shows this one by the registry of types as of `revision` or a later one.
    pub(super) fn change(&self, event: &Arc<Event>, revision: Position) -> Result<Option<Arc<Change>>, Problem> {
        let mut inner = self.0.ready()?;
        inner.take(event, revision)?;
        let weight = inner.weight();
        self.0.weigh(&mut inner, weight);
        let found = inner.changes.binary_search_by_key(&event.position, |change| change.event.position);
        Ok(found.ok().map(|at| inner.changes[at].clone()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.watchers -= 1;
        if inner.watchers == 0 {
            (inner.changes, inner.changes_bytes) = (VecDeque::new(), 0);
            self.0.weigh(&mut inner, 0);
        }
    }
}

impl Inner {
    fn new(view: &View, prices: Arc<Prices>) -> Self {
        Self {
            fold: (view.start)(prices),
            basis: Basis::default(),
            own_types: view.own_types,
            begun: false,
            unread: None,
            unreadable: false,
            last: Position::START,
            through: Position::START,
            json: None,
            bytes: 0,
            measured: 0,
            unkept: 0,
            watchers: 0,
            pinned: 0,
            changes: VecDeque::new(),
            changes_bytes: 0,
        }
    }

    /// About how much memory it takes.
    fn weight(&self) -> usize {
        self.bytes * WEIGHT + self.changes_bytes + self.basis.bytes() + ENTRY_BYTES
    }

    /// Whether all events up to `last` are folded.
    fn has(&self, last: Position) -> bool {
        self.begun && last <= self.through
    }

    /// Goes on from a snapshot. How far that goes.
    fn begin(&mut self, snapshot: Option<Kept>) -> Position {
        self.begun = true;
        self.json = None;
        let Some(Kept { position, basis, state }) = snapshot else { return self.through };
        let bytes = state.len();
        if self.fold.shows_snapshot() {
            let state = Bytes::from(state);
            (self.unread, self.json) = (Some(state.clone()), Some(state));
        } else if !self.fold.restore(&state) {
            return self.through;
        }
        (self.last, self.through, self.basis) = (position, position, basis);
        (self.bytes, self.measured) = (bytes, bytes);
        self.through
    }

    /// All events up to here are folded.
    fn reach(&mut self, reached: Position) -> Result<(), Problem> {
        self.through = self.through.max(reached);
        // Many a view is far smaller than its events.
        match self.bytes > 2 * self.measured + UNMEASURED_BYTES_MAX {
            true => self.json().map(drop),
            false => Ok(()),
        }
    }

    /// Folds an event, shown as of this revision or later, unless it is folded already.
    fn take(&mut self, event: &Arc<Event>, revision: Position) -> Result<(), Problem> {
        if event.position <= self.last {
            return Ok(());
        }
        if self.own_types {
            self.basis.take(event, revision);
        }
        self.json = None;
        if self.watchers == 0 {
            self.fold.step(event);
            self.bytes += event.data.as_bytes().len();
        } else {
            let patch: Bytes = serde_json::to_vec(&self.fold.change(event)?).map_err(internal)?.into();
            // About how much longer its JSON becomes, until it is made again.
            self.bytes += patch.len();
            let change = Arc::new(Change { event: event.clone(), patch });
            self.changes_bytes += change.bytes();
            self.changes.push_back(change);
            self.forget();
        }
        self.last = event.position;
        self.through = self.through.max(event.position);
        self.unkept += 1;
        Ok(())
    }

    /// Drops the oldest changes beyond the limits. The newest stays: somebody is about to ask for it.
    fn forget(&mut self) {
        while 1 < self.changes.len() && (CHANGES_MAX < self.changes.len() || CHANGES_BYTES_MAX < self.changes_bytes) {
            self.changes_bytes -= self.changes.pop_front().map_or(0, |change| change.bytes());
        }
    }

    fn json(&mut self) -> Result<Bytes, Problem> {
        if let Some(json) = &self.json {
            return Ok(json.clone());
        }
        let json = Bytes::from(self.fold.shown()?);
        (self.bytes, self.measured) = (json.len(), json.len());
        self.json = Some(json.clone());
        Ok(json)
    }
}

/// Polls a cache's write once, which hands it over, and does not wait for its end.
pub(super) fn hand_over(write: impl Future<Output = Result<(), crate::store::StoreError>>, view: &'static str) {
    if let Some(Err(error)) = write.now_or_never() {
        tracing::debug!(%error, view, "a snapshot was not kept");
    }
}
