//! Folded states kept between hints, so that an active aggregate costs only its new events.

use std::sync::{Mutex, PoisonError};

use causeway_event::AggregateId;
use causeway_log::Folded;
use hashlink::LruCache;

/// At most so many states; the one kept longest ago goes first.
pub(crate) struct Cache<S>(Mutex<LruCache<AggregateId, Folded<S>>>);

impl<S: Default> Cache<S> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self(Mutex::new(LruCache::new(entries_max)))
    }

    /// Takes the state out: one run at a time works on an aggregate.
    pub(crate) fn take(&self, aggregate: &AggregateId) -> Folded<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(aggregate).unwrap_or_default()
    }

    pub(crate) fn keep(&self, aggregate: AggregateId, folded: Folded<S>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(aggregate, folded);
    }
}
