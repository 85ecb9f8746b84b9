//! The tree that a chain's events make, and what they add up to.

use std::collections::{BTreeSet, HashMap};

use causeway_event::payload::Usage;
use causeway_event::{AggregateId, CorrelationId, EventId, Position};
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

/// What a claim or a tool call and its end have in common.
type Span<'a> = (&'a AggregateId, &'a str, Option<(u32, &'a str)>);

impl Chain {
    /// The events that hang under no other.
    pub fn roots(&self) -> Vec<&Link> {
        let parents = self.parents();
        self.links.iter().zip(parents).filter(|(_, parent)| parent.is_none()).map(|(link, _)| link).collect()
    }

    /// The causation tree, with what its model calls cost.
    pub fn tree(&self, prices: &Prices) -> Tree {
        let parents = self.parents();
        let mut children = vec![Vec::new(); self.links.len()];
        let mut roots = Vec::new();
        for (at, parent) in parents.iter().enumerate() {
            match parent {
                Some(parent) => children[*parent].push(at),
                None => roots.push(at),
            }
        }
        let ends = self.ends();
        let models = self.models();
        let mut nodes = Vec::with_capacity(self.links.len());
        // What is still to be visited, the next one last.
        let mut ahead: Vec<_> = roots.iter().rev().map(|root| (*root, 0)).collect();
        while let Some((at, depth)) = ahead.pop() {
            let link = &self.links[at];
            let end = span(link).filter(|_| opens(link)).map(|span| ends.get(&span).and_then(|ends| first_after(ends, link)));
            nodes.push(Node {
                link: link.clone(),
                depth,
                gap_us: parents[at].map(|parent| link.timestamp.micros_since(self.links[parent].timestamp)),
                duration_us: end.flatten().map(|end| end.micros_since(link.timestamp)),
                unfinished: end == Some(None),
                cost: link.usage.and_then(|usage| prices.cost(model(link, &models, prices)?, usage)),
                orphan: parents[at].is_none() && link.causation_id.is_some(),
                children: children[at].iter().map(|child| self.links[*child].id).collect(),
            });
            ahead.extend(children[at].iter().rev().map(|child| (*child, depth + 1)));
        }
        let counted = self.counted();
        let (cost, unpriced) = costs(&counted, &models, prices);
        let times = || self.links.iter().map(|link| link.timestamp);
        let (started_at, ended_at) = (times().min(), times().max());
        Tree {
            correlation_id: self.correlation_id.clone(),
            position: self.position,
            started_at,
            ended_at,
            duration_us: started_at.zip(ended_at).map_or(0, |(start, end)| end.micros_since(start)),
            events: nodes.len(),
            unfinished: nodes.iter().filter(|node| node.unfinished).count(),
            orphans: nodes.iter().filter(|node| node.orphan).count(),
            usage: counted.iter().fold(Usage::default(), |total, (_, usage)| plus(total, *usage)),
            cost,
            unpriced,
            roots: roots.into_iter().map(|root| self.links[root].id).collect(),
            nodes,
        }
    }

    /// Of each event the place of its cause, which is always a smaller one.
    fn parents(&self) -> Vec<Option<usize>> {
        let mut seen = HashMap::new();
        let links = self.links.iter().enumerate();
        links
            .map(|(at, link)| {
                let parent = link.causation_id.and_then(|cause| seen.get(&cause).copied());
                seen.entry(link.id).or_insert(at);
                parent
            })
            .collect()
    }

    /// Where and when each turn and each tool call ended. A turn that was given up may be claimed and end once more.
    fn ends(&self) -> HashMap<Span<'_>, Vec<(Position, Time)>> {
        let mut ends = HashMap::<_, Vec<_>>::new();
        for link in self.links.iter().filter(|link| closes(link)) {
            if let Some(span) = span(link) {
                ends.entry(span).or_default().push((link.position, link.timestamp));
            }
        }
        ends
    }

    /// The usage that counts, each with the event that tells it: what a turn's end says, or else what its model calls told so
    /// far. An answer repeats what its call may have told with its thinking, so it counts only where it stands alone.
    fn counted(&self) -> Vec<(&Link, Usage)> {
        let mut turns = HashMap::<_, (Vec<(&Link, Usage)>, Option<(&Link, Usage)>)>::new();
        let mut counted = Vec::new();
        for link in &self.links {
            let Some(usage) = link.usage else { continue };
            let Some(turn) = &link.turn else {
                counted.push((link, usage));
                continue;
            };
            let (told, end) = turns.entry((&link.aggregate_id, turn)).or_default();
            match link.event_type.as_str() {
                "AIProcessingCompleted" | "AIProcessingFailed" => *end = Some((link, usage)),
                "MessageGenerated" => {}
                _ => told.push((link, usage)),
            }
        }
        for (told, end) in turns.into_values() {
            match end.filter(|(_, usage)| *usage != Usage::default()) {
                Some(end) => counted.push(end),
                None => counted.extend(told),
            }
        }
        // The same order every time: sums of floating point depend on it.
        counted.sort_by_key(|(link, _)| link.position);
        counted
    }

    /// The model that each turn's last claim asks.
    fn models(&self) -> Models<'_> {
        let claims = self.links.iter().filter(|link| link.event_type.as_str() == "AIProcessingStarted");
        claims.filter_map(|link| Some(((&link.aggregate_id, link.turn.as_deref()?), link.model.as_deref()?))).collect()
    }
}

type Models<'a> = HashMap<(&'a AggregateId, &'a str), &'a str>;

/// The model whose price holds for a link: the one that it names, or else the one that its turn asks.
fn model<'a>(link: &'a Link, models: &Models<'a>, prices: &Prices) -> Option<&'a str> {
    let asked = link.turn.as_deref().and_then(|turn| models.get(&(&link.aggregate_id, turn)).copied());
    let named = link.model.as_deref();
    named.filter(|model| prices.knows(model)).or(asked).or(named)
}

/// What the usage cost together, and the models without a price.
fn costs(counted: &[(&Link, Usage)], models: &Models<'_>, prices: &Prices) -> (Option<f64>, Vec<String>) {
    if prices.is_empty() {
        return (None, Vec::new());
    }
    let (mut total, mut unpriced) = (None, BTreeSet::new());
    for (link, usage) in counted {
        let model = model(link, models, prices).unwrap_or("unknown");
        match prices.cost(model, *usage) {
            Some(cost) => total = Some(rounded(total.unwrap_or(0.0) + cost)),
            None => _ = unpriced.insert(model.to_owned()),
        }
    }
    (total, unpriced.into_iter().collect())
}

fn first_after(ends: &[(Position, Time)], link: &Link) -> Option<Time> {
    let at = ends.partition_point(|(position, _)| *position <= link.position);
    ends.get(at).map(|(_, time)| *time)
}

fn opens(link: &Link) -> bool {
    matches!(link.event_type.as_str(), "AIProcessingStarted" | "ToolCalled")
}

fn closes(link: &Link) -> bool {
    matches!(
        link.event_type.as_str(),
        "AIProcessingCompleted" | "AIProcessingFailed" | "ToolCompleted" | "ToolFailed" | "ToolOutcomeUnknown"
    )
}

fn span(link: &Link) -> Option<Span<'_>> {
    let call = link.step.zip(link.call_id.as_deref());
    link.turn.as_deref().map(|turn| (&link.aggregate_id, turn, call))
}
