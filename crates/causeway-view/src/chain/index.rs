//! What of a chain's tree is known from event to event, so that one more costs the same in a long chain.
//!
//! It says nothing that the links do not say: it is not part of the JSON, is built again when a chain was read back, and all
//! indexes of equal links are equal.

use std::collections::{BTreeMap, HashMap};

use causeway_event::payload::Usage;
use causeway_event::{AggregateId, EventId};

use super::Link;
use crate::Time;

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
    /// The usage that counts, by the model that tells it and the one that its turn asks.
    pub(super) spent: BTreeMap<Models, Spent>,
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
}

/// What a claim or a tool call and its end have in common.
type Span = (AggregateId, String, Option<(u32, String)>);

/// The model that an event names, and the one that its turn's last claim asks.
pub(super) type Models = (Option<String>, Option<String>);

/// Tokens of some events: as many bits as sums need that are taken apart again.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    events: usize,
    input_tokens: u128,
    output_tokens: u128,
}

/// What a turn's model calls took. An answer repeats what its call may have told with its thinking, so it never counts.
#[derive(Clone, Debug, Default)]
struct Turn {
    /// The model that its last claim asks.
    asked: Option<String>,
    /// The links that tell a usage.
    told: Vec<usize>,
    /// Those of them that count while no end does.
    calls: Vec<usize>,
    /// Its last end, if that says anything.
    end: Option<usize>,
}

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
        self.hung.push(Hung { parent, depth, children: Vec::new(), opens, end: None });
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
        self.spend(links, at);
    }

    /// Where the cause of a link that comes next stands.
    pub(super) fn parent(&self, link: &Link) -> Option<usize> {
        link.causation_id.and_then(|cause| self.places.get(&cause).copied())
    }

    /// The claims and tool calls that a link which comes next ends.
    pub(super) fn ended_by(&self, link: &Link) -> &[usize] {
        span(link).filter(|_| closes(link)).and_then(|span| self.open.get(&span)).map_or(&[], Vec::as_slice)
    }

    /// The links whose price a link that comes next may change: those of a turn that asks another model from then on.
    pub(super) fn priced_by(&self, link: &Link) -> &[usize] {
        let turn = turn(link).and_then(|key| self.turns.get(&key));
        let other = turn.filter(|turn| claims(link) && link.model.is_some() && link.model != turn.asked);
        other.map_or(&[], |turn| &turn.told)
    }

    /// The model that a link's turn asks.
    pub(super) fn asked(&self, link: &Link) -> Option<&str> {
        self.turns.get(&turn(link)?)?.asked.as_deref()
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

    /// Counts what a link tells of usage.
    fn spend(&mut self, links: &[Link], at: usize) {
        let link = &links[at];
        let Some(key) = turn(link) else {
            count(&mut self.spent, link, None, link.usage);
            return;
        };
        let turn = self.turns.entry(key).or_default();
        let ends = matches!(link.event_type.as_str(), "AIProcessingCompleted" | "AIProcessingFailed") && link.usage.is_some();
        let asks = claims(link) && link.model.is_some() && link.model != turn.asked;
        if ends || asks {
            turn.counted().for_each(|at| uncount(&mut self.spent, &links[at], turn.asked.as_deref()));
            if ends {
                turn.end = Some(at).filter(|_| link.usage != Some(Usage::default()));
            } else {
                turn.asked.clone_from(&link.model);
            }
            if link.usage.is_some() {
                turn.told.push(at);
            }
            turn.counted().for_each(|at| count(&mut self.spent, &links[at], turn.asked.as_deref(), links[at].usage));
        } else if link.usage.is_some() {
            turn.told.push(at);
            if link.event_type.as_str() != "MessageGenerated" {
                turn.calls.push(at);
                let usage = link.usage.filter(|_| turn.end.is_none());
                count(&mut self.spent, link, turn.asked.as_deref(), usage);
            }
        }
    }
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Turn {
    /// The links whose usage counts: what its end says, or else what its model calls told so far.
    fn counted(&self) -> impl Iterator<Item = usize> {
        let calls = self.calls.iter().filter(|_| self.end.is_none());
        self.end.iter().chain(calls).copied()
    }
}

impl Spent {
    /// The sum; the largest number there is, if it is more than that.
    pub(super) fn usage(&self) -> Usage {
        let tokens = |sum| u64::try_from(sum).unwrap_or(u64::MAX);
        Usage { input_tokens: tokens(self.input_tokens), output_tokens: tokens(self.output_tokens) }
    }
}

fn count(spent: &mut BTreeMap<Models, Spent>, link: &Link, asked: Option<&str>, usage: Option<Usage>) {
    let Some(usage) = usage else { return };
    let sum = spent.entry((link.model.clone(), asked.map(str::to_owned))).or_default();
    sum.events += 1;
    sum.input_tokens += u128::from(usage.input_tokens);
    sum.output_tokens += u128::from(usage.output_tokens);
}

fn uncount(spent: &mut BTreeMap<Models, Spent>, link: &Link, asked: Option<&str>) {
    let models = (link.model.clone(), asked.map(str::to_owned));
    let Some((sum, usage)) = spent.get_mut(&models).zip(link.usage) else { return };
    sum.events -= 1;
    sum.input_tokens -= u128::from(usage.input_tokens);
    sum.output_tokens -= u128::from(usage.output_tokens);
    if sum.events == 0 {
        spent.remove(&models);
    }
}

fn claims(link: &Link) -> bool {
    link.event_type.as_str() == "AIProcessingStarted"
}

fn opens(link: &Link) -> bool {
    claims(link) || link.event_type.as_str() == "ToolCalled"
}

fn closes(link: &Link) -> bool {
    matches!(
        link.event_type.as_str(),
        "AIProcessingCompleted" | "AIProcessingFailed" | "ToolCompleted" | "ToolFailed" | "ToolOutcomeUnknown"
    )
}

fn turn(link: &Link) -> Option<(AggregateId, String)> {
    link.turn.clone().map(|turn| (link.aggregate_id.clone(), turn))
}

fn span(link: &Link) -> Option<Span> {
    let (aggregate_id, turn) = turn(link)?;
    Some((aggregate_id, turn, link.step.zip(link.call_id.clone())))
}
