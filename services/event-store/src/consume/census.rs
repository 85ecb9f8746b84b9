//! Whether all is here that the server waits for. What is not was pulled by somebody else, or was lost on its way: it comes again,
//! perhaps behind later events of its aggregate, so nothing may be started before.
//!
//! Pure: no I/O, no clock. The server counts, and says up to which position; which ones it counted it does not say. To start with,
//! and when the connection broke, what *surely* is here is set against that: nothing may make up for what is missing. Later on,
//! when acknowledgements are always on their way, what *perhaps* is counted is: work must not stop for each of them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use causeway_event::Position;
use causeway_log::GroupState;

/// The time that members have to announce themselves to a new dispatcher.
const ROLL_CALL: Duration = Duration::from_millis(1200);
/// What is to come again is waited for no longer than this.
const MISSING_MAX: Duration = Duration::from_secs(20);

pub(super) struct Census {
    /// Until all that was begun before is here.
    recovering: bool,
    /// Since when it recovers, or something is missing.
    since: Instant,
    was_counted: bool,
    missing: Missing,
    /// How many are no longer waited for.
    given_up: u64,
}

/// At most so many of those up to a position, less those that came since the count.
struct Missing {
    up_to: Position,
    count: u64,
    came: HashSet<Position>,
}

/// What is here of what the server may have counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here {
    /// Held, and nothing was said to the server.
    pub(super) surely: u64,
    /// Those, and what the server was told since it was asked, or shortly before.
    pub(super) perhaps: u64,
}

/// What a count has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    /// All that was begun before is here.
    Recovered,
    /// So many are waited for no longer.
    GaveUp(u64),
}

impl Census {
    pub(super) fn new(now: Instant) -> Self {
        Self { recovering: true, since: now, was_counted: false, missing: Missing::none(), given_up: 0 }
    }

    /// Whether anything may be started.
    pub(super) fn is_complete(&self) -> bool {
        !self.recovering && self.missing.count == 0
    }

    /// Whether the server has counted since the beginning. Whoever pulls before that takes what should have been counted.
    pub(super) fn was_counted(&self) -> bool {
        self.was_counted
    }

    /// This one came in and is not among those that are here already.
    pub(super) fn came(&mut self, position: Position) {
        let missing = &mut self.missing;
        if 0 < missing.count && position <= missing.up_to && missing.came.insert(position) {
            missing.count -= 1;
        }
    }

    /// The server has counted.
    pub(super) fn counted(&mut self, state: &GroupState, here: Here, now: Instant) -> Outcome {
        let is_first = !std::mem::replace(&mut self.was_counted, true);
        let seen = if self.recovering { here.surely } else { here.perhaps };
        let found = state.unacknowledged.saturating_sub(seen);
        let count = found.saturating_sub(self.given_up);
        if found == 0 {
            self.given_up = 0;
        }
        if self.missing.up_to <= state.acknowledged {
            self.missing.count = 0;
        }
        if self.is_complete() {
            self.since = now;
        }
        // While recovering each count is an upper bound, and the lowest says most.
        if is_first || !self.recovering || count < self.missing.count {
            self.missing = Missing { up_to: state.delivered, count, came: HashSet::new() };
        }
        let waited = now.duration_since(self.since);
        if MISSING_MAX < waited && !self.is_complete() {
            self.recovering = false;
            self.given_up += std::mem::take(&mut self.missing.count);
            return Outcome::GaveUp(self.given_up);
        }
        let over = self.missing.count == 0 && (state.unacknowledged == 0 || ROLL_CALL <= waited);
        if self.recovering && over {
            self.recovering = false;
            return Outcome::Recovered;
        }
        Outcome::Nothing
    }
}

