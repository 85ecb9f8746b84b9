//! The one way to the log, for gRPC and HTTP alike.
//!
//! ```text
//! used key? ──> the first answer again
//! else lineage (a cause's chain, the caller's trace, or a fresh one) ──> Log::append ──> receipts with the log's own times
//! ```
//!
//! What an event may be is checked by the log's crate; here only what needs the read side or the request. A problem's field
//! is a pointer into an append request: `/events/3/data`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_event::{
    AggregateId, Category, CorrelationId, Event, EventType, IdempotencyKey, Lineage, NewEvent, Position, Source, TraceParent,
};

use causeway_log::{Append, EVENTS_MAX, Fence, LogError};
use causeway_proto::{Appended, Draft, Expected, Kind, Problem, Receipt};
use futures::{StreamExt as _, stream};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::gateway::Gateway;
use crate::{problem, trace};

/// How long to wait for an appended event to come by, before the log itself is asked for its time.
const COMES_BY: Duration = Duration::from_millis(100);
/// How long an append that was acknowledged may wait for the times of its events.
const TIMES_MAX: Duration = Duration::from_secs(10);
/// How many of them are asked for at a time.
const LOOKUPS_MAX: usize = 32;

/// What a client wants to append.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) expected: Vec<Expected>,
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    /// Who appends what names no source: the protocol.
    pub(crate) source: Source,
    /// The caller's span.
    pub(crate) traceparent: Option<TraceParent>,
}

/// Appends, all or none, once per key.
pub(crate) async fn append(gateway: &Gateway, request: Request) -> Result<Appended, Problem> {
    let Request { drafts, expected, idempotency_key, source, traceparent } = request;
    let _pass = gateway.appends.enter().await?;
    if !(1..=EVENTS_MAX).contains(&drafts.len()) {
        return Err(Problem::invalid("/events", format!("has {} events; 1 to {EVENTS_MAX} are allowed", drafts.len())));
    }
    let expected = fences(&drafts, &expected)?;
    let first = Shape::of(&drafts);
    if let Some(key) = &idempotency_key {
        // The server remembers recent keys itself; only a read model that may lack older ones must catch up first.
        if !gateway.ready.is_recent() {
            gateway.store.fresh().await?;
        }
        if let Some(earlier) = earlier(gateway, &first, key).await? {
            return Ok(earlier);
        }
    }
    let (events, span) = events(gateway, drafts, &source, traceparent).await?;
    let append = Append { events, expected, idempotency_key: idempotency_key.clone() };
    let result = gateway.log.append(append).instrument(span.clone()).await;
    match (result, idempotency_key) {
        (Ok(appended), _) => {
            let appended = receipts(gateway, &first, appended).await?;
            span.record("position", appended.receipts.last().map(|receipt| receipt.position.get()));
            Ok(appended)
        }
        (Err(LogError::AlreadyAppended), Some(key)) => {
            gateway.store.fresh().await?;
            earlier(gateway, &first, &key).await?.ok_or_else(|| problem::of_log(LogError::AlreadyAppended))
        }
        (Err(error), _) => {
            span.record("otel.status_code", "ERROR");
            span.record("error", error.to_string());
            Err(problem::of_log(error))
        }
    }
}

/// What an append must have in common with an earlier one under the same key.
struct Shape(Vec<(AggregateId, EventType)>);

impl Shape {
    fn of(drafts: &[Draft]) -> Self {
        Self(drafts.iter().map(|draft| (draft.aggregate_id.clone(), draft.event_type.clone())).collect())
    }

    /// A key that comes again for events of other types or aggregates is a mistake that would go unnoticed if the first answer
    /// were given. Other data is not: a retry may say the time anew.
    fn check<'e>(&self, events: impl ExactSizeIterator<Item = &'e Event>) -> Result<(), Problem> {
        let same = self.0.len() == events.len()
            && self
                .0
                .iter()
                .zip(events)
                .all(|((aggregate, event_type), event)| *aggregate == event.aggregate_id && *event_type == event.event_type);
        match same {
            true => Ok(()),
            false => Err(Problem::invalid("/idempotency_key", "was used before, for an append of other events")),
        }
    }
}

