//! What is at work, by aggregate. Synchronous; no lock is held across an await.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_event::{AggregateId, Event};
use causeway_log::{Delivery, Seen};
use tokio::task::{Id, JoinError};

use crate::tenure::Tenure;

/// All aggregates at work.
pub(super) struct Desks {
    ack_wait: Duration,
    by_aggregate: Mutex<HashMap<AggregateId, Arc<Desk>>>,
    by_task: Mutex<HashMap<Id, AggregateId>>,
}

/// One aggregate at work.
pub(super) struct Desk {
    pub(super) tenure: Tenure,
    hints: Mutex<VecDeque<Hint>>,
    /// Every delivery that is open here, for the marks.
    open: Mutex<Vec<Arc<Delivery>>>,
}

pub(super) enum Hint {
    /// To be acknowledged when nothing is due.
    Delivered(Arc<Delivery>),
    /// Acknowledged already.
    Later(Event),
}

/// What became of a delivery.
pub(super) enum Joined {
    /// Nobody was at work on its aggregate: a worker is to be started.
    Start(Arc<Desk>),
    /// The worker will look at it, and holds it until then.
    Held,
    /// The worker will look again; the delivery itself can be acknowledged.
    Noted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desks {
    pub(super) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, by_aggregate: Mutex::default(), by_task: Mutex::default() }
    }

    pub(super) fn join(&self, delivery: &Arc<Delivery>) -> Joined {
        let mut desks = lock(&self.by_aggregate);
        let aggregate = &delivery.event.aggregate_id;
        let Some(desk) = desks.get(aggregate) else {
            let desk = Arc::new(Desk {
                tenure: Tenure::new(self.ack_wait),
                hints: Mutex::new(VecDeque::from([Hint::Delivered(Arc::clone(delivery))])),
                open: Mutex::new(vec![Arc::clone(delivery)]),
            });
            desks.insert(aggregate.clone(), Arc::clone(&desk));
            return Joined::Start(desk);
        };
        let mut hints = lock(&desk.hints);
        if delivery.seen == Seen::First && desk.tenure.is_held() {
            // One look at the newest covers all before it: a fold goes to the end of the log.
            hints.retain(|hint| matches!(hint, Hint::Delivered(_)));
            hints.push_back(Hint::Later(delivery.event.clone()));
            return Joined::Noted;
        }
        hints.push_back(Hint::Delivered(Arc::clone(delivery)));
        lock(&desk.open).push(Arc::clone(delivery));
        Joined::Held
    }

    pub(super) fn started(&self, task: Id, aggregate: AggregateId) {
        lock(&self.by_task).insert(task, aggregate);
    }

    /// The next hint. With none left the desk is cleared in the same moment, so that nothing can join a worker that has ended.
    pub(super) fn next_hint(&self, desk: &Arc<Desk>) -> Option<Hint> {
        let mut desks = lock(&self.by_aggregate);
        let hint = lock(&desk.hints).pop_front();
        if hint.is_none() {
            desks.retain(|_, other| !Arc::ptr_eq(other, desk));
        }
        hint
    }

    /// Clears the desk after an error and takes what still waits on it.
    pub(super) fn close(&self, desk: &Arc<Desk>) -> Vec<Arc<Delivery>> {
        let mut desks = lock(&self.by_aggregate);
        desks.retain(|_, other| !Arc::ptr_eq(other, desk));
        let hints = std::mem::take(&mut *lock(&desk.hints));
        hints.into_iter().filter_map(|hint| if let Hint::Delivered(delivery) = hint { Some(delivery) } else { None }).collect()
    }

    pub(super) fn ended(&self, ended: Result<(Id, ()), JoinError>) {
        let mut by_task = lock(&self.by_task);
        match ended {
            Ok((task, ())) => drop(by_task.remove(&task)),
            // It could not clear its own desk. Without marks its events come again.
            Err(error) => {
                if let Some(aggregate) = by_task.remove(&error.id()) {
                    tracing::error!(aggregate.id = %aggregate, %error, "a worker broke; its events come again");
                    lock(&self.by_aggregate).remove(&aggregate);
                }
            }
        }
    }

    /// Every open delivery with its desk.
    pub(super) fn open(&self) -> Vec<(Arc<Desk>, Arc<Delivery>)> {
        let desks = lock(&self.by_aggregate);
        let of = |desk: &Arc<Desk>| {
            lock(&desk.open).iter().map(|delivery| (Arc::clone(desk), Arc::clone(delivery))).collect::<Vec<_>>()
        };
        desks.values().flat_map(of).collect()
    }
}
