//! One hint, worked on until nothing is due.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use causeway_event::{Category, Event, EventId, Position};
use causeway_log::{DeadLetter, Folded, Log, LogError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cache::Cache;
use crate::tenure::Tenure;
use crate::{ActError, Config, Next, Processor, Run, reached};

/// Pause before the log is asked again when it is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// What all runs of a processor share.
pub(crate) struct Shop<P: Processor> {
    pub(crate) processor: P,
    pub(crate) log: Log,
    pub(crate) config: Config,
    pub(crate) cache: Cache<P::State>,
    pub(crate) tenure: Tenure,
    /// Cancelled when work must end, after the drain.
    pub(crate) abort: CancellationToken,
}

impl<P: Processor> Shop<P> {
    /// Works on the hint's aggregate until nothing is due, folding at least up to the hint. `delivery` is held meanwhile.
    pub(crate) async fn work(&self, event: &Event, delivery: EventId, tenure_lost: &AtomicBool) -> Result<(), ActError> {
        let mut folded = self.cache.take(&event.aggregate_id);
        let worked = self.work_on(event, delivery, tenure_lost, &mut folded).await;
        // Also after an error: a fold is as true as the log.
        self.cache.keep(event.aggregate_id.clone(), folded);
        worked
    }

    async fn work_on(
        &self,
        event: &Event,
        delivery: EventId,
        tenure_lost: &AtomicBool,
        folded: &mut Folded<P::State>,
    ) -> Result<(), ActError> {
        let source: causeway_event::Source = P::NAME.parse().map_err(LogError::Invalid)?;
        // Never used again: a claim is either this run's or somebody's who may be gone.
        let owner = format!("{}:{}", P::NAME, Uuid::now_v7().simple());
        let appended = AtomicU64::new(0);
        let mut scratch = P::Scratch::default();
        let mut since = None;
        for _ in 0..self.config.actions_max {
            let at_least = event.position.max(Position::new(appended.load(Ordering::Relaxed)));
            self.catch_up(event, at_least, folded).await?;
            let since = *since.get_or_insert(folded.position());
            let run = Run {
                log: &self.log,
                source: source.clone(),
                event,
                delivery,
                since,
                owner: &owner,
                tips: Category::ALL.map(|category| folded.tip(category)),
                tenure: &self.tenure,
                tenure_lost,
                appended: &appended,
                shutdown: &self.abort,
            };
            run.may_start_effect()?;
            match self.processor.act(&run, folded.state(), &mut scratch).await {
                Ok(Next::Again) => {}
                Ok(Next::Done) => {
                    reached("completed").await;
                    return Ok(());
                }
                Ok(Next::GivenUp { reason }) => self.park(event, &reason).await?,
                // Overtaken: the log now knows more than we do.
                Err(ActError::Log(LogError::Conflict { .. })) => {
                    tracing::debug!(aggregate.id = %event.aggregate_id, "overtaken by another writer, folding again");
                }
                Err(error) => return Err(error),
            }
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
                () = self.abort.cancelled() => return Err(ActError::ShuttingDown),
            }
        }
    }

    async fn park(&self, event: &Event, reason: &str) -> Result<(), ActError> {
        tracing::error!(event.id = %event.id, aggregate.id = %event.aggregate_id, reason, "given up and parked");
        self.log.park(DeadLetter { processor: P::NAME, event, reason }).await.map_err(ActError::from)
    }
}
