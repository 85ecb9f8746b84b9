//! Who works on what: the events that a group has to deal with, in lines by aggregate, and its members.
//!
//! Pure: no I/O, no clock. `dispatcher.rs` says what has happened and when, and carries out what follows.
//!
//! ```text
//!  arrives ──> free ──> with a member ──ack, park──> settling ──> gone
//!               ^  ^          │
//!               │  └──────────┤ it did not answer in time, it vanished, it gave back what it never got
//!            delayed <────────┘ nak, its stream broke   (delivered too often: settling, to be parked)
//! ```
//!
//! Of each line only the first event is worked on, and nothing else of the line while one is with a member or settling: so the
//! events of an aggregate are dealt with one after the other, in the order of the log.

mod members;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use causeway_event::{AggregateId, Position};

use self::members::Members;
use super::words::Answer;

/// A member that was not heard of for this long is gone.
pub(super) const MEMBER_SILENCE: Duration = Duration::from_secs(4);
/// A member that does not know of a delivery after this long never got it.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Members count the time of a delivery, from when their client was given it, and report what ran out. Of a member that does not, the
/// dispatcher takes a delivery for failed this long after its time.
const LATE: Duration = Duration::from_secs(4);
const _: () = assert!(LOST_AFTER.as_millis() < LATE.as_millis(), "what never came is not taken for what failed");
/// The time that a member has to answer when it could not for a while.
const GRACE: Duration = Duration::from_secs(2);
/// A delivery that is to come again without a stated delay comes after this long, doubled with each further one ...
const DELAY_MIN: Duration = Duration::from_secs(1);
/// ... up to this.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// How many positions are remembered as settled: a server that was killed may deliver them again.
const SETTLED_MAX: usize = 8192;

/// What holds for every event of the group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) ack_wait: Duration,
    pub(super) deliveries_max: u32,
}

/// Where an event came from, and so where it is struck off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Log,
    /// This letter, which is on its way back.
    Replay(u64),
}

/// What became of an event that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Taken,
    /// It is here already.
    Known,
    /// It was dealt with, but that was forgotten where it came from.
    Settled,
}

/// What the member has to know of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Done,
    /// Done once it is settled.
    Settling,
    /// Nothing is known of the delivery so far.
    Later,
    /// It is no longer the member's.
    Stale,
}

/// What the next dispatcher needs to know of an event that is not dealt with: how often it was delivered, and until when it rests.
pub(super) type Note = (Position, u32, Option<Instant>);

/// An event for a member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) member: String,
    pub(super) position: Position,
    pub(super) deliveries: u32,
}

/// An event that is to be struck off.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settlement {
    pub(super) position: Position,
    pub(super) origin: Origin,
    pub(super) park: Option<Park>,
}

/// Why it is parked before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Park {
    pub(super) reason: String,
    pub(super) deliveries: u32,
}

pub(super) struct Dispatch {
    rules: Rules,
    members: Members,
    lines: HashMap<AggregateId, Line>,
    lines_of: HashMap<Position, AggregateId>,
    /// Lines whose first event may be free.
    due: VecDeque<AggregateId>,
    delayed: BTreeSet<(Instant, AggregateId)>,
    /// What members say that they have and that did not come in so far: somebody dispatched it before us.
    claims: HashMap<Position, (String, u32)>,
    /// How often those before us delivered what did not come in so far, and until when it rests.
    past: HashMap<Position, (u32, Option<Instant>)>,
    settlements: Vec<Settlement>,
    /// What was struck off lately, and whether from the log: else it was a replay.
    settled: HashMap<Position, bool>,
    settled_order: VecDeque<Position>,
}

#[derive(Default)]
struct Line {
    work: BTreeMap<Position, Work>,
    /// How many are with a member or settling. One at most, but for what others dispatched before us.
    busy: usize,
    queued: bool,
}

