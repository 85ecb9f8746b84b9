use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { ack_wait: Duration::from_secs(30), deliveries_max: 3 };

/// A dispatch at a time that the test moves.
struct World {
    dispatch: Dispatch,
    now: Instant,
}

fn world(members: &[(&str, usize)]) -> World {
    let mut world = World { dispatch: Dispatch::new(RULES), now: Instant::now() };
    for (member, room) in members {
        world.dispatch.announce(member, *room, &[], world.now);
    }
    world
}

fn at(position: u64) -> Position {
    Position::new(position)
}

impl World {
    fn arrive(&mut self, events: &[(u64, &str)]) {
        for (position, aggregate) in events {
            let arrival = self.dispatch.arrive(at(*position), &aggregate.parse().unwrap(), Origin::Log, self.now);
            assert_eq!(arrival, Arrival::Taken);
        }
    }

    /// Everything that can be given out now: (member, position, deliveries).
    fn given(&mut self) -> Vec<(String, u64, u32)> {
        let all = std::iter::from_fn(|| self.dispatch.next(self.now));
        all.map(|next| (next.member, next.position.get(), next.deliveries)).collect()
    }

    /// What is left to the next dispatcher, by position.
    fn notes(&self) -> Vec<Note> {
        let mut notes: Vec<Note> = self.dispatch.notes().collect();
        notes.sort();
        notes
    }

    fn positions(&mut self) -> Vec<u64> {
        self.given().into_iter().map(|(_, position, _)| position).collect()
    }

    fn answer(&mut self, member: &str, position: u64, deliveries: u32, answer: Answer) -> Taken {
        self.dispatch.answer(member, at(position), deliveries, answer, self.now)
    }

    fn settle_all(&mut self) -> Vec<Settlement> {
        let settlements = self.dispatch.take_settlements();
        for settlement in &settlements {
            self.dispatch.settled(settlement.position);
        }
        settlements
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.dispatch.tick(self.now);
    }
}

fn nak(delay: Duration) -> Answer {
    Answer::Nak { delay_ms: Some(delay.as_millis() as u64), reason: "not now".into(), unanswered: false }
}

#[test]
fn events_of_one_aggregate_come_one_after_the_other_and_those_of_others_beside_them() {
    let mut world = world(&[("m", 10)]);
    world.arrive(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
    assert_eq!(world.positions(), [1, 3]);
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling);
    assert!(world.positions().is_empty(), "not before it is struck off");
    world.settle_all();
    assert_eq!(world.positions(), [2]);
}

#[test]
fn later_events_wait_for_one_that_is_delayed() {
    let mut world = world(&[("m", 10)]);
    world.arrive(&[(1, "a"), (2, "a")]);
    assert_eq!(world.positions(), [1]);
    assert_eq!(world.answer("m", 1, 1, nak(Duration::from_secs(3))), Taken::Done);
    assert!(world.positions().is_empty());
    world.pass(Duration::from_secs(2));
    assert!(world.positions().is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.given(), [("m".into(), 1, 2)]);
}

#[test]
fn work_is_shared_fairly_and_no_member_gets_more_than_it_takes() {
    let mut world = world(&[("large", 4), ("small", 2)]);
    world.arrive(&(1..=10).map(|n| (n, ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][n as usize - 1])).collect::<Vec<_>>());
    let given = world.given();
    let of = |member: &str| given.iter().filter(|(to, ..)| to == member).count();
    assert_eq!((of("large"), of("small")), (4, 2));
    assert_eq!(given[..2].iter().map(|(to, ..)| to.as_str()).collect::<BTreeSet<_>>().len(), 2, "both at once: {given:?}");
}

