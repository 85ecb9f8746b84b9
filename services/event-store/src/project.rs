//! Views of one id: now, as of a moment, between two moments, and as they change.
//!
//! ```text
//! now:     cache ──> the events since ──> fold ──> state          (the cache keeps the fold and its JSON)
//! as of:   newest snapshot before it ──> the events since ──> fold ──> state
//! watch:   now, then each event of the store's feed ──> fold ──> what it changed
//! ```
//!
//! Which views there are stands in `views.rs`; what they show is folded by `causeway-view`. The cache and the snapshots change
//! no answer: without them every one is the same. Events are folded as the types' registry shows them, so a view that looks
//! into data of the users' own types is folded anew when one of the types in it gets a new version (`basis.rs`).

mod basis;
mod diff;
mod fold;
mod held;
mod pace;
mod pages;
mod past;
mod patch;
#[cfg(test)]
mod tests;
mod views;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::{IdKind, Prices};

pub(crate) use diff::{DiffRequest, diff};
pub(crate) use past::refresh;
pub(crate) use views::{VIEWS, View};
pub(crate) use watch::{Told, WatchRequest, watch};

use crate::Config;
use crate::cursor::Moment;
use crate::gateway::{Gate, Gateway, Refusals};
use crate::read_model::Filter;
use basis::Basis;
use held::{Budget, Held, Key};

/// States that are folded at once: each takes as much memory as it is long.
const FOLDS_MAX: usize = 8;
/// Further ones that wait for that, and how long.
const FOLDS_WAITING_MAX: usize = 256;
const FOLD_WAIT: Duration = Duration::from_secs(10);
const FOLDS: Refusals =
    Refusals { full: "too many views are waiting to be folded", slow: "views are folded too slowly for what is being asked" };

/// What to look at, and when.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) view: String,
    pub(crate) id: String,
    pub(crate) as_of: Option<Moment>,
    pub(crate) min_position: Option<Position>,
}

/// A view's state.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    pub(crate) view: &'static str,
    pub(crate) id: String,
    /// Every event up to here has been taken account of.
    pub(crate) position: Position,
    /// JSON.
    pub(crate) state: Bytes,
}

/// What one event changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) event: Arc<Event>,
    /// JSON Patch (RFC 6902), as JSON.
    pub(crate) patch: Bytes,
}

impl Change {
    fn bytes(&self) -> usize {
        self.patch.len() + self.event.data.as_bytes().len()
    }
}

/// The views in memory: folded states with their JSON, and states of the past. Bounded by bytes.
pub(crate) struct Views {
    prices: Arc<Prices>,
    /// Whoever makes a state that is not in memory. Who is inside waits for nobody else who must come in.
    pub(crate) folds: Gate,
    held: moka::sync::Cache<Key, Arc<Held>>,
    /// Those that somebody watches, which stay in memory whatever the cache drops.
    watched: Arc<Budget>,
    past: moka::sync::Cache<(Key, Position), (Arc<Basis>, Bytes)>,
}

impl Views {
    pub(crate) fn new(config: &Config) -> Self {
        let bytes_max = config.limits.views_bytes_max as u64;
        // States of the past are asked for far less often.
        let past_bytes_max = bytes_max / 4;
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            prices: Arc::new(config.pricing.clone()),
            folds: Gate::new(FOLDS_MAX, FOLDS_WAITING_MAX, FOLD_WAIT, FOLDS),
            held: moka::sync::Cache::builder()
                .max_capacity(bytes_max - past_bytes_max)
                .weigher(move |_, held: &Arc<Held>| size(held.bytes()))
                .build(),
            watched: Arc::new(Budget::new(config.limits.watched_bytes_max)),
            past: moka::sync::Cache::builder()
                .max_capacity(past_bytes_max)
                .weigher(move |(key, _): &(Key, Position), (basis, json): &(Arc<Basis>, Bytes)| {
                    size(json.len() + key.id.len() + basis.bytes())
                })
                .build(),
        }
    }
}

/// One view of one id.
#[derive(Clone, Debug)]
struct Subject {
    view: &'static View,
    id: Arc<str>,
    /// Its events.
    filter: Filter,
}

impl Subject {
    fn of(view: &str, id: &str) -> Result<Self, Problem> {
        let Some(view) = VIEWS.iter().find(|known| known.name == view) else {
            let names: Vec<_> = VIEWS.iter().map(|view| view.name).collect();
            return Err(Problem::new(Kind::NotFound, format!("there is no such view; there is {}", names.join(", "))).at("/view"));
        };
        let mut filter = Filter { category: view.category, ..Filter::default() };
        let wrong = |invalid: causeway_event::Invalid| Problem::from(invalid).at("/id");
        match view.id {
            IdKind::Aggregate => filter.aggregate_id = Some(id.parse().map_err(wrong)?),
            IdKind::Correlation => filter.correlation_id = Some(id.parse().map_err(wrong)?),
        }
        Ok(Self { view, id: id.into(), filter })
    }

    fn key(&self, gateway: &Gateway) -> Key {
        Key { view: self.view.name, id: self.id.clone(), epoch: gateway.store.epoch() }
    }

    /// Whether what was folded under this key is right: the read model may have been made again meanwhile, or a type that got a
    /// new version may have been shown in both.
    fn stands(&self, gateway: &Gateway, key: &Key, basis: &Basis) -> bool {
        *key == self.key(gateway) && basis.holds(&gateway.types)
    }
}

/// The view as of the moment, as fresh as the log is.
pub(crate) async fn project(gateway: &Gateway, request: Request) -> Result<Projection, Problem> {
    let subject = Subject::of(&request.view, &request.id)?;
    if let Some(position) = request.min_position {
        gateway.store.wait_for(position).await?;
    }
    let last = gateway.fresh().await?;
    let (position, state) = match request.as_of {
        Some(moment) => {
            let at = moment.resolve(&gateway.store, "/as_of", last).await?;
            (at, past::state(gateway, &subject, at).await?)
        }
        None => held::newest(gateway, &subject, last).await?.state()?,
    };
    Ok(Projection { view: subject.view.name, id: request.id, position, state })
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::Internal, format!("the view cannot be written: {error}"))
}
