//! The one way to the log, for gRPC and HTTP alike.
//!
//! ```text
//! prepare:  used key? ──> the first answer again
//!           else lineage: a cause's chain, the caller's trace, or a fresh one
//! begin:    sent to the log, in order
//! finish:   receipts with the log's own times, or the conflict with the events that caused it
//! ```
//!
//! The three are apart so that a stream can have many under way and still send them in order (`stream.rs`). So that a thousand of them
//! take little room, what most never come to is boxed where they come to it. What an event may be is
//! checked by the log's crate; here only what needs the read side or the request. A problem's field is a pointer into an append
//! request: `/events/3/data`.

mod conflict;
mod keys;
mod receipts;
pub(crate) mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_event::{
    AggregateId, Category, CorrelationId, Event, EventId, EventType, IdempotencyKey, Lineage, NewEvent, Source, TraceParent,
};
use causeway_log::{APPEND_TIMEOUT_MAX, Append, Begun, DUPLICATE_WINDOW, EVENTS_MAX, Fence, LogError, Sequence};
use causeway_proto::{Appended, Draft, Expected, Kind, Problem, Receipt};
use futures::{FutureExt as _, future};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::gateway::Gateway;
use crate::ready::RECENT;
use crate::{problem, trace};

pub(crate) use keys::LOOKUPS_ON_THE_LOG_MAX;
pub(crate) use receipts::RECEIPTS_MAX;

/// How long a key that was looked up counts as unused. The server itself remembers those that are used from then on, for longer.
const LOOKUP_VALID: Duration = Duration::from_secs(30);
const _: () = assert!(
    RECENT.as_secs() + LOOKUP_VALID.as_secs() + APPEND_TIMEOUT_MAX.as_secs() < DUPLICATE_WINDOW.as_secs(),
    "a key that was used before what was looked through, or is used by an append on its way, is known to the server"
);

/// A batch takes the room of so many single events, and of one more for each so many of its own: about as long as it takes the server. Of
/// batches of ten 31 are under way at once, and of batches of a thousand ten.
const BATCH_ROOM: usize = 64;
const EVENTS_OF_A_ROOM: usize = 8;

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
    let mut pass = gateway.appends.enter(1).await?;
    let mut prepared = prepare(gateway, request).await?;
    let room = room(prepared.events());
    if room > 1 {
        // What has a place inside must not wait there for more.
        drop(pass);
        pass = gateway.appends.enter(room).await?;
        prepared = renewed(gateway, prepared).await?;
    }
    let under_way = begin(&mut gateway.log.sequence(), prepared).await;
    let appended = finish(gateway, under_way).await;
    drop(pass);
    match appended {
        Ok(appended) => Ok(appended),
        Err(problem) => Err(conflict::with_events(gateway, problem).boxed().await),
    }
}

/// What an append of so many events takes of the room for those that wait for the log. The server stores batches one after the other,
/// each with a few fsyncs: as many of them as of single events would hold up everybody else for seconds, its readers as well, and at
/// last be given up as unanswered.
fn room(events: usize) -> usize {
    match events {
        0 | 1 => 1,
        events => BATCH_ROOM + events / EVENTS_OF_A_ROOM,
    }
}

/// An append that lacks nothing but the log.
enum Prepared {
    /// It was done before, under its key.
    Done(Appended),
    New(Box<New>),
}

impl Prepared {
    /// How many events are to be sent.
    fn events(&self) -> usize {
        match self {
            Self::Done(_) => 0,
            Self::New(new) => new.append.events.len(),
        }
    }
}

struct New {
    append: Append,
    shape: Shape,
    span: Span,
    /// When its key was looked up.
    looked_up: Instant,
}

/// Reads what an append needs to know. Appends may be prepared at the same time, and in any order.
async fn prepare(gateway: &Gateway, request: Request) -> Result<Prepared, Problem> {
    let Request { drafts, expected, idempotency_key, source, traceparent } = request;
    if !(1..=EVENTS_MAX).contains(&drafts.len()) {
        return Err(Problem::invalid("/events", format!("has {} events; 1 to {EVENTS_MAX} are allowed", drafts.len())));
    }
    refuse_system_events(&drafts)?;
    let expected = fences(&drafts, &expected)?;
    let shape = Shape::of(&drafts);
    let looked_up = Instant::now();
    if let Some(key) = &idempotency_key
        && let Some(earlier) = keys::used(gateway, &shape, key).boxed().await?
    {
        return Ok(Prepared::Done(earlier));
    }
    let (events, span) = match events(gateway, drafts, &source, traceparent).await {
        Ok(events) => events,
        // What was right the first time may not be any more, a newer version of its type being registered since.
        Err(refused) => match &idempotency_key {
            Some(key) if refused.kind == Kind::Invalid => {
                // While that cannot be known it is not refused for good.
                return keys::remembered(gateway, &shape, key).boxed().await?.map(Prepared::Done).ok_or(refused);
            }
            _ => return Err(refused),
        },
    };
    Ok(Prepared::New(Box::new(New { append: Append { events, expected, idempotency_key }, shape, span, looked_up })))
}

/// What was prepared, its key looked up again if that was long ago: another append may have used it since.
async fn renewed(gateway: &Gateway, prepared: Prepared) -> Result<Prepared, Problem> {
    let Prepared::New(new) = prepared else { return Ok(prepared) };
    if new.looked_up.elapsed() > LOOKUP_VALID
        && let Some(key) = &new.append.idempotency_key
        && let Some(earlier) = keys::used(gateway, &new.shape, key).boxed().await?
    {
        return Ok(Prepared::Done(earlier));
    }
    Ok(Prepared::New(new))
}

