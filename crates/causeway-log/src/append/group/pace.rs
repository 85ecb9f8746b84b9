//! Whether a group is faster than as many singles, from what both were seen to do. Pure: the time is an argument.
//!
//! Whether the server syncs each message it does not say, and what a sync takes changes tenfold within minutes. So it is
//! measured: of singles, how long each takes when many are under way (their latency by their number, as Little's law has it);
//! of groups, what they take beside their size. That says when a group is worth a try. What takes long may as well be a busy
//! processor, which a group does not help: so it also has to show that more is stored in the same time, or is given up.

use std::time::{Duration, Instant};

/// With fewer waiting, a single is as good.
const COUNT_MIN: usize = 8;
/// What a group takes for each of its events, whatever the disk does.
const EACH: f64 = 10e-6;
/// What a group takes beside that, until one was seen: few syncs of a common disk. Where the server does not sync singles it takes
/// more than this saves, which the first group shows.
const FIXED: f64 = 3e-3;
/// A group has to save so much to be worth its stall of those who could have gone alone.
const GAIN_MIN: f64 = 1.25;
/// So long a measurement counts; then singles are tried once more, ...
const SINGLE_VALID: Duration = Duration::from_secs(5);
/// ... and groups, of which one in vain costs more.
const GROUP_VALID: Duration = Duration::from_secs(30);
/// So long no group is tried after one that failed, ...
const PAUSE: Duration = Duration::from_secs(1);
/// ... and after groups that stored less than singles had.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How long what is stored is counted before it says something.
const WINDOW: Duration = Duration::from_millis(100);
/// The weight of what was seen last.
const WEIGHT: f64 = 0.2;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds that each single takes among many.
    single: Option<(f64, Instant)>,
    /// Seconds that a group takes beside its size.
    fixed: Option<(f64, Instant)>,
    paused_until: Option<Instant>,
    singles: Throughput,
    groups: Throughput,
}

impl Pace {
    /// A single was answered; when it began, `among` were under way.
    pub(super) fn single_took(&mut self, among: usize, took: Duration, now: Instant) {
        if among >= COUNT_MIN {
            self.single = Some((mean(self.single_at(now), took.as_secs_f64() / among as f64), now));
            self.singles.stored(1, now, now);
            self.groups.interrupt();
        } else {
            self.singles.interrupt();
        }
    }

    /// A group of `count` was stored.
    pub(super) fn group_took(&mut self, count: usize, took: Duration, now: Instant) {
        let fixed = (took.as_secs_f64() - count as f64 * EACH).max(0.0);
        self.fixed = Some((mean(valid(self.fixed, GROUP_VALID, now), fixed), now));
        self.singles.interrupt();
        if self.groups.stored(count, now.checked_sub(took).unwrap_or(now), now)
            && let (Some(groups), Some(singles)) = (self.groups.per_second(now), self.singles.per_second(now))
            && groups < singles
        {
            self.paused_until = Some(now + GIVEN_UP);
        }
    }

    /// A group was refused or not answered.
    pub(super) fn group_failed(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }

    /// Whether `count` that wait should go together.
    pub(super) fn group_pays(&self, count: usize, now: Instant) -> bool {
        if count < COUNT_MIN || self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        // Without knowing what singles do, nobody would notice that groups do less.
        if self.singles.per_second(now).is_none() {
            return false;
        }
        let fixed = valid(self.fixed, GROUP_VALID, now).unwrap_or(FIXED);
        self.single_at(now).is_some_and(|single| single * count as f64 > (fixed + count as f64 * EACH) * GAIN_MIN)
    }

    fn single_at(&self, now: Instant) -> Option<f64> {
        valid(self.single, SINGLE_VALID, now)
    }
}

/// How much was stored in the last window in which that was all the time many at once.
#[derive(Debug, Default)]
struct Throughput {
    counting: Option<Counting>,
    seen: Option<(f64, Instant)>,
}

#[derive(Debug)]
struct Counting {
    since: Instant,
    stored: usize,
    last: Instant,
}

