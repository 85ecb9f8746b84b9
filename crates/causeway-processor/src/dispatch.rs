//! Takes deliveries and sees to it that one aggregate is worked on by one run at a time, and many aggregates at once.
//!
//! A worker holds the delivery that started it until nothing is due. What arrives for its aggregate meanwhile:
//!
//! - for the first time: acknowledged at once, and the worker looks again before it lets go. Should we die, the held delivery
//!   comes again to somebody, who folds the later event as well, and takes over any claim that names the held delivery.
//! - again: held too, and worked on in its turn, since a claim may rest on it: only its return says that the owner is gone.
//!
//! The server takes an acknowledgement from whoever sends it, so whoever may have been taken over sends none.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use causeway_log::{ConsumerConfig, Delivery, Log, LogError};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::cache::Cache;
use crate::work::{self, Shop};
use crate::{ActError, Config, Processor, reached};
use desk::{Desk, Desks, Hint, Joined};

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
    let cache = Cache::new(config.cache_max);
    let shop = Arc::new(Shop { processor, log, cache, config, stopping: shutdown.clone() });
    let desks = Arc::new(Desks::new(shop.config.ack_wait));
    // Marks wait for the server's answers, and must not hold up anything else.
    let mut marking = JoinSet::new();
    marking.spawn(mark(Arc::clone(&desks), shop.config.ack_wait / 3));
    let mut workers = JoinSet::new();
    tracing::info!(processor = P::NAME, "waiting for events");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            delivery = consumer.next() => take(&shop, &desks, &mut workers, delivery).await,
            Some(ended) = workers.join_next_with_id() => desks.ended(ended),
            Some(ended) = marking.join_next() => {
                // Without marks every long turn would be taken over, for ever.
                let reason = ended.err().map_or_else(|| "it ended".into(), |error| error.to_string());
                return Err(LogError::Unavailable { reason: format!("the task that marks what is at work broke: {reason}") });
            }
        }
    }
    drain(&shop, &desks, workers).await;
    // The last acknowledgements are only queued so far.
    shop.log.flush().await;
    Ok(())
}

type Workers = JoinSet<()>;

/// Starts a worker for the delivery's aggregate, or leaves the delivery with the one at work.
async fn take<P: Processor>(shop: &Arc<Shop<P>>, desks: &Arc<Desks>, workers: &mut Workers, delivery: Delivery) {
    let delivery = Arc::new(delivery);
    tracing::debug!(processor = P::NAME, event.id = %delivery.event.id, deliveries = delivery.deliveries, "delivered");
    match desks.join(&delivery) {
        Joined::Noted => ack(&delivery).await,
        Joined::Held => {}
        Joined::Start(desk) => {
            let span = tracing::debug_span!("work", processor = P::NAME, aggregate.id = %delivery.event.aggregate_id);
            let aggregate = delivery.event.aggregate_id.clone();
            let handle = workers.spawn(worker(Arc::clone(shop), Arc::clone(desks), desk).instrument(span));
            desks.started(handle.id(), aggregate);
        }
    }
}

/// Works through the hints of one desk until none is left, then lets go of all that it held.
async fn worker<P: Processor>(shop: Arc<Shop<P>>, desks: Arc<Desks>, desk: Arc<Desk>) {
    let (mut deliveries, mut held) = (Vec::new(), Vec::new());
    while let Some(hint) = desks.next_hint(&desk) {
        reached("delivered").await;
        let hint = match &hint {
            Hint::Delivered(delivery) => {
                deliveries.push(Arc::clone(delivery));
                work::Hint { event: &delivery.event, delivered: Some(delivery.event.id) }
            }
            Hint::Later(event) => work::Hint { event, delivered: None },
        };
        if let Err(error) = shop.work(hint, &mut held, &desk.tenure).await {
            deliveries.extend(desks.close(&desk));
            return give_back(&shop, &desk, deliveries, &error).await;
        }
    }
    if desk.tenure.is_held() {
        join_all(deliveries.iter().map(|delivery| ack(delivery))).await;
    }
}

async fn ack(delivery: &Delivery) {
    if let Err(error) = delivery.ack().await {
        tracing::debug!(%error, "an acknowledgement was lost; the event comes again");
    }
}

/// The run did not come to its end: whatever was held comes again, to us or to another replica.
async fn give_back<P: Processor>(shop: &Shop<P>, desk: &Desk, held: Vec<Arc<Delivery>>, error: &ActError) {
    if matches!(error, ActError::TakenOver) {
        desk.tenure.lose();
    }
    for delivery in held {
        let pause = match error {
            ActError::Stopping => Duration::ZERO,
            _ => shop.config.retry_pause(delivery.deliveries),
        };
        tracing::warn!(event.id = %delivery.event.id, %error, ?pause, "work stopped short");
        hand_back(desk, &delivery, pause).await;
    }
}

/// Asks for the delivery to be made again, unless it may be somebody else's by now: then it comes again when nobody marks it.
async fn hand_back(desk: &Desk, delivery: &Delivery, pause: Duration) {
    if desk.tenure.is_held()
        && let Err(error) = delivery.retry_after(pause).await
    {
        tracing::debug!(%error, "could not be handed back");
    }
}

/// Finishes what was begun, within the drain timeout; hands back the rest at once.
async fn drain<P: Processor>(shop: &Shop<P>, desks: &Desks, mut workers: Workers) {
    let deadline = Instant::now() + shop.config.drain_timeout;
    loop {
        tokio::select! {
            ended = workers.join_next_with_id() => match ended {
                Some(ended) => desks.ended(ended),
                None => return,
            },
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    tracing::warn!(unfinished = workers.len(), "work that did not finish in time is left to be taken over");
    workers.shutdown().await;
    for (desk, delivery) in desks.open() {
        hand_back(&desk, &delivery, Duration::ZERO).await;
    }
}

/// Tells the broker, for ever, that we are alive and at work on everything that is open.
async fn mark(desks: Arc<Desks>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        let marks = desks.open().into_iter().map(|(desk, delivery)| async move {
            match tokio::time::timeout(every, delivery.mark_in_progress()).await {
                Ok(Ok(())) => desk.tenure.confirmed(sent),
                Ok(Err(error)) => tracing::warn!(event.id = %delivery.event.id, %error, "an in-progress mark failed"),
                Err(_) => tracing::warn!(event.id = %delivery.event.id, "an in-progress mark was not confirmed in time"),
            }
        });
        join_all(marks).await;
    }
}
