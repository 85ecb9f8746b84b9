//! The pace of a subscription: how much it asks for at a time, and how long it waits. Pure.
//!
//! What was asked for and has not gone out lies in the server, which cuts a connection that does not take it within ten seconds, or for
//! which more than 64 MB lie there. Over a link that is slow for its messages, and with large ones, the full pace would be cut off
//! again and again. So whoever broke asks for one message at a time, and then for as many as the link was seen to bring.

use std::time::Duration;

use tokio::time::Instant;

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
/// So many messages after an idle time the full pace is tried at the latest.
const TRY_AT_MAX: u32 = 1024;
/// The longest that one message is waited for.
const PATIENCE_MAX: Duration = Duration::from_secs(40);

/// The pace at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    batch: usize,
    patience: Duration,
    patience_min: Duration,
    /// It had caught up, slowly, when the last message came.
    is_idle: bool,
    /// How often messages have come behind that, and how often they must until the full pace is tried.
    quiet: u32,
    try_at: u32,
    measured: Measured,
}

/// What came since it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Measured {
    since: Option<Instant>,
    messages: u64,
    bytes: u64,
}

impl Pace {
    /// Full, with this patience for one message by itself.
    pub(super) fn full(patience: Duration) -> Self {
        Self { batch: FULL, patience, patience_min: patience, is_idle: false, quiet: 0, try_at: 1, measured: Measured::default() }
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
        // If it was tried, the next try is twice as far.
        if self.quiet == self.try_at {
            self.try_at = (self.try_at * 2).min(TRY_AT_MAX);
        }
        (self.batch, self.is_idle, self.quiet) = (1, false, 0);
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

    /// A pull begins.
    pub(super) fn begun(&mut self, now: Instant) {
        self.measured = Measured { since: Some(now), ..Measured::default() };
    }

    /// It brought a message of so many bytes, and left so many messages. True if that changes the pace by enough for another pull.
    pub(super) fn brought(&mut self, bytes: u64, now: Instant, left: u64) -> bool {
        if self.batch == FULL {
            return false;
        }
        let Measured { since, messages, bytes: before } = self.measured;
        let (messages, bytes) = (messages + 1, before + bytes);
        self.measured = Measured { since, messages, bytes };
        let within = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if left == 0 && within.as_nanos() <= SLOW.as_nanos() * u128::from(messages) {
            self.caught_up();
            return true;
        }
        // Behind an idle time nothing can be measured: it is tried.
        if std::mem::replace(&mut self.is_idle, left == 0) {
            self.quiet += 1;
            self.begun(now);
            if self.quiet == self.try_at {
                (self.batch, self.patience) = (FULL, self.patience_min);
            }
            return self.batch == FULL;
        }
        if messages < MEASURED * self.batch as u64 {
            return false;
        }
        self.begun(now);
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
    const KB: u64 = 1000;

    /// A pace, and the time.
    struct Pulling(Pace, Instant);

    impl Pulling {
        /// After a break.
        fn broken() -> Self {
            let (mut pace, now) = (Pace::full(PATIENCE), Instant::now());
            pace.broke();
            pace.begun(now);
            Self(pace, now)
        }

        /// So many messages come, each of so many bytes and after so long, and leave others. Whether the last one, and no other, changes
        /// the pace.
        fn brings(&mut self, messages: usize, bytes: u64, each: Duration) -> bool {
            let changes = (0..messages).map(|_| self.brings_one(bytes, each, 100_000)).collect::<Vec<_>>();
            assert!(changes[..messages - 1].iter().all(|changes| !changes), "{changes:?}");
            changes[messages - 1]
        }

        fn brings_one(&mut self, bytes: u64, after: Duration, left: u64) -> bool {
            self.1 += after;
            let changes = self.0.brought(bytes, self.1, left);
            if changes {
                self.0.begun(self.1);
            }
            changes
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_full_pace_is_left_by_a_break_alone() {
        let mut pulling = Pulling(Pace::full(PATIENCE), Instant::now());
        for _ in 0..10_000 {
            assert!(!pulling.brings_one(KB, millis(5000), 1));
        }
        assert!(!pulling.brings_one(KB, millis(9000), 0));
        assert_eq!((pulling.0.batch(), pulling.0.heartbeat()), (500, HEARTBEAT));
        pulling.0.broke();
        assert_eq!((pulling.0.batch(), pulling.0.heartbeat()), (1, HEARTBEAT_OF_SLOW));
    }

    #[test]
    fn a_slow_link_is_asked_for_what_it_brings_in_three_seconds() {
        let mut pulling = Pulling::broken();
        assert!(!pulling.brings(4, KB, millis(6000)), "not more than now");
        assert!(pulling.brings(4, KB, millis(500)), "however slow it was before");
        assert_eq!(pulling.0.batch(), 6);
        assert!(!pulling.brings(24, KB, millis(300)), "another pull is not worth it");
        assert!(pulling.brings(24, KB, millis(250)));
        assert_eq!(pulling.0.batch(), 12);
        pulling.0.broke();
        assert_eq!(pulling.0.batch(), 1);
    }

    #[test]
    fn a_good_link_is_at_the_full_pace_after_four_messages() {
        for each in [millis(5), Duration::ZERO] {
            let mut pulling = Pulling::broken();
            assert!(pulling.brings(4, KB, each));
            assert_eq!((pulling.0.batch(), pulling.0.heartbeat()), (500, HEARTBEAT));
        }
    }

    #[test]
    fn of_large_messages_no_more_are_asked_for_than_the_server_takes_in() {
        let mut pulling = Pulling::broken();
        assert!(pulling.brings(4, 1 << 20, millis(5)));
        assert_eq!(pulling.0.batch(), 16);
        assert!(!pulling.brings(64, 1 << 20, millis(5)));
        assert!(pulling.brings(64, 1 << 17, millis(5)), "they are smaller by now");
        assert_eq!(pulling.0.batch(), 128);
    }

    #[test]
    fn whoever_caught_up_over_a_good_link_is_at_the_full_pace() {
        let mut pulling = Pulling::broken();
        pulling.0.waited(PATIENCE);
        assert!(pulling.brings_one(KB, millis(10), 0));
        assert_eq!((pulling.0.batch(), pulling.0.patience()), (500, PATIENCE));
    }

    #[test]
    fn a_slow_link_keeps_its_pull_when_it_has_caught_up_until_the_next_message() {
        let mut pulling = Pulling::broken();
        assert!(!pulling.brings_one(KB, millis(9000), 0));
        assert_eq!((pulling.0.batch(), pulling.0.heartbeat()), (1, HEARTBEAT_OF_SLOW));
        assert!(pulling.brings_one(KB, Duration::from_hours(1), 0));
        assert_eq!((pulling.0.batch(), pulling.0.heartbeat()), (500, HEARTBEAT));
        // It broke again: the next try comes later.
        for tries in [2, 4] {
            pulling.0.broke();
            pulling.0.begun(pulling.1);
            assert!(!pulling.brings_one(KB, millis(9000), 0));
            for _ in 1..tries {
                assert!(!pulling.brings_one(KB, Duration::from_hours(1), 0));
            }
            assert!(pulling.brings_one(KB, Duration::from_hours(1), 0));
        }
    }

    #[test]
    fn patience_grows_with_what_was_waited_in_vain() {
        let mut pace = Pulling::broken().0;
        pace.waited(millis(1000));
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
