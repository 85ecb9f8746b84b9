//! What of a chain's tree is known from event to event, so that one more costs the same in a long chain.
//!
//! It says nothing that the links do not say: it is not part of the JSON, is built again when a chain was read back, and all
//! indexes of equal links are equal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use causeway_event::payload::Usage;
use causeway_event::{AggregateId, EventId};

use super::turn::Turn;
use super::{Chain, ENDS, Link};
use crate::Time;
use crate::usage::plus;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Where an event stands among the links; of several with one id the first.
    places: HashMap<EventId, usize>,
    /// Of each link, how it hangs in the tree.
    pub(super) hung: Vec<Hung>,
    /// The links under no other.
    pub(super) roots: Vec<usize>,
    /// The links depth first, if somebody asked for that: a fold that nobody watches does not pay for it.
    order: Option<Vec<usize>>,
    /// The claims and tool calls without end, by what they have in common with it.
    open: HashMap<Span, Vec<usize>>,
    turns: HashMap<(AggregateId, String), Turn>,
    /// The links that tell a usage and belong to no turn.
    loose: Vec<usize>,
    pub(super) unfinished: usize,
    pub(super) orphans: usize,
    /// When the first and the last event were stored.
    pub(super) times: Option<(Time, Time)>,
}

/// How a link hangs in the tree.
#[derive(Clone, Debug)]
pub(super) struct Hung {
    /// Its cause, which always stands before it.
    pub(super) parent: Option<usize>,
    pub(super) depth: usize,
    pub(super) children: Vec<usize>,
    /// Whether it is a claim or a tool call.
    pub(super) opens: bool,
    /// Where that ended.
    pub(super) end: Option<usize>,
    /// The model that its turn asks then.
    asked: Option<Arc<str>>,
}

/// What a claim or a tool call and its end have in common.
pub(super) type Span = (AggregateId, String, Option<(u32, String)>);

/// The model that an event names, and the one that its claim asks.
pub(super) type Models<'a> = (Option<&'a str>, Option<&'a str>);

impl Index {
    pub(super) fn of(links: &[Link]) -> Self {
        let mut index = Self::default();
        (1..=links.len()).for_each(|known| index.add(&links[..known]));
        index
    }

    /// Takes the last link in.
    pub(super) fn add(&mut self, links: &[Link]) {
        let Some((link, before)) = links.split_last() else { return };
        let at = before.len();
        let parent = self.parent(link);
        if let Some(place) = self.order.as_deref().map(|order| self.place_in(order, parent)) {
            self.order.get_or_insert_default().insert(place, at);
        }
        match parent {
            Some(parent) => self.hung[parent].children.push(at),
            None => self.roots.push(at),
        }
        self.orphans += usize::from(parent.is_none() && link.causation_id.is_some());
        let depth = parent.map_or(0, |parent| self.hung[parent].depth + 1);
        let span = span(link);
        let opens = opens(link) && span.is_some();
        let asked = self.spend(link, at);
        self.hung.push(Hung { parent, depth, children: Vec::new(), opens, end: None, asked });
        self.places.entry(link.id).or_insert(at);
        let time = link.timestamp;
        self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        match span {
            Some(span) if opens => {
                self.unfinished += 1;
                self.open.entry(span).or_default().push(at);
            }
            Some(span) if closes(link) => {
                for opened in self.open.remove(&span).unwrap_or_default() {
                    self.unfinished -= 1;
                    self.hung[opened].end = Some(at);
                }
            }
            _ => {}
        }
    }

