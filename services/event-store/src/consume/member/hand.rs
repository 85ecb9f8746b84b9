//! What a member has: deliveries that its client is to be given, was given, or has answered.
//!
//! Pure: no I/O, no clock. `member.rs` says what has happened and when, and carries out what follows.
//!
//! ```text
//!  assigned ──> waiting ──given──> with the client ──answered──> being said ──understood──> gone
//!                  │                     │                           ^
//!                  └──> given back       └──not in time: has failed──┘
//! ```
//!
//! The time of a delivery begins when its client is given it. What the client did not take in time never was a delivery and goes
//! back; what it did not answer has failed, unless it turns out to be done before anybody understood that.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use causeway_event::Position;

use super::super::words::Answer;

/// What a client does not take is kept for it at least so long, so that the dispatcher has heard that it waits.
const NOT_TAKEN_MIN: Duration = Duration::from_secs(5);
/// Of how many deliveries that failed by time alone it is remembered that the client had them: it may have done what they asked for.
const LATE_MAX: usize = 4096;

/// Names a delivery within one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeliveryId {
    pub(crate) position: Position,
    pub(crate) deliveries: u32,
}

/// A delivery on its way to the client. One that was given back and comes again has the same id, but is another errand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Errand {
    pub(super) id: DeliveryId,
    serial: u64,
}

/// What follows of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Heard {
    /// It is to be said to the dispatcher.
    Say,
    /// It is, and that the delivery failed is to be said no more.
    SayInstead,
    /// Nobody needs to hear of it: it came too late, or the same is being said.
    Nothing,
}

/// What ran out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RunOut {
    /// Was not answered: that is to be said to the dispatcher.
    pub(super) failed: Vec<DeliveryId>,
    /// Was not taken, and went back.
    pub(super) went_back: usize,
}

pub(super) struct Hand {
    ack_wait: Duration,
    held: BTreeMap<Position, Held>,
    /// How many deliveries were assigned.
    serial: u64,
    /// What failed by time alone.
    late: VecDeque<DeliveryId>,
    /// What is done, as long as the dispatcher has not understood that: it is not given once more.
    acking: HashSet<Position>,
}

struct Held {
    deliveries: u32,
    serial: u64,
    until: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The client has not taken it.
    Waiting,
    Given {
        /// A mark of progress is being said.
        marking: bool,
    },
    /// The dispatcher may not know.
    Answered {
        /// What the client was never given is no failure of its.
        given: bool,
    },
}

impl Held {
    fn is_given(&self) -> bool {
        matches!(self.state, State::Given { .. } | State::Answered { given: true })
    }

    fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered { .. })
    }

    fn mark_answered(&mut self) {
        self.state = State::Answered { given: self.is_given() };
    }
}

