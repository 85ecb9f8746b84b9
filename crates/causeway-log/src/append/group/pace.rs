//! Whether those who wait go together or one by one, found out by trying. Pure: the time is an argument.
//!
//! Whether the server syncs each message it does not say, and what a sync takes changes tenfold within minutes; what takes long may
//! as well be a busy processor, which a group does not help. So nothing is modelled: as long as many wait at once, both ways are
//! tried for a moment now and then, and the one that stored more in its moment is the way until then.

use std::time::{Duration, Instant};

/// With fewer waiting, they go one by one: a group has little to share, and its stall is felt.
const COUNT_MIN: usize = 8;
/// How long what is stored is counted before it says something.
const WINDOW: Duration = Duration::from_millis(200);
/// The other way is tried again after this, ...
const TRIAL_AFTER: Duration = Duration::from_secs(5);
/// ... and after so many times what the last trial took: a slow disk makes a trial long.
const TRIAL_SHARE: u32 = 20;
/// What is tried has to store so much more to become the way: less is chance.
const BETTER: f64 = 1.1;

/// How appends go that wait at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Way {
    #[default]
    OneByOne,
    Together,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::OneByOne => Self::Together,
            Self::Together => Self::OneByOne,
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Pace {
    home: Way,
    trial: Option<Trial>,
    next_trial: Option<Instant>,
    window: Option<Window>,
    /// What began before went another way.
    since: Option<Instant>,
}

/// The other way is tried.
#[derive(Debug)]
struct Trial {
    since: Instant,
    /// What the way at home stored in a second, just before.
    home: f64,
}

/// What was stored in a time without pauses.
#[derive(Debug)]
struct Window {
    since: Instant,
    last: Instant,
    stored: usize,
    /// The sum of how many were under way when each began: they come in bursts, so that only the mean says whether they are many.
    among: usize,
}

impl Window {
    fn since(now: Instant) -> Self {
        Self { since: now, last: now, stored: 0, among: 0 }
    }
}

impl Pace {
    /// Whether `count` that wait should go together.
    pub(super) fn group_pays(&self, count: usize) -> bool {
        let way = if self.trial.is_some() { self.home.other() } else { self.home };
        count >= COUNT_MIN && way == Way::Together
    }

    /// So many were stored by one message, which began when `among` were under way. What goes alone although the way is another
    /// counts as well: it is the way that is judged, with all that comes of it.
    pub(super) fn stored(&mut self, count: usize, among: usize, begun: Instant, now: Instant) {
        if self.since.is_some_and(|since| begun < since) {
            return;
        }
        let Some(window) = self.window.as_mut().filter(|window| begun < window.last + WINDOW) else {
            // The first ones, perhaps after nobody wanted anything for a while, only say that it has begun.
            self.window = Some(Window::since(now));
            return;
        };
        window.stored += count;
        window.among += among * count;
        window.last = now;
        let took = now.saturating_duration_since(window.since);
        if took >= WINDOW {
            let (stored, many) = (window.stored, window.among >= window.stored * COUNT_MIN);
            self.window = Some(Window::since(now));
            if many {
                self.judge(stored as f64 / took.as_secs_f64(), now);
            }
        }
    }

    /// A group was refused or not answered: for a while they go one by one.
    pub(super) fn group_failed(&mut self, now: Instant) {
        *self = Self { next_trial: Some(now + TRIAL_AFTER), since: Some(now), ..Self::default() };
    }

