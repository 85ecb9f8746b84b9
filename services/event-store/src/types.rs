//! The users' own types: registered as events, held in memory, applied to what comes in and what goes out.
//!
//! ```text
//! register ──> decide ──> append, fenced on the registry's last event ──> fold ──┐
//! the store's feed says that there is a registration ────────────────────> fold ─┴─> the registry that all requests use
//! ```
//!
//! The registry is a cache of the log's aggregate `causeway:types`. Data of a type that is not registered is nobody's
//! business, and so are events that were appended before their type was registered: they have no version.

mod registry;
mod schema;
#[cfg(test)]
mod tests;
mod upcast;
mod visits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use causeway_event::{
    AggregateId, Category, Event, EventId, EventType, Invalid, Lineage, NewEvent, Payload, Position, Source, TraceParent, payload,
};
use causeway_log::{Append, Fence, Folded, Log, LogError};
use causeway_proto::{Draft, Kind, Problem};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

pub(crate) use registry::Registration;
use registry::{Checked, Decision, Misfit, Registry};

use crate::gateway::Gateway;
use crate::problem;
use crate::read_model::Filter;
use crate::store::{Subscription, Update};

/// Where registrations stand.
const AGGREGATE: &str = "causeway:types";
/// Who registers.
const SOURCE: &str = "event-store";
/// Times that a registration is decided again because another one came first.
const ATTEMPTS_MAX: usize = 10;
/// Of so much data a thread of the runtime takes care itself: to hand over what else it serves takes longer.
const ASIDE_BYTES: usize = 4096;
/// How old the registry may be that a gateway holds appends against while its feed does not keep it new.
const STALE: Duration = Duration::from_secs(1);
/// Before a log that was away is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The registry of one gateway.
pub(crate) struct Types {
    aggregate: AggregateId,
    source: Source,
    /// Only one folds or registers at a time; whoever reads does not wait for it.
    folded: Mutex<Folded<Registry>>,
    current: watch::Sender<Arc<Registry>>,
    /// All registrations up to here are in it.
    seen: AtomicU64,
    /// When the log was last asked for registrations, and what came of it.
    asked: Mutex<Option<(Instant, Result<(), Problem>)>>,
}

/// A type as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TypeInfo {
    pub(crate) name: String,
    pub(crate) category: Category,
    pub(crate) description: String,
    pub(crate) versions: Vec<VersionInfo>,
}

/// A version of a type as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VersionInfo {
    pub(crate) version: u32,
    pub(crate) schema: Value,
    pub(crate) upcast: Vec<Value>,
    /// The event that registered it; none for a type that Causeway knows itself.
    pub(crate) registered_by: Option<EventId>,
}

/// What a registration did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registered {
    pub(crate) info: TypeInfo,
    /// Whether exactly this was registered before.
    pub(crate) duplicate: bool,
}

impl Types {
    /// The registry as the log has it.
    pub(crate) async fn open(log: &Log) -> Result<Self, LogError> {
        let types = Self {
            aggregate: AGGREGATE.parse()?,
            source: SOURCE.parse()?,
            folded: Mutex::new(Folded::default()),
            current: watch::Sender::new(Arc::default()),
            seen: AtomicU64::new(0),
            asked: Mutex::new(None),
        };
        types.refresh(log, Position::START).await?;
        Ok(types)
    }

    /// The event in the newest version of its type; the same where there is nothing to change.
    pub(crate) fn show(&self, event: &Arc<Event>) -> Arc<Event> {
        let mut shown = [event.clone()];
        self.show_all(&mut shown);
        let [shown] = shown;
        shown
    }

    /// Exchanges events for what [`Self::show`] makes of them.
    pub(crate) fn show_all(&self, events: &mut [Arc<Event>]) {
        if events.iter().all(|event| event.metadata.schema_version.is_none()) {
            return;
        }
        let registry = self.current();
        let older = || events.iter().filter(|event| registry.is_older(event));
        let bytes = older().map(|event| event.data.as_bytes().len()).sum();
        aside(bytes, || {
            for event in events {
                if let Some(shown) = registry.upcast(event) {
                    *event = Arc::new(shown);
                }
            }
        });
    }