async fn earlier(gateway: &Gateway, shape: &Shape, key: &IdempotencyKey) -> Result<Option<Appended>, Problem> {
    let found = gateway.store.by_key(&shape.0[0].0, key, shape.0.len()).await?;
    found.map(|events| answer_again(shape, &events)).transpose()
}

fn answer_again(shape: &Shape, events: &[Arc<Event>]) -> Result<Appended, Problem> {
    shape.check(events.iter().map(AsRef::as_ref))?;
    Ok(Appended { receipts: events.iter().map(|event| receipt(event)).collect(), duplicate: true })
}

fn receipt(event: &Event) -> Receipt {
    Receipt {
        id: event.id,
        position: event.position,
        timestamp: event.timestamp,
        correlation_id: event.metadata.correlation_id.clone(),
    }
}

/// The fences with what the events share filled in.
fn fences(drafts: &[Draft], expected: &[Expected]) -> Result<Vec<Fence>, Problem> {
    let aggregate = shared(drafts.iter().map(|draft| &draft.aggregate_id));
    let category = shared(drafts.iter().map(|draft| Category::of(&draft.event_type)));
    let fence = |(index, expected): (usize, &Expected)| {
        let missing = |name: &str| {
            Problem::invalid(format!("/expected/{index}/{name}"), format!("is needed, since the events do not share one {name}"))
        };
        Ok(Fence {
            aggregate_id: expected.aggregate_id.as_ref().or(aggregate).cloned().ok_or_else(|| missing("aggregate_id"))?,
            category: expected.category.or(category).ok_or_else(|| missing("category"))?,
            position: expected.position,
        })
    };
    expected.iter().enumerate().map(fence).collect()
}

/// The value that all have.
fn shared<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// The events as they go to the log, and the span of the first chain.
async fn events(
    gateway: &Gateway,
    drafts: Vec<Draft>,
    source: &Source,
    traceparent: Option<TraceParent>,
) -> Result<(Vec<NewEvent>, Span), Problem> {
    let mut spans: HashMap<CorrelationId, (Span, Option<TraceParent>)> = HashMap::new();
    let mut first = None;
    let mut events = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.into_iter().enumerate() {
        let (lineage, causing) = lineage(gateway, &draft, traceparent).await.map_err(|problem| match problem.field.clone() {
            Some(field) => problem.at(format!("/events/{index}{field}")),
            None => problem,
        })?;
        let mut event = NewEvent {
            event_type: draft.event_type,
            aggregate_id: draft.aggregate_id,
            data: draft.data,
            source: draft.source.unwrap_or_else(|| source.clone()),
            lineage,
            labels: draft.labels,
            traceparent: None,
        };
        let correlation = correlation(&event.lineage);
        let (span, parent) = spans.entry(correlation.clone()).or_insert_with(|| {
            let parent = trace::parent_of(&correlation, [traceparent, causing]);
            (trace::append_span(&event, &correlation, parent), parent)
        });
        event.traceparent = trace::traceparent(span, *parent);
        first.get_or_insert_with(|| span.clone());
        events.push(event);
    }
    Ok((events, first.unwrap_or_else(Span::none)))
}

/// Its place in a chain, and the span of its cause. Fields start at the event.
async fn lineage(
    gateway: &Gateway,
    draft: &Draft,
    traceparent: Option<TraceParent>,
) -> Result<(Lineage, Option<TraceParent>), Problem> {
    let chain = draft.correlation_id.clone();
    let Some(cause) = draft.causation_id else {
        let fresh =
            || CorrelationId::from_uuid(traceparent.map_or_else(Uuid::now_v7, |parent| Uuid::from_bytes(parent.trace_id)));
        return Ok((Lineage::Root { correlation: Some(chain.unwrap_or_else(fresh)) }, None));
    };
    // An id never changes its event: what is found needs no freshness.
    let mut causing = gateway.store.by_id(cause).await?;
    if causing.is_none() && chain.is_none() {
        gateway.store.fresh().await?;
        causing = gateway.store.by_id(cause).await?;
    }
    let span = causing.as_ref().and_then(|event| event.metadata.traceparent);
    match chain.or_else(|| causing.map(|event| event.metadata.correlation_id.clone())) {
        Some(correlation) => Ok((Lineage::CausedBy { cause, correlation }, span)),
        None => Err(Problem::invalid("/metadata/causation_id", format!("there is no event {cause} on the log"))),
    }
}