    /// The way stored so much in a second.
    fn judge(&mut self, rate: f64, now: Instant) {
        if let Some(trial) = self.trial.take() {
            let took = now.saturating_duration_since(trial.since);
            self.next_trial = Some(now + TRIAL_AFTER.max(took * TRIAL_SHARE));
            match rate > trial.home * BETTER {
                true => self.home = self.home.other(),
                false => (self.window, self.since) = (None, Some(now)),
            }
        } else if self.next_trial.is_none_or(|at| at <= now) {
            self.trial = Some(Trial { since: now, home: rate });
            (self.window, self.since) = (None, Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// `clients` at a time that are stored as fast as either way allows, for so long. Says how much of it went in groups.
    fn run(pace: &mut Pace, now: &mut Instant, length: Duration, clients: usize, single: Duration, group: Duration) -> f64 {
        let (end, mut singles, mut grouped) = (*now + length, 0, 0);
        while *now < end {
            if pace.group_pays(clients) {
                *now += group;
                pace.stored(clients, clients, *now - group, *now);
                grouped += clients;
            } else {
                *now += single;
                pace.stored(1, clients, *now - single * 64, *now);
                singles += 1;
            }
        }
        f64::from(u32::try_from(grouped).unwrap()) / f64::from(u32::try_from(grouped + singles).unwrap())
    }

    #[test]
    fn the_way_that_stores_more_is_taken_and_the_other_only_tried() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let synced = run(&mut pace, &mut now, MS * 10_000, 64, MS / 4, MS * 4);
        assert!(synced > 0.94, "{synced}");
        let relaxed = run(&mut Pace::default(), &mut now, MS * 10_000, 64, MS / 30, MS * 4);
        assert!(relaxed < 0.06, "{relaxed}");
    }

    #[test]
    fn a_disk_that_changes_is_noticed_either_way() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS / 4, MS * 40);
        assert!(!pace.group_pays(64));
        run(&mut pace, &mut now, TRIAL_AFTER * 2, 64, MS * 4, MS * 40);
        assert!(pace.group_pays(64), "now singles wait for the disk");
        run(&mut pace, &mut now, TRIAL_AFTER * 2, 64, MS / 10, MS * 40);
        assert!(!pace.group_pays(64));
    }

    #[test]
    fn bursts_of_many_are_many() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            now += MS * 16;
            (1..=64).for_each(|among| pace.stored(1, among, now - MS * 16, now));
        }
        assert!(pace.group_pays(64), "groups are tried");
    }

    #[test]
    fn a_way_that_only_stalls_those_who_go_alone_is_left_again() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, WINDOW + MS * 2, 64, MS / 4, MS * 4);
        assert!(pace.group_pays(64), "tried");
        for _ in 0..200 {
            now += MS * 5;
            pace.stored(1, 20, now - MS * 5, now);
        }
        assert!(!pace.group_pays(64));
    }

    #[test]
    fn where_both_ways_store_the_same_the_one_that_was_there_stays() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let grouped = run(&mut pace, &mut now, TRIAL_AFTER * 6, 64, MS / 4, MS * 16);
        assert!(grouped < 0.1, "{grouped}");
    }

    #[test]
    fn few_never_go_together_and_say_nothing_of_many() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        assert!(pace.group_pays(COUNT_MIN) && !pace.group_pays(COUNT_MIN - 1));
        let mut pace = Pace::default();
        run(&mut pace, &mut now, TRIAL_AFTER * 2, COUNT_MIN - 1, MS, MS);
        assert!(!pace.group_pays(1000), "nothing was tried");
    }

    #[test]
    fn a_group_that_failed_is_not_repeated_soon() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        pace.group_failed(now);
        assert_eq!(run(&mut pace, &mut now, TRIAL_AFTER - WINDOW * 2, 64, MS, MS * 4), 0.0);
        run(&mut pace, &mut now, WINDOW * 4, 64, MS, MS * 4);
        assert!(pace.group_pays(64));
    }

    #[test]
    fn a_time_in_which_nobody_wanted_anything_does_not_count_against_the_way() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        for _ in 0..20 {
            now += WINDOW * 3 / 2;
            pace.stored(64, 64, now - MS * 4, now);
            now += MS * 4;
            pace.stored(64, 64, now - MS * 4, now);
            assert!(pace.group_pays(64));
        }
    }
}