struct Work {
    origin: Origin,
    deliveries: u32,
    /// Whether we gave it out; if not, a member may have it from a dispatcher before us.
    given: bool,
    state: State,
    /// With whom its last delivery came to nothing.
    failed_with: Option<String>,
    /// That one was taken for dead, and may still be at work.
    is_lost: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Free,
    Delayed(Instant),
    With {
        member: String,
        since: Instant,
        until: Instant,
        /// The member said that it has it, and not that its client has yet to take it.
        taken: bool,
    },
    Settling,
}

impl Dispatch {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            members: Members::default(),
            lines: HashMap::new(),
            lines_of: HashMap::new(),
            due: VecDeque::new(),
            delayed: BTreeSet::new(),
            claims: HashMap::new(),
            past: HashMap::new(),
            settlements: Vec::new(),
            settled: HashMap::new(),
            settled_order: VecDeque::new(),
        }
    }

    /// What those before us left: how often they delivered what they had, and until when it rests.
    pub(super) fn remember(&mut self, past: impl IntoIterator<Item = Note>) {
        self.past.extend(past.into_iter().map(|(position, deliveries, until)| (position, (deliveries, until))));
    }

    /// Everything up to here is dealt with: what is not here will not come.
    pub(super) fn forget(&mut self, up_to: Position) {
        self.past.retain(|position, _| up_to < *position);
    }

    /// Whether those before us delivered something that did not come in so far.
    pub(super) fn remembers(&self) -> bool {
        !self.past.is_empty()
    }

    /// How often what is here was delivered, and until when it rests, for those after us.
    pub(super) fn notes(&self) -> impl Iterator<Item = Note> + '_ {
        let all = self.lines.values().flat_map(|line| line.work.iter());
        let here = all.filter(|(_, work)| work.deliveries > 0).map(|(position, work)| {
            let until = if let State::Delayed(until) = work.state { Some(until) } else { None };
            (*position, work.deliveries, until)
        });
        here.chain(self.past.iter().map(|(position, (deliveries, until))| (*position, *deliveries, *until)))
    }

    /// How many deliveries are with members.
    pub(super) fn in_flight(&self) -> usize {
        self.members.in_flight()
    }

    /// An event came in.
    pub(super) fn arrive(&mut self, position: Position, aggregate: &AggregateId, origin: Origin, now: Instant) -> Arrival {
        if self.lines_of.contains_key(&position) {
            return Arrival::Known;
        }
        if origin == Origin::Log && self.settled.get(&position) == Some(&true) {
            return Arrival::Settled;
        }
        self.lines_of.insert(position, aggregate.clone());
        let line = self.lines.entry(aggregate.clone()).or_default();
        let (deliveries, until) = self.past.remove(&position).unwrap_or_default();
        let state = until.filter(|until| now < *until).map_or(State::Free, State::Delayed);
        line.work.insert(position, Work { origin, deliveries, given: false, state, failed_with: None, is_lost: false });
        match self.claims.remove(&position) {
            Some((member, claimed)) => self.adopt(position, &member, claimed.max(deliveries), now),
            None => self.queue(aggregate),
        }
        Arrival::Taken
    }

    /// A member says that it is there, how much it works on at once (0: nothing at the moment), and what it has.
    pub(super) fn announce(&mut self, member: &str, room: usize, held: &[(Position, u32)], now: Instant) {
        self.members.hear(member, room, now);
        let with = self.members.with(member);
        self.claims.retain(|_, (claimant, _)| claimant != member);
        for (position, deliveries) in held {
            match self.work(*position) {
                // Whoever dispatched before us gave it to this member, or it was taken for dead and is not.
                Some(work) if work.is_free_for(member, *deliveries) => self.adopt(*position, member, *deliveries, now),
                Some(_) => {}
                None => _ = self.claims.insert(*position, (member.to_owned(), *deliveries)),
            }
        }
        let held: BTreeSet<Position> = held.iter().map(|(position, _)| *position).collect();
        self.members.holds(member, &held);
        for position in with.into_iter().filter(|position| !held.contains(position)) {
            let ack_wait = self.rules.ack_wait;
            let Some(State::With { since, taken, .. }) = self.work(position).map(|work| &work.state) else { continue };
            let (lost, out) = (*since + LOST_AFTER <= now, *taken && *since + ack_wait <= now);
            match lost {
                // A member of an earlier version drops what was not answered in time.
                true if out => self.run_out(position, now),
                true => self.never_given(position),
                false => {}
            }
        }
    }

    /// A member says that of what it has its client has not taken these so far: their time has not begun.
    pub(super) fn waiting(&mut self, member: &str, held: &[(Position, u32)], positions: &[Position], now: Instant) {
        let later = self.until(now);
        let positions: HashSet<&Position> = positions.iter().collect();
        for (position, _) in held {
            let waits = positions.contains(position);
            if let Some(Work { state: State::With { member: with, until, taken, .. }, .. }) = self.work(*position)
                && with == member
            {
                *taken = !waits;
                if waits {
                    *until = later;
                }
            }
        }
    }

    /// A member is gone. If it said so, only what `broke` off with it was a delivery: a client that dies of an event does not get it
    /// again and again at once.
    pub(super) fn leave(&mut self, member: &str, broke: Option<&[(Position, u32)]>, reason: &str, now: Instant) {
        self.claims.retain(|_, (claimant, _)| claimant != member);
        for position in self.members.with(member) {
            let deliveries = self.work(position).map_or(0, |work| work.deliveries);
            match broke {
                None => self.lose(position, reason),
                Some(broke) if broke.contains(&(position, deliveries)) => {
                    self.fail(position, reason, State::Delayed(now + backoff(deliveries)));
                }
                Some(_) => self.never_given(position),
            }
        }
        self.members.remove(member);
    }

    /// A member answers its delivery of this number.
    pub(super) fn answer(&mut self, member: &str, position: Position, deliveries: u32, answer: Answer, now: Instant) -> Taken {
        let later = self.until(now);
        if !matches!(answer, Answer::Nak { unanswered: true, .. }) {
            self.members.spoke(member);
        }
        if answer != Answer::Progress {
            self.members.answered(member, position);
        }
        let Some(work) = self.work(position) else {
            return if self.settled.contains_key(&position) { Taken::Done } else { Taken::Later };
        };
        if work.is_free_for(member, deliveries) {
            self.adopt(position, member, deliveries, now);
        }
        let Some(work) = self.work(position) else { return Taken::Later };
        match &mut work.state {
            State::With { member: with, until, .. } if with == member && work.deliveries == deliveries => match answer {
                Answer::Progress => {
                    *until = later;
                    Taken::Done
                }
                Answer::Nak { unanswered: true, .. } => {
                    self.run_out(position, now);
                    Taken::Done
                }
                Answer::Nak { delay_ms, reason, .. } => {
                    let until = now + delay_ms.map_or_else(|| backoff(deliveries), Duration::from_millis);
                    self.fail(position, &reason, State::Delayed(until));
                    Taken::Done
                }
                Answer::Ack => {
                    self.settle(position, None);
                    Taken::Settling
                }
                Answer::Park { reason } => {
                    self.settle(position, Some(Park { reason, deliveries }));
                    Taken::Settling
                }
            },
            State::Settling if answer != Answer::Progress => Taken::Settling,
            // Done is done, whichever of its deliveries it was.
            State::Free | State::Delayed(_) | State::With { .. } if answer == Answer::Ack => {
                self.settle(position, None);
                Taken::Settling
            }
            State::Settling | State::Free | State::Delayed(_) | State::With { .. } => Taken::Stale,
        }
    }

    /// Nobody could be heard up to now: that nobody was is no sign of anything.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.members.excuse(now);
        for position in self.members.with_all() {
            if let Some(Work { state: State::With { until, .. }, .. }) = self.work(position) {
                *until = (*until).max(now + GRACE);
            }
        }
    }

    /// What has become due by the time alone.
    pub(super) fn tick(&mut self, now: Instant) {
        for member in self.members.silent(now) {
            self.leave(&member, None, "its member vanished", now);
        }
        for position in self.members.with_all() {
            if let Some(Work { state: State::With { until, .. }, .. }) = self.work(position)
                && *until <= now
            {
                self.run_out(position, now);
            }
        }
        while let Some((until, _)) = self.delayed.first()
            && *until <= now
        {
            if let Some((_, aggregate)) = self.delayed.pop_first() {
                self.queue(&aggregate);
            }
        }
    }

    /// The next event that a member can have.
    pub(super) fn next(&mut self, now: Instant) -> Option<Assignment> {
        for _ in 0..self.due.len() {
            if !self.members.any_free() {
                break;
            }
            let Some(aggregate) = self.due.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&aggregate) else { continue };
            line.queued = false;
            let Some((position, work)) = line.work.first_key_value().filter(|_| line.busy == 0) else { continue };
            match work.state {
                State::Free => {}
                State::Delayed(until) if until <= now => {}
                State::Delayed(until) => {
                    self.delayed.insert((until, aggregate));
                    continue;
                }
                State::With { .. } | State::Settling => continue,
            }
            let (position, deliveries) = (*position, work.deliveries);
            // Whoever saw its last delivery come to nothing is gone as well, maybe of it. One that is sent back begins anew.
            if deliveries >= self.rules.deliveries_max && (work.is_lost || work.origin == Origin::Log) {
                let end = if work.is_lost { "its member vanished" } else { "the last one ended with its dispatcher" };
                let reason = format!("gave up after {deliveries} deliveries: {end}");
                self.settle(position, Some(Park { reason, deliveries }));
                continue;
            }
            let Some(id) = self.members.next(work.failed_with.as_deref(), now) else {
                // Whoever is to have it is busy.
                line.queued = true;
                self.due.push_back(aggregate);
                continue;
            };
            let deliveries = deliveries + 1;
            self.adopt(position, &id, deliveries, now);
            return Some(Assignment { member: id, position, deliveries });
        }
        None
    }

    /// What is to be struck off since the last call.
    pub(super) fn take_settlements(&mut self) -> Vec<Settlement> {
        std::mem::take(&mut self.settlements)
    }

    /// It is struck off.
    pub(super) fn settled(&mut self, position: Position) {
        let Some(aggregate) = self.lines_of.remove(&position) else { return };
        let Some(line) = self.lines.get_mut(&aggregate) else { return };
        let work = line.work.remove(&position);
        line.busy = line.busy.saturating_sub(1);
        if line.work.is_empty() {
            self.lines.remove(&aggregate);
        } else {
            self.queue(&aggregate);
        }
        let Some(work) = work else { return };
        let is_of_log = work.origin == Origin::Log;
        match self.settled.entry(position) {
            Entry::Occupied(mut settled) => *settled.get_mut() |= is_of_log,
            Entry::Vacant(new) => {
                new.insert(is_of_log);
                self.settled_order.push_back(position);
            }
        }
        if self.settled_order.len() > SETTLED_MAX
            && let Some(oldest) = self.settled_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }

    fn work(&mut self, position: Position) -> Option<&mut Work> {
        let aggregate = self.lines_of.get(&position)?;
        self.lines.get_mut(aggregate)?.work.get_mut(&position)
    }

    /// It is with a member from now on.
    fn adopt(&mut self, position: Position, member: &str, deliveries: u32, now: Instant) {
        let until = self.until(now);
        if let Some(work) = self.work(position) {
            (work.deliveries, work.given, work.is_lost) = (deliveries, true, false);
            self.set(position, State::With { member: member.to_owned(), since: now, until, taken: false });
        }
    }

    /// When a delivery has run out whose time begins now at the latest.
    fn until(&self, now: Instant) -> Instant {
        now + self.rules.ack_wait + LATE
    }

    /// A delivery did not come to the member's client.
    fn never_given(&mut self, position: Position) {
        if let Some(work) = self.work(position) {
            (work.deliveries, work.given) = (work.deliveries.saturating_sub(1), false);
            self.set(position, State::Free);
        }
    }

    /// A delivery was not answered in time.
    fn run_out(&mut self, position: Position, now: Instant) {
        if let Some(Work { state: State::With { member, .. }, .. }) = self.work(position) {
            let member = member.clone();
            self.members.ran_out(&member, now + self.rules.ack_wait);
        }
        let reason = format!("was not answered within {:?}", self.rules.ack_wait);
        self.fail(position, &reason, State::Free);
    }

    /// The member of a delivery is not heard of any more, dead or cut off. If that was the last one it is not given up before its
    /// time is over: a member that was only cut off may be done with it.
    fn lose(&mut self, position: Position, reason: &str) {
        let deliveries_max = self.rules.deliveries_max;
        let Some(Work { state: State::With { until, .. }, deliveries, .. }) = self.work(position) else { return };
        let (until, is_last) = (*until, *deliveries >= deliveries_max);
        match is_last {
            true => self.set(position, State::Delayed(until)),
            false => self.fail(position, reason, State::Free),
        }
        if let Some(work) = self.work(position) {
            work.is_lost = true;
        }
    }

    /// A delivery came to nothing.
    fn fail(&mut self, position: Position, reason: &str, next: State) {
        let Some(deliveries) = self.work(position).map(|work| work.deliveries) else { return };
        if deliveries >= self.rules.deliveries_max {
            let reason = format!("gave up after {deliveries} deliveries: {reason}");
            self.settle(position, Some(Park { reason, deliveries }));
        } else {
            self.set(position, next);
        }
    }

    fn settle(&mut self, position: Position, park: Option<Park>) {
        if let Some(origin) = self.work(position).map(|work| work.origin) {
            self.set(position, State::Settling);
            self.settlements.push(Settlement { position, origin, park });
        }
    }

    fn set(&mut self, position: Position, state: State) {
        let Some(aggregate) = self.lines_of.get(&position).cloned() else { return };
        let Some(line) = self.lines.get_mut(&aggregate) else { return };
        let Some(work) = line.work.get_mut(&position) else { return };
        let before = std::mem::replace(&mut work.state, state.clone());
        if let State::With { member, .. } = &before {
            work.failed_with = Some(member.clone());
        }
        line.busy = line.busy - usize::from(before.is_busy()) + usize::from(state.is_busy());
        if let State::With { member, .. } = before {
            self.members.give_up(&member, position);
        }
        match state {
            State::With { member, since, .. } => self.members.take(member, position, since),
            State::Free | State::Delayed(_) => self.queue(&aggregate),
            State::Settling => {}
        }
    }

    fn queue(&mut self, aggregate: &AggregateId) {
        if let Some(line) = self.lines.get_mut(aggregate)
            && !std::mem::replace(&mut line.queued, true)
        {
            self.due.push_back(aggregate.clone());
        }
    }
}

impl Work {
    /// Whether this member can have this delivery of it that it says it has.
    fn is_free_for(&self, member: &str, deliveries: u32) -> bool {
        let is_lost = self.is_lost && self.deliveries == deliveries && self.failed_with.as_deref() == Some(member);
        match self.state {
            State::Free => is_lost || !self.given,
            State::Delayed(_) => is_lost,
            State::With { .. } | State::Settling => false,
        }
    }
}

impl State {
    fn is_busy(&self) -> bool {
        matches!(self, Self::With { .. } | Self::Settling)
    }
}

/// How long a delivery rests that failed for the nth time.
fn backoff(deliveries: u32) -> Duration {
    DELAY_MIN.saturating_mul(1 << deliveries.saturating_sub(1).min(10)).min(DELAY_MAX)
}

#[cfg(test)]
mod tests;
