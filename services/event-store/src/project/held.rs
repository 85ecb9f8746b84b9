//! The newest state of a view, in memory: folded on by whoever comes, for all who look or watch.
//!
//! A state only ever moves forward, and over every event of its id: a reader fetches what is behind `through`, a watcher
//! brings each event of its subscription, and what is known already is passed over. While somebody watches, what each event
//! changed is kept for the other watchers, so that a change is computed once however many watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use causeway_event::{Event, Position};
use causeway_proto::Problem;
use causeway_view::Prices;
use futures::FutureExt as _;

use super::fold::Fold;
use super::pages::{Pages, Shown};
use super::{Change, Subject, View, internal, past};
use crate::gateway::Gateway;

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

/// Under what a state is cached. What is behind a key never becomes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) view: &'static str,
    pub(super) id: Arc<str>,
    /// Of the types' registry.
    pub(super) revision: Position,
    /// Of the read model.
    pub(super) epoch: u64,
}

/// A state and all who use it.
pub(super) struct Held {
    view: &'static View,
    prices: Arc<Prices>,
    /// Whoever fetches events: the others wait, and mostly find their work done.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

struct Inner {
    fold: Box<dyn Fold>,
    /// Whether a snapshot was looked for.
    begun: bool,
    /// The last event folded.
    last: Position,
    /// All events of the id up to here are folded.
    through: Position,
    /// What readers get, until the next event.
    json: Option<Bytes>,
    /// How long that was when it was last made.
    bytes: usize,
    /// Events folded since the last snapshot.
    unkept: usize,
    watchers: usize,
    /// In the order of the log, without a gap up to `last`.
    changes: VecDeque<Arc<Change>>,
}

/// The newest state, with at least all events up to `last`.
pub(super) async fn newest(gateway: &Gateway, subject: &Subject, last: Position) -> Result<Arc<Held>, Problem> {
    let views = &gateway.views;
    let key = subject.key(gateway);
    let held = views.held.get_with_by_ref(&key, || Arc::new(Held::new(subject.view, views.prices.clone())));
    if held.advance(gateway, subject, &key, last).await? {
        // The cache learns how large it has become.
        views.held.insert(key, held.clone());
    }
    Ok(held)
}

impl Held {
    fn new(view: &'static View, prices: Arc<Prices>) -> Self {
        let inner = Mutex::new(Inner::new((view.start)(prices.clone())));
        Self { view, prices, turn: tokio::sync::Mutex::default(), inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            // A fold that panicked has lost its state: it begins again.
            self.inner.clear_poison();
            let mut inner = poisoned.into_inner();
            let watchers = inner.watchers;
            *inner = Inner { watchers, ..Inner::new((self.view.start)(self.prices.clone())) };
            inner
        })
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes * WEIGHT + ENTRY_BYTES
    }

    /// The position up to which it takes account of the log, and the JSON that readers get.
    pub(super) fn state(&self) -> Result<(Position, Bytes), Problem> {
        let mut inner = self.lock();
        Ok((inner.through, inner.json()?))
    }

    /// The JSON as of this moment, if the state is of it.
    pub(super) fn state_at(&self, at: Position) -> Result<Option<Bytes>, Problem> {
        let mut inner = self.lock();
        (inner.last <= at && at <= inner.through).then(|| inner.json()).transpose()
    }

    /// Folds what is there behind it, at least up to `last`, which must be readable. Says whether something was.
    async fn advance(&self, gateway: &Gateway, subject: &Subject, key: &Key, last: Position) -> Result<bool, Problem> {
        if last <= self.lock().through {
            return Ok(false);
        }
        let _turn = self.turn.lock().await;
        let (begun, mut through) = {
            let inner = self.lock();
            (inner.begun, inner.through)
        };
        if last <= through {
            return Ok(false);
        }
        if !begun {
            let snapshot = past::snapshot(gateway, subject, key.revision, Position::new(u64::MAX >> 1)).await?;
            through = self.lock().begin(snapshot);
        }
        let mut grown = false;
        let mut pages = Pages::behind(gateway, subject, through, None);
        while let Some(Shown { events, reached }) = pages.next().await? {
            grown |= !events.is_empty();
            let mut inner = self.lock();
            for event in &events {
                inner.take(event)?;
            }
            inner.through = inner.through.max(reached);
        }
        if grown || !begun {
            self.keep(gateway, subject, key.revision)?;
        }
        Ok(grown || !begun)
    }

    /// Keeps a snapshot, if one is due.
    fn keep(&self, gateway: &Gateway, subject: &Subject, revision: Position) -> Result<(), Problem> {
        let mut inner = self.lock();
        let json = inner.json()?;
        if !is_due(inner.unkept, json.len()) {
            return Ok(());
        }
        inner.unkept = 0;
        let state = if inner.fold.shows_snapshot() { json.to_vec() } else { inner.fold.snapshot()? };
        let last = inner.last;
        drop(inner);
        past::keep(gateway, subject, revision, last, state);
        Ok(())
    }