#[test]
fn what_is_not_answered_in_time_or_left_behind_is_given_to_others_and_parked_in_the_end() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a")]);
    assert_eq!(world.given(), [("m".into(), 1, 1)]);
    for _ in 0..10 {
        world.pass(Duration::from_secs(2));
        world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
    }
    assert_eq!(world.answer("m", 1, 1, Answer::Progress), Taken::Done);
    for _ in 0..15 {
        world.pass(Duration::from_secs(2));
        world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
    }
    assert!(world.given().is_empty(), "a mark holds it");
    world.pass(Duration::from_secs(2));
    world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
    world.pass(LATE - Duration::from_secs(2));
    assert_eq!(world.given(), [("m".into(), 1, 2)]);
    assert_eq!(world.answer("m", 1, 1, nak(Duration::ZERO)), Taken::Stale, "that delivery is over");
    world.dispatch.leave("m", None, "it left", world.now);
    world.dispatch.announce("n", 1, &[], world.now);
    assert_eq!(world.given(), [("n".into(), 1, 3)]);
    world.pass(RULES.ack_wait + LATE);
    world.dispatch.announce("o", 1, &[], world.now);
    assert!(world.given().is_empty());
    let parked = world.settle_all();
    let reason = "gave up after 3 deliveries: its member vanished".to_owned();
    assert_eq!(parked, [Settlement { position: at(1), origin: Origin::Log, park: Some(Park { reason, deliveries: 3 }) }]);
}

#[test]
fn what_a_member_that_hangs_does_not_answer_goes_to_another_and_it_gets_one_at_a_time() {
    let mut world = world(&[("hangs", 2), ("works", 2)]);
    let names: Vec<String> = (1..=20).map(|number| format!("a{number}")).collect();
    let events: Vec<(u64, &str)> = (1..).zip(names.iter().map(String::as_str)).collect();
    world.arrive(&events);
    let (mut done, mut hanging, mut most) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    for _ in 0..200 {
        for (member, position, deliveries) in world.given() {
            match member.as_str() {
                "works" => {
                    world.answer("works", position, deliveries, Answer::Ack);
                    done.insert(position);
                }
                _ => assert_eq!(hanging.insert(position, deliveries), None, "{position} had come to nothing there"),
            }
        }
        world.settle_all();
        most.push(world.dispatch.members.with("hangs").len());
        // What ran out is said to have, by its gateway.
        for position in world.dispatch.members.with("hangs") {
            let deliveries = hanging[&position.get()];
            let unanswered = Answer::Nak { delay_ms: Some(0), reason: "late".into(), unanswered: true };
            world.answer("hangs", position.get(), deliveries, unanswered);
        }
        world.pass(Duration::from_secs(1));
        world.dispatch.announce("hangs", 2, &[], world.now);
        world.dispatch.announce("works", 2, &[], world.now);
    }
    assert_eq!(done.len(), 20, "{done:?}");
    assert_eq!((most[0], most[1..].iter().max()), (2, Some(&1)));
    world.arrive(&[(21, "b"), (22, "c"), (23, "d"), (24, "e")]);
    assert_eq!(world.given().iter().filter(|(member, ..)| member == "hangs").count(), 1);
    world.answer("hangs", 1, 1, Answer::Ack);
    world.arrive(&[(25, "f")]);
    assert_eq!(world.given().len(), 1, "it lives, and has room for another one");
}

#[test]
fn an_event_waits_for_another_member_as_long_as_its_own_is_shunned() {
    let mut world = world(&[("busy", 1), ("mute", 1)]);
    world.arrive(&[(1, "a"), (2, "b")]);
    let given = world.given();
    let (mute, busy) =
        (given.iter().find(|(to, ..)| to == "mute").unwrap().1, given.iter().find(|(to, ..)| to == "busy").unwrap().1);
    let unanswered = Answer::Nak { delay_ms: Some(0), reason: "late".into(), unanswered: true };
    world.answer("mute", mute, 1, unanswered);
    let (began, mut waited) = (world.now, Duration::ZERO);
    while world.given().is_empty() {
        world.pass(Duration::from_secs(1));
        assert_eq!(world.answer("busy", busy, 1, Answer::Progress), Taken::Done);
        world.dispatch.announce("busy", 1, &[(at(busy), 1)], world.now);
        world.dispatch.announce("mute", 1, &[], world.now);
        waited = world.now - began;
    }
    assert_eq!(waited, RULES.ack_wait);
}

#[test]
fn what_a_sound_member_naks_does_not_go_to_one_that_hangs() {
    let mut world = world(&[("mute", 1)]);
    world.arrive(&[(1, "a")]);
    world.given();
    let unanswered = Answer::Nak { delay_ms: Some(60_000), reason: "late".into(), unanswered: true };
    world.answer("mute", 1, 1, unanswered);
    world.dispatch.announce("sound", 2, &[], world.now);
    assert_eq!(world.given(), [("sound".into(), 1, 2)]);
    world.answer("sound", 1, 2, nak(Duration::ZERO));
    assert_eq!(world.given(), [("sound".into(), 1, 3)]);
}

