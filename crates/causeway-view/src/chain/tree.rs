//! The tree that a chain's events make, and what they add up to.

use std::collections::BTreeSet;

use causeway_event::payload::Usage;
use causeway_event::{CorrelationId, EventId, Position};
use serde::{Deserialize, Serialize};

use super::{Chain, Link};
use crate::price::rounded;
use crate::usage::plus;
use crate::{Prices, Time};

/// A chain as a causation tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// The chain's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The last event in it.
    pub position: Position,
    /// When its first event was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its last event was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// From the one to the other, in microseconds.
    pub duration_us: i64,
    /// How many events it has.
    pub events: usize,
    /// How many of them wait for an end that is not in the chain.
    pub unfinished: usize,
    /// How many of them name a cause that does not stand before them in the chain.
    pub orphans: usize,
    /// What all model calls took.
    pub usage: Usage,
    /// What that cost, as far as its models have prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The models whose calls are not in the cost: they have no price.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
    /// The events that hang under no other: true roots and orphans.
    pub roots: Vec<EventId>,
    /// All events, depth first, siblings in the order of the log: a node's subtree is the run of deeper nodes behind it.
    pub nodes: Vec<Node>,
}

/// An event in its place in the tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The event.
    #[serde(flatten)]
    pub link: Link,
    /// How many causes stand above it: 0 for a root.
    pub depth: usize,
    /// The time since its cause, in microseconds; roots and orphans have none. Negative where clocks disagreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_us: Option<i64>,
    /// Of a claim or a tool call the time until its end, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<i64>,
    /// A claim without the end of its turn, or a tool call without outcome.
    pub unfinished: bool,
    /// What its tokens cost, where its model has a price. A turn's end repeats what its calls cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Its cause does not stand before it in the chain.
    pub orphan: bool,
    /// The events that name it as their cause, in the order of the log.
    pub children: Vec<EventId>,
}

impl Chain {
    /// The events that hang under no other.
    pub fn roots(&self) -> Vec<&Link> {
        self.index.roots.iter().map(|root| &self.links[*root]).collect()
    }

    /// The causation tree, with what its model calls cost.
    pub fn tree(&self, prices: &Prices) -> Tree {
        let (cost, unpriced) = self.costs(prices);
        Tree {
            correlation_id: self.correlation_id.clone(),
            position: self.position,
            started_at: self.index.times.map(|(first, _)| first),
            ended_at: self.index.times.map(|(_, last)| last),
            duration_us: self.duration_us(),
            events: self.links.len(),
            unfinished: self.index.unfinished,
            orphans: self.index.orphans,
            usage: self.usage(),
            cost,
            unpriced,
            roots: self.index.roots.iter().map(|root| self.links[*root].id).collect(),
            nodes: self.index.depth_first().into_iter().map(|at| self.node(at, prices)).collect(),
        }
    }

    pub(super) fn node(&self, at: usize, prices: &Prices) -> Node {
        let (link, hung) = (&self.links[at], &self.index.hung[at]);
        Node {
            link: link.clone(),
            depth: hung.depth,
            gap_us: hung.parent.map(|parent| link.timestamp.micros_since(self.links[parent].timestamp)),
            duration_us: self.node_duration_us(at),
            unfinished: self.is_unfinished(at),
            cost: self.node_cost(at, prices),
            orphan: hung.parent.is_none() && link.causation_id.is_some(),
            children: hung.children.iter().map(|child| self.links[*child].id).collect(),
        }
    }

    pub(super) fn node_duration_us(&self, at: usize) -> Option<i64> {
        let end = self.index.hung[at].end?;
        Some(self.links[end].timestamp.micros_since(self.links[at].timestamp))
    }

    pub(super) fn is_unfinished(&self, at: usize) -> bool {
        let hung = &self.index.hung[at];
        hung.opens && hung.end.is_none()
    }

    pub(super) fn node_cost(&self, at: usize, prices: &Prices) -> Option<f64> {
        let link = &self.links[at];
        let usage = link.usage?;
        prices.cost(model(link.model.as_deref(), self.index.asked(link), prices)?, usage)
    }

    pub(super) fn duration_us(&self) -> i64 {
        self.index.times.map_or(0, |(first, last)| last.micros_since(first))
    }

    /// What all model calls took.
    pub(super) fn usage(&self) -> Usage {
        self.index.spent.values().fold(Usage::default(), |total, spent| plus(total, spent.usage()))
    }

    /// What they cost together, and the models without a price.
    pub(super) fn costs(&self, prices: &Prices) -> (Option<f64>, Vec<String>) {
        if prices.is_empty() {
            return (None, Vec::new());
        }
        let (mut total, mut unpriced) = (None, BTreeSet::new());
        for ((named, asked), spent) in &self.index.spent {
            let model = model(named.as_deref(), asked.as_deref(), prices).unwrap_or("unknown");
            match prices.cost(model, spent.usage()) {
                Some(cost) => total = Some(rounded(total.unwrap_or(0.0) + cost)),
                None => _ = unpriced.insert(model.to_owned()),
            }
        }
        (total, unpriced.into_iter().collect())
    }
}

/// The model whose price holds: the one that an event names, or else the one that its turn asks.
fn model<'a>(named: Option<&'a str>, asked: Option<&'a str>, prices: &Prices) -> Option<&'a str> {
    named.filter(|model| prices.knows(model)).or(asked).or(named)
}
