//! What caused what: a chain as a tree, or of one event why it happened and what it led to.
//!
//! A cause may lie in another chain than its effect; the way up and the way down follow it there.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use causeway_event::{CorrelationId, Event, EventId, Invalid, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::View as _;
use causeway_view::chain::{Chain, ENDS, EVENTS_MAX, TELLS, Tree, Waiting};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::cursor::{Cursor, Moment};
use crate::gateway::{Gateway, Pass};
use crate::read_model::{Filter, Query};

/// Chains in which the turns of a way, and the ends of what it leaves open, are looked for.
const CHAINS_MAX: usize = 32;
/// How long the turns may take.
const TURNS_TIME: Duration = Duration::from_secs(2);
/// Events read at a time.
const PAGE_EVENTS: usize = 500;

/// What to trace.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// A correlation id, or the id or position of an event.
    pub(crate) id: String,
    pub(crate) scope: Scope,
    pub(crate) as_of: Option<Moment>,
}

/// Which part of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// All of it.
    #[default]
    Chain,
    /// Why an event happened: its causes up to the root.
    Ancestors,
    /// What an event led to.
    Descendants,
}

impl FromStr for Scope {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "chain" => Ok(Self::Chain),
            "ancestors" => Ok(Self::Ancestors),
            "descendants" => Ok(Self::Descendants),
            _ => Err(Invalid::new("", "is neither chain, ancestors nor descendants")),
        }
    }
}

/// A causation tree, and what it is of.
#[derive(Debug, Serialize)]
pub(crate) struct Trace {
    pub(crate) scope: Scope,
    /// The event whose causes or effects these are; it is among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<EventId>,
    /// Where the tracing tool shows the chain's trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    #[serde(flatten)]
    pub(crate) tree: Tree,
    /// As long as it is in memory.
    #[serde(skip)]
    _pass: Pass,
}

/// The tree of a chain, or of an event's causes or effects.
pub(crate) async fn trace(gateway: &Gateway, request: Request) -> Result<Trace, Problem> {
    let store = &gateway.store;
    let last = store.fresh().await?;
    let at = match request.as_of {
        Some(moment) => moment.resolve(store, "/as_of", last).await?,
        None => last,
    };
    let pass = gateway.views.folds.enter(1).await?;
    let (event_id, chain) = match request.scope {
        Scope::Chain => (None, chain(gateway, &request.id, at, last).await?),
        scope => {
            let event = event(gateway, &request.id).await?;
            let chain = match scope {
                Scope::Ancestors => ancestors(gateway, &event, at).await?,
                Scope::Chain | Scope::Descendants => descendants(gateway, &event, at).await?,
            };
            (Some(event.id), chain)
        }
    };
    let turns = match event_id {
        Some(_) => turns(gateway, &chain, at).await?,
        None => Vec::new(),
    };
    let mut tree = chain.tree_of_part(&turns, &gateway.config.pricing);
    drop((chain, turns));
    // In a chain that is there as a whole nothing is missing.
    if event_id.is_some() || tree.more {
        judge(gateway, &mut tree, at).await?;
    }
    let url = gateway.config.trace_url.as_ref().zip(tree.correlation_id.as_ref());
    let url = url.map(|(url, correlation)| url.of(correlation));
    Ok(Trace { scope: request.scope, event_id, url, tree, _pass: pass })
}

/// A whole chain, named by its id or by one of its events.
async fn chain(gateway: &Gateway, id: &str, at: Position, last: Position) -> Result<Chain, Problem> {
    let no_event = match id.starts_with("evt_") {
        true => match event(gateway, id).await {
            Ok(event) => return whole(gateway, &event.metadata.correlation_id, at).await,
            // A chain may be called so all the same.
            Err(problem) => Some(problem),
        },
        false => None,
    };
    let correlation = id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?;
    let found = whole(gateway, &correlation, at).await?;
    // A chain that began only later has no events at that moment, and is there all the same.
    if !found.links.is_empty() || at < last && exists(gateway, &correlation).await? {
        return Ok(found);
    }
    if let Some(problem) = no_event {
        return Err(problem);
    }
    // A number is also the position of an event.
    match id.parse::<Cursor>() {
        Ok(_) => whole(gateway, &event(gateway, id).await?.metadata.correlation_id, at).await,
        Err(_) => Err(Problem::new(Kind::NotFound, format!("there is no event in a chain {id}")).at("/id")),
    }
}

/// The chain of this id; without events if there is none.
async fn whole(gateway: &Gateway, correlation: &CorrelationId, at: Position) -> Result<Chain, Problem> {
    collect(gateway, Chain::default(), Query { before: Some(at.next()), ..of(correlation) }, |_| true).await
}

async fn exists(gateway: &Gateway, correlation: &CorrelationId) -> Result<bool, Problem> {
    let page = gateway.store.page(Query { limit: 1, ..of(correlation) }).await?;
    Ok(!page.events.is_empty())
}

/// The events of a chain.
fn of(correlation: &CorrelationId) -> Query {
    let filter = Filter { correlation_id: Some(correlation.clone()), ..Filter::default() };
    Query { filter, limit: PAGE_EVENTS, ..Query::default() }
}

