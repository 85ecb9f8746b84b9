//! The shell around `dispatch`: one task in each gateway that has members of a group, which dispatches it while it holds the lease.
//!
//! **What is where.** The server's durable consumer knows what is not acknowledged. All else is in memory here, and can be learned
//! again: members announce every second who they are and what they have, and the lease carries how often what was delivered.
//!
//! **Taking over.** What the last dispatcher pulled and did not acknowledge comes again, at once if it handed over, else after
//! [`Log::GROUP_HOLD`]; what nobody pulled comes before. To start a later event of an aggregate while an earlier one is still to
//! come again would break its order. So a new dispatcher starts nothing until it holds all that the server counts as
//! unacknowledged, and members have had the time to announce what they have: those deliveries stay with them.
//!
//! **Two at once.** A dispatcher that slept may believe for a moment that it still has the lease. It begins nothing unless it
//! renewed the lease within [`Lease::DOUBT`], and acknowledges only what its own members answered: what the other one delivers
//! meanwhile is delivered twice at worst, which "at least once" allows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_event::Position;
use causeway_log::{Claim, GroupName, GroupPull, GroupState, Hold, Lease, Log, LogError, Mail, Post, Pulled, Replay};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::dispatch::{Answer, Arrival, Dispatch, Origin, Rules, Settlement, Taken};
use super::words::{self, Reply, Status, ToDispatcher, ToMember};
use crate::read_model::Filter;

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the server is told that what is held is still held.
const KEEP: Duration = Duration::from_secs(3);
/// How often it is looked for what is to be delivered again, without being told.
const REPLAYS: Duration = Duration::from_secs(10);
/// Pause before something is tried again that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The time that members have to announce themselves to a new dispatcher.
const ROLL_CALL: Duration = Duration::from_millis(1200);
/// A new dispatcher waits no longer than this for what is to come again.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

/// What to dispatch.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) log: Log,
    pub(super) group: GroupName,
    pub(super) rules: Rules,
    pub(super) filter: Arc<Filter>,
}

/// How a term of office ended.
enum End {
    Stopped(Lease),
    /// Somebody else has the lease.
    Lost(Lease),
    Deleted,
}

/// Dispatches the group whenever nobody else does, until `stop`.
pub(super) async fn run(office: Office, stop: CancellationToken) {
    let mut lease = office.log.group_lease(&office.group);
    loop {
        match stop.run_until_cancelled(lease.claim()).await {
            None => return lease.release().await,
            Some(Ok(Claim::Won | Claim::Kept)) => match Term::serve(&office, lease, &stop).await {
                End::Stopped(mut lease) => return lease.release().await,
                End::Lost(lost) => lease = lost,
                End::Deleted => return,
            },
            Some(Ok(Claim::Elsewhere)) => {}
            Some(Err(error)) => tracing::debug!(%error, group = %office.group, "a group's lease cannot be had"),
        }
        if stop.run_until_cancelled(sleep(Lease::RENEW)).await.is_none() {
            return lease.release().await;
        }
    }
}

/// One term of office.
struct Term {
    office: Office,
    dispatch: Dispatch,
    /// What the server waits for.
    holds: HashMap<Position, Hold>,
    /// Members who wait for something to be settled.
    waiting: HashMap<Position, Post>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    renewed_at: Instant,
    recovery: Recovery,
    looking_for_replays: bool,
}

/// Whether anything may be started.
enum Recovery {
    Since(Instant),
    Over,
}

/// Something that was asked of the server.
enum Done {
    Settled(Position),
    Renewed(Box<Lease>, Result<Claim, LogError>),
    Replays(Result<Vec<Replay>, LogError>),
    State(Result<Option<GroupState>, LogError>),
}

impl Term {
    async fn serve(office: &Office, lease: Lease, stop: &CancellationToken) -> End {
        tracing::info!(group = %office.group, "dispatching the group");
        let now = Instant::now();
        let mut term = Self {
            office: office.clone(),
            dispatch: Dispatch::new(office.rules),
            holds: HashMap::new(),
            waiting: HashMap::new(),
            work: FuturesUnordered::new(),
            renewed_at: now,
            recovery: Recovery::Since(now),
            looking_for_replays: false,
        };
        term.dispatch.remember(notes_read(&lease.notes));
        term.renew(lease, stop);
        let mail = tokio::select! {
            mail = open_mail(office) => mail,
            () = stop.cancelled() => return End::Stopped(term.close().await),
        };
        term.tell_all(&ToMember::Call).await;
        // Asked before the first pull: what it counts was pulled by others.
        let state = office.log.group(&office.group).await;
        term.look_at(state, Instant::now());
        term.look_for_replays();
        let pull = office.log.pull_group(&office.group);
        term.work_until(mail, pull, stop).await
    }

