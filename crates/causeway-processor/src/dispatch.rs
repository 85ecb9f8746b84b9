//! Takes deliveries and sees to it that one aggregate is worked on by one run at a time, and many aggregates at once.
//!
//! A worker holds the delivery that started it until nothing is due. What arrives for its aggregate meanwhile:
//!
//! - for the first time: acknowledged at once, and the worker looks again before it lets go. Should we die, the held delivery
//!   comes again to somebody, who folds the later event as well, and takes over any claim that names the held delivery.
//! - again: held too, and worked on in its turn, since a claim may rest on it: only its return says that the owner is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_event::{AggregateId, Event};
use causeway_log::{ConsumerConfig, Delivery, Log, LogError, Seen};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::cache::Cache;
use crate::tenure::Tenure;
use crate::work::Shop;
use crate::{ActError, Config, Processor, reached};

/// Runs a processor until `shutdown`. Then takes nothing more, finishes what was begun within the drain timeout, and hands
/// back the rest.
pub async fn run<P: Processor>(processor: P, log: Log, config: Config, shutdown: CancellationToken) -> Result<(), LogError> {
    let mut consumer = log
        .consumer(ConsumerConfig {
            processor: P::NAME,
            categories: P::CATEGORIES,
            ack_wait: config.ack_wait,
            ack_pending_max: config.in_flight_max.into(),
        })
        .await?;
    let tenure = Tenure::new(config.ack_wait);
    let cache = Cache::new(config.cache_max);
    let shop = Arc::new(Shop { processor, log, cache, tenure, abort: CancellationToken::new(), config });
    let desks = Arc::new(Desks::default());
    let mut workers = JoinSet::new();
    let mut marks = tokio::time::interval(shop.config.ack_wait / 3);
    marks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tracing::info!(processor = P::NAME, "waiting for events");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            delivery = consumer.next() => take(&shop, &desks, &mut workers, delivery).await,
            _ = marks.tick() => desks.mark(&shop).await,
            Some(ended) = workers.join_next_with_id() => desks.ended(ended),
        }
    }
    drain(&shop, &desks, workers, &mut marks).await;
    Ok(())
}

/// Starts a worker for the delivery's aggregate, or leaves the delivery with the one at work.
async fn take<P: Processor>(shop: &Arc<Shop<P>>, desks: &Arc<Desks>, workers: &mut Workers, delivery: Delivery) {
    let delivery = Arc::new(delivery);
    tracing::debug!(processor = P::NAME, event.id = %delivery.event.id, deliveries = delivery.deliveries, "delivered");
    match desks.join(&delivery) {
        Joined::AtWork if delivery.seen == Seen::First => {
            if let Err(error) = delivery.ack().await {
                tracing::debug!(%error, "an acknowledgement was lost; the event comes again");
            }
        }
        Joined::AtWork => {}
        Joined::Start(desk) => {
            let span = tracing::debug_span!("work", processor = P::NAME, aggregate.id = %delivery.event.aggregate_id);
            let aggregate = delivery.event.aggregate_id.clone();
            let handle = workers.spawn(worker(Arc::clone(shop), Arc::clone(desks), Arc::clone(&desk)).instrument(span));
            desks.started(handle.id(), aggregate);
        }
    }
}

type Workers = JoinSet<()>;

/// Works through the hints of one desk until none is left, then lets go of all that it held.
async fn worker<P: Processor>(shop: Arc<Shop<P>>, desks: Arc<Desks>, desk: Arc<Desk>) {
    let mut held: Vec<Arc<Delivery>> = Vec::new();
    while let Some(hint) = desks.next_hint(&desk) {
        let event = match &hint {
            Hint::Delivered(delivery) => {
                held.push(Arc::clone(delivery));
                &delivery.event
            }
            Hint::Later(event) => event,
        };
        reached("delivered").await;
        if let Err(error) = shop.work(event, held[0].event.id, &desk.tenure_lost).await {
            held.extend(desks.close(&desk));
            desk.tenure_lost.fetch_or(matches!(error, ActError::TakenOver), Ordering::Relaxed);
            return give_back(&shop, &desk, held, &error).await;
        }
    }
    // The server takes an acknowledgement from whoever sends it: one of ours could end the tenure of whoever took over.
    if !desk.is_held(&shop.tenure) {
        tracing::warn!(aggregate.id = %held[0].event.aggregate_id, "finished too late to be sure of the claim; left to come again");
        return;
    }
    for delivery in held {
        if let Err(error) = delivery.ack().await {
            tracing::debug!(%error, "an acknowledgement was lost; the event comes again");
        }
    }
}

/// The run did not come to its end: whatever was held comes again, to us or to another replica.
async fn give_back<P: Processor>(shop: &Shop<P>, desk: &Desk, held: Vec<Arc<Delivery>>, error: &ActError) {
    let is_held = desk.is_held(&shop.tenure);
    for delivery in held {
        let pause = shop.config.retry_pause(delivery.deliveries);
        tracing::warn!(event.id = %delivery.event.id, %error, ?pause, "work stopped short and will be taken up again");
        if !is_held {
            continue;
        }
        if let Err(error) = delivery.retry_after(pause).await {
            tracing::debug!(%error, "could not be handed back; it comes again when nobody has marked it for long enough");
        }
    }
}

