//! The tree of `GET /chains/{id}`, as a schema.
#![expect(dead_code, reason = "these types are only described")]
#![allow(unused_qualifications, reason = "the derives write them")]

use utoipa::ToSchema;

use super::texts::*;

/// Which part of a chain.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Scope {
    Chain,
    Ancestors,
    Descendants,
}

/// A chain of cause and effect as a tree; or of one event its causes, or what it caused.
#[derive(ToSchema)]
pub(super) struct Chain {
    #[schema(inline)]
    scope: Scope,
    /// The event whose causes or effects these are; it is among them.
    #[schema(nullable = false)]
    event_id: Option<EventId>,
    /// Where the tracing tool shows the chain's trace, if one is configured.
    #[schema(nullable = false)]
    url: Option<String>,
    /// Whether there are more events than one tree takes.
    more: bool,
    #[schema(nullable = false)]
    correlation_id: Option<CorrelationId>,
    /// The last event in it.
    position: u64,
    /// When its first event was stored.
    #[schema(nullable = false, format = DateTime)]
    started_at: Option<String>,
    /// When its last event was stored.
    #[schema(nullable = false, format = DateTime)]
    ended_at: Option<String>,
    /// From the one to the other, in microseconds.
    duration_us: i64,
    /// How many events it has.
    events: u64,
    /// How many of them wait for an end that is not in the chain; nor on the log, where this is only a part of the chain.
    unfinished: u64,
    /// How many of them name a cause that does not stand before them in the chain; nor on the log, where this is only a part of it.
    orphans: u64,
    /// What the model calls took; of causes or effects those that are among them, and what an end among them says that no call told.
    usage: Usage,
    /// What the model calls cost, as far as their models have prices.
    #[schema(nullable = false)]
    cost: Option<f64>,
    /// The models whose calls are not in the cost: they have no price.
    #[schema(nullable = false)]
    unpriced: Option<Vec<String>>,
    /// Whether calls are not in the cost because no event says which model they asked.
    #[schema(nullable = false)]
    model_unknown: Option<bool>,
    /// The events that hang under no other.
    roots: Vec<EventId>,
    /// All events, depth first, siblings in the order of the log: a node's subtree is the run of deeper nodes behind it.
    nodes: Vec<ChainNode>,
}

/// An event in its place in the tree.
#[derive(ToSchema)]
pub(super) struct ChainNode {
    id: EventId,
    r#type: EventType,
    source: Source,
    aggregate_id: AggregateId,
    /// The chain it belongs to, where that is not the first event's.
    #[schema(nullable = false)]
    correlation_id: Option<CorrelationId>,
    position: u64,
    #[schema(format = DateTime)]
    timestamp: String,
    /// The event that it names as its cause.
    #[schema(nullable = false)]
    causation_id: Option<EventId>,
    /// The turn it belongs to, the model call within it (at its end how many there were), and the tool call within that.
    #[schema(nullable = false)]
    turn: Option<String>,
    #[schema(nullable = false)]
    step: Option<u32>,
    #[schema(nullable = false)]
    call_id: Option<String>,
    #[schema(nullable = false)]
    tool: Option<String>,
    #[schema(nullable = false)]
    model: Option<String>,
    /// The attempt that a claim is.
    #[schema(nullable = false)]
    attempt: Option<u32>,
    #[schema(nullable = false)]
    usage: Option<Usage>,
    /// What went wrong.
    #[schema(nullable = false)]
    error: Option<String>,
    /// How many causes stand above it: 0 for a root.
    depth: u64,
    /// The time since its cause, in microseconds.
    #[schema(nullable = false)]
    gap_us: Option<i64>,
    /// Of a claim or a tool call the time until its end, in microseconds.
    #[schema(nullable = false)]
    duration_us: Option<i64>,
    /// A claim without the end of its turn, or a tool call without outcome.
    unfinished: bool,
    #[schema(nullable = false)]
    cost: Option<f64>,
    /// Its cause does not stand before it in the chain.
    orphan: bool,
    /// The events that name it as their cause, in the order of the log.
    children: Vec<EventId>,
}

/// Tokens that model calls took.
#[derive(ToSchema)]
pub(super) struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}