    async fn work_until(mut self, mut mail: Mail, mut pull: GroupPull, stop: &CancellationToken) -> End {
        let [mut tick, mut keep, mut replays] = [TICK, KEEP, REPLAYS].map(|period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => return End::Stopped(self.close().await),
                post = mail.next() => self.hear(post).await,
                pulled = pull.next() => match pulled {
                    Some(pulled) => self.arrive(pulled).await,
                    None => {
                        self.tell_all(&ToMember::Deleted).await;
                        return End::Deleted;
                    }
                },
                Some(done) = self.work.next() => {
                    if let Some(end) = self.done(done, stop).await {
                        return end;
                    }
                }
                _ = tick.tick() => match self.is_sure() {
                    true => self.dispatch.tick(Instant::now()),
                    false => self.dispatch.excuse(Instant::now()),
                },
                _ = keep.tick() => self.keep().await,
                _ = replays.tick() => self.look_for_replays(),
            }
            self.act().await;
        }
    }

    /// Carries out what has become possible.
    async fn act(&mut self) {
        for settlement in self.dispatch.take_settlements() {
            let hold = self.holds.get(&settlement.position).cloned();
            self.work.push(settle(self.office.clone(), settlement, hold).boxed());
        }
        while matches!(self.recovery, Recovery::Over) && self.is_sure() {
            let Some(next) = self.dispatch.next(Instant::now()) else { return };
            let words = ToMember::Deliver { position: next.position.get(), deliveries: next.deliveries };
            let told = self.office.log.tell_member(&self.office.group, &next.member, words::write(&words)).await;
            if let Err(error) = told {
                // It will turn out that the member has not got it.
                tracing::debug!(%error, group = %self.office.group, "a delivery was not sent");
            }
        }
    }

    /// Whether the lease was renewed lately: nobody else dispatches, and we are connected.
    fn is_sure(&self) -> bool {
        self.renewed_at.elapsed() < Lease::DOUBT
    }

    async fn arrive(&mut self, pulled: Pulled) {
        let Pulled { position, event, hold } = pulled;
        let Some(event) = event.filter(|event| self.office.filter.matches(event)) else {
            return hold.skip().await;
        };
        match self.dispatch.arrive(position, &event.aggregate_id, Origin::Log, Instant::now()) {
            Arrival::Taken | Arrival::Known => _ = self.holds.insert(position, hold),
            Arrival::Settled => hold.skip().await,
        }
    }

    async fn hear(&mut self, post: Post) {
        let now = Instant::now();
        match words::read(&post.payload) {
            Some(ToDispatcher::Announce { member, room, held }) => {
                let held: Vec<_> = held.into_iter().map(|(position, n)| (Position::new(position), n)).collect();
                self.dispatch.announce(&member, room, &held, now);
            }
            Some(ToDispatcher::Leave { member }) => self.dispatch.leave(&member, "its member's stream ended"),
            Some(ToDispatcher::Answer { member, position, deliveries, answer }) => {
                let position = Position::new(position);
                match self.dispatch.answer(&member, position, deliveries, answer.into(), now) {
                    Taken::Done => post.answer(words::write(&Reply::Done)).await,
                    Taken::Later => post.answer(words::write(&Reply::Later)).await,
                    Taken::Stale => post.answer(words::write(&Reply::Stale)).await,
                    Taken::Settling => _ = self.waiting.insert(position, post),
                }
            }
            Some(ToDispatcher::Replays) => self.look_for_replays(),
            Some(ToDispatcher::Status) => {
                let in_flight = self.dispatch.in_flight() as u64;
                post.answer(words::write(&Status { in_flight })).await;
            }
            None => {}
        }
    }

    async fn done(&mut self, done: Done, stop: &CancellationToken) -> Option<End> {
        match done {
            Done::Settled(position) => {
                self.holds.remove(&position);
                self.dispatch.settled(position);
                if let Some(post) = self.waiting.remove(&position) {
                    post.answer(words::write(&Reply::Done)).await;
                }
            }
            Done::Renewed(lease, Ok(Claim::Kept | Claim::Won)) => {
                self.renewed_at = Instant::now();
                self.renew(*lease, stop);
            }
            Done::Renewed(lease, Ok(Claim::Elsewhere)) => {
                tracing::info!(group = %self.office.group, "another gateway dispatches the group");
                return Some(End::Lost(*lease));
            }
            Done::Renewed(lease, Err(error)) => {
                tracing::debug!(%error, group = %self.office.group, "the lease of a group was not renewed");
                self.renew(*lease, stop);
            }
            Done::Replays(found) => {
                self.looking_for_replays = false;
                for replay in found.unwrap_or_default() {
                    let origin = Origin::Replay(replay.number);
                    self.dispatch.arrive(replay.position, &replay.aggregate_id, origin, Instant::now());
                }
            }
            Done::State(state) => self.look_at(state, Instant::now()),
        }
        None
    }

    /// Whether all is here that was begun before us.
    fn look_at(&mut self, state: Result<Option<GroupState>, LogError>, now: Instant) {
        let Recovery::Since(since) = self.recovery else { return };
        let waited = now.duration_since(since);
        let over = match state {
            Ok(Some(state)) if state.unacknowledged == 0 => true,
            Ok(Some(state)) => state.unacknowledged <= self.holds.len() as u64 && ROLL_CALL <= waited,
            Ok(None) | Err(_) => false,
        };
        if !over && RECOVERY_MAX < waited {
            tracing::warn!(group = %self.office.group, "what was begun before has not come again in time; going on without");
        }
        if over || RECOVERY_MAX < waited {
            self.recovery = Recovery::Over;
            return;
        }
        let Office { log, group, .. } = self.office.clone();
        let ask = async move {
            sleep(RETRY_PAUSE).await;
            Done::State(log.group(&group).await)
        };
        self.work.push(ask.boxed());
    }

    fn look_for_replays(&mut self) {
        if !std::mem::replace(&mut self.looking_for_replays, true) {
            let Office { log, group, .. } = self.office.clone();
            self.work.push(async move { Done::Replays(log.replays(&group).await) }.boxed());
        }
    }

    fn renew(&mut self, mut lease: Lease, stop: &CancellationToken) {
        lease.notes = self.notes();
        self.work.push(renewal(lease, stop.clone()));
    }

    /// How often events were delivered must outlive us: one that kills its members would do so for ever.
    fn notes(&self) -> String {
        let deliveries: Vec<(u64, u32)> = self.dispatch.deliveries().map(|(position, n)| (position.get(), n)).collect();
        serde_json::to_string(&deliveries).unwrap_or_default()
    }

    async fn keep(&mut self) {
        for hold in self.holds.values() {
            hold.keep().await;
        }
    }

    /// Lets somebody else go on at once.
    async fn close(mut self) -> Lease {
        for hold in self.holds.values() {
            hold.give_back().await;
        }
        self.office.log.flush().await;
        loop {
            // There is always one renewal under way, and it does not wait once we are to stop.
            if let Some(Done::Renewed(mut lease, _)) = self.work.next().await {
                lease.notes = self.notes();
                return *lease;
            }
        }
    }

    async fn tell_all(&mut self, words: &ToMember) {
        if let Err(error) = self.office.log.tell_members(&self.office.group, words::write(words)).await {
            tracing::debug!(%error, group = %self.office.group, "the members of a group were not told");
        }
    }
}