/// The chain with what the query finds and is wanted, as far as a chain goes.
async fn collect(
    gateway: &Gateway,
    mut chain: Chain,
    mut query: Query,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Chain, Problem> {
    loop {
        let page = gateway.store.page(query.clone()).await?;
        for event in page.events.iter().filter(|event| wanted(event)) {
            chain = chain.with(event);
        }
        match page.next {
            next if next.is_some() && !chain.more => query.after = next,
            _ => return Ok(chain),
        }
    }
}

/// All of the turns of which a part has model calls, by their chains: of the part alone nobody knows which models they asked, nor
/// which of a turn's calls its end repeats.
async fn turns(gateway: &Gateway, part: &Chain, at: Position) -> Result<Vec<Chain>, Problem> {
    let calls = part.links.iter().filter(|link| link.usage.is_some() && link.turn.is_some());
    let chains: BTreeSet<_> = calls.filter_map(|link| link.correlation_id.as_ref().or(part.correlation_id.as_ref())).collect();
    let (mut turns, mut links) = (Vec::new(), 0);
    let give_up = Instant::now() + TURNS_TIME;
    for correlation in chains.into_iter().take(CHAINS_MAX) {
        let mut query = Query { before: Some(at.next()), ..of(correlation) };
        query.filter.types = TELLS.iter().chain(&ENDS).filter_map(|name| name.parse().ok()).collect();
        let found = collect(gateway, Chain::default(), query, |event| part.is_of_its_turns(event));
        // What a long chain has of other turns is read as well: the part is shown without what is not found in time.
        let Ok(found) = timeout_at(give_up, found).await else { break };
        let found = found?;
        links += found.links.len();
        // Of turns that are not there as a whole nothing is known.
        if found.more || EVENTS_MAX < links {
            break;
        }
        turns.push(found);
    }
    Ok(turns)
}

/// Marks what is missing by what the log has, not by the part that is shown: the end of a cause is often none of the causes, and
/// the cause of what is asked about none of its effects.
async fn judge(gateway: &Gateway, tree: &mut Tree, at: Position) -> Result<(), Problem> {
    for node in tree.nodes.iter_mut().filter(|node| node.orphan) {
        let Some(cause) = node.link.causation_id else { continue };
        node.orphan = gateway.store.by_id(cause).await?.is_none_or(|cause| cause.position >= node.link.position);
    }
    tree.orphans = tree.nodes.iter().filter(|node| node.orphan).count();
    let (first, mut waiting) = (tree.correlation_id.clone(), tree.waiting());
    let unfinished = tree.nodes.iter().filter(|node| node.unfinished);
    let after = unfinished.clone().map(|node| node.link.position).min();
    let chains: BTreeSet<_> = unfinished.filter_map(|node| node.link.correlation_id.clone().or_else(|| first.clone())).collect();
    for correlation in chains.iter().take(CHAINS_MAX) {
        let query = Query { after, before: Some(at.next()), ..of(correlation) };
        end(gateway, tree, &mut waiting, query).await?;
    }
    Ok(())
}

/// Looks in a chain for the ends that are waited for.
async fn end(gateway: &Gateway, tree: &mut Tree, waiting: &mut Waiting, mut query: Query) -> Result<(), Problem> {
    query.filter.types = ENDS.iter().filter_map(|name| name.parse().ok()).collect();
    while !waiting.is_empty() {
        let page = gateway.store.page(query.clone()).await?;
        page.events.iter().for_each(|event| tree.end(waiting, event));
        match page.next {
            None => break,
            next => query.after = next,
        }
    }
    Ok(())
}

/// The event that an id or a position names.
async fn event(gateway: &Gateway, id: &str) -> Result<Arc<Event>, Problem> {
    let cursor: Cursor = id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?;
    let found = match cursor {
        Cursor::At(position) => gateway.store.by_position(position).await?,
        Cursor::Event(id) => gateway.store.by_id(id).await?,
    };
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no event {id}")).at("/id"))
}

/// The event and its causes, up to the root, to a cause that is not there, or to the limit.
async fn ancestors(gateway: &Gateway, event: &Event, at: Position) -> Result<Chain, Problem> {
    // Only where they stand: so many events may be large.
    let (mut path, mut more) = (vec![event.position], false);
    let (mut cause, mut effect) = (event.metadata.causation_id, event.position);
    while let Some(id) = cause {
        // A cause stands before its effect: so this ends, whatever the log holds.
        let Some(found) = gateway.store.by_id(id).await?.filter(|found| found.position < effect) else { break };
        if path.len() >= EVENTS_MAX {
            more = true;
            break;
        }
        path.push(found.position);
        (cause, effect) = (found.metadata.causation_id, found.position);
    }
    let mut chain = Chain::default();
    for position in path.into_iter().rev().filter(|position| *position <= at) {
        if let Some(event) = gateway.store.by_position(position).await? {
            chain = chain.with(&event);
        }
    }
    chain.more = more;
    Ok(chain)
}

/// The event and all that follows from it.
async fn descendants(gateway: &Gateway, event: &Event, at: Position) -> Result<Chain, Problem> {
    if at < event.position {
        return Ok(Chain::default());
    }
    let query = Query {
        filter: Filter { descendants_of: Some(event.id), ..Filter::default() },
        after: Some(event.position),
        before: Some(at.next()),
        // One more than a chain takes, so that it says that there are more.
        descendants: Some(Arc::new(gateway.store.first_descendants(event.id, at, EVENTS_MAX + 1).await?)),
        limit: PAGE_EVENTS,
        ..Query::default()
    };
    collect(gateway, Chain::default().with(event), query, |_| true).await
}