#[test]
fn what_is_being_struck_off_takes_no_room_when_its_member_does_not_know_so_far() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a"), (2, "b"), (3, "c")]);
    for position in 1..=3 {
        assert_eq!(world.given(), [("m".into(), position, 1)]);
        let (answer, settles) = if position == 2 { (nak(Duration::from_secs(60)), 0) } else { (Answer::Ack, 1) };
        world.answer("m", position, 1, answer);
        world.dispatch.announce("m", 1, &[(at(position), 1)], world.now);
        assert_eq!(world.settle_all().len(), settles);
    }
}

#[test]
fn without_another_member_the_one_that_hangs_has_it_again() {
    let mut world = world(&[("hangs", 1)]);
    world.arrive(&[(1, "a")]);
    for deliveries in 1..=RULES.deliveries_max {
        assert_eq!(world.given(), [("hangs".into(), 1, deliveries)]);
        let unanswered = Answer::Nak { delay_ms: Some(0), reason: "late".into(), unanswered: true };
        world.answer("hangs", 1, deliveries, unanswered);
    }
    assert_eq!(world.settle_all().len(), 1);
}

#[test]
fn a_member_that_was_cut_off_has_what_nobody_else_got_and_no_more_than_it_takes() {
    let mut world = world(&[("cut", 2)]);
    world.arrive(&[(1, "a"), (2, "b")]);
    assert_eq!(world.given().len(), 2);
    world.pass(MEMBER_SILENCE);
    world.dispatch.announce("other", 1, &[], world.now);
    let given = world.given();
    let [(_, taken, 2)] = given[..] else { panic!("{given:?}") };
    let left = 3 - taken;
    // It comes back, and has both.
    world.dispatch.announce("cut", 2, &[(at(1), 1), (at(2), 1)], world.now);
    assert_eq!(world.answer("cut", left, 1, Answer::Progress), Taken::Done, "nobody else has it");
    world.arrive(&[(3, "c")]);
    assert!(world.given().is_empty(), "it works on two");
    assert_eq!(world.answer("cut", taken, 1, Answer::Ack), Taken::Settling, "done is done");
    world.settle_all();
    world.dispatch.announce("cut", 2, &[(at(left), 1)], world.now);
    assert_eq!(world.given().len(), 1);
}

#[test]
fn the_last_delivery_of_a_member_that_was_cut_off_is_given_up_when_its_time_is_over() {
    for comes_back in [true, false] {
        let mut world = world(&[("cut", 1)]);
        world.arrive(&[(1, "a")]);
        for deliveries in 1..RULES.deliveries_max {
            world.given();
            world.answer("cut", 1, deliveries, nak(Duration::ZERO));
        }
        assert_eq!(world.given(), [("cut".into(), 1, RULES.deliveries_max)]);
        world.pass(MEMBER_SILENCE);
        world.dispatch.announce("other", 1, &[], world.now);
        assert!(world.given().is_empty() && world.settle_all().is_empty(), "it may be done with it");
        if comes_back {
            world.dispatch.announce("cut", 1, &[(at(1), RULES.deliveries_max)], world.now);
            assert_eq!(world.answer("cut", 1, RULES.deliveries_max, Answer::Ack), Taken::Settling);
            assert_eq!(world.settle_all()[0].park, None);
            continue;
        }
        world.pass(RULES.ack_wait + LATE);
        world.dispatch.announce("other", 1, &[], world.now);
        assert!(world.given().is_empty());
        let park = world.settle_all()[0].park.clone().unwrap();
        assert_eq!(park.reason, "gave up after 3 deliveries: its member vanished");
    }
}

#[test]
fn a_silence_of_our_own_is_nobodys_fault() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a")]);
    world.given();
    world.now += Duration::from_secs(60);
    world.dispatch.excuse(world.now);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling);
}

#[test]
fn what_never_reached_its_member_is_given_again_and_not_counted() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a")]);
    world.given();
    world.now += Duration::from_secs(1);
    world.dispatch.announce("m", 1, &[], world.now);
    assert!(world.given().is_empty(), "it may be on its way");
    world.now += LOST_AFTER;
    world.dispatch.announce("m", 1, &[], world.now);
    assert_eq!(world.given(), [("m".into(), 1, 1)]);
}