    /// Counts somebody who watches, for as long as the answer is held.
    pub(super) fn watch(self: Arc<Self>) -> Watching {
        self.lock().watchers += 1;
        Watching(self)
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

    /// What this event changed; `None` if that is no longer at hand. The caller has brought, or seen in a state, every event of
    /// the id before it.
    pub(super) fn change(&self, event: &Arc<Event>) -> Result<Option<Arc<Change>>, Problem> {
        let mut inner = self.0.lock();
        inner.take(event)?;
        let found = inner.changes.binary_search_by_key(&event.position, |change| change.event.position);
        Ok(found.ok().map(|at| inner.changes[at].clone()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.watchers -= 1;
        if inner.watchers == 0 {
            inner.changes = VecDeque::new();
            inner.fold.rest();
        }
    }
}

impl Inner {
    fn new(fold: Box<dyn Fold>) -> Self {
        Self {
            fold,
            begun: false,
            last: Position::START,
            through: Position::START,
            json: None,
            bytes: 0,
            unkept: 0,
            watchers: 0,
            changes: VecDeque::new(),
        }
    }

    /// Goes on from a snapshot. How far that goes.
    fn begin(&mut self, snapshot: Option<(Position, Vec<u8>)>) -> Position {
        self.begun = true;
        if let Some((position, state)) = snapshot
            && self.fold.restore(&state)
        {
            (self.last, self.through) = (position, position);
        }
        self.through
    }

    /// Folds an event unless it is folded already.
    fn take(&mut self, event: &Arc<Event>) -> Result<(), Problem> {
        if event.position <= self.last {
            return Ok(());
        }
        self.json = None;
        if self.watchers == 0 {
            self.fold.step(event);
        } else {
            let patch = self.fold.change(event)?;
            let patch = serde_json::to_vec(&patch).map_err(internal)?.into();
            self.changes.push_back(Arc::new(Change { event: event.clone(), patch }));
            self.forget();
        }
        self.last = event.position;
        self.through = self.through.max(event.position);
        self.unkept += 1;
        Ok(())
    }

    /// Drops the oldest changes beyond the limits. The newest stays: somebody is about to ask for it.
    fn forget(&mut self) {
        let size = |change: &Arc<Change>| change.patch.len() + change.event.data.as_bytes().len();
        let mut bytes: usize = self.changes.iter().map(size).sum();
        while 1 < self.changes.len() && (CHANGES_MAX < self.changes.len() || CHANGES_BYTES_MAX < bytes) {
            bytes -= self.changes.pop_front().as_ref().map_or(0, size);
        }
    }

    fn json(&mut self) -> Result<Bytes, Problem> {
        if let Some(json) = &self.json {
            return Ok(json.clone());
        }
        let json = Bytes::from(self.fold.shown()?);
        self.bytes = json.len();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::VIEWS;
    use crate::read_model::generate;

    fn held() -> Arc<Held> {
        let view = VIEWS.iter().find(|view| view.name == "conversation").unwrap();
        let held = Arc::new(Held::new(view, Arc::default()));
        held.lock().begin(None);
        held
    }

    fn event(position: u64) -> Arc<Event> {
        Arc::new(generate::event(position, "Zebra", "a"))
    }

    #[test]
    fn a_change_is_computed_once_for_all_who_watch() {
        let held = held();
        let (first, second) = (held.clone().watch(), held.clone().watch());
        let change = first.change(&event(1)).unwrap().unwrap();
        assert!(Arc::ptr_eq(&change, &second.change(&event(1)).unwrap().unwrap()));
        assert_eq!(first.state().unwrap().0, Position::new(1));
    }

    #[test]
    fn who_is_too_slow_for_the_changes_is_told_so_and_nothing_grows_without_bound() {
        let held = held();
        let (fast, slow) = (held.clone().watch(), held.clone().watch());
        let last = CHANGES_MAX as u64 + 10;
        for position in 1..=last {
            assert!(fast.change(&event(position)).unwrap().is_some());
        }
        assert!(slow.change(&event(1)).unwrap().is_none());
        assert!(slow.change(&event(last)).unwrap().is_some());
        assert_eq!(held.lock().changes.len(), CHANGES_MAX);
        drop((fast, slow));
        assert!(held.lock().changes.is_empty(), "nobody watches");
    }

    #[test]
    fn a_fold_that_panicked_begins_again() {
        let held = held();
        let watching = held.clone().watch();
        watching.change(&event(3)).unwrap();
        let other = held.clone();
        let panicked = std::thread::spawn(move || {
            let _inner = other.lock();
            panic!("in the middle of a fold");
        });
        assert!(panicked.join().is_err());
        let inner = held.lock();
        assert_eq!((inner.begun, inner.through, inner.watchers), (false, Position::START, 1));
    }
}