    /// The last registration that changes how [`Self::show`] shows events of before.
    pub(crate) fn revision(&self) -> Position {
        self.current.borrow().changed()
    }

    /// Waits until that is another one than this.
    pub(crate) async fn revised(&self, revision: Position) -> Position {
        let mut current = self.current.subscribe();
        // Fails only when nobody has the registry any more.
        let registry = current.wait_for(|registry| registry.changed() != revision).await;
        registry.map_or(revision, |registry| registry.changed())
    }

    /// Whether [`Self::show`] shows events of these types as it did at their revisions.
    pub(crate) fn unchanged<'t>(&self, mut shown: impl Iterator<Item = (&'t EventType, Position)>) -> bool {
        let registry = self.current.borrow();
        shown.all(|(name, revision)| registry.changed_of(name) <= revision)
    }

    /// Takes account of all registrations up to this one. Mostly it does already.
    pub(crate) async fn fresh(&self, log: &Log, registered: Position) -> Result<(), LogError> {
        match registered.get() <= self.seen.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.refresh(log, registered).await.map(drop),
        }
    }

    /// Takes account of all registrations up to a moment ago. Costs nothing while the feed brings them; otherwise the log is asked, once
    /// for all who want to know: also that it does not answer, which takes long to learn.
    pub(crate) async fn recent(&self, gateway: &Gateway) -> Result<(), Problem> {
        match gateway.ready.is_recent() {
            true => Ok(()),
            false => self.asked(&gateway.log).boxed().await,
        }
    }

    async fn asked(&self, log: &Log) -> Result<(), Problem> {
        let mut asked = self.asked.lock().await;
        if let Some((at, answer)) = &*asked
            && at.elapsed() <= STALE
        {
            return answer.clone();
        }
        let begun = Instant::now();
        let answer = self.refresh(log, Position::START).await.map(drop).map_err(problem::of_log);
        // What was learned is of the moment when it was asked; whoever has waited for a failure meanwhile shares it.
        *asked = Some((if answer.is_ok() { begun } else { Instant::now() }, answer.clone()));
        answer
    }

    fn current(&self) -> Arc<Registry> {
        self.current.borrow().clone()
    }

    /// Holds drafts against their types, and writes down the versions that they have. The field starts with `/events`.
    pub(crate) async fn check(&self, gateway: &Gateway, drafts: &mut [Draft]) -> Result<(), Problem> {
        self.recent(gateway).await?;
        let mut registry = self.current();
        for (index, draft) in drafts.iter_mut().enumerate() {
            let hold = |registry: &Registry| {
                let is_free = registry.versions(&draft.event_type).is_empty();
                let bytes = if is_free { 0 } else { draft.data.as_bytes().len() };
                aside(bytes, || registry.check(&draft.event_type, &draft.data, draft.schema_version))
            };
            let mut checked = hold(&registry);
            if matches!(checked, Err(Misfit::Version(_))) {
                // Another gateway may have registered it just before.
                self.refresh(&gateway.log, Position::START).boxed().await.map_err(problem::of_log)?;
                registry = self.current();
                checked = hold(&registry);
            }
            match checked {
                Ok(Checked::Free) => {}
                Ok(Checked::Fits(version)) => draft.schema_version = Some(version),
                Err(Misfit::Version(invalid) | Misfit::Data(invalid)) => {
                    return Err(invalid.within(&format!("/events/{index}")).into());
                }
            }
        }
        Ok(())
    }

    /// Registers a version, once: of two gateways that do so at the same time, one comes first and the other decides anew.
    pub(crate) async fn register(
        &self,
        log: &Log,
        request: Registration,
        traceparent: Option<TraceParent>,
    ) -> Result<Registered, Problem> {
        let request = Arc::new(request);
        for _ in 0..ATTEMPTS_MAX {
            let (registry, tip) = self.refresh(log, Position::START).await.map_err(problem::of_log)?;
            let data = match decide(&registry, &request).await? {
                Decision::Register(data) => data,
                Decision::Same => return Ok(Registered { info: registered(&registry, &request.name), duplicate: true }),
                Decision::Conflict { next } => {
                    let detail = format!("must be {next}, the next version of {}", request.name);
                    return Err(Problem::new(Kind::Conflict, detail).at("/version"));
                }
            };
            match log.append(self.append(data, tip, traceparent)?).await {
                Ok(appended) => {
                    let position = appended.receipts.last().map_or(tip, |receipt| receipt.position);
                    let (registry, _) = self.refresh(log, position).await.map_err(after_appending)?;
                    return Ok(Registered { info: registered(&registry, &request.name), duplicate: false });
                }
                Err(LogError::Conflict { .. }) => {}
                Err(error) => return Err(problem::of_log(error)),
            }
        }
        Err(Problem::new(Kind::Overloaded, "too many types are being registered").retry_after(problem::COME_BACK))
    }

    fn append(&self, data: payload::TypeRegistered, tip: Position, traceparent: Option<TraceParent>) -> Result<Append, Problem> {
        let payload = Payload::TypeRegistered(data);
        let lineage = Lineage::Root { correlation: None };
        // What nests deeper than an event may was in the patch: a schema has its own, smaller limit.
        let event = NewEvent::of(&payload, self.aggregate.clone(), self.source.clone(), lineage)
            .map_err(|invalid| Problem::from(invalid).at("/upcast"))?;
        let fence = Fence { aggregate_id: self.aggregate.clone(), category: Category::System, position: tip };
        Ok(Append { events: vec![NewEvent { traceparent, ..event }], expected: vec![fence], idempotency_key: None })
    }

    /// All types: those that Causeway knows itself, then those that were registered.
    pub(crate) async fn list(&self, gateway: &Gateway) -> Result<Vec<TypeInfo>, Problem> {
        self.recent(gateway).await?;
        let registry = self.current();
        let registered = registry.types().map(|(name, _)| registered(&registry, name));
        let mut known: Vec<_> =
            payload::schemas().into_iter().map(|(name, category, schema)| known(name, category, schema.into())).collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(known.into_iter().chain(registered).collect())
    }

    /// Folds what the log has got since, at least up to `at_least`. Answers the registry and what a registration is fenced on.
    async fn refresh(&self, log: &Log, at_least: Position) -> Result<(Arc<Registry>, Position), LogError> {
        let mut folded = self.folded.lock().await;
        log.catch_up(&self.aggregate, &mut folded, at_least, registry::fold).await?;
        let tip = folded.tip(Category::System);
        // Compared with what is in use, since whoever folded it may have been dropped before it was.
        if folded.state().position() == self.current().position() {
            self.seen.fetch_max(tip.get(), Ordering::AcqRel);
            return Ok((self.current(), tip));
        }
        let registry = self.publish(&folded).await;
        self.seen.fetch_max(tip.get(), Ordering::AcqRel);
        Ok((registry, tip))
    }

    /// Folds all registrations again: the log has lost its end, and perhaps some of them.
    async fn begin_again(&self, log: &Log) -> Result<(), LogError> {
        let mut folded = self.folded.lock().await;
        let mut anew = Folded::default();
        log.catch_up(&self.aggregate, &mut anew, Position::START, registry::fold).await?;
        *folded = anew;
        self.publish(&folded).await;
        self.seen.store(folded.tip(Category::System).get(), Ordering::Release);
        Ok(())
    }

    /// From now on all requests use it.
    async fn publish(&self, folded: &Folded<Registry>) -> Arc<Registry> {
        let registry = Arc::new(folded.state().clone());
        let cold = registry.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || cold.warm()).await {
            tracing::error!(error = %error, "the schemas of registered types were not compiled ahead");
        }
        self.current.send_replace(registry.clone());
        registry
    }
}

