//! Views as of a moment: the newest usable snapshot, and the events since folded onto it.
//!
//! A new view is one entry in [`VIEWS`]. Snapshots are a cache: without them every answer is the same.

use causeway_event::{AggregateId, Event, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::conversation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cursor::Moment;
use crate::gateway::Gateway;
use crate::read_model::{Filter, Order, Query};

/// A snapshot is kept when at least this many events were folded since the last.
const SNAPSHOT_EVERY: usize = 100;
/// Events read at a time.
const PAGE_EVENTS: usize = 500;

/// The views that there are.
const VIEWS: [View; 1] = [View {
    name: "conversation",
    version: conversation::VERSION,
    start: || Folding::<conversation::Conversation>::start(conversation::fold),
}];

/// A view of one aggregate.
struct View {
    name: &'static str,
    /// Of the fold: snapshots of another version are not used.
    version: u32,
    start: fn() -> Box<dyn Fold>,
}

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
    pub(crate) state: Vec<u8>,
}

/// The view as of the moment, as fresh as the log is.
pub(crate) async fn project(gateway: &Gateway, request: Request) -> Result<Projection, Problem> {
    let Some(view) = VIEWS.iter().find(|view| view.name == request.view) else {
        let names: Vec<_> = VIEWS.iter().map(|view| view.name).collect();
        return Err(Problem::new(Kind::NotFound, format!("there is no such view; there is {}", names.join(", "))).at("/view"));
    };
    let aggregate: AggregateId = request.id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?;
    if let Some(position) = request.min_position {
        gateway.store.wait_for(position).await?;
    }
    let last = gateway.store.fresh().await?;
    let at = match request.as_of {
        Some(moment) => moment.resolve(&gateway.store, "/as_of", last).await?,
        None => last,
    };
    let state = fold(gateway, view, &aggregate, at).await?;
    Ok(Projection { view: view.name, id: request.id, position: at, state })
}

async fn fold(gateway: &Gateway, view: &View, aggregate: &AggregateId, at: Position) -> Result<Vec<u8>, Problem> {
    let store = &gateway.store;
    let mut fold = (view.start)();
    let mut query = Query {
        filter: Filter { aggregate_id: Some(aggregate.clone()), ..Filter::default() },
        after: None,
        before: Some(Position::new(at.get().saturating_add(1))),
        order: Order::Forwards,
        limit: PAGE_EVENTS,
    };
    if let Some((position, snapshot)) = store.snapshot(view.name, view.version, aggregate.as_str(), at).await?
        && fold.restore(&snapshot)
    {
        query.after = Some(position);
    }
    let mut folded = 0;
    loop {
        let page = store.page(query.clone()).await?;
        page.events.iter().for_each(|event| fold.step(event));
        folded += page.events.len();
        query.after = page.events.last().map(|event| event.position).or(query.after);
        if !page.more || page.events.is_empty() {
            break;
        }
    }
    let state = fold.json()?;
    if let Some(position) = query.after.filter(|_| folded >= SNAPSHOT_EVERY)
        && let Err(error) = store.keep_snapshot(view.name, view.version, aggregate.as_str(), position, state.clone()).await
    {
        tracing::debug!(%error, view = view.name, "a snapshot was not kept");
    }
    Ok(state)
}

/// A fold whose state's type is nobody's business.
trait Fold: Send {
    /// Goes on from a snapshot. False if it cannot be read: the state is as before.
    fn restore(&mut self, snapshot: &[u8]) -> bool;
    fn step(&mut self, event: &Event);
    fn json(&self) -> Result<Vec<u8>, Problem>;
}

struct Folding<S> {
    state: S,
    fold: fn(S, &Event) -> S,
}

impl<S: Default + Serialize + DeserializeOwned + Send + 'static> Folding<S> {
    fn start(fold: fn(S, &Event) -> S) -> Box<dyn Fold> {
        Box::new(Self { state: S::default(), fold })
    }
}

impl<S: Default + Serialize + DeserializeOwned + Send> Fold for Folding<S> {
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        serde_json::from_slice(snapshot).map(|state| self.state = state).is_ok()
    }

    fn step(&mut self, event: &Event) {
        self.state = (self.fold)(std::mem::take(&mut self.state), event);
    }

    fn json(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(&self.state)
            .map_err(|error| Problem::new(Kind::Internal, format!("the view cannot be written: {error}")))
    }
}
