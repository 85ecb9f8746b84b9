//! The pace of a subscription: how much it asks for at a time, and how long it waits. Pure.
//!
//! What was asked for and has not gone out lies in the server, which cuts a connection that does not take it within ten seconds, or for
//! which more than 64 MB lie there. Over a link that is slow for its messages, and with large ones, the full pace would be cut off
//! again and again. So whoever broke asks for one message at a time, and then for as many as the link was seen to bring.

use std::time::Duration;

/// Messages asked for at a time over a link that has not broken.
const FULL: usize = 500;
/// As much is asked for as came within this: it leaves most of the server's ten seconds.
const AHEAD: Duration = Duration::from_secs(3);
/// Nor is more asked for than this, if the messages stay as large as they were.
const AHEAD_BYTES: u64 = 16 << 20;
/// So many batches are measured at a time.
const MEASURED: u64 = 4;
/// A link over which a message takes longer stays at a pace of its own when there is nothing left to catch up with.
const SLOW: Duration = Duration::from_secs(1);
/// A silent server is noticed after twice this ...
const HEARTBEAT: Duration = Duration::from_secs(2);
/// ... and over a link of which it is not known how long it takes for one message, after twice this.
const HEARTBEAT_OF_SLOW: Duration = Duration::from_secs(10);
/// The longest that one message is waited for.
const PATIENCE_MAX: Duration = Duration::from_secs(40);

/// The pace at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    batch: usize,
    patience: Duration,
    patience_min: Duration,
}

impl Pace {
    /// Full, with this patience for one message by itself.
    pub(super) fn full(patience: Duration) -> Self {
        Self { batch: FULL, patience, patience_min: patience }
    }

    /// Messages to ask for at a time.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// How often the server is to say that it is there.
    pub(super) fn heartbeat(&self) -> Duration {
        if self.batch == FULL { HEARTBEAT } else { HEARTBEAT_OF_SLOW }
    }

    /// How long one message by itself may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A pull broke.
    pub(super) fn broke(&mut self) {
        self.batch = 1;
    }

    /// An answer did not come for this long.
    pub(super) fn waited(&mut self, silence: Duration) {
        if silence >= self.patience {
            self.patience = (self.patience * 2).min(PATIENCE_MAX).max(self.patience_min);
        }
    }

    /// There is nothing left to catch up with.
    pub(super) fn caught_up(&mut self) {
        *self = Self::full(self.patience_min);
    }

    /// A pull brought so many messages, of so many bytes together, within this, and left so many. True if that changes the pace by enough
    /// for another pull.
    pub(super) fn brought(&mut self, messages: u64, bytes: u64, within: Duration, left: u64) -> bool {
        if self.batch == FULL {
            return false;
        }
        if left == 0 && within.as_nanos() <= SLOW.as_nanos() * u128::from(messages) {
            self.caught_up();
            return true;
        }
        if messages < MEASURED * self.batch as u64 {
            return false;
        }
        let ahead = u128::from(messages) * AHEAD.as_nanos() / within.as_nanos().max(1);
        let ahead = ahead.min(u128::from(messages) * u128::from(AHEAD_BYTES) / u128::from(bytes.max(1)));
        match usize::try_from(ahead).unwrap_or(FULL) {
            FULL.. => self.caught_up(),
            batch if batch >= 2 * self.batch => self.batch = batch,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const SMALL: u64 = 1000;

    /// A pace after a break.
    fn broken() -> Pace {
        let mut pace = Pace::full(PATIENCE);
        pace.broke();
        pace
    }

    #[test]
    fn the_full_pace_is_left_by_a_break_alone() {
        let mut pace = Pace::full(PATIENCE);
        assert!(!pace.brought(1_000_000, SMALL, Duration::from_hours(1), 1));
        assert!(!pace.brought(1, SMALL, Duration::from_secs(9), 0));
        assert_eq!((pace.batch(), pace.heartbeat()), (500, HEARTBEAT));
        pace.broke();
        assert_eq!((pace.batch(), pace.heartbeat()), (1, HEARTBEAT_OF_SLOW));
    }

    #[test]
    fn a_slow_link_is_asked_for_what_it_brings_in_three_seconds() {
        let mut pace = broken();
        assert!(!pace.brought(3, SMALL, Duration::from_secs(1), 100), "too few to tell");
        assert!(!pace.brought(4, SMALL, Duration::from_secs(24), 100), "not more than now");
        assert_eq!(pace.batch(), 1);
        assert!(pace.brought(4, SMALL, Duration::from_secs(2), 100));
        assert_eq!(pace.batch(), 6);
        assert!(!pace.brought(23, SMALL, Duration::from_secs(1), 100));
        assert!(!pace.brought(24, SMALL, Duration::from_secs(8), 100), "another pull is not worth it");
        assert!(pace.brought(24, SMALL, Duration::from_secs(6), 100));
        assert_eq!(pace.batch(), 12);
        pace.broke();
        assert_eq!(pace.batch(), 1);
    }

    #[test]
    fn a_good_link_is_at_the_full_pace_after_four_messages() {
        let mut pace = broken();
        assert!(pace.brought(4, SMALL, Duration::from_millis(20), 100_000));
        assert_eq!(pace, Pace::full(PATIENCE));
        let mut at_once = broken();
        assert!(at_once.brought(4, SMALL, Duration::ZERO, 100_000));
        assert_eq!(at_once, Pace::full(PATIENCE));
    }

    #[test]
    fn of_large_messages_no_more_are_asked_for_than_the_server_takes_in() {
        let mut pace = broken();
        assert!(pace.brought(4, 4 << 20, Duration::from_millis(20), 100_000));
        assert_eq!(pace.batch(), 16);
        assert!(!pace.brought(64, 64 << 20, Duration::from_millis(20), 100_000));
        assert!(pace.brought(128, 16 << 20, Duration::from_millis(20), 100_000), "they are smaller by now");
        assert_eq!(pace.batch(), 128);
    }

    #[test]
    fn whoever_caught_up_over_a_good_link_is_at_the_full_pace() {
        let mut pace = broken();
        pace.waited(PATIENCE);
        assert!(pace.brought(1, SMALL, Duration::from_millis(10), 0));
        assert_eq!(pace, Pace::full(PATIENCE));
    }

    #[test]
    fn a_slow_link_keeps_its_pull_when_it_has_caught_up() {
        let mut pace = broken();
        assert!(!pace.brought(1, SMALL, Duration::from_secs(9), 0));
        assert!(!pace.brought(2, SMALL, Duration::from_hours(1), 0));
        assert_eq!((pace.batch(), pace.heartbeat()), (1, HEARTBEAT_OF_SLOW));
    }

    #[test]
    fn patience_grows_with_what_was_waited_in_vain() {
        let mut pace = broken();
        pace.waited(Duration::from_secs(1));
        assert_eq!(pace.patience(), PATIENCE, "it was told, not silent");
        for seconds in [10, 20, 40, 40] {
            pace.waited(pace.patience());
            assert_eq!(pace.patience(), Duration::from_secs(seconds));
        }
        let mut patient = Pace::full(Duration::from_mins(1));
        patient.waited(Duration::from_mins(1));
        assert_eq!(patient.patience(), Duration::from_mins(1), "what is configured is not cut");
    }
}