/// Finishes what was begun, within the drain timeout; hands back the rest at once.
async fn drain<P: Processor>(shop: &Shop<P>, desks: &Desks, mut workers: Workers, marks: &mut tokio::time::Interval) {
    let deadline = Instant::now() + shop.config.drain_timeout;
    loop {
        tokio::select! {
            ended = workers.join_next_with_id() => match ended {
                Some(ended) => desks.ended(ended),
                None => return,
            },
            _ = marks.tick() => desks.mark(shop).await,
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    tracing::warn!(unfinished = workers.len(), "work that did not finish in time is left to be taken over");
    shop.abort.cancel();
    workers.shutdown().await;
    for delivery in desks.all_held() {
        if let Err(error) = delivery.retry_after(std::time::Duration::ZERO).await {
            tracing::debug!(%error, "could not be handed back");
        }
    }
}

/// What is at work, by aggregate.
#[derive(Default)]
struct Desks {
    by_aggregate: Mutex<HashMap<AggregateId, Arc<Desk>>>,
    by_task: Mutex<HashMap<tokio::task::Id, AggregateId>>,
}

/// One aggregate at work.
#[derive(Default)]
struct Desk {
    hints: Mutex<VecDeque<Hint>>,
    /// Every delivery that is open here, for the marks.
    open: Mutex<Vec<Arc<Delivery>>>,
    /// The marks came too late once: somebody else may have taken over.
    tenure_lost: AtomicBool,
}

enum Hint {
    /// To be acknowledged when worked through.
    Delivered(Arc<Delivery>),
    /// Acknowledged already.
    Later(Event),
}

enum Joined {
    Start(Arc<Desk>),
    AtWork,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desks {
    fn join(&self, delivery: &Arc<Delivery>) -> Joined {
        let mut desks = lock(&self.by_aggregate);
        let aggregate = &delivery.event.aggregate_id;
        let (desk, joined) = match desks.get(aggregate) {
            Some(desk) => (Arc::clone(desk), Joined::AtWork),
            None => {
                let desk = Arc::new(Desk::default());
                desks.insert(aggregate.clone(), Arc::clone(&desk));
                (Arc::clone(&desk), Joined::Start(desk))
            }
        };
        let mut hints = lock(&desk.hints);
        match (&joined, delivery.seen) {
            (Joined::AtWork, Seen::First) => {
                // One look at the newest covers all before it: a fold goes to the end of the log.
                hints.retain(|hint| matches!(hint, Hint::Delivered(_)));
                hints.push_back(Hint::Later(delivery.event.clone()));
            }
            _ => {
                hints.push_back(Hint::Delivered(Arc::clone(delivery)));
                lock(&desk.open).push(Arc::clone(delivery));
            }
        }
        drop(hints);
        joined
    }

    fn started(&self, task: tokio::task::Id, aggregate: AggregateId) {
        lock(&self.by_task).insert(task, aggregate);
    }

    /// The next hint. With none left the desk is cleared in the same moment, so that nothing can join a worker that has ended.
    fn next_hint(&self, desk: &Arc<Desk>) -> Option<Hint> {
        let mut desks = lock(&self.by_aggregate);
        let hint = lock(&desk.hints).pop_front();
        if hint.is_none() {
            desks.retain(|_, other| !Arc::ptr_eq(other, desk));
        }
        hint
    }

    /// Clears the desk after an error and takes what still waits on it.
    fn close(&self, desk: &Arc<Desk>) -> Vec<Arc<Delivery>> {
        let mut desks = lock(&self.by_aggregate);
        desks.retain(|_, other| !Arc::ptr_eq(other, desk));
        let hints = std::mem::take(&mut *lock(&desk.hints));
        hints.into_iter().filter_map(|hint| if let Hint::Delivered(delivery) = hint { Some(delivery) } else { None }).collect()
    }

    fn ended(&self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
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

    /// Tells the broker that we are alive and at work on everything that is open.
    async fn mark<P: Processor>(&self, shop: &Shop<P>) {
        if !shop.log.is_connected() {
            return;
        }
        let desks: Vec<Arc<Desk>> = lock(&self.by_aggregate).values().cloned().collect();
        let in_time = shop.tenure.marked(Instant::now());
        for desk in desks {
            if !in_time {
                desk.tenure_lost.store(true, Ordering::Relaxed);
            }
            let open = lock(&desk.open).clone();
            for delivery in open {
                if let Err(error) = delivery.mark_in_progress().await {
                    tracing::warn!(event.id = %delivery.event.id, %error, "an in-progress mark did not get through");
                    desk.tenure_lost.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn all_held(&self) -> Vec<Arc<Delivery>> {
        let desks = lock(&self.by_aggregate);
        desks.values().flat_map(|desk| lock(&desk.open).clone()).collect()
    }
}

impl Desk {
    /// Whether nobody else can have taken over what is open here.
    fn is_held(&self, tenure: &Tenure) -> bool {
        tenure.is_held() && !self.tenure_lost.load(Ordering::Relaxed)
    }
}
