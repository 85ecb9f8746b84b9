//! Groups of consumers: outside programs that share the work on events, each event with one of them until it is acknowledged.
//!
//! ```text
//!  client ─ gRPC ─ member ─┐                        ┌─ member ─ gRPC ─ client
//!                          ├─ core NATS ─ dispatcher ┤     (any gateway)
//!  client ─ gRPC ─ member ─┘                │        └─ member ─ gRPC ─ client
//!                                  durable consumer, lease
//! ```
//!
//! One gateway at a time dispatches a group for the members of all gateways: `dispatch.rs` decides, `dispatcher.rs` acts,
//! `member.rs` stands between a client and the dispatcher. What must outlive all of them is on the server.

mod census;
mod dispatch;
mod dispatcher;
mod member;
mod notes;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use causeway_event::{Category, EventType};
use causeway_log::{Group, GroupName, GroupState, Letter, Log, LogError};
use causeway_proto::{Kind, Problem};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::dispatch::Rules;
use self::dispatcher::Office;
use self::member::Member;
use self::words::{Status, ToDispatcher, ToMember};
use crate::gateway::Gateway;
use crate::problem::of_log;
use crate::read_model::Filter;
use crate::subscribe::Start;

pub(crate) use member::{DeliveryId, Said, Told};
pub(crate) use words::Answer;

/// Deliveries that may wait for a client to take them; more wait with the member, who then takes no further ones.
const UNREAD_MAX: usize = 8;
/// Bytes of parked events in one answer, about.
const PARKED_BYTES_MAX: usize = 2 << 20;
/// Bytes of a parked event beside its data, its labels and its reason, at most.
const PARKED_BYTES: usize = 1024;
/// Parked events that are fetched at once.
const PARKED_FETCHED_MAX: usize = 16;
/// How long somebody who asks how a group does waits for its dispatcher.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// Of how many groups that is asked at the same time.
const ASKED_MAX: usize = 16;

/// What a client wants to be a member of, and how.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) group: GroupName,
    pub(crate) filter: Filter,
    pub(crate) terms: Terms,
    pub(crate) start: Start,
    pub(crate) in_flight_max: usize,
}

/// What a group is, as its first start said it: kept with the group on the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Terms {
    pub(crate) types: Vec<String>,
    pub(crate) category: String,
    pub(crate) aggregate_id: String,
    pub(crate) correlation_id: String,
    pub(crate) source: String,
    pub(crate) ack_wait_ms: u64,
    pub(crate) deliveries_max: u32,
}

/// The groups that this gateway has members of.
#[derive(Default)]
pub(crate) struct Groups {
    candidates: Mutex<HashMap<GroupName, Weak<Candidate>>>,
    tasks: TaskTracker,
}

/// Dispatches a group, if nobody else does, for as long as a member of this gateway holds it.
struct Candidate {
    _stop: DropGuard,
    ended: CancellationToken,
}

/// A group and how it does.
pub(crate) struct Report {
    pub(crate) state: GroupState,
    /// None for what another version of Causeway started.
    pub(crate) terms: Option<Terms>,
    pub(crate) in_flight: u64,
    pub(crate) pending: u64,
    pub(crate) parked: u64,
}

impl Groups {
    /// Waits until all members have left and all groups are handed over.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn candidate(&self, office: Office) -> Arc<Candidate> {
        let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        candidates.retain(|_, candidate| candidate.strong_count() > 0);
        let known = candidates.get(&office.group).and_then(Weak::upgrade);
        if let Some(candidate) = known.filter(|candidate| !candidate.ended.is_cancelled()) {
            return candidate;
        }
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let candidate = Arc::new(Candidate { _stop: stop.clone().drop_guard(), ended: ended.clone() });
        candidates.insert(office.group.clone(), Arc::downgrade(&candidate));
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            dispatcher::run(office, stop).await;
        });
        candidate
    }
}

/// Makes the client a member. What it hears ends when it leaves, the group is deleted or the gateway stops.
pub(crate) async fn join(
    gateway: &Arc<Gateway>,
    wanted: Wanted,
    said: BoxStream<'static, Result<Said, Problem>>,
) -> Result<mpsc::Receiver<Result<Told, Problem>>, Problem> {
    let place = gateway.open_stream()?;
    let Wanted { group, filter, terms, start, in_flight_max } = wanted;
    let (after, _) = gateway.within(start.resolve(gateway)).await?;
    let text = serde_json::to_string(&terms).map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    let wanted = Group {
        name: group.clone(),
        aggregate_id: filter.aggregate_id.clone(),
        categories: categories(filter.category, &terms.types),
        after,
        terms: text,
    };
    let (group, found) = gateway.log.open_group(&wanted).await.map_err(of_log)?;
    let found: Terms = serde_json::from_str(&found)
        .map_err(|_| Problem::invalid("/start/group", format!("the group {group} was started by another version of Causeway")))?;
    terms.check(&found, &group)?;
    let id = uuid::Uuid::now_v7().simple().to_string();
    let mail = gateway.log.member_mail(&group, &id).await.map_err(of_log)?;
    let rules = Rules { ack_wait: terms.ack_wait(), deliveries_max: terms.deliveries_max };
    let office = Office { log: gateway.log.clone(), group: group.clone(), rules, filter: Arc::new(filter) };
    let candidate = gateway.groups.candidate(office);
    let (told, hears) = mpsc::channel(UNREAD_MAX + 1);
    let last_word = told.clone().try_reserve_owned();
    let last_word = last_word.map_err(|_| Problem::new(Kind::Internal, "a new channel has no place"))?;
    let member = Member { gateway: gateway.clone(), group, id, in_flight_max, ack_wait: terms.ack_wait() };
    gateway.groups.tasks.spawn(async move {
        member.serve(mail, said, told, last_word).await;
        drop((candidate, place));
    });
    Ok(hears)
}

