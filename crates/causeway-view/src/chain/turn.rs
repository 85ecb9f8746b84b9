//! What a turn's model calls took, as its events tell it. `conversation/fold.rs` counts alike.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use causeway_event::payload::Usage;

use super::Link;
use crate::usage::{minus, plus};

/// One turn, up to the link that was added last.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    /// The model that its last claim asks.
    pub(super) asked: Option<Arc<str>>,
    attempts: u32,
    ended: Option<End>,
    /// What its links told, in their order.
    told: Vec<Told>,
    /// Where those among them begin that count.
    from: usize,
    /// What its links told that others, each beside it, had told.
    again: Vec<(Told, usize)>,
    /// The model calls known of.
    steps: u32,
    /// The tool calls known of, each with the link that told it, if one did.
    calls: HashMap<(u32, String), Option<usize>>,
    /// The step of the tool call that came last.
    called: Option<u32>,
    /// The step that was thought last, and the link that told its usage.
    thought: Option<(u32, Option<usize>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Completed,
    Failed,
}

/// What a link tells that no other told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) at: usize,
    /// Of a turn's end what its calls did not tell; all, if it does not know of all of them.
    pub(super) usage: Usage,
    /// Of a turn's end where those begin that it repeats; it is the last of them.
    from: Option<usize>,
}

impl Told {
    /// An end that repeats its calls and no more says nothing itself.
    fn counts(&self) -> bool {
        self.from.is_none() || self.usage != Usage::default()
    }
}

impl Turn {
    pub(super) fn add(&mut self, link: &Link, at: usize) {
        match link.event_type.as_str() {
            "AIProcessingStarted" => self.claim(link),
            "ThinkingGenerated" => self.think(link, at),
            "ToolCalled" => self.call(link, at),
            "ToolCompleted" | "ToolFailed" | "ToolOutcomeUnknown" => _ = self.tool_call(link),
            "MessageGenerated" => self.say(link, at),
            "AIProcessingCompleted" => self.end(link, at, End::Completed),
            "AIProcessingFailed" => self.end(link, at, End::Failed),
            _ => {}
        }
    }

    /// What counts of it.
    pub(super) fn spent(&self) -> impl Iterator<Item = &Told> {
        self.told[self.from..].iter().filter(|told| told.counts())
    }

    /// What counts of it where only a part of its links is shown: their calls, and what an end says that no call told, wherever
    /// the calls are. What was told twice is told by either.
    pub(super) fn spent_within(&self, shown: impl Fn(usize) -> bool) -> Vec<Told> {
        let ends_alone = |place, told: &Told| 0 < place && told.from == Some(place);
        let told = self.told.iter().enumerate().filter(|(place, told)| told.counts() && !ends_alone(*place, told));
        let again = self.again.iter().filter(|(_, before)| !shown(*before)).map(|(told, _)| told);
        told.map(|(_, told)| told).chain(again).filter(|told| shown(told.at)).copied().collect()
    }

    /// Whose tokens those are that a link tells of: of the turn's end those of its calls, and what they did not tell.
    pub(super) fn told_by(&self, at: usize) -> impl Iterator<Item = &Told> {
        let found = self.told.binary_search_by_key(&at, |told| told.at).ok();
        let range = found.map_or(0..0, |last| self.told[last].from.unwrap_or(last)..last + 1);
        self.told[range].iter().filter(|told| told.counts())
    }

    fn claim(&mut self, link: &Link) {
        let attempt = link.attempt.unwrap_or_default();
        // One that was given up goes on when somebody claims it once more; one that is done stays done.
        if self.ended == Some(End::Failed) && attempt > self.attempts {
            self.ended = None;
        }
        self.attempts = self.attempts.max(attempt);
        self.asked = link.model.as_deref().map(Arc::from);
    }

    fn think(&mut self, link: &Link, at: usize) {
        let step = self.step(link);
        let before = self.thought.filter(|(thought, _)| *thought == step).and_then(|(_, told)| told);
        self.thought = Some((step, before.or(link.usage.map(|_| at))));
        self.tell(at, link.usage, None);
    }

    fn call(&mut self, link: &Link, at: usize) {
        // The same call told twice is one call.
        let first = *self.tool_call(link).get_or_insert(at);
        self.tell(at, link.usage, Some(first).filter(|first| *first != at));
    }

    fn tool_call(&mut self, link: &Link) -> &mut Option<usize> {
        let step = self.step(link);
        match self.calls.entry((step, link.call_id.clone().unwrap_or_default())) {
            Entry::Occupied(call) => call.into_mut(),
            Entry::Vacant(call) => {
                self.called = Some(step);
                call.insert(None)
            }
        }
    }

    fn say(&mut self, link: &Link, at: usize) {
        // The last model call thought, told its usage with that, and asked for no tool: the answer is of that call.
        let thought = self.thought.filter(|(step, _)| *step == self.steps && self.called != Some(*step));
        let usage = link.usage.filter(|usage| *usage != Usage::default());
        self.tell(at, usage, thought.and_then(|(_, told)| told));
    }

    /// Takes the word of the first end for what all calls took, unless it says nothing.
    fn end(&mut self, link: &Link, at: usize, end: End) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(end);
        self.step(link);
        let Some(all) = link.usage.filter(|usage| *usage != Usage::default()) else { return };
        let told = self.told[self.from..].iter().map(|told| told.usage).fold(Usage::default(), plus);
        let mut usage = minus(all, told);
        // It does not know of all of them.
        if plus(told, usage) != all {
            (self.from, usage) = (self.told.len(), all);
        }
        self.told.push(Told { at, usage, from: Some(self.from) });
    }

    fn step(&mut self, link: &Link) -> u32 {
        let step = link.step.unwrap_or_default();
        self.steps = self.steps.max(step);
        step
    }

    fn tell(&mut self, at: usize, usage: Option<Usage>, before: Option<usize>) {
        let told = usage.map(|usage| Told { at, usage, from: None });
        match before {
            Some(before) => self.again.extend(told.map(|told| (told, before))),
            None => self.told.extend(told),
        }
    }
}
