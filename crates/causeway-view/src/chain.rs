//! A chain: all events of one correlation id, as a tree of what caused what, with the time between.
//!
//! The fold only collects: events of a chain may come from any aggregate, and what is missing or unfinished can be told only
//! when all are there. [`Chain::tree`] makes the tree, in time linear in the events; [`Tree::render`] draws it for a terminal.
//!
//! A cause stands before its effect in the log. An event that names itself, a later one or one of another chain as its cause
//! is an orphan: a root with a mark. So there are no cycles, whatever the log holds. Chains may be very deep; the tree is
//! therefore a flat list in depth-first order (nested JSON of that depth is read by nobody), and nothing here recurses.

mod index;
mod mermaid;
mod parts;
mod render;
#[cfg(test)]
mod tests;
mod tree;
mod turn;

use causeway_event::payload::Usage;
use causeway_event::{AggregateId, CorrelationId, Event, EventId, EventType, Payload, Position, Source};
use serde::{Deserialize, Serialize};

pub use mermaid::Drawn;
pub use tree::{Node, Tree, Waiting};

use crate::Time;
use index::Index;

/// The events of a chain; it leaves out what comes behind them, and says so.
pub const EVENTS_MAX: usize = 10_000;

/// The types that end a claim or a tool call.
pub const ENDS: [&str; 5] = ["AIProcessingCompleted", "AIProcessingFailed", "ToolCompleted", "ToolFailed", "ToolOutcomeUnknown"];

/// The types that tell, beside those, what a turn's model calls took.
pub const TELLS: [&str; 4] = ["AIProcessingStarted", "ThinkingGenerated", "ToolCalled", "MessageGenerated"];

/// The events of one correlation id up to and including the one at `position`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Kept")]
pub struct Chain {
    /// The last event folded; 0 before the first. Events up to here change nothing more.
    pub position: Position,
    /// The chain's id, from its first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// Its events in the order of the log.
    pub links: Vec<Link>,
    /// Whether there are more behind them than a chain takes.
    #[serde(default)]
    pub more: bool,
    #[serde(skip)]
    index: Index,
}

/// A chain as it was written.
#[derive(Deserialize)]
struct Kept {
    position: Position,
    #[serde(default)]
    correlation_id: Option<CorrelationId>,
    links: Vec<Link>,
    #[serde(default)]
    more: bool,
}

impl From<Kept> for Chain {
    fn from(kept: Kept) -> Self {
        let index = Index::of(&kept.links);
        Self { position: kept.position, correlation_id: kept.correlation_id, links: kept.links, more: kept.more, index }
    }
}

/// What a chain keeps of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The event's id.
    pub id: EventId,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Who appended it.
    pub source: Source,
    /// What it happened to.
    pub aggregate_id: AggregateId,
    /// The chain it belongs to, where that is not the first event's: causes may lie in another chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// Its place in the log.
    pub position: Position,
    /// When the log stored it.
    pub timestamp: Time,
    /// The event that it names as its cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<EventId>,
    /// The turn it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    /// The model call within the turn; at its end how many there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// The tool call within the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The tool called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The model asked, or the one that answered; with a usage the one that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The attempt that a claim is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What the model call took; at a turn's end what all of them took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The chain with `event`. Events up to `chain.position` are known already and change nothing. The caller gives the events
/// in the order of the log: those of one correlation id, or those that one event follows from or led to. Beyond
/// [`EVENTS_MAX`] of them the chain stays as it is, but for saying that there are more.
#[must_use]
pub fn fold(mut chain: Chain, event: &Event) -> Chain {
    if event.position <= chain.position {
        return chain;
    }
    if chain.links.len() >= EVENTS_MAX {
        chain.more = true;
        return chain;
    }
    chain.position = event.position;
    let first = chain.correlation_id.get_or_insert_with(|| event.metadata.correlation_id.clone());
    let correlation_id = Some(&event.metadata.correlation_id).filter(|own| *own != first).cloned();
    let link = link(event);
    // Of what a model call took one wants to know whose tokens they are: of the model that the turn asks then.
    let asked = link.usage.and_then(|_| chain.index.asked(&link));
    let model = link.model.clone().or_else(|| asked.map(str::to_owned));
    chain.links.push(Link { correlation_id, model, ..link });
    chain.index.add(&chain.links);
    chain
}

fn link(event: &Event) -> Link {
    let bare = Link {
        id: event.id,
        event_type: event.event_type.clone(),
        source: event.metadata.source.clone(),
        aggregate_id: event.aggregate_id.clone(),
        correlation_id: None,
        position: event.position,
        timestamp: event.timestamp.into(),
        causation_id: event.metadata.causation_id,
        turn: None,
        step: None,
        call_id: None,
        tool: None,
        model: None,
        attempt: None,
        usage: None,
        error: None,
    };
    let of_call = |turn, step, call_id, tool| Link {
        turn: Some(turn),
        step: Some(step),
        call_id: Some(call_id),
        tool: Some(tool),
        ..bare.clone()
    };
    match event.payload() {
        Payload::AIProcessingStarted(claim) => {
            Link { turn: Some(claim.turn), model: known(claim.model), attempt: Some(claim.attempt), ..bare }
        }
        Payload::ThinkingGenerated(thinking) => {
            Link { turn: Some(thinking.turn), step: Some(thinking.step), usage: thinking.usage, ..bare }
        }
        Payload::ToolCalled(call) => Link { usage: call.usage, ..of_call(call.turn, call.step, call.call_id, call.tool) },
        Payload::ToolCompleted(outcome) => of_call(outcome.turn, outcome.step, outcome.call_id, outcome.tool),
        Payload::ToolFailed(outcome) | Payload::ToolOutcomeUnknown(outcome) => {
            Link { error: Some(outcome.error), ..of_call(outcome.turn, outcome.step, outcome.call_id, outcome.tool) }
        }
        Payload::MessageGenerated(said) => {
            Link { turn: known(said.turn), model: known(said.model), usage: Some(said.usage), ..bare }
        }
        Payload::AIProcessingCompleted(end) => {
            Link { turn: Some(end.turn), step: Some(end.steps).filter(|steps| *steps > 0), usage: Some(end.usage), ..bare }
        }
        Payload::AIProcessingFailed(end) => {
            let error = if end.message.is_empty() { end.reason } else { format!("{}: {}", end.reason, end.message) };
            Link {
                turn: Some(end.turn),
                step: Some(end.steps).filter(|steps| *steps > 0),
                usage: Some(end.usage),
                error: Some(error),
                ..bare
            }
        }
        _ => bare,
    }
}

fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
