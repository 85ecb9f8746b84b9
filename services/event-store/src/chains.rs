//! What caused what: a chain as a tree, or of one event why it happened and what it led to.
//!
//! A cause may lie in another chain than its effect; the way up and the way down follow it there.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use causeway_event::{CorrelationId, Event, EventId, Invalid, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::View as _;
use causeway_view::chain::{Chain, Tree};
use serde::{Deserialize, Serialize};

use crate::cursor::{Cursor, Moment};
use crate::gateway::Gateway;
use crate::project;
use crate::read_model::{Filter, Query};

/// Events of a way up or down.
const EVENTS_MAX: usize = 10_000;
/// Chains in which the ends of what a way leaves open are looked for.
const CHAINS_MAX: usize = 32;
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
    /// Whether there are more events than one tree takes.
    pub(crate) more: bool,
    #[serde(flatten)]
    pub(crate) tree: Tree,
}

/// The tree of a chain, or of an event's causes or effects.
pub(crate) async fn trace(gateway: &Gateway, request: Request) -> Result<Trace, Problem> {
    let store = &gateway.store;
    let last = store.fresh().await?;
    let at = match request.as_of {
        Some(moment) => moment.resolve(store, "/as_of", last).await?,
        None => last,
    };
    let (event_id, tree, more) = match request.scope {
        Scope::Chain => (None, chain(gateway, &request.id, request.as_of).await?, false),
        scope => {
            let event = event(gateway, &request.id).await?;
            let (chain, more) = match scope {
                Scope::Ancestors => ancestors(gateway, &event, at).await?,
                Scope::Chain | Scope::Descendants => descendants(gateway, &event, at).await?,
            };
            let mut tree = chain.tree(&gateway.config.pricing);
            judge(gateway, &mut tree, request.as_of).await?;
            (Some(event.id), tree, more)
        }
    };
    let url = gateway.config.trace_url.as_ref().zip(tree.correlation_id.as_ref());
    let url = url.map(|(url, correlation)| url.of(correlation));
    Ok(Trace { scope: request.scope, event_id, url, more, tree })
}

/// A whole chain, named by its id or by one of its events.
async fn chain(gateway: &Gateway, id: &str, as_of: Option<Moment>) -> Result<Tree, Problem> {
    if id.starts_with("evt_") {
        return whole(gateway, &event(gateway, id).await?.metadata.correlation_id, as_of).await;
    }
    let correlation = id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?;
    let found = whole(gateway, &correlation, as_of).await?;
    // A chain that began only later has no events at that moment, and is there all the same.
    if found.events > 0 || as_of.is_some() && whole(gateway, &correlation, None).await?.events > 0 {
        return Ok(found);
    }
    // A number is also the position of an event.
    match id.parse::<Cursor>() {
        Ok(_) => whole(gateway, &event(gateway, id).await?.metadata.correlation_id, as_of).await,
        Err(_) => Err(Problem::new(Kind::NotFound, format!("there is no event in a chain {id}")).at("/id")),
    }
}

/// The chain of this id; without events if there is none.
async fn whole(gateway: &Gateway, correlation: &CorrelationId, as_of: Option<Moment>) -> Result<Tree, Problem> {
    let request = project::Request { view: Chain::NAME.to_owned(), id: correlation.to_string(), as_of, min_position: None };
    let projection = project::project(gateway, request).await?;
    serde_json::from_slice(&projection.state)
        .map_err(|error| Problem::new(Kind::Internal, format!("the chain cannot be read: {error}")))
}

/// Marks what is missing by what the log has, not by the part that is shown: the end of a cause is often none of the causes, and
/// the cause of what is asked about none of its effects.
async fn judge(gateway: &Gateway, tree: &mut Tree, as_of: Option<Moment>) -> Result<(), Problem> {
    for node in tree.nodes.iter_mut().filter(|node| node.orphan) {
        let Some(cause) = node.link.causation_id else { continue };
        node.orphan = gateway.store.by_id(cause).await?.is_none_or(|cause| cause.position >= node.link.position);
    }
    let first = tree.correlation_id.clone();
    let unfinished = tree.nodes.iter().filter(|node| node.unfinished);
    let chains: BTreeSet<_> = unfinished.filter_map(|node| node.link.correlation_id.clone().or_else(|| first.clone())).collect();
    for correlation in chains.iter().take(CHAINS_MAX) {
        let whole = whole(gateway, correlation, as_of).await?;
        let durations: HashMap<_, _> = whole.nodes.iter().map(|node| (node.link.id, node.duration_us)).collect();
        for node in tree.nodes.iter_mut().filter(|node| node.unfinished) {
            node.duration_us = durations.get(&node.link.id).copied().flatten();
            node.unfinished = node.duration_us.is_none();
        }
    }
    tree.unfinished = tree.nodes.iter().filter(|node| node.unfinished).count();
    tree.orphans = tree.nodes.iter().filter(|node| node.orphan).count();
    Ok(())
}

/// The event that an id or a position names.
async fn event(gateway: &Gateway, id: &str) -> Result<std::sync::Arc<Event>, Problem> {
    let cursor: Cursor = id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?;
    let found = match cursor {
        Cursor::At(position) => gateway.store.by_position(position).await?,
        Cursor::Event(id) => gateway.store.by_id(id).await?,
    };
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no event {id}")).at("/id"))
}

/// The event and its causes, up to the root, to a cause that is not there, or to the limit.
async fn ancestors(gateway: &Gateway, event: &Event, at: Position) -> Result<(Chain, bool), Problem> {
    let mut path = vec![event.clone()];
    let mut more = false;
    while let Some((cause, effect)) = path.last().and_then(|event| Some((event.metadata.causation_id?, event.position))) {
        // A cause stands before its effect: so this ends, whatever the log holds.
        let Some(cause) = gateway.store.by_id(cause).await?.filter(|cause| cause.position < effect) else { break };
        if path.len() >= EVENTS_MAX {
            more = true;
            break;
        }
        path.push(cause.as_ref().clone());
    }
    let path = path.iter().rev().filter(|event| event.position <= at);
    Ok((path.fold(Chain::default(), Chain::with), more))
}

/// The event and all that follows from it.
async fn descendants(gateway: &Gateway, event: &Event, at: Position) -> Result<(Chain, bool), Problem> {
    if at < event.position {
        return Ok((Chain::default(), false));
    }
    let mut chain = Chain::default().with(event);
    let mut query = Query {
        filter: Filter { descendants_of: Some(event.id), ..Filter::default() },
        after: Some(event.position),
        before: Some(Position::new(at.get().saturating_add(1))),
        descendants: Some(std::sync::Arc::new(gateway.store.descendants(event.id).await?)),
        limit: PAGE_EVENTS,
        ..Query::default()
    };
    loop {
        let page = gateway.store.page(query.clone()).await?;
        for event in &page.events {
            if chain.links.len() >= EVENTS_MAX {
                return Ok((chain, true));
            }
            chain = chain.with(event);
        }
        match page.next {
            None => return Ok((chain, false)),
            next => query.after = next,
        }
    }
}
