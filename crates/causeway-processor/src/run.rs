//! What an action has in hand: the hint, and the ways to append.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use causeway_event::{
    AggregateId, Category, Event, EventId, IdempotencyKey, Lineage, NewEvent, Payload, Position, Source, TraceParent,
};
use causeway_log::{Append, Fence, Log, LogError};
use causeway_runtime::telemetry;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::ActError;
use crate::tenure::Tenure;

/// Pause before an append whose outcome is unknown is sent again.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// One run of the shell on one aggregate: from a hint until nothing is due.
pub struct Run<'r> {
    pub(crate) log: &'r Log,
    pub(crate) source: Source,
    pub(crate) event: &'r Event,
    pub(crate) delivery: EventId,
    pub(crate) since: Position,
    pub(crate) owner: &'r str,
    pub(crate) tips: [Position; Category::ALL.len()],
    pub(crate) tenure: &'r Tenure,
    pub(crate) tenure_lost: &'r AtomicBool,
    pub(crate) appended: &'r AtomicU64,
    pub(crate) shutdown: &'r CancellationToken,
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

    /// The event whose delivery this run holds unacknowledged until nothing is due. A claim names it: should it come to
    /// somebody else, we are gone.
    pub fn delivery(&self) -> EventId {
        self.delivery
    }

    /// How far the log went when the run began. A claim that is newer and names our very delivery was made by somebody who got
    /// it after us: we have been taken over.
    pub fn since(&self) -> Position {
        self.since
    }

    /// Who we are, in a claim: one run of one process, never used again.
    pub fn owner(&self) -> &str {
        self.owner
    }

    /// The log, for what is not an append: live deltas.
    pub fn log(&self) -> &Log {
        self.log
    }

    /// Cancelled when the run must end: what waits for nothing but time stops waiting.
    pub fn shutdown(&self) -> &CancellationToken {
        self.shutdown
    }

    /// To be asked before every effect: fails when somebody else may have taken over.
    pub fn may_start_effect(&self) -> Result<(), ActError> {
        match self.tenure.is_held() && !self.tenure_lost.load(Ordering::Relaxed) {
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

    /// Records what was observed: a fact, without a fence, at most once under its key. Sent again until its outcome is known.
    pub async fn record(&self, outcome: Payload, origin: Origin, key: &str) -> Result<(), ActError> {
        self.append(vec![(outcome, origin)], Vec::new(), key).await
    }

    async fn append(&self, payloads: Vec<(Payload, Origin)>, expected: Vec<Fence>, key: &str) -> Result<(), ActError> {
        let span = tracing::info_span!(
            "append",
            otel.kind = "producer",
            aggregate.id = %self.aggregate(),
            event.type = tracing::field::Empty,
            position = tracing::field::Empty,
        );
        self.append_in(span.clone(), payloads, expected, key).instrument(span).await
    }

    async fn append_in(
        &self,
        span: tracing::Span,
        payloads: Vec<(Payload, Origin)>,
        expected: Vec<Fence>,
        key: &str,
    ) -> Result<(), ActError> {
        let key: IdempotencyKey = key.parse().map_err(LogError::Invalid)?;
        let events = payloads.iter().map(|(payload, origin)| self.event_of(payload, origin)).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
        span.record("event.type", types.join(" "));
        let append = Append { events, expected, idempotency_key: Some(key) };
        loop {
            match self.log.append(append.clone()).await {
                Ok(appended) => {
                    let last = appended.receipts.last().map_or(0, |receipt| receipt.position.get());
                    self.appended.fetch_max(last, Ordering::Relaxed);
                    span.record("position", last);
                    return Ok(());
                }
                // What was decided or observed cost something: it is not thrown away because the log is away.
                Err(error) if error.is_transient() => tracing::warn!(%error, "an append is not settled and is sent again"),
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = tokio::time::sleep(SETTLE_PAUSE) => {}
                () = self.shutdown.cancelled() => return Err(ActError::ShuttingDown),
            }
        }
    }

    fn event_of(&self, payload: &Payload, origin: &Origin) -> Result<NewEvent, LogError> {
        let mut event = NewEvent::of(payload, self.aggregate().clone(), self.source.clone(), origin.lineage.clone())?;
        let traceparent = telemetry::current_traceparent().and_then(|text| text.parse().ok());
        event.traceparent = traceparent.or(origin.traceparent);
        Ok(event)
    }
}