#[test]
fn what_a_dispatcher_before_us_gave_out_stays_with_its_member() {
    let mut world = world(&[("m", 5)]);
    world.dispatch.announce("m", 5, &[(at(1), 2)], world.now);
    world.arrive(&[(2, "a"), (1, "a")]);
    assert!(world.given().is_empty());
    assert_eq!(world.answer("m", 1, 2, Answer::Ack), Taken::Settling);
    world.settle_all();
    assert_eq!(world.given(), [("m".into(), 2, 1)]);
    // The answer came before the announcement.
    world.arrive(&[(7, "b")]);
    assert_eq!(world.answer("m", 7, 4, Answer::Ack), Taken::Settling);
    // And before the event itself.
    assert_eq!(world.answer("m", 9, 1, Answer::Ack), Taken::Later);
}

#[test]
fn deliveries_are_counted_across_dispatchers() {
    let mut before = world(&[("m", 5)]);
    before.arrive(&[(1, "a"), (2, "b"), (3, "b")]);
    before.given();
    before.dispatch.leave("m", None, "it left", before.now);
    let left: Vec<_> = before.notes();
    assert_eq!(left, [(at(1), 1, None), (at(2), 1, None)]);
    let mut world = world(&[("m", 5)]);
    world.dispatch.remember(left);
    world.arrive(&[(1, "a")]);
    assert_eq!(world.given(), [("m".into(), 1, 2)]);
    assert_eq!(world.notes(), [(at(1), 2, None), (at(2), 1, None)]);
    world.dispatch.forget(at(1));
    assert!(world.dispatch.remembers(), "the second may still come");
    world.dispatch.forget(at(2));
    assert!(!world.dispatch.remembers());
    assert_eq!(world.notes(), [(at(1), 2, None)], "what is here is here");
}

#[test]
fn what_was_delivered_often_enough_is_parked_by_the_next_dispatcher() {
    let mut world = world(&[("m", 5)]);
    world.dispatch.remember([(at(1), 3, None), (at(2), 3, None), (at(4), 3, None)]);
    // Somebody still has the second.
    world.dispatch.announce("m", 5, &[(at(2), 3)], world.now);
    world.arrive(&[(1, "a"), (2, "b"), (3, "a")]);
    assert!(world.given().is_empty());
    let parked = world.settle_all();
    let reason = "gave up after 3 deliveries: the last one ended with its dispatcher".to_owned();
    assert_eq!(parked, [Settlement { position: at(1), origin: Origin::Log, park: Some(Park { reason, deliveries: 3 }) }]);
    assert_eq!(world.positions(), [3], "the next of its aggregate");
    assert_eq!(world.answer("m", 2, 3, Answer::Ack), Taken::Settling);
    // An operator wants it once more.
    world.dispatch.arrive(at(4), &"c".parse().unwrap(), Origin::Replay(9), world.now);
    assert_eq!(world.positions(), [4]);
}

#[test]
fn what_rests_goes_on_resting_under_the_next_dispatcher() {
    let mut before = world(&[("m", 5)]);
    before.arrive(&[(1, "a"), (2, "a")]);
    before.given();
    before.answer("m", 1, 1, nak(Duration::from_secs(60)));
    let mut world = World { dispatch: Dispatch::new(RULES), now: before.now };
    world.dispatch.announce("m", 5, &[], world.now);
    world.dispatch.remember(before.notes());
    world.arrive(&[(2, "a"), (1, "a")]);
    assert!(world.given().is_empty());
    world.now += Duration::from_secs(59);
    world.dispatch.announce("m", 5, &[], world.now);
    world.pass(Duration::ZERO);
    assert!(world.given().is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.given(), [("m".into(), 1, 2)]);
}

#[test]
fn what_a_member_that_leaves_was_not_given_is_not_counted() {
    let mut world = world(&[("m", 2)]);
    world.arrive(&[(1, "a"), (2, "b")]);
    assert_eq!(world.positions(), [1, 2]);
    world.dispatch.leave("m", Some(&[(at(1), 1)]), "it left", world.now);
    world.dispatch.announce("n", 2, &[], world.now);
    assert_eq!(world.given(), [("n".into(), 2, 1)], "of the other it may have died");
    world.pass(DELAY_MIN);
    assert_eq!(world.given(), [("n".into(), 1, 2)]);
}

