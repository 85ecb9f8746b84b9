//! What an action has in hand: the hint, and the ways to append.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use causeway_event::{
    AggregateId, Category, Event, EventId, IdempotencyKey, Lineage, NewEvent, Payload, Position, Source, TraceParent,
};
use causeway_log::{Append, DeadLetter, Fence, Log, LogError};
use causeway_runtime::telemetry;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::tenure::Tenure;
use crate::{ActError, Held};

/// Pause before what could not be settled with the log is tried again.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// One run of the shell on one aggregate: from a hint until nothing is due.
pub struct Run<'r> {
    pub(crate) log: &'r Log,
    pub(crate) processor: &'static str,
    pub(crate) source: Source,
    pub(crate) event: &'r Event,
    pub(crate) held: &'r [Held],
    pub(crate) owner: &'r str,
    pub(crate) tips: [Position; Category::ALL.len()],
    pub(crate) tenure: &'r Tenure,
    pub(crate) appended: &'r AtomicU64,
    pub(crate) stopping: &'r CancellationToken,
}

/// Where an event that a processor appends comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its direct cause, and the cause's chain.
    pub lineage: Lineage,
    /// The span of its cause: what the event carries when nothing is traced here.
    pub traceparent: Option<TraceParent>,
}

impl Run<'_> {
    /// The event that woke the processor.
    pub fn event(&self) -> &Event {
        self.event
    }

    /// The aggregate at work.
    pub fn aggregate(&self) -> &AggregateId {
        &self.event.aggregate_id
    }

    /// The deliveries that this run holds.
    pub fn held(&self) -> &[Held] {
        self.held
    }

    /// The delivery for a claim to name: one that is held until nothing is due.
    pub fn delivery(&self) -> EventId {
        self.held.first().map_or(self.event.id, |held| held.event)
    }

    /// Who we are, in a claim: one run of one process, never used again.
    pub fn owner(&self) -> &str {
        self.owner
    }

    /// The log, for what is not an append: live deltas.
    pub fn log(&self) -> &Log {
        self.log
    }

    /// Cancelled when the processor has been told to stop: what waits for nothing but time stops waiting.
    pub fn stopping(&self) -> &CancellationToken {
        self.stopping
    }

    /// To be asked before every effect: fails when somebody else may have taken over.
    pub fn may_start_effect(&self) -> Result<(), ActError> {
        match self.tenure.is_held() {
            true => Ok(()),
            false => Err(ActError::TakenOver),
        }
    }

    /// Appends a decision: all of one category, all or none, refused if that category of the aggregate has got anything that
    /// was not folded. Sent again until its outcome is known.
    pub async fn decide(&self, category: Category, decisions: Vec<(Payload, Origin)>, key: &str) -> Result<(), ActError> {
        let fence = Fence { aggregate_id: self.aggregate().clone(), category, position: self.tips[category as usize] };
        self.append(decisions, vec![fence], key).await
    }

    /// Records what was observed: a fact, without a fence. Sent again until its outcome is known; under the same key it is
    /// stored once within the server's duplicate window, so a fold must take the first.
    pub async fn record(&self, outcome: Payload, origin: Origin, key: &str) -> Result<(), ActError> {
        self.append(vec![(outcome, origin)], Vec::new(), key).await
    }

    /// Parks the aggregate's event at `position` as a dead letter. To be called before the failure is appended: a letter too
    /// many can be thrown away, one that was lost cannot be missed.
    pub async fn park(&self, position: Position, reason: &str) -> Result<(), ActError> {
        loop {
            match self.try_park(position, reason).await {
                Err(error) if error.is_transient() => self.pause_after(&error).await?,
                parked => return parked.map_err(ActError::from),
            }
        }
    }

    async fn try_park(&self, position: Position, reason: &str) -> Result<(), LogError> {
        let stored = match position == self.event.position {
            true => None,
            false => Some(self.log.get(position).await?.ok_or(LogError::Unknown)?),
        };
        let event = stored.as_ref().map_or(self.event, |stored| &stored.event);
        tracing::error!(event.id = %event.id, aggregate.id = %event.aggregate_id, reason, "given up and parked");
        self.log.park(DeadLetter { processor: self.processor, event, reason }).await
    }

    async fn append(&self, payloads: Vec<(Payload, Origin)>, expected: Vec<Fence>, key: &str) -> Result<(), ActError> {
        let span = tracing::info_span!(
            "append",
            otel.kind = "producer",
            aggregate.id = %self.aggregate(),
            event.type = tracing::field::Empty,
            position = tracing::field::Empty,
        );
        let appending = async {
            let idempotency_key: IdempotencyKey = key.parse().map_err(LogError::Invalid)?;
            let events: Vec<NewEvent> =
                payloads.iter().map(|(payload, origin)| self.event_of(payload, origin)).collect::<Result<_, _>>()?;
            let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
            span.record("event.type", types.join(" "));
            let append = Append { events, expected, idempotency_key: Some(idempotency_key) };
            let appended = loop {
                match self.log.append(append.clone()).await {
                    Err(error) if error.is_transient() => self.pause_after(&error).await?,
                    settled => break settled?,
                }
            };
            let last = appended.receipts.last().map_or(0, |receipt| receipt.position.get());
            self.appended.fetch_max(last, Ordering::Relaxed);
            span.record("position", last);
            Ok(())
        };
        appending.instrument(span.clone()).await
    }

    /// Before the log is asked again: what was decided or observed cost something, and is not thrown away because the log is
    /// away for a while.
    async fn pause_after(&self, error: &LogError) -> Result<(), ActError> {
        tracing::warn!(%error, "not settled with the log; asking again");
        tokio::select! {
            () = tokio::time::sleep(SETTLE_PAUSE) => Ok(()),
            () = self.stopping.cancelled() => Err(ActError::Stopping),
        }
    }

    fn event_of(&self, payload: &Payload, origin: &Origin) -> Result<NewEvent, LogError> {
        let mut event = NewEvent::of(payload, self.aggregate().clone(), self.source.clone(), origin.lineage.clone())?;
        let traceparent = telemetry::current_traceparent().and_then(|text| text.parse().ok());
        event.traceparent = traceparent.or(origin.traceparent);
        Ok(event)
    }
}
