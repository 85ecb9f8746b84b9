//! The shell around `dispatch`: one task in each gateway that has members of a group, which dispatches it while it holds the lease.
//!
//! **What is where.** The server's durable consumer knows what is not acknowledged. All else is in memory here, and can be learned
//! again: members announce every second who they are and what they have, and the lease carries how often what was delivered.
//!
//! **Taking over.** What the last dispatcher pulled and did not acknowledge comes again, at once if it handed over, else after
//! [`Log::GROUP_HOLD`]; what nobody pulled comes before. To start a later event of an aggregate while an earlier one is still to
//! come again would break its order. So a dispatcher starts nothing while the server counts more as unacknowledged than is here
//! (`census.rs`), and a new one gives members the time to announce what they have: those deliveries stay with them.
//!
//! **Two at once.** A dispatcher that slept may believe for a moment that it still has the lease. It begins nothing, and asks the
//! server for nothing, unless it renewed the lease within [`Lease::DOUBT`]; it gives back what it has when it learns that it lost
//! it, and acknowledges only what its own members answered: what the other one delivers meanwhile is delivered twice at worst,
//! which "at least once" allows.

mod replays;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_event::Position;
use causeway_log::{Claim, GroupName, GroupPull, GroupState, Hold, Lease, Log, LogError, Mail, Post, Pull, Pulled, Replay};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::replays::Replays;
use super::census::{Census, Here, Outcome};
use super::dispatch::{Arrival, Dispatch, Origin, Rules, Settlement, Taken};
use super::notes::{self, Now};
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
/// How long whoever stops waits for what is being struck off.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// After so many attempts to strike an event off, and so many again, the operator is told.
const ATTEMPTS_WARN: u64 = 40;
/// How often the server is asked what it waits for, when all of that is here; otherwise it is after [`RETRY_PAUSE`].
const COUNT: Duration = Duration::from_secs(1);

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
        // Others count from when it was written, which may be long before the answer is here.
        let asked_at = Instant::now();
        match stop.run_until_cancelled(lease.claim()).await {
            None => return lease.release().await,
            Some(Ok(Claim::Won | Claim::Kept)) => match Term::serve(&office, lease, asked_at, &stop).await {
                End::Stopped(mut lease) => return lease.release().await,
                End::Lost(lost) => lease = lost,
                // It may have been taken anew when the group was gone already.
                End::Deleted => return office.log.forget_lease(&office.group).await,
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
    /// What is being struck off.
    settling: HashSet<Position>,
    /// Members who wait for something to be settled.
    waiting: HashMap<Position, Vec<Post>>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// When the last renewal was asked for that came to be.
    renewed_at: Instant,
    census: Census,
    counting: Counting,
    /// All that was begun before is here.
    has_recovered: bool,
    replays: Replays,
}

/// The server is asked what it waits for.
struct Counting {
    is_asked: bool,
    /// What it answers does not count.
    is_stale: bool,
    asked_at: Instant,
    /// How many it was told about since.
    gone: u64,
}

/// Something that was asked of the server.
enum Done {
    Settled(Position, Origin),
    /// And when it was asked for.
    Renewed(Box<Lease>, Instant, Result<Claim, LogError>),
    Replays(Result<(Vec<Replay>, bool), LogError>),
    State(Result<Option<GroupState>, LogError>),
}

impl Term {
    async fn serve(office: &Office, lease: Lease, won_at: Instant, stop: &CancellationToken) -> End {
        tracing::info!(group = %office.group, "dispatching the group");
        let now = Instant::now();
        let mut term = Self {
            office: office.clone(),
            dispatch: Dispatch::new(office.rules),
            holds: HashMap::new(),
            settling: HashSet::new(),
            waiting: HashMap::new(),
            work: FuturesUnordered::new(),
            renewed_at: won_at,
            census: Census::new(now),
            counting: Counting { is_asked: false, is_stale: false, asked_at: now, gone: 0 },
            has_recovered: false,
            replays: Replays::default(),
        };
        term.dispatch.remember(notes::read(&lease.notes, Now::read()));
        term.renew(lease, stop);
        let mail = tokio::select! {
            mail = open_mail(office) => mail,
            () = stop.cancelled() => return End::Stopped(term.close(None).await),
        };
        // They are called now, and not before somebody listened.
        term.census = Census::new(Instant::now());
        term.tell_all(&ToMember::Call).await;
        term.look_for_replays();
        let mut pull = office.log.pull_group(&office.group);
        match term.work_until(mail, &mut pull, stop).await {
            None => {
                let lease = term.settle_what_was_begun().await;
                term.give_back(pull).await;
                End::Stopped(term.close(lease).await)
            }
            Some(End::Lost(lease)) => {
                term.settle_what_was_begun().await;
                term.give_back(pull).await;
                End::Lost(lease)
            }
            Some(end) => end,
        }
    }

    /// None when it is to stop.
    async fn work_until(&mut self, mut mail: Mail, pull: &mut GroupPull, stop: &CancellationToken) -> Option<End> {
        let [mut tick, mut count, mut keep, mut replays] = [TICK, RETRY_PAUSE, KEEP, REPLAYS].map(|period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                post = mail.next() => self.hear(post).await,
                pulled = pull.next(self.pulls_until()) => match pulled {
                    Pull::Came(pulled) => self.arrive(pulled).await,
                    Pull::Broke => self.recover(),
                },
                Some(done) = self.work.next() => {
                    if let Some(end) = self.done(done, stop).await {
                        return Some(end);
                    }
                }
                _ = tick.tick() => match self.is_sure() {
                    true => self.dispatch.tick(Instant::now()),
                    false => self.dispatch.excuse(Instant::now()),
                },
                _ = count.tick() => self.count(),
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
            self.settling.insert(settlement.position);
            self.work.push(settle(self.office.clone(), settlement, hold).boxed());
        }
        while self.census.is_complete() && self.is_sure() {
            let Some(next) = self.dispatch.next(Instant::now()) else { return };
            let words = ToMember::Deliver { position: next.position.get(), deliveries: next.deliveries };
            let told = self.office.log.tell_member(&self.office.group, &next.member, words::write(&words)).await;
            if let Err(error) = told {
                // It will turn out that the member has not got it.
                tracing::debug!(%error, group = %self.office.group, "a delivery was not sent");
                return;
            }
        }
    }

    /// Whether the lease was renewed lately: nobody else dispatches, and we are connected.
    fn is_sure(&self) -> bool {
        self.renewed_at.elapsed() < Lease::DOUBT
    }

    /// Nothing may come to us when another one may dispatch, nor before it was counted what had come to others.
    fn pulls_until(&self) -> Instant {
        if self.census.was_counted() { self.renewed_at + Lease::DOUBT } else { self.renewed_at }
    }

    /// What was on its way to us is lost and comes again, maybe behind later events.
    fn recover(&mut self) {
        self.census = Census::new(Instant::now());
        // An answer under way may be of before.
        self.counting.is_stale = self.counting.is_asked;
    }

    async fn arrive(&mut self, pulled: Pulled) {
        let Pulled { position, event, hold } = pulled;
        let Some(event) = event.filter(|event| self.office.filter.matches(event)) else {
            return self.skip(position, &hold).await;
        };
        match self.dispatch.arrive(position, &event.aggregate_id, Origin::Log, Instant::now()) {
            Arrival::Taken | Arrival::Known => {
                if self.holds.insert(position, hold).is_none() {
                    self.census.came(position);
                }
            }
            Arrival::Settled => self.skip(position, &hold).await,
        }
    }

    async fn skip(&mut self, position: Position, hold: &Hold) {
        self.census.came(position);
        self.counting.gone += 1;
        if let Err(error) = hold.skip().await {
            tracing::debug!(%error, group = %self.office.group, %position, "what is left out was not struck off; it comes again");
        }
    }

    async fn hear(&mut self, post: Post) {
        let now = Instant::now();
        match words::read(&post.payload) {
            Some(ToDispatcher::Announce { member, room, held, waiting }) => {
                let (held, waiting) = (deliveries(held), waiting.into_iter().map(Position::new).collect::<Vec<_>>());
                self.dispatch.announce(&member, room, &held, now);
                self.dispatch.waiting(&member, &held, &waiting, now);
            }
            Some(ToDispatcher::Leave { member, given }) => {
                self.dispatch.leave(&member, given.map(deliveries).as_deref(), "its member's stream ended", now);
                post.answer(words::write(&Reply::Done)).await;
            }
            Some(ToDispatcher::Answer { member, position, deliveries, answer }) => {
                let position = Position::new(position);
                match self.dispatch.answer(&member, position, deliveries, answer, now) {
                    Taken::Done => post.answer(words::write(&Reply::Done)).await,
                    Taken::Later => post.answer(words::write(&Reply::Later)).await,
                    Taken::Stale => post.answer(words::write(&Reply::Stale)).await,
                    Taken::Settling => self.waiting.entry(position).or_default().push(post),
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
            Done::Settled(position, origin) => {
                self.settled(position).await;
                self.go_on_with_replays(position, origin);
            }
            Done::Renewed(lease, asked_at, Ok(Claim::Kept)) => {
                self.renewed_at = asked_at;
                self.renew(*lease, stop);
            }
            // What is won anew was lost: somebody else may have dispatched in between.
            Done::Renewed(lease, _, Ok(Claim::Elsewhere | Claim::Won)) => {
                tracing::info!(group = %self.office.group, "another gateway dispatches the group");
                return Some(End::Lost(*lease));
            }
            Done::Renewed(lease, _, Err(error)) => {
                tracing::debug!(%error, group = %self.office.group, "the lease of a group was not renewed");
                self.renew(*lease, stop);
            }
            Done::Replays(found) => self.read_replays(found),
            Done::State(Ok(None)) => {
                self.tell_all(&ToMember::Deleted).await;
                return Some(End::Deleted);
            }
            Done::State(Ok(Some(state))) => self.look_at(&state),
            Done::State(Err(error)) => {
                self.counting.is_asked = false;
                tracing::debug!(%error, group = %self.office.group, "the state of a group is not known");
            }
        }
        None
    }

    async fn settled(&mut self, position: Position) {
        self.settling.remove(&position);
        if self.holds.remove(&position).is_some() {
            self.counting.gone += 1;
        }
        self.dispatch.settled(position);
        for post in self.waiting.remove(&position).unwrap_or_default() {
            post.answer(words::write(&Reply::Done)).await;
        }
    }

    /// Asks what the server waits for.
    fn count(&mut self) {
        let Counting { is_asked, asked_at, .. } = self.counting;
        if is_asked || self.census.is_complete() && asked_at.elapsed() < COUNT {
            return;
        }
        self.counting = Counting { is_asked: true, is_stale: false, asked_at: Instant::now(), gone: 0 };
        let Office { log, group, .. } = self.office.clone();
        self.work.push(async move { Done::State(log.group(&group).await) }.boxed());
    }

    /// Whether all is here that the server waits for.
    fn look_at(&mut self, state: &GroupState) {
        self.counting.is_asked = false;
        if self.counting.is_stale {
            return;
        }
        let counted = self.holds.keys().filter(|position| **position <= state.delivered);
        let settling = counted.clone().filter(|position| self.settling.contains(position)).count();
        let counted = counted.count();
        let here = Here { surely: (counted - settling) as u64, perhaps: counted as u64 + self.counting.gone };
        match self.census.counted(state, here, Instant::now()) {
            Outcome::Nothing => {}
            Outcome::Recovered => self.has_recovered = true,
            Outcome::GaveUp(missing) => {
                tracing::warn!(group = %self.office.group, missing, "what was begun has not come again in time; going on without");
            }
        }
        if self.census.is_complete() && self.replays.complete && self.dispatch.remembers() {
            // After a recovery all is here that can come; without it what is not acknowledged still may.
            let up_to = if std::mem::take(&mut self.has_recovered) { state.delivered } else { state.acknowledged };
            self.dispatch.forget(up_to);
        }
    }

    fn renew(&mut self, mut lease: Lease, stop: &CancellationToken) {
        lease.notes = notes::write(self.dispatch.notes(), Now::read());
        self.work.push(renewal(lease, self.renewed_at, stop.clone()));
    }

    async fn keep(&mut self) {
        // What may be another one's to give is not held back.
        if !self.is_sure() {
            return;
        }
        for hold in self.holds.values() {
            if let Err(error) = hold.keep().await {
                return tracing::debug!(%error, group = %self.office.group, "the server was not told what is still held");
            }
        }
    }

    /// Lets somebody else go on at once. Pulling ends first: what is given back would return to us.
    async fn give_back(&mut self, pull: GroupPull) {
        for pulled in pull.close().await {
            self.arrive(pulled).await;
        }
        // What is parked or dealt with already may not be struck off yet; at once it would be delivered again.
        for (_, hold) in self.holds.iter().filter(|(position, _)| !self.settling.contains(position)) {
            if let Err(error) = hold.give_back().await {
                tracing::debug!(%error, group = %self.office.group, "not all was given back; what was not comes again later");
                break;
            }
        }
        self.office.log.flush().await;
    }

    /// Strikes off what was begun to be, for a moment; the lease, if it came meanwhile.
    async fn settle_what_was_begun(&mut self) -> Option<Box<Lease>> {
        let mut lease = None;
        let settle = async {
            while !self.settling.is_empty() {
                match self.work.next().await {
                    Some(Done::Settled(position, _)) => self.settled(position).await,
                    Some(Done::Renewed(renewed, ..)) => lease = Some(renewed),
                    Some(Done::Replays(_) | Done::State(_)) => {}
                    None => return,
                }
            }
        };
        if timeout(SETTLE_MAX, settle).await.is_err() {
            tracing::debug!(group = %self.office.group, "not all was struck off; what was not comes again");
        }
        lease
    }

    /// The lease, to be released.
    async fn close(mut self, mut lease: Option<Box<Lease>>) -> Lease {
        loop {
            if let Some(mut lease) = lease {
                lease.notes = notes::write(self.dispatch.notes(), Now::read());
                return *lease;
            }
            // There is always one renewal under way, and it does not wait once we are to stop.
            lease = match self.work.next().await {
                Some(Done::Renewed(lease, ..)) => Some(lease),
                Some(_) => None,
                None => std::future::pending().await,
            };
        }
    }

    async fn tell_all(&mut self, words: &ToMember) {
        if let Err(error) = self.office.log.tell_members(&self.office.group, words::write(words)).await {
            tracing::debug!(%error, group = %self.office.group, "the members of a group were not told");
        }
    }
}

fn deliveries(named: Vec<(u64, u32)>) -> Vec<(Position, u32)> {
    named.into_iter().map(|(position, deliveries)| (Position::new(position), deliveries)).collect()
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

fn renewal(mut lease: Lease, renewed_at: Instant, stop: CancellationToken) -> BoxFuture<'static, Done> {
    async move {
        match stop.run_until_cancelled_owned(sleep(Lease::RENEW)).await {
            Some(()) => {
                let asked_at = Instant::now();
                let claim = lease.claim().await;
                Done::Renewed(Box::new(lease), asked_at, claim)
            }
            None => Done::Renewed(Box::new(lease), renewed_at, Ok(Claim::Kept)),
        }
    }
    .boxed()
}

/// Strikes an event off, as often as it takes.
async fn settle(office: Office, settlement: Settlement, hold: Option<Hold>) -> Done {
    let Settlement { position, origin, .. } = settlement;
    let mut attempts = 0_u64;
    loop {
        let Err(error) = try_settle(&office, &settlement, hold.as_ref()).await else {
            return Done::Settled(position, origin);
        };
        attempts += 1;
        if attempts.is_multiple_of(ATTEMPTS_WARN) {
            tracing::warn!(%error, group = %office.group, %position, attempts, "an event is dealt with, but cannot be struck off");
        } else {
            tracing::debug!(%error, group = %office.group, %position, "was not settled yet");
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn try_settle(office: &Office, settlement: &Settlement, hold: Option<&Hold>) -> Result<(), LogError> {
    let Settlement { position, origin, park } = settlement;
    if let Some(park) = park {
        // Of the leader: an event that a replica does not have yet must not be struck off without being parked.
        let event = office.log.event_at(*position).await?;
        tracing::warn!(group = %office.group, %position, reason = park.reason, "an event is parked");
        let attempt = match origin {
            Origin::Log => None,
            Origin::Replay(number) => Some(*number),
        };
        office.log.park_of_group(&office.group, &event, &park.reason, park.deliveries, attempt).await?;
    }
    match (origin, hold) {
        (Origin::Log, Some(hold)) => hold.ack().await,
        (Origin::Log, None) => Ok(()),
        (Origin::Replay(number), _) => office.log.delete_letter(*number).await,
    }
}