#[test]
fn the_time_of_a_delivery_begins_when_its_client_takes_it() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a")]);
    world.given();
    for _ in 0..30 {
        world.pass(Duration::from_secs(2));
        world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
        world.dispatch.waiting("m", &[(at(1), 1)], &[at(1)], world.now);
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling);
    assert_eq!(world.settle_all()[0].park, None);
}

#[test]
fn what_never_came_has_not_failed_however_short_its_time_is() {
    let rules = Rules { ack_wait: Duration::from_millis(100), ..RULES };
    let mut world = World { dispatch: Dispatch::new(rules), now: Instant::now() };
    world.dispatch.announce("m", 1, &[], world.now);
    world.arrive(&[(1, "a")]);
    assert_eq!(world.given(), [("m".into(), 1, 1)]);
    for _ in 0..4 {
        world.pass(Duration::from_secs(1));
        world.dispatch.announce("m", 1, &[], world.now);
    }
    assert_eq!(world.given(), [("m".into(), 1, 1)], "it was lost on the way");
    for _ in 0..6 {
        world.pass(Duration::from_secs(1));
        world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
        world.dispatch.waiting("m", &[(at(1), 1)], &[at(1)], world.now);
    }
    world.pass(Duration::from_millis(500));
    world.dispatch.announce("m", 1, &[], world.now);
    assert_eq!(world.given(), [("m".into(), 1, 1)], "its client did not take it");
}

/// As one of an earlier version does with what was not answered in time, without a word.
#[test]
fn what_a_member_drops_when_its_time_is_over_has_failed_and_what_still_waited_has_not() {
    for (waits, deliveries) in [(false, 2), (true, 1)] {
        let mut world = world(&[("m", 1)]);
        world.arrive(&[(1, "a")]);
        world.given();
        for _ in 0..15 {
            world.pass(Duration::from_secs(2));
            world.dispatch.announce("m", 1, &[(at(1), 1)], world.now);
            world.dispatch.waiting("m", &[(at(1), 1)], &[at(1)][..usize::from(waits)], world.now);
        }
        world.pass(Duration::from_millis(500));
        world.dispatch.announce("m", 1, &[], world.now);
        assert_eq!(world.given(), [("m".into(), 1, deliveries)]);
    }
}

#[test]
fn what_is_done_is_done_whichever_delivery_it_was_and_whoever_has_it_now() {
    let mut world = world(&[("m", 1)]);
    world.arrive(&[(1, "a"), (2, "b")]);
    world.given();
    assert_eq!(world.answer("m", 1, 1, nak(Duration::ZERO)), Taken::Done);
    world.dispatch.announce("m", 0, &[], world.now);
    world.dispatch.announce("n", 2, &[], world.now);
    assert_eq!(world.positions().len(), 2);
    assert_eq!(world.answer("m", 1, 1, Answer::Park { reason: "no".into() }), Taken::Stale);
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling);
    assert_eq!(world.answer("n", 1, 2, Answer::Ack), Taken::Settling);
    assert_eq!(world.settle_all().len(), 1);
    assert_eq!(world.answer("n", 1, 2, Answer::Ack), Taken::Done);
}

#[test]
fn a_mark_behind_an_answer_is_nothing_to_wait_for() {
    let mut world = world(&[("m", 5)]);
    world.arrive(&[(1, "a")]);
    world.given();
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling);
    assert_eq!(world.answer("m", 1, 1, Answer::Progress), Taken::Stale);
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Settling, "said again");
}

#[test]
fn what_was_struck_off_is_not_delivered_again_when_the_server_forgot_it() {
    let mut world = world(&[("m", 5)]);
    world.arrive(&[(1, "a")]);
    world.given();
    world.answer("m", 1, 1, Answer::Ack);
    world.settle_all();
    assert_eq!(world.dispatch.arrive(at(1), &"a".parse().unwrap(), Origin::Log, world.now), Arrival::Settled);
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Done, "said twice");
    let replay = Origin::Replay(3);
    assert_eq!(
        world.dispatch.arrive(at(1), &"a".parse().unwrap(), replay, world.now),
        Arrival::Taken,
        "a replay is another matter"
    );
    assert_eq!(world.given(), [("m".into(), 1, 1)]);
}