/// Does what takes the longer the more data it is for, and the more somebody's schema or patch asks for: without keeping back others
/// that this thread serves.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread's other tasks move on; only what asks waits, and it can do nothing else"
)]
fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    // A runtime of one thread has no other one.
    let may_block = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    match bytes > ASIDE_BYTES && may_block {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

/// Compiling somebody's schema may take a while: not on a thread that serves others.
async fn decide(registry: &Arc<Registry>, request: &Arc<Registration>) -> Result<Decision, Problem> {
    let (registry, request) = (registry.clone(), request.clone());
    let decided = tokio::task::spawn_blocking(move || registry::decide(&registry, &request)).await;
    Ok(decided.map_err(|error| Problem::new(Kind::Internal, format!("the schema was not checked: {error}")))??)
}

/// It is registered, but how it came out is not known here.
fn after_appending(error: LogError) -> Problem {
    Problem::new(Kind::OutcomeUnknown, format!("it is registered, but: {error}"))
}

fn registered(registry: &Registry, name: &EventType) -> TypeInfo {
    let versions = registry.versions(name);
    // Whoever adds a version need not say again what the type is.
    let description = versions.iter().rev().map(|version| &version.description).find(|description| !description.is_empty());
    TypeInfo {
        name: name.to_string(),
        category: Category::of(name),
        description: description.cloned().unwrap_or_default(),
        versions: versions
            .iter()
            .map(|version| VersionInfo {
                version: version.version,
                schema: version.schema.clone(),
                upcast: version.upcast.clone(),
                registered_by: Some(version.registered_by),
            })
            .collect(),
    }
}

fn known(name: &str, category: Category, schema: Value) -> TypeInfo {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let versions = vec![VersionInfo { version: 1, schema, upcast: vec![], registered_by: None }];
    TypeInfo { name: name.to_owned(), category, description, versions }
}

/// Whether the registry depends on it. Whoever has access to the stream can put an event of this type elsewhere: that is none.
pub(crate) fn is_registration(event: &Event) -> bool {
    event.event_type.as_str() == "TypeRegistered" && event.aggregate_id.as_str() == AGGREGATE
}

/// A registration as it comes over either wire.
pub(crate) fn registration(
    name: &str,
    schema: Value,
    upcast: Vec<Value>,
    version: Option<u32>,
    description: String,
) -> Result<Registration, Problem> {
    let name = name.parse().map_err(|invalid: Invalid| invalid.within("/name"))?;
    if version == Some(0) {
        return Err(Problem::invalid("/version", "must be at least 1"));
    }
    Ok(Registration { name, schema, upcast, version, description })
}

/// Keeps the registry as new as the store's feed, until it is dropped.
pub(crate) async fn follow(gateway: &Gateway) {
    let types = &gateway.types;
    let filter = Filter { aggregate_id: Some(types.aggregate.clone()), ..Filter::default() };
    let mut lost = 0;
    loop {
        let losses = gateway.store.losses();
        if losses != lost {
            while let Err(error) = types.begin_again(&gateway.log).await {
                tracing::debug!(%error, "registrations may be lost, but the log is away");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            lost = losses;
        }
        let known = types.current().position();
        let (filter, heartbeat) = (filter.clone(), gateway.config.heartbeat);
        let subscription = Subscription { filter, after: known, head: known, losses, heartbeat };
        let mut updates = gateway.store.subscribe(subscription).boxed();
        while let Some(Ok(update)) = updates.next().await {
            let Update::Event(event) = update else { continue };
            while gateway.store.losses() == losses
                && let Err(error) = types.refresh(&gateway.log, event.position).await
            {
                tracing::debug!(%error, "a registration is known, but the log is away");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        if gateway.store.losses() == losses {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}
