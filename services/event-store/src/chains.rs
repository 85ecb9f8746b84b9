//! What caused what: a chain as a tree, or of one event why it happened and what it led to.
//!
//! A cause may lie in another chain than its effect; the way up and the way down follow it there.

use causeway_event::{CorrelationId, Event, EventId, Invalid, Position};
use causeway_proto::{Kind, Problem};
use causeway_view::View as _;
use causeway_view::chain::{Chain, Tree};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

use crate::cursor::{Cursor, Moment};
use crate::gateway::Gateway;
use crate::project;
use crate::read_model::{Filter, Query};

/// Events of a way up or down.
const EVENTS_MAX: usize = 10_000;
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
            (Some(event.id), chain.tree(&gateway.config.pricing), more)
        }
    };
    let url = gateway.config.trace_url.as_ref().zip(tree.correlation_id.as_ref());
    let url = url.map(|(url, correlation)| url.of(correlation));
    Ok(Trace { scope: request.scope, event_id, url, more, tree })
}

/// A whole chain, named by its id or by one of its events.
async fn chain(gateway: &Gateway, id: &str, as_of: Option<Moment>) -> Result<Tree, Problem> {
    let not_found = || Problem::new(Kind::NotFound, format!("there is no event in a chain {id}")).at("/id");
    let tree = async |correlation: &CorrelationId| {
        let request = project::Request { view: Chain::NAME.to_owned(), id: correlation.to_string(), as_of, min_position: None };
        let projection = project::project(gateway, request).await?;
        serde_json::from_slice::<Tree>(&projection.state)
            .map_err(|error| Problem::new(Kind::Internal, format!("the chain cannot be read: {error}")))
    };
    if id.starts_with("evt_") {
        return tree(&event(gateway, id).await?.metadata.correlation_id).await;
    }
    let found = tree(&id.parse().map_err(|invalid| Problem::from(invalid).at("/id"))?).await?;
    if found.events > 0 || as_of.is_some() {
        return Ok(found);
    }
    // A number is also the position of an event.
    match id.parse::<Cursor>() {
        Ok(_) => tree(&event(gateway, id).await?.metadata.correlation_id).await,
        Err(_) => Err(not_found()),
    }
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
        query.after = page.events.last().map(|event| event.position).or(query.after);
        if !page.more || page.events.is_empty() {
            return Ok((chain, false));
        }
    }
}