#[test]
fn a_replay_waits_for_the_later_event_that_is_worked_on_and_then_comes_first() {
    let mut world = world(&[("m", 5)]);
    world.arrive(&[(5, "a"), (6, "a")]);
    assert_eq!(world.positions(), [5]);
    world.dispatch.arrive(at(1), &"a".parse().unwrap(), Origin::Replay(3), world.now);
    assert!(world.positions().is_empty(), "never two at once");
    world.answer("m", 5, 1, Answer::Ack);
    world.settle_all();
    assert_eq!(world.positions(), [1]);
    world.answer("m", 1, 1, Answer::Ack);
    world.settle_all();
    assert_eq!(world.answer("m", 1, 1, Answer::Ack), Taken::Done, "it was heard before");
    let replayed = world.dispatch.arrive(at(1), &"a".parse().unwrap(), Origin::Log, world.now);
    assert_eq!(replayed, Arrival::Taken, "of the log it is another one");
}

/// What may happen to a group.
#[derive(Clone, Debug)]
enum Step {
    Arrive(u8),
    Answer(u8, Answer),
    Leave(u8),
    Settle,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let answer = prop_oneof![
        6 => Just(Answer::Ack),
        2 => (0..5000_u64).prop_map(|ms| nak(Duration::from_millis(ms))),
        1 => Just(Answer::Progress),
        1 => Just(Answer::Park { reason: "no".into() }),
    ];
    prop_oneof![
        4 => (0..4_u8).prop_map(Step::Arrive),
        6 => (any::<u8>(), answer).prop_map(|(which, answer)| Step::Answer(which, answer)),
        1 => (0..3_u8).prop_map(Step::Leave),
        4 => Just(Step::Settle),
        2 => (0..10_000_u16).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_order_holds_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = world(&[]);
        let (mut arrived, mut next) = (BTreeMap::<u64, String>::new(), 0);
        let mut given: Vec<(String, u64, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Arrive(aggregate) => {
                    next += 1;
                    let aggregate = format!("a{aggregate}");
                    world.arrive(&[(next, &aggregate)]);
                    arrived.insert(next, aggregate);
                }
                Step::Answer(which, answer) if !given.is_empty() => {
                    let (member, position, deliveries) = given.swap_remove(usize::from(which) % given.len());
                    let keep = answer == Answer::Progress;
                    world.answer(&member, position, deliveries, answer);
                    if keep {
                        given.push((member, position, deliveries));
                    }
                }
                Step::Answer(..) => {}
                Step::Leave(member) => world.dispatch.leave(&format!("m{member}"), None, "it left", world.now),
                Step::Settle => {
                    for settlement in world.settle_all() {
                        prop_assert!(arrived.remove(&settlement.position.get()).is_some(), "settled once");
                    }
                }
                Step::Pass(ms) => world.pass(Duration::from_millis(ms.into())),
            }
            for member in 0..3 {
                let id = format!("m{member}");
                let held: Vec<_> = given.iter().filter(|(to, ..)| *to == id).map(|(_, position, n)| (at(*position), *n)).collect();
                world.dispatch.announce(&id, 2, &held, world.now);
            }
            for one in world.given() {
                let aggregate = &arrived[&one.1];
                let first = arrived.iter().find(|(_, of)| *of == aggregate).map(|(position, _)| *position);
                prop_assert_eq!(Some(one.1), first, "nothing before the first unsettled event of its aggregate");
                given.retain(|(_, position, _)| *position != one.1);
                given.push(one);
            }
        }
        // Whatever is left is dealt with by a member that does its work.
        for _ in 0..4 * (arrived.len() + 4) {
            world.pass(Duration::from_secs(10));
            world.dispatch.announce("last", 100, &[], world.now);
            for (member, position, deliveries) in world.given() {
                world.answer(&member, position, deliveries, Answer::Ack);
            }
            for settlement in world.settle_all() {
                prop_assert!(arrived.remove(&settlement.position.get()).is_some(), "settled once");
            }
        }
        prop_assert!(arrived.is_empty(), "{arrived:?}");
        prop_assert!(world.dispatch.lines.is_empty() && world.dispatch.lines_of.is_empty());
    }
}