impl Throughput {
    /// So many were stored that were begun then. Says whether that ends a window.
    fn stored(&mut self, count: usize, begun: Instant, now: Instant) -> bool {
        let Some(counting) = self.counting.as_mut().filter(|counting| begun < counting.last + WINDOW) else {
            // The first ones, perhaps after nobody wanted anything for a while, only say that it has begun.
            self.counting = Some(Counting { since: now, stored: 0, last: now });
            return false;
        };
        counting.stored += count;
        counting.last = now;
        let took = now.saturating_duration_since(counting.since);
        if took < WINDOW {
            return false;
        }
        self.seen = Some((counting.stored as f64 / took.as_secs_f64(), now));
        self.counting = Some(Counting { since: now, stored: 0, last: now });
        true
    }

    fn interrupt(&mut self) {
        self.counting = None;
    }

    fn per_second(&self, now: Instant) -> Option<f64> {
        valid(self.seen, SINGLE_VALID, now)
    }
}

fn valid(seen: Option<(f64, Instant)>, valid: Duration, now: Instant) -> Option<f64> {
    seen.filter(|(_, at)| now.saturating_duration_since(*at) < valid).map(|(value, _)| value)
}

fn mean(before: Option<f64>, seen: f64) -> f64 {
    before.map_or(seen, |before| before + WEIGHT * (seen - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 64 at a time, for longer than a window, until `end`.
    fn singles(each: Duration, end: Instant) -> Pace {
        let mut pace = Pace::default();
        let count = 2 * (WINDOW.as_nanos() / each.as_nanos()) as u32;
        for index in (0..=count).rev() {
            pace.single_took(64, each * 64, end - each * index);
        }
        pace
    }

    #[test]
    fn nothing_is_grouped_before_it_is_known_what_a_single_takes_or_when_few_wait() {
        let now = Instant::now();
        assert!(!Pace::default().group_pays(1000, now));
        assert!(!singles(MS, now).group_pays(COUNT_MIN - 1, now));
        let mut pace = Pace::default();
        pace.single_took(1, MS * 100, now);
        assert!(!pace.group_pays(1000, now), "one alone says nothing about many");
    }

    #[test]
    fn a_synced_disk_is_shared_and_one_that_is_not_synced_is_not() {
        let now = Instant::now();
        assert!(singles(MS / 4, now).group_pays(64, now));
        assert!(!singles(MS / 4, now).group_pays(10, now), "ten singles are done sooner");
        assert!(!singles(MS / 30, now).group_pays(64, now));
    }

    #[test]
    fn a_group_that_took_long_is_not_repeated_soon() {
        let now = Instant::now();
        let mut pace = singles(MS / 10, now);
        assert!(pace.group_pays(100, now));
        pace.group_took(100, MS * 20, now);
        assert!(!pace.group_pays(100, now));
        assert!(pace.group_pays(1000, now), "but for so many it would pay");
    }

    #[test]
    fn what_was_seen_long_ago_does_not_count() {
        let now = Instant::now();
        let pace = singles(MS, now);
        assert!(pace.group_pays(64, now + SINGLE_VALID / 2));
        assert!(!pace.group_pays(64, now + SINGLE_VALID));
    }

    #[test]
    fn a_group_that_failed_is_not_repeated_at_once() {
        let now = Instant::now();
        let mut pace = singles(MS, now);
        pace.group_failed(now);
        assert!(!pace.group_pays(64, now));
        assert!(pace.group_pays(64, now + PAUSE));
    }

    #[test]
    fn groups_that_store_less_than_singles_did_are_given_up_whatever_takes_long() {
        // A busy processor: each takes long, and in a group no less.
        let now = Instant::now();
        let mut pace = singles(MS / 8, now);
        assert!(pace.group_pays(64, now));
        let mut at = now;
        while at < now + WINDOW * 2 {
            at += MS * 16;
            pace.group_took(64, MS, at);
        }
        assert!(!pace.group_pays(64, at));
        assert!(!pace.group_pays(1000, at + GIVEN_UP / 2));
    }

    #[test]
    fn groups_that_store_more_than_singles_did_go_on() {
        let now = Instant::now();
        let mut pace = singles(MS / 4, now);
        let mut at = now;
        while at < now + WINDOW * 2 {
            at += MS * 4;
            pace.group_took(64, MS * 4, at);
            assert!(pace.group_pays(64, at));
        }
    }

    #[test]
    fn a_time_in_which_nobody_wanted_anything_does_not_count_against_groups() {
        let now = Instant::now();
        let mut pace = singles(MS / 4, now);
        pace.group_took(64, MS * 4, now + MS * 4);
        let later = now + WINDOW * 10;
        pace.group_took(64, MS * 4, later);
        assert!(pace.group_pays(64, later));
    }
}