impl Hand {
    pub(super) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, held: BTreeMap::new(), serial: 0, late: VecDeque::new(), acking: HashSet::new() }
    }

    /// The dispatcher gave it to this member.
    pub(super) fn assign(&mut self, id: DeliveryId, now: Instant) -> Errand {
        self.serial += 1;
        let state = if self.acking.contains(&id.position) { State::Answered { given: false } } else { State::Waiting };
        let until = now + self.ack_wait.max(NOT_TAKEN_MIN);
        let before = self.held.insert(id.position, Held { deliveries: id.deliveries, serial: self.serial, until, state });
        // Somebody counted its time out. The client may be at work on it all the same.
        if let Some(Held { deliveries, state: State::Given { .. }, .. }) = before {
            self.remember_late(DeliveryId { position: id.position, deliveries });
        }
        Errand { id, serial: self.serial }
    }

    /// Whether it is still to be given to the client.
    pub(super) fn wants(&self, errand: Errand) -> bool {
        self.held.get(&errand.id.position).is_some_and(|held| held.serial == errand.serial && held.state == State::Waiting)
    }

    /// The client is given it.
    pub(super) fn give(&mut self, errand: Errand, now: Instant) {
        if let Some(held) = self.held.get_mut(&errand.id.position).filter(|held| held.serial == errand.serial) {
            (held.state, held.until) = (State::Given { marking: false }, now + self.ack_wait);
        }
    }

    /// The client answers.
    pub(super) fn hear(&mut self, id: DeliveryId, answer: &Answer, now: Instant) -> Heard {
        let of_it = |held: &&mut Held| held.deliveries == id.deliveries && !held.is_answered();
        let Some(held) = self.held.get_mut(&id.position).filter(of_it) else {
            return self.hear_late(id, answer);
        };
        match answer {
            Answer::Progress => {
                let State::Given { marking } = &mut held.state else { return Heard::Nothing };
                held.until = now + self.ack_wait;
                // The time starts anew when a mark is understood: a second one on its way would change nothing.
                return if std::mem::replace(marking, true) { Heard::Nothing } else { Heard::Say };
            }
            Answer::Ack => _ = self.acking.insert(id.position),
            Answer::Nak { .. } | Answer::Park { .. } => {}
        }
        held.mark_answered();
        Heard::Say
    }

    /// Done is done. Anything else is said of the delivery that came after it.
    fn hear_late(&mut self, id: DeliveryId, answer: &Answer) -> Heard {
        let Some(at) = self.late.iter().position(|late| *late == id).filter(|_| *answer == Answer::Ack) else {
            return Heard::Nothing;
        };
        self.late.remove(at);
        self.acking.insert(id.position);
        if let Some(held) = self.held.get_mut(&id.position).filter(|held| held.state == State::Waiting) {
            held.mark_answered();
        }
        Heard::SayInstead
    }

    /// Puts away what has run out by now.
    pub(super) fn run_out(&mut self, now: Instant) -> RunOut {
        let mut out = RunOut::default();
        self.held.retain(|position, held| {
            let has_run_out = held.until <= now;
            match held.state {
                State::Waiting if has_run_out => {
                    out.went_back += 1;
                    return false;
                }
                State::Given { .. } if has_run_out => {
                    held.mark_answered();
                    out.failed.push(DeliveryId { position: *position, deliveries: held.deliveries });
                }
                State::Waiting | State::Given { .. } | State::Answered { .. } => {}
            }
            true
        });
        for id in &out.failed {
            self.remember_late(*id);
        }
        out
    }

    fn remember_late(&mut self, id: DeliveryId) {
        self.late.push_back(id);
        if self.late.len() > LATE_MAX {
            self.late.pop_front();
        }
    }

    /// The dispatcher understood that the client is at work on it, or nobody did for so long that it is said no more; so of the others.
    pub(super) fn marked(&mut self, id: DeliveryId) {
        if let Some(Held { state: State::Given { marking }, .. }) = self.held_as(id) {
            *marking = false;
        }
    }

    /// The same of what was given up.
    pub(super) fn answered(&mut self, id: DeliveryId) {
        if self.held_as(id).is_some_and(|held| held.is_answered()) {
            self.held.remove(&id.position);
        }
    }

    /// The same of what is done, whichever of its deliveries it was.
    pub(super) fn acked(&mut self, id: DeliveryId) {
        self.acking.remove(&id.position);
        if self.held.get(&id.position).is_some_and(|held| !matches!(held.state, State::Given { .. })) {
            self.held.remove(&id.position);
        }
    }

    fn held_as(&mut self, id: DeliveryId) -> Option<&mut Held> {
        self.held.get_mut(&id.position).filter(|held| held.deliveries == id.deliveries)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All of it.
    pub(super) fn held(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        self.held.iter().map(|(position, held)| DeliveryId { position: *position, deliveries: held.deliveries })
    }

    /// What the client has not taken so far.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Position> + '_ {
        self.held.iter().filter(|(_, held)| !held.is_given()).map(|(position, _)| *position)
    }

    /// What the client was given, also if nobody understood its answer so far.
    pub(super) fn given(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        let given = self.held.iter().filter(|(_, held)| held.is_given());
        given.map(|(position, held)| DeliveryId { position: *position, deliveries: held.deliveries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn id(position: u64, deliveries: u32) -> DeliveryId {
        DeliveryId { position: Position::new(position), deliveries }
    }

    fn nak() -> Answer {
        Answer::Nak { delay_ms: None, reason: "no".to_owned(), unanswered: false }
    }

    fn park() -> Answer {
        Answer::Park { reason: "never".to_owned() }
    }

    /// A hand at a time that the test moves.
    struct World {
        hand: Hand,
        now: Instant,
    }

    fn world() -> World {
        World { hand: Hand::new(ACK_WAIT), now: Instant::now() }
    }

    impl World {
        fn assign(&mut self, id: DeliveryId) -> Errand {
            self.hand.assign(id, self.now)
        }

        fn give(&mut self, id: DeliveryId) {
            let errand = self.assign(id);
            assert!(self.hand.wants(errand));
            self.hand.give(errand, self.now);
            assert!(!self.hand.wants(errand), "it is given once");
        }

        fn hear(&mut self, id: DeliveryId, answer: &Answer) -> Heard {
            self.hand.hear(id, answer, self.now)
        }

        fn pass(&mut self, time: Duration) -> RunOut {
            self.now += time;
            self.hand.run_out(self.now)
        }

        fn held(&self) -> Vec<DeliveryId> {
            self.hand.held().collect()
        }

        fn given(&self) -> Vec<DeliveryId> {
            self.hand.given().collect()
        }

        fn waiting(&self) -> Vec<u64> {
            self.hand.waiting().map(Position::get).collect()
        }
    }

    fn failed(id: DeliveryId) -> RunOut {
        RunOut { failed: vec![id], went_back: 0 }
    }

    #[test]
    fn what_is_answered_in_time_is_held_until_that_is_understood() {
        for answer in [Answer::Ack, nak(), park()] {
            let mut world = world();
            world.give(id(7, 1));
            assert_eq!(world.hear(id(7, 1), &answer), Heard::Say);
            assert_eq!(world.hear(id(7, 1), &answer), Heard::Nothing, "an answer counts once");
            assert_eq!(world.pass(ACK_WAIT * 2), RunOut::default(), "what is answered does not run out");
            assert_eq!(world.held(), [id(7, 1)]);
            if answer == Answer::Ack {
                world.hand.acked(id(7, 1));
            } else {
                world.hand.answered(id(7, 1));
            }
            assert!(world.hand.is_empty());
        }
    }

    #[test]
    fn the_time_of_a_delivery_begins_when_the_client_takes_it() {
        let mut world = world();
        let errand = world.assign(id(7, 1));
        assert_eq!(world.waiting(), [7]);
        assert_eq!(world.pass(ACK_WAIT - Duration::from_secs(1)), RunOut::default());
        world.hand.give(errand, world.now);
        assert!(world.waiting().is_empty());
        assert_eq!(world.pass(ACK_WAIT - Duration::from_secs(1)), RunOut::default());
        assert_eq!(world.pass(Duration::from_secs(1)), failed(id(7, 1)));
        assert_eq!(world.pass(ACK_WAIT), RunOut::default(), "it fails once");
    }

    #[test]
    fn a_mark_begins_the_time_anew_and_is_said_once_at_a_time() {
        let mut world = world();
        world.give(id(7, 1));
        world.pass(ACK_WAIT / 2);
        assert_eq!(world.hear(id(7, 1), &Answer::Progress), Heard::Say);
        assert_eq!(world.hear(id(7, 1), &Answer::Progress), Heard::Nothing, "the first one is on its way");
        assert_eq!(world.pass(ACK_WAIT / 2), RunOut::default());
        world.hand.marked(id(7, 1));
        assert_eq!(world.hear(id(7, 1), &Answer::Progress), Heard::Say);
        assert_eq!(world.pass(ACK_WAIT), failed(id(7, 1)));
    }

    #[test]
    fn what_the_client_did_not_take_goes_back_and_is_no_failure_of_its() {
        let mut world = world();
        let errand = world.assign(id(7, 1));
        assert_eq!(world.pass(ACK_WAIT), RunOut { failed: Vec::new(), went_back: 1 });
        assert!(world.hand.is_empty());
        assert!(!world.hand.wants(errand));
    }

    #[test]
    fn with_a_short_time_what_is_not_taken_is_kept_until_it_is_known_that_it_waits() {
        let mut world = World { hand: Hand::new(Duration::from_millis(100)), now: Instant::now() };
        world.assign(id(7, 1));
        assert_eq!(world.pass(Duration::from_secs(1)), RunOut::default());
        assert_eq!(world.pass(NOT_TAKEN_MIN).went_back, 1);
    }

    #[test]
    fn what_went_back_and_comes_again_is_given_once() {
        let mut world = world();
        let first = world.assign(id(7, 1));
        world.pass(ACK_WAIT);
        let second = world.assign(id(7, 1));
        assert!(!world.hand.wants(first), "the way of before leads nowhere");
        assert!(world.hand.wants(second));
    }

    #[test]
    fn an_ack_takes_back_that_it_failed() {
        let mut world = world();
        world.give(id(7, 1));
        assert_eq!(world.pass(ACK_WAIT), failed(id(7, 1)));
        for answer in [nak(), park(), Answer::Progress] {
            assert_eq!(world.hear(id(7, 1), &answer), Heard::Nothing, "that it failed is being said already");
        }
        assert_eq!(world.hear(id(7, 1), &Answer::Ack), Heard::SayInstead);
        assert_eq!(world.hear(id(7, 1), &Answer::Ack), Heard::Nothing, "once");
        world.hand.acked(id(7, 1));
        assert!(world.hand.is_empty());
    }

    #[test]
    fn what_is_done_late_is_not_given_once_more() {
        let mut world = world();
        world.give(id(7, 1));
        world.pass(ACK_WAIT);
        world.hand.answered(id(7, 1));
        let again = world.assign(id(7, 2));
        assert_eq!(world.hear(id(7, 1), &Answer::Ack), Heard::SayInstead);
        assert!(!world.hand.wants(again), "it waited for the client");
        let once_more = world.assign(id(7, 3));
        assert!(!world.hand.wants(once_more), "it came before the ack was understood");
        assert!(world.given().is_empty(), "neither broke off with the client");
        world.hand.acked(id(7, 1));
        assert!(world.hand.is_empty());
        let anew = world.assign(id(7, 1));
        assert!(world.hand.wants(anew), "a replay is a new delivery");
    }

    #[test]
    fn what_the_client_has_twice_is_its_own_when_the_first_is_done_late() {
        let mut world = world();
        world.give(id(7, 1));
        world.pass(ACK_WAIT);
        world.hand.answered(id(7, 1));
        world.give(id(7, 2));
        assert_eq!(world.hear(id(7, 1), &Answer::Ack), Heard::SayInstead);
        world.hand.acked(id(7, 1));
        assert_eq!(world.given(), [id(7, 2)], "the client is at work on it");
        assert_eq!(world.hear(id(7, 2), &Answer::Ack), Heard::Say);
        world.hand.acked(id(7, 2));
        assert!(world.hand.is_empty());
    }

    #[test]
    fn a_dispatcher_that_counts_otherwise_does_not_undo_what_is_done() {
        let mut world = world();
        world.give(id(7, 1));
        let again = world.assign(id(7, 2));
        assert_eq!(world.hear(id(7, 1), &Answer::Ack), Heard::SayInstead);
        assert!(!world.hand.wants(again));
    }

    #[test]
    fn what_was_given_breaks_off_with_the_client_and_what_waits_does_not() {
        let mut world = world();
        world.give(id(7, 1));
        world.give(id(8, 2));
        world.assign(id(9, 1));
        world.hear(id(8, 2), &Answer::Ack);
        assert_eq!(world.given(), [id(7, 1), id(8, 2)], "of an answer that nobody understood nothing is known");
        assert_eq!(world.waiting(), [9]);
    }

    #[test]
    fn an_answer_to_what_was_never_assigned_is_nothing() {
        let mut world = world();
        world.give(id(7, 2));
        for answer in [Answer::Ack, nak(), park(), Answer::Progress] {
            assert_eq!(world.hear(id(7, 1), &answer), Heard::Nothing);
            assert_eq!(world.hear(id(8, 1), &answer), Heard::Nothing);
        }
        assert_eq!(world.given(), [id(7, 2)]);
    }

    #[test]
    fn what_failed_is_remembered_up_to_a_bound() {
        let mut world = world();
        let all = LATE_MAX as u64 + 1;
        for position in 1..=all {
            world.give(id(position, 1));
        }
        assert_eq!(world.pass(ACK_WAIT).failed.len() as u64, all);
        assert_eq!(world.hear(id(1, 1), &Answer::Ack), Heard::Nothing);
        assert_eq!(world.hear(id(2, 1), &Answer::Ack), Heard::SayInstead);
    }
}