/// The groups that there are.
pub(crate) async fn list(gateway: &Gateway) -> Result<Vec<Report>, Problem> {
    let groups = gateway.log.groups().await.map_err(of_log)?;
    stream::iter(groups).map(|state| report(&gateway.log, state)).buffered(ASKED_MAX).try_collect().await
}

async fn report(log: &Log, state: GroupState) -> Result<Report, Problem> {
    let (in_flight, parked) = tokio::join!(in_flight(log, &state.name), log.count_letters(&state.name));
    Ok(Report {
        terms: serde_json::from_str(&state.terms).ok(),
        in_flight,
        pending: pending(&state, in_flight),
        parked: parked.map_err(of_log)?,
        state,
    })
}

/// How many events members have, as the dispatcher says. Without one nobody works on anything.
async fn in_flight(log: &Log, group: &GroupName) -> u64 {
    let status = log.ask_dispatcher(group, words::write(&ToDispatcher::Status));
    let status = tokio::time::timeout(STATUS_TIMEOUT, status).await;
    let status: Option<Status> = status.ok().and_then(Result::ok).and_then(|answer| words::read(&answer));
    status.map_or(0, |status| status.in_flight)
}

/// How many events wait: with the server, and of those that it gave away with the dispatcher.
fn pending(state: &GroupState, in_flight: u64) -> u64 {
    state.undelivered + state.unacknowledged.saturating_sub(in_flight)
}

/// Ends a group and its members' streams. No limit of time around it: what breaks off under way is not "nothing was changed".
pub(crate) async fn delete(gateway: &Gateway, group: &GroupName) -> Result<(), Problem> {
    let found = gateway.log.group_named(group).await.map_err(of_log)?;
    if !gateway.log.delete_group(group).await.map_err(of_log)? {
        return Err(no_group(group));
    }
    let ended = found.map_or_else(|| group.clone(), |found| found.name);
    if let Err(error) = gateway.log.tell_members(&ended, words::write(&ToMember::Deleted)).await {
        tracing::debug!(%error, %group, "its members were not told of the end of a group; its dispatcher tells them");
    }
    Ok(())
}

/// Parked events behind a letter, in the newest version of their types, as many as one answer holds; and whether there are more.
pub(crate) async fn parked(
    gateway: &Gateway,
    of: Option<&GroupName>,
    after: u64,
    limit: usize,
) -> Result<(Vec<Letter>, bool), Problem> {
    let (mut letters, mut bytes) = (Vec::<Letter>::new(), 0);
    loop {
        let behind = letters.last().map_or(after, |letter| letter.number);
        let some = PARKED_FETCHED_MAX.min(limit - letters.len());
        let (found, more) = gateway.log.letters(of.map(GroupName::as_str), behind, some).await.map_err(of_log)?;
        let is_end = !more || found.is_empty();
        for letter in found {
            let event = Arc::unwrap_or_clone(gateway.types.show(&Arc::new(letter.event)));
            let letter = Letter { event, ..letter };
            bytes += size(&letter);
            if bytes > PARKED_BYTES_MAX && !letters.is_empty() {
                return Ok((letters, true));
            }
            letters.push(letter);
        }
        if is_end || letters.len() >= limit {
            return Ok((letters, more));
        }
    }
}

fn size(letter: &Letter) -> usize {
    let labels = letter.event.metadata.labels.iter().map(|(name, value)| name.len() + value.len());
    letter.event.data.as_bytes().len() + letter.reason.len() + labels.sum::<usize>() + PARKED_BYTES
}

