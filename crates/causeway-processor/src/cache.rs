//! Folded states kept between hints, so that an active aggregate costs only its new events.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use causeway_event::AggregateId;
use causeway_log::Folded;

/// At most `entries_max` states; the one kept longest ago goes first.
pub(crate) struct Cache<S> {
    entries_max: usize,
    inner: Mutex<Inner<S>>,
}

struct Inner<S> {
    states: HashMap<AggregateId, Folded<S>>,
    order: VecDeque<AggregateId>,
}

impl<S: Default> Cache<S> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries_max, inner: Mutex::new(Inner { states: HashMap::new(), order: VecDeque::new() }) }
    }

    /// Takes the state out: one run at a time works on an aggregate.
    pub(crate) fn take(&self, aggregate: &AggregateId) -> Folded<S> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.states.remove(aggregate).unwrap_or_default()
    }

    pub(crate) fn keep(&self, aggregate: AggregateId, folded: Folded<S>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.order.push_back(aggregate.clone());
        inner.states.insert(aggregate, folded);
        while inner.states.len() > self.entries_max || inner.order.len() > 4 * self.entries_max.max(1) {
            let Some(oldest) = inner.order.pop_front() else { break };
            // It may have been kept again since: then its newer place in the order counts.
            if !inner.order.contains(&oldest) {
                inner.states.remove(&oldest);
            }
        }
    }
}
