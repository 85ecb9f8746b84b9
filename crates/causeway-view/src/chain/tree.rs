//! The tree that a chain's events make, and what they add up to.

use std::collections::{BTreeSet, HashMap};

use causeway_event::payload::Usage;
use causeway_event::{CorrelationId, Event, EventId, Position};
use serde::{Deserialize, Serialize};

use super::index::{Models, Span, span};
use super::{Chain, Link, link};
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
    /// Whether there are more events than one tree takes; nothing in it takes account of those.
    #[serde(default)]
    pub more: bool,
    /// How many of them wait for an end that is not in the chain; nor on the log, where this is only a part of the chain.
    pub unfinished: usize,
    /// How many of them name a cause that does not stand before them in the chain; nor on the log, where this is only a part of it.
    pub orphans: usize,
    /// What all model calls took; of a part of a chain those in it.
    pub usage: Usage,
    /// What that cost, as far as its models have prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The models whose calls are not in the cost: they have no price.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
    /// Whether calls are not in the cost because no event says which model they asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub model_unknown: bool,
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
    /// What its tokens cost, where its model has a price. A turn's end repeats what its calls cost, each by its own model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Its cause does not stand before it in the chain.
    pub orphan: bool,
    /// The events that name it as their cause, in the order of the log.
    pub children: Vec<EventId>,
}

/// The claims and tool calls of a tree that wait for their ends.
#[derive(Debug)]
pub struct Waiting(HashMap<Span, Vec<usize>>);

impl Waiting {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Tree {
    /// What waits for an end that the tree does not have.
    pub fn waiting(&self) -> Waiting {
        let mut waiting: HashMap<_, Vec<_>> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.unfinished) {
            waiting.entry(span(&node.link)).or_default().push(at);
        }
        Waiting(waiting.into_iter().filter_map(|(span, nodes)| Some((span?, nodes))).collect())
    }

    /// Takes account of an end from elsewhere on the log, one of [`super::ENDS`]. They come in the order of the log.
    pub fn end(&mut self, waiting: &mut Waiting, event: &Event) {
        let Some(span) = span(&link(event)) else { return };
        let Some(nodes) = waiting.0.get_mut(&span) else { return };
        nodes.retain(|at| {
            let node = &mut self.nodes[*at];
            let began_later = event.position < node.link.position;
            if !began_later {
                node.unfinished = false;
                node.duration_us = Some(Time::from(event.timestamp).micros_since(node.link.timestamp));
                self.unfinished -= 1;
            }
            began_later
        });
        if nodes.is_empty() {
            waiting.0.remove(&span);
        }
    }
}

impl Chain {
    /// The events that hang under no other.
    pub fn roots(&self) -> Vec<&Link> {
        self.index.roots.iter().map(|root| &self.links[*root]).collect()
    }

    /// The causation tree, with what its model calls cost.
    pub fn tree(&self, prices: &Prices) -> Tree {
        self.tree_of_part(&[], prices)
    }

    /// Whether the event is of a turn that others here are of.
    pub fn is_of_its_turns(&self, event: &Event) -> bool {
        self.index.is_of_turns(&link(event))
    }

    /// The tree where this is a part of a chain. Which models its calls asked, and what an end says of calls that are not in it,
    /// only `turns` know: each has all of some turns of the part. Of a turn that none has what the part itself says counts.
    pub fn tree_of_part(&self, turns: &[Self], prices: &Prices) -> Tree {
        let Sums { usage, cost, unpriced, model_unknown } = self.sums(turns, prices);
        let node = |at| {
            let node = self.node(at, prices);
            let Some((turns, there)) = turns.iter().find_map(|chain| Some((chain, chain.index.place(node.link.id)?))) else {
                return node;
            };
            let link = Link { model: turns.links[there].model.clone(), ..node.link };
            Node { link, cost: turns.node_cost(there, prices), ..node }
        };
        Tree {
            correlation_id: self.correlation_id.clone(),
            position: self.position,
            started_at: self.index.times.map(|(first, _)| first),
            ended_at: self.index.times.map(|(_, last)| last),
            duration_us: self.duration_us(),
            events: self.links.len(),
            more: self.more,
            unfinished: self.index.unfinished,
            orphans: self.index.orphans,
            usage,
            cost,
            unpriced: unpriced.into_iter().collect(),
            model_unknown,
            roots: self.index.roots.iter().map(|root| self.links[*root].id).collect(),
            nodes: self.index.depth_first().into_iter().map(node).collect(),
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
        self.links[at].usage?;
        let cost = |(at, usage)| prices.cost(model(self.index.models(&self.links, at), prices)?, usage);
        let costs: Option<Vec<_>> = self.index.told_by(&self.links, at).into_iter().map(cost).collect();
        costs.map(|costs| rounded(costs.iter().sum()))
    }

    pub(super) fn duration_us(&self) -> i64 {
        self.index.times.map_or(0, |(first, last)| last.micros_since(first))
    }

    /// What model calls took and cost, of a part of a chain as [`Self::tree_of_part`] says.
    pub(super) fn sums(&self, turns: &[Self], prices: &Prices) -> Sums {
        let mut sums = Sums::default();
        for (models, usage) in self.index.spent(&self.links, turns) {
            sums.usage = plus(sums.usage, usage);
            if prices.is_empty() {
                continue;
            }
            let Some(model) = model(models, prices) else {
                sums.model_unknown |= usage != Usage::default();
                continue;
            };
            match prices.cost(model, usage) {
                Some(cost) => sums.cost = Some(rounded(sums.cost.unwrap_or(0.0) + cost)),
                None => _ = sums.unpriced.insert(model.to_owned()),
            }
        }
        sums
    }
}

/// What model calls took and cost, and whose cost is not known.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) usage: Usage,
    pub(super) cost: Option<f64>,
    pub(super) unpriced: BTreeSet<String>,
    pub(super) model_unknown: bool,
}

/// The model whose price holds: the one that an event names, or else the one that its claim asks.
fn model<'a>((named, asked): Models<'a>, prices: &Prices) -> Option<&'a str> {
    named.filter(|model| prices.knows(model)).or(asked).or(named)
}