    /// Where an event stands among the links.
    pub(super) fn place(&self, id: EventId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// Whether some link is of the turn that another is of.
    pub(super) fn is_of_turns(&self, link: &Link) -> bool {
        turn(link).is_some_and(|key| self.turns.contains_key(&key))
    }

    /// Where the cause of a link that comes next stands.
    pub(super) fn parent(&self, link: &Link) -> Option<usize> {
        link.causation_id.and_then(|cause| self.place(cause))
    }

    /// The claims and tool calls that a link which comes next ends.
    pub(super) fn ended_by(&self, link: &Link) -> &[usize] {
        span(link).filter(|_| closes(link)).and_then(|span| self.open.get(&span)).map_or(&[], Vec::as_slice)
    }

    /// The model that the turn of a link which comes next asks.
    pub(super) fn asked(&self, link: &Link) -> Option<&str> {
        self.turns.get(&turn(link)?)?.asked.as_deref()
    }

    /// The models whose price may hold for a link.
    pub(super) fn models<'a>(&'a self, links: &'a [Link], at: usize) -> Models<'a> {
        (links[at].model.as_deref(), self.hung[at].asked.as_deref())
    }

    /// What model calls took, by their models. Of a part of a chain what stands in it, as far as `turns` knows its turns.
    pub(super) fn spent<'a>(&'a self, links: &'a [Link], turns: &'a [Chain]) -> BTreeMap<Models<'a>, Usage> {
        let mut spent = BTreeMap::new();
        let mut add = |models, usage| {
            let sum: &mut Usage = spent.entry(models).or_default();
            *sum = plus(*sum, usage);
        };
        for (key, turn) in &self.turns {
            let known: Vec<_> = turns.iter().filter_map(|chain| Some((chain, chain.index.turns.get(key)?))).collect();
            if known.is_empty() {
                turn.spent().for_each(|told| add(self.models(links, told.at), told.usage));
            }
            for (Chain { links, index, .. }, turn) in known {
                let told = turn.spent_within(|at| self.places.contains_key(&links[at].id));
                told.iter().for_each(|told| add(index.models(links, told.at), told.usage));
            }
        }
        self.loose.iter().for_each(|at| add(self.models(links, *at), usage(links, *at)));
        spent
    }

    /// Whose tokens those are that a link tells of, and how many: of a turn's end those of its calls.
    pub(super) fn told_by(&self, links: &[Link], at: usize) -> Vec<(usize, Usage)> {
        let turn = turn(&links[at]).and_then(|key| self.turns.get(&key));
        let told: Vec<_> = turn.into_iter().flat_map(|turn| turn.told_by(at)).map(|told| (told.at, told.usage)).collect();
        if told.is_empty() { vec![(at, usage(links, at))] } else { told }
    }

    /// All links depth first, siblings in the order of the log.
    pub(super) fn depth_first(&self) -> Vec<usize> {
        if let Some(order) = &self.order {
            return order.clone();
        }
        let mut order = Vec::with_capacity(self.hung.len());
        // What is still to be visited, the next one last.
        let mut ahead: Vec<_> = self.roots.iter().rev().copied().collect();
        while let Some(at) = ahead.pop() {
            order.push(at);
            ahead.extend(self.hung[at].children.iter().rev());
        }
        order
    }

    /// Keeps that order from here on.
    pub(super) fn keep_order(&mut self) {
        if self.order.is_none() {
            self.order = Some(self.depth_first());
        }
    }

    /// Where a link that comes next will stand in the order, under its parent; and where these links, in rising order, stand.
    pub(super) fn places(&self, parent: Option<usize>, wanted: &[usize]) -> (usize, HashMap<usize, usize>) {
        let order = self.order.as_deref().unwrap_or_default();
        let places = order.iter().enumerate().rev().filter(|(_, at)| wanted.binary_search(at).is_ok());
        let found = places.map(|(place, at)| (*at, place)).take(wanted.len()).collect();
        (self.place_in(order, parent), found)
    }

    /// Behind everything that hangs under the parent.
    fn place_in(&self, order: &[usize], parent: Option<usize>) -> usize {
        let above = parent.and_then(|parent| order.iter().rposition(|at| *at == parent));
        let Some(above) = above else { return order.len() };
        let depth = self.hung[order[above]].depth;
        above + 1 + order[above + 1..].iter().take_while(|at| self.hung[**at].depth > depth).count()
    }

    /// Takes note of what a link tells of usage. The model that its turn asks then.
    fn spend(&mut self, link: &Link, at: usize) -> Option<Arc<str>> {
        let Some(key) = turn(link) else {
            self.loose.extend(link.usage.map(|_| at));
            return None;
        };
        let turn = self.turns.entry(key).or_default();
        turn.add(link, at);
        turn.asked.clone()
    }
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn usage(links: &[Link], at: usize) -> Usage {
    links[at].usage.unwrap_or_default()
}

fn opens(link: &Link) -> bool {
    matches!(link.event_type.as_str(), "AIProcessingStarted" | "ToolCalled")
}

fn closes(link: &Link) -> bool {
    ENDS.contains(&link.event_type.as_str())
}

fn turn(link: &Link) -> Option<(AggregateId, String)> {
    link.turn.clone().map(|turn| (link.aggregate_id.clone(), turn))
}

pub(super) fn span(link: &Link) -> Option<Span> {
    let (aggregate_id, turn) = turn(link)?;
    Some((aggregate_id, turn, link.step.zip(link.call_id.clone())))
}
