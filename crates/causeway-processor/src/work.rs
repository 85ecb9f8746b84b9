//! One hint, worked on until nothing is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use causeway_event::{Category, Event, EventId, Position};
use causeway_log::{Folded, Log, LogError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cache::Cache;
use crate::tenure::Tenure;
use crate::{ActError, Config, Held, Next, Processor, Run, reached};

/// Pause before the log is asked again when it is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// What all runs of a processor share.
pub(crate) struct Shop<P: Processor> {
    pub(crate) processor: P,
    pub(crate) log: Log,
    pub(crate) config: Config,
    pub(crate) cache: Cache<P::State>,
    /// Cancelled with the order to stop: what was begun goes on, what waits for nothing but time does not.
    pub(crate) stopping: CancellationToken,
}

/// A hint, and what the worker has of it.
pub(crate) struct Hint<'h> {
    pub(crate) event: &'h Event,
    /// Its delivery, if the worker holds it; it joins `held` once it is known how far the log goes.
    pub(crate) delivered: Option<EventId>,
}

impl<P: Processor> Shop<P> {
    /// Works on the hint's aggregate until nothing is due, folding at least up to the hint.
    pub(crate) async fn work(&self, hint: Hint<'_>, held: &mut Vec<Held>, tenure: &Tenure) -> Result<(), ActError> {
        let aggregate = &hint.event.aggregate_id;
        let mut folded = self.cache.take(aggregate);
        let worked = self.work_on(hint.event, hint.delivered, held, tenure, &mut folded).await;
        // Also after an error: a fold is as true as the log.
        self.cache.keep(aggregate.clone(), folded);
        worked
    }

    async fn work_on(
        &self,
        event: &Event,
        delivered: Option<EventId>,
        held: &mut Vec<Held>,
        tenure: &Tenure,
        folded: &mut Folded<P::State>,
    ) -> Result<(), ActError> {
        let source: causeway_event::Source = P::NAME.parse().map_err(LogError::Invalid)?;
        // Never used again: a claim is either this run's or somebody's who may be gone.
        let owner = format!("{}:{}", P::NAME, Uuid::now_v7().simple());
        let appended = AtomicU64::new(0);
        let mut scratch = P::Scratch::default();
        self.catch_up(event, event.position, folded).await?;
        held.extend(delivered.map(|event| Held { event, since: folded.position() }));
        for _ in 0..self.config.actions_max {
            let run = Run {
                log: &self.log,
                processor: P::NAME,
                source: source.clone(),
                event,
                held,
                owner: &owner,
                tips: Category::ALL.map(|category| folded.tip(category)),
                tenure,
                appended: &appended,
                stopping: &self.stopping,
            };
            run.may_start_effect()?;
            match self.processor.act(&run, folded.state(), &mut scratch).await {
                Ok(Next::Again) => {}
                Ok(Next::Done) => {
                    reached("completed").await;
                    return Ok(());
                }
                // Overtaken: the log now knows more than we do. The next fold must know it too, or the same thing would be
                // decided again on the word of a replica that lags.
                Err(ActError::Log(LogError::Conflict { actual, .. })) => {
                    tracing::debug!(aggregate.id = %event.aggregate_id, "overtaken by another writer, folding again");
                    appended.fetch_max(actual.get(), Ordering::Relaxed);
                }
                Err(ActError::Log(LogError::AlreadyAppended)) => {}
                Err(error) => return Err(error),
            }
            self.catch_up(event, Position::new(appended.load(Ordering::Relaxed)), folded).await?;
        }
        Err(ActError::Failed(format!("{} actions and still something is due", self.config.actions_max)))
    }

    /// Folds what is new, waiting through an outage: what was taken is not given back because the log is away for a moment.
    async fn catch_up(&self, event: &Event, at_least: Position, folded: &mut Folded<P::State>) -> Result<(), ActError> {
        loop {
            match self.log.catch_up(&event.aggregate_id, folded, at_least, P::fold).await {
                Err(error) if error.is_transient() => tracing::debug!(%error, "the log is away"),
                result => return result.map_err(ActError::from),
            }
            tokio::select! {
                () = tokio::time::sleep(OUTAGE_PAUSE) => {}
                () = self.stopping.cancelled() => return Err(ActError::Stopping),
            }
        }
    }
}