impl Missing {
    fn none() -> Self {
        Self { up_to: Position::START, count: 0, came: HashSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(2);

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    fn state(acknowledged: u64, delivered: u64, unacknowledged: u64) -> GroupState {
        GroupState {
            name: "g".parse().unwrap(),
            terms: String::new(),
            acknowledged: at(acknowledged),
            delivered: at(delivered),
            unacknowledged,
            undelivered: 0,
        }
    }

    fn here(surely: u64, perhaps: u64) -> Here {
        Here { surely, perhaps }
    }

    #[test]
    fn later_events_do_not_make_up_for_an_earlier_one_that_is_still_to_come_again() {
        let now = Instant::now();
        let mut census = Census::new(now);
        assert!(!census.was_counted());
        // 3 and 5 are with a dispatcher that died.
        assert_eq!(census.counted(&state(2, 5, 2), here(0, 0), now), Outcome::Nothing);
        for position in [6, 7, 8, 5, 5] {
            census.came(at(position));
        }
        assert_eq!(census.counted(&state(2, 8, 5), here(4, 4), now + SOON), Outcome::Nothing);
        assert!(!census.is_complete());
        census.came(at(3));
        assert_eq!(census.counted(&state(2, 9, 6), here(5, 5), now + SOON), Outcome::Recovered);
        assert!(census.is_complete());
    }

    #[test]
    fn nothing_is_waited_for_when_nothing_was_begun_and_the_roll_call_is_when_something_was() {
        let now = Instant::now();
        assert_eq!(Census::new(now).counted(&state(7, 7, 0), here(0, 0), now), Outcome::Recovered);
        let mut census = Census::new(now);
        census.counted(&state(6, 7, 1), here(0, 0), now);
        census.came(at(7));
        assert_eq!(census.counted(&state(6, 7, 1), here(1, 1), now), Outcome::Nothing);
        assert_eq!(census.counted(&state(6, 7, 1), here(1, 1), now + ROLL_CALL), Outcome::Recovered);
    }

    #[test]
    fn what_the_one_before_acknowledged_in_the_end_is_not_waited_for() {
        let now = Instant::now();
        let mut census = Census::new(now);
        census.counted(&state(2, 5, 2), here(0, 0), now);
        assert_eq!(census.counted(&state(5, 9, 4), here(3, 3), now + SOON), Outcome::Recovered, "all up to 5 is acknowledged");
        let mut census = Census::new(now);
        census.counted(&state(2, 5, 2), here(0, 0), now);
        census.came(at(3));
        assert_eq!(census.counted(&state(2, 9, 5), here(5, 5), now + SOON), Outcome::Recovered, "all that it counts is here");
    }

    #[test]
    fn what_somebody_else_pulls_later_stops_the_work_until_it_came() {
        let now = Instant::now();
        let mut census = Census::new(now);
        census.counted(&state(7, 7, 0), here(0, 0), now);
        assert_eq!(census.counted(&state(7, 12, 5), here(3, 5), now), Outcome::Nothing);
        assert!(census.is_complete(), "acknowledgements are on their way");
        census.counted(&state(7, 13, 6), here(5, 5), now);
        assert!(!census.is_complete());
        census.came(at(14));
        assert!(!census.is_complete());
        census.came(at(13));
        assert!(census.is_complete());
    }

    #[test]
    fn what_never_comes_is_given_up_and_not_waited_for_again() {
        let now = Instant::now();
        let mut census = Census::new(now);
        census.counted(&state(7, 9, 2), here(0, 0), now);
        census.came(at(8));
        let late = now + MISSING_MAX + SOON;
        assert_eq!(census.counted(&state(7, 9, 2), here(1, 1), late), Outcome::GaveUp(1));
        assert_eq!(census.counted(&state(7, 9, 2), here(1, 1), late + SOON), Outcome::Nothing);
        assert!(census.is_complete());
        census.counted(&state(7, 10, 3), here(1, 1), late + SOON);
        assert!(!census.is_complete(), "that is another one");
        census.counted(&state(7, 10, 1), here(1, 1), late + SOON);
        assert!(census.is_complete());
    }
}