fn notes_read(notes: &str) -> Vec<(Position, u32)> {
    let deliveries: Vec<(u64, u32)> = serde_json::from_str(notes).unwrap_or_default();
    deliveries.into_iter().map(|(position, n)| (Position::new(position), n)).collect()
}

async fn open_mail(office: &Office) -> Mail {
    loop {
        match office.log.dispatcher_mail(&office.group).await {
            Ok(mail) => return mail,
            Err(error) => tracing::debug!(%error, group = %office.group, "a group cannot be listened to"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn renewal(mut lease: Lease, stop: CancellationToken) -> BoxFuture<'static, Done> {
    async move {
        match stop.run_until_cancelled_owned(sleep(Lease::RENEW)).await {
            Some(()) => {
                let claim = lease.claim().await;
                Done::Renewed(Box::new(lease), claim)
            }
            None => Done::Renewed(Box::new(lease), Ok(Claim::Kept)),
        }
    }
    .boxed()
}

/// Strikes an event off, as often as it takes.
async fn settle(office: Office, settlement: Settlement, hold: Option<Hold>) -> Done {
    loop {
        match try_settle(&office, &settlement, hold.as_ref()).await {
            Ok(()) => return Done::Settled(settlement.position),
            Err(error) => {
                tracing::debug!(%error, group = %office.group, position = %settlement.position, "was not settled yet");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn try_settle(office: &Office, settlement: &Settlement, hold: Option<&Hold>) -> Result<(), LogError> {
    let Settlement { position, origin, park } = settlement;
    if let Some(park) = park
        && let Some(stored) = office.log.get(*position).await?
    {
        tracing::warn!(group = %office.group, %position, reason = park.reason, "an event is parked");
        let attempt = match origin {
            Origin::Log => None,
            Origin::Replay(number) => Some(*number),
        };
        office.log.park_of_group(&office.group, &stored.event, &park.reason, park.deliveries, attempt).await?;
    }
    match (origin, hold) {
        (Origin::Log, Some(hold)) => hold.ack().await,
        (Origin::Log, None) => Ok(()),
        (Origin::Replay(number), _) => office.log.end_replay(*number).await,
    }
}

impl From<words::Answer> for Answer {
    fn from(answer: words::Answer) -> Self {
        match answer {
            words::Answer::Ack => Self::Ack,
            words::Answer::Nak { delay_ms, reason } => Self::Nak { delay: delay_ms.map(Duration::from_millis), reason },
            words::Answer::Progress => Self::Progress,
            words::Answer::Park { reason } => Self::Park { reason },
        }
    }
}
