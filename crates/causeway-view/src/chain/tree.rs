//! The tree that a chain's events make, and what they add up to.

use std::collections::HashMap;

use causeway_event::payload::Usage;
use causeway_event::{AggregateId, CorrelationId, EventId, Position};
use serde::{Deserialize, Serialize};

use super::{Chain, Link};
use crate::Time;
use crate::usage::plus;

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

    /// The causation tree.
    pub fn tree(&self) -> Tree {
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
                orphan: parents[at].is_none() && link.causation_id.is_some(),
                children: children[at].iter().map(|child| self.links[*child].id).collect(),
            });
            ahead.extend(children[at].iter().rev().map(|child| (*child, depth + 1)));
        }
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
            usage: self.usage(),
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

    /// What a turn's end says, or else what its model calls told so far. An answer repeats what its call may have told with
    /// its thinking, so it counts only where it stands alone.
    fn usage(&self) -> Usage {
        let mut turns = HashMap::<_, (Usage, Usage)>::new();
        let mut total = Usage::default();
        for link in &self.links {
            let Some(usage) = link.usage else { continue };
            match (&link.turn, link.event_type.as_str()) {
                (None, _) => total = plus(total, usage),
                (Some(turn), "AIProcessingCompleted" | "AIProcessingFailed") => {
                    turns.entry((&link.aggregate_id, turn)).or_default().1 = usage;
                }
                (Some(_), "MessageGenerated") => {}
                (Some(turn), _) => {
                    let (told, _) = turns.entry((&link.aggregate_id, turn)).or_default();
                    *told = plus(*told, usage);
                }
            }
        }
        turns.into_values().fold(total, |total, (told, end)| plus(total, if end == Usage::default() { told } else { end }))
    }
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