/// An append on its way.
enum UnderWay {
    Done(Appended),
    Sent { begun: Begun, shape: Shape, key: Option<IdempotencyKey>, span: Span },
}

/// Sends an append, behind those that began before it.
async fn begin(sequence: &mut Sequence, prepared: Prepared) -> UnderWay {
    let New { append, shape, span, .. } = match prepared {
        Prepared::Done(appended) => return UnderWay::Done(appended),
        Prepared::New(new) => *new,
    };
    let key = append.idempotency_key.clone();
    let begun = sequence.begin(append).instrument(span.clone()).await;
    // A batch whose fence is known to be stale is not sent; `finish` answers it like one that the log refused.
    let begun = begun.unwrap_or_else(|error| future::ready(Err(error)).boxed());
    UnderWay::Sent { begun, shape, key, span }
}

/// Waits for the log's word, and says it as the client wants to hear it; a conflict without its events.
async fn finish(gateway: &Gateway, under_way: UnderWay) -> Result<Appended, Problem> {
    let (begun, shape, key, span) = match under_way {
        UnderWay::Done(appended) => return Ok(appended),
        UnderWay::Sent { begun, shape, key, span } => (begun, shape, key, span),
    };
    match (begun.instrument(span.clone()).await, key) {
        (Ok(appended), _) => {
            let appended = receipts::of(gateway, &shape, appended).await?;
            span.record("position", appended.receipts.last().map(|receipt| receipt.position.get()));
            Ok(appended)
        }
        (Err(LogError::AlreadyAppended), Some(key)) => {
            keys::remembered(gateway, &shape, &key).boxed().await?.ok_or_else(|| problem::of_log(LogError::AlreadyAppended))
        }
        (Err(error), key) => {
            // The key may be what made the fence stale. If that cannot be learned the conflict is true all the same.
            if let (LogError::Conflict { .. }, Some(key)) = (&error, key) {
                let remembered = keys::remembered(gateway, &shape, &key).boxed();
                match tokio::time::timeout(conflict::READ_MAX, remembered).await {
                    Ok(Ok(Some(earlier))) => return Ok(earlier),
                    Ok(Err(problem)) if problem.kind == Kind::Invalid => return Err(problem),
                    Ok(Ok(None) | Err(_)) | Err(_) => {}
                }
            }
            span.record("otel.status_code", "ERROR");
            span.record("error", error.to_string());
            Err(problem::of_log(error))
        }
    }
}

/// What Causeway says of the log itself nobody else may say.
fn refuse_system_events(drafts: &[Draft]) -> Result<(), Problem> {
    match drafts.iter().position(|draft| Category::of(&draft.event_type) == Category::System) {
        None => Ok(()),
        Some(index) => {
            let detail = format!("{} is Causeway's own: no client can append it", drafts[index].event_type);
            Err(Problem::invalid(format!("/events/{index}/type"), detail))
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
    fn begins_with(&self, events: &[Arc<Event>]) -> Result<(), Problem> {
        let is_same = |((aggregate, event_type), event): (&(AggregateId, EventType), &Arc<Event>)| {
            *aggregate == event.aggregate_id && *event_type == event.event_type
        };
        match events.len() <= self.0.len() && self.0.iter().zip(events).all(is_same) {
            true => Ok(()),
            false => Err(other_events()),
        }
    }
}

fn other_events() -> Problem {
    Problem::invalid("/idempotency_key", "was used before, for an append of other events")
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
            let reason = format!("is needed, since the events do not share one {name}: each fence of a list names its own");
            Problem::invalid(format!("/expected/{index}/{name}"), reason)
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
    mut drafts: Vec<Draft>,
    source: &Source,
    traceparent: Option<TraceParent>,
) -> Result<(Vec<NewEvent>, Span), Problem> {
    let mut spans: HashMap<CorrelationId, (Span, Option<TraceParent>)> = HashMap::new();
    let mut first = None;
    gateway.types.check(gateway, &mut drafts).await?;
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
            schema_version: draft.schema_version,
            traceparent: None,
        };
        let correlation = event.lineage.correlation().cloned().unwrap_or_else(|| CorrelationId::from_uuid(Uuid::now_v7()));
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
    let causing = causing(gateway, cause, chain.is_none()).boxed().await?;
    let span = causing.as_ref().and_then(|event| event.metadata.traceparent);
    match chain.or_else(|| causing.map(|event| event.metadata.correlation_id.clone())) {
        Some(correlation) => Ok((Lineage::CausedBy { cause, correlation }, span)),
        None => Err(Problem::invalid("/metadata/causation_id", format!("there is no event {cause} on the log"))),
    }
}

/// The event of this id; if it is `needed` one that was appended a moment ago, too.
async fn causing(gateway: &Gateway, id: EventId, needed: bool) -> Result<Option<Arc<Event>>, Problem> {
    // An id never changes its event: what is found needs no freshness.
    let found = gateway.store.by_id(id).await?;
    if found.is_some() || !needed {
        return Ok(found);
    }
    gateway.store.fresh().await?;
    Ok(gateway.store.by_id(id).await?)
}

#[cfg(test)]
mod tests {
    use causeway_event::{Data, Position};

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
            schema_version: None,
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
    fn what_is_causeways_own_is_refused_by_its_place() {
        assert!(refuse_system_events(&[draft("a", "NoteTaken"), draft("a", "MessageReceived")]).is_ok());
        let refused = refuse_system_events(&[draft("a", "NoteTaken"), draft("causeway:log", "LogCheckpointed")]).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("/events/1/type"));
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