/// Delivers parked events again: these, or without any all of the group up to one of them, as many as there is time for. How many,
/// and if not all up to where there are more. As with [`delete`], no limit of time stands around what moves them.
pub(crate) async fn replay(gateway: &Gateway, group: &GroupName, letters: &[u64], up_to: u64) -> Result<(u32, u64), Problem> {
    let Some(found) = gateway.log.group_named(group).await.map_err(of_log)? else { return Err(no_group(group)) };
    let replayed = match letters {
        [] => replay_all(gateway, group, up_to).await,
        letters => gateway.log.replay_letters(group, letters).await.map(|replayed| (replayed, 0)),
    };
    // Also of those before something went wrong.
    if gateway.log.tell_dispatcher(&found.name, words::write(&ToDispatcher::Replays)).await.is_err() {
        tracing::debug!(%group, "the dispatcher was not told of a replay; it looks by itself");
    }
    replayed.map_err(of_log)
}

async fn replay_all(gateway: &Gateway, group: &GroupName, up_to: u64) -> Result<(u32, u64), LogError> {
    // What is parked again meanwhile has a higher number: going on ends.
    let up_to = up_to_or_all(gateway, up_to).await?;
    let (replayed, more) = gateway.log.replay_all(group, up_to, gateway.config.request_timeout / 2).await?;
    Ok((replayed, if more { up_to } else { 0 }))
}

/// Takes letters of a group or processor off the list for good: these, or without any all up to one of them. How many.
pub(crate) async fn discard(gateway: &Gateway, of: &GroupName, letters: &[u64], up_to: u64) -> Result<u32, Problem> {
    let discarded = match letters {
        [] => match up_to_or_all(gateway, up_to).await {
            Ok(up_to) => gateway.log.discard_all(of.as_str(), up_to).await,
            Err(error) => Err(error),
        },
        letters => gateway.log.discard_letters(of.as_str(), letters).await,
    };
    discarded.map_err(of_log)
}

/// The last of the letters that are meant: with 0 all that there are by now.
async fn up_to_or_all(gateway: &Gateway, up_to: u64) -> Result<u64, LogError> {
    if up_to == 0 { gateway.log.last_letter().await } else { Ok(up_to) }
}

fn no_group(group: &GroupName) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no group {group}")).at("/group")
}

/// What the server can leave out by itself: the rest is left out by the dispatcher.
fn categories(category: Option<Category>, types: &[String]) -> Vec<Category> {
    if let Some(category) = category {
        return vec![category];
    }
    // A prefix, which is no type, may be that of types of any category.
    let of = |pattern: &String| pattern.parse::<EventType>().ok().map(|event_type| Category::of(&event_type));
    let mut categories = types.iter().map(of).collect::<Option<Vec<_>>>().unwrap_or_default();
    categories.sort_unstable();
    categories.dedup();
    categories
}

/// Types are a set: in which order a client lists them says nothing.
fn in_order(types: &[String]) -> Vec<String> {
    let mut types = types.to_vec();
    types.sort_unstable();
    types.dedup();
    types
}

impl Terms {
    pub(crate) fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms)
    }

    /// Whether a group of these terms is what the client wants.
    fn check(&self, found: &Self, group: &GroupName) -> Result<(), Problem> {
        let (types, wanted) = (in_order(&found.types), Self { types: in_order(&self.types), ..self.clone() });
        let same = Self { types, ack_wait_ms: self.ack_wait_ms, deliveries_max: self.deliveries_max, ..found.clone() };
        let differs = |field, what: &str| Err(Problem::invalid(field, format!("the group {group} was started with {what}")));
        if same != wanted {
            return differs("/start/filter", "another filter");
        }
        if self.ack_wait_ms != found.ack_wait_ms {
            return differs("/start/ack_wait", &format!("{} ms", found.ack_wait_ms));
        }
        if self.deliveries_max != found.deliveries_max {
            return differs("/start/deliveries_max", &found.deliveries_max.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_leaves_out_what_it_can() {
        let of = |category, types: &[&str]| categories(category, &types.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(None, &[]), []);
        assert_eq!(of(None, &["NoteTaken", "MessageReceived", "OrderPlaced"]), [Category::Input, Category::Custom]);
        assert_eq!(of(None, &["NoteTaken", "Message*"]), []);
        assert_eq!(of(Some(Category::Ai), &["NoteTaken"]), [Category::Ai]);
    }

    #[test]
    fn a_group_is_joined_as_it_was_started_or_not_at_all() {
        let terms = Terms {
            types: vec!["NoteTaken".into()],
            category: String::new(),
            aggregate_id: String::new(),
            correlation_id: String::new(),
            source: String::new(),
            ack_wait_ms: 30_000,
            deliveries_max: 10,
        };
        let field = |found: &Terms| terms.check(found, &"g".parse().unwrap()).map_err(|problem| problem.field.unwrap());
        assert_eq!(field(&terms.clone()), Ok(()));
        assert_eq!(field(&Terms { source: "a".into(), ..terms.clone() }), Err("/start/filter".into()));
        assert_eq!(field(&Terms { ack_wait_ms: 1, ..terms.clone() }), Err("/start/ack_wait".into()));
        assert_eq!(field(&Terms { deliveries_max: 1, ..terms.clone() }), Err("/start/deliveries_max".into()));
    }
}