fn correlation(lineage: &Lineage) -> CorrelationId {
    match lineage {
        Lineage::Root { correlation: Some(correlation) } | Lineage::CausedBy { correlation, .. } => correlation.clone(),
        Lineage::Root { correlation: None } => CorrelationId::from_uuid(Uuid::now_v7()),
    }
}

/// The log's acknowledgement names places; the times come from what follows the log anyway, or else from the log.
async fn receipts(gateway: &Gateway, shape: &Shape, appended: causeway_log::Appended) -> Result<Appended, Problem> {
    let places = || appended.receipts.iter().map(|receipt| receipt.position);
    let (Some(first), Some(last)) = (places().min(), places().max()) else {
        return Ok(Appended { receipts: vec![], duplicate: appended.duplicate });
    };
    let Ok(events) = tokio::time::timeout(TIMES_MAX, stored(gateway, first, last)).await else {
        let detail = format!("it is on the log from position {first}, which has gone away before it could say when it stored it");
        return Err(Problem::new(Kind::OutcomeUnknown, detail));
    };
    match appended.duplicate {
        true => answer_again(shape, &events),
        false => Ok(Appended { receipts: events.iter().map(|event| receipt(event)).collect(), duplicate: false }),
    }
}

/// The events from `first` to `last`, which are on the log. Waits as long as it takes.
async fn stored(gateway: &Gateway, first: Position, last: Position) -> Vec<Arc<Event>> {
    if let Ok(Some(events)) = tokio::time::timeout(COMES_BY, gateway.store.arrived(first, last)).await {
        return events;
    }
    loop {
        let places = stream::iter(first.get()..=last.get()).map(Position::new);
        let found = places.map(|position| gateway.log.get(position)).buffered(LOOKUPS_MAX).collect::<Vec<_>>().await;
        let events = found.into_iter().map(|found| found.ok().flatten().map(|stored| Arc::new(stored.event)));
        if let Some(events) = events.collect() {
            return events;
        }
        tokio::time::sleep(COMES_BY).await;
    }
}

#[cfg(test)]
mod tests {
    use causeway_event::Data;

    use super::*;

    fn draft(aggregate: &str, event_type: &str) -> Draft {
        Draft {
            event_type: event_type.parse().unwrap(),
            aggregate_id: aggregate.parse().unwrap(),
            data: Data::from_json(b"{}").unwrap(),
            source: None,
            causation_id: None,
            correlation_id: None,
            labels: causeway_event::Labels::new(),
        }
    }

    fn expected(aggregate: Option<&str>, category: Option<Category>) -> Expected {
        Expected { aggregate_id: aggregate.map(|id| id.parse().unwrap()), category, position: Position::new(7) }
    }

    #[test]
    fn a_fence_takes_what_all_events_share() {
        let drafts = [draft("a", "NoteTaken"), draft("a", "NoteTorn")];
        let fences = fences(&drafts, &[expected(None, None)]).unwrap();
        let wanted = Fence { aggregate_id: "a".parse().unwrap(), category: Category::Custom, position: Position::new(7) };
        assert_eq!(fences, [wanted]);
    }

    #[test]
    fn a_fence_that_could_be_meant_for_several_is_refused() {
        let drafts = [draft("a", "NoteTaken"), draft("b", "MessageReceived")];
        let field = |expected| fences(&drafts, &[expected]).unwrap_err().field.unwrap();
        assert_eq!(field(expected(None, Some(Category::Custom))), "/expected/0/aggregate_id");
        assert_eq!(field(expected(Some("a"), None)), "/expected/0/category");
        assert!(fences(&drafts, &[expected(Some("a"), Some(Category::Custom))]).is_ok());
    }
}
