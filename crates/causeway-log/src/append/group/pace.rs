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
/// So long what a way stored counts; then it is tried again.
const VALID: Duration = Duration::from_secs(5);
/// The other way has to have stored so much more to be taken again: less is chance.
const BETTER: f64 = 1.1;

/// How appends go that wait at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Way {
    #[default]
    OneByOne,
    Together,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Pace {
    way: Way,
    window: Option<Window>,
    /// What the other way stored in a second, when it was the way.
    other: Option<(f64, Instant)>,
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
        count >= COUNT_MIN && self.way == Way::Together
    }

    /// A single was stored; when it began, `among` were under way.
    pub(super) fn single_stored(&mut self, among: usize, begun: Instant, now: Instant) {
        self.stored(Way::OneByOne, 1, among, begun, now);
    }

    /// A group of `count` was stored.
    pub(super) fn group_stored(&mut self, count: usize, begun: Instant, now: Instant) {
        self.stored(Way::Together, count, count, begun, now);
    }

    /// A group was refused or not answered: for a while they go one by one.
    pub(super) fn group_failed(&mut self, now: Instant) {
        *self = Self { way: Way::OneByOne, window: None, other: Some((0.0, now)) };
    }

    fn stored(&mut self, way: Way, count: usize, among: usize, begun: Instant, now: Instant) {
        if way != self.way {
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
                self.compare(stored as f64 / took.as_secs_f64(), now);
            }
        }
    }

    fn compare(&mut self, rate: f64, now: Instant) {
        let other = self.other.filter(|(_, at)| now.saturating_duration_since(*at) < VALID);
        if other.is_none_or(|(other, _)| other > rate * BETTER) {
            self.way = match self.way {
                Way::OneByOne => Way::Together,
                Way::Together => Way::OneByOne,
            };
            self.other = Some((rate, now));
            self.window = None;
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
                pace.group_stored(clients, *now - group, *now);
                grouped += clients;
            } else {
                *now += single;
                pace.single_stored(clients, *now - single * 64, *now);
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
        run(&mut pace, &mut now, VALID + WINDOW * 4, 64, MS * 4, MS * 40);
        assert!(pace.group_pays(64), "now singles wait for the disk");
        run(&mut pace, &mut now, VALID + WINDOW * 4, 64, MS / 10, MS * 40);
        assert!(!pace.group_pays(64));
    }

    #[test]
    fn bursts_of_many_are_many() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            now += MS * 16;
            (1..=64).for_each(|among| pace.single_stored(among, now - MS * 16, now));
        }
        assert!(pace.group_pays(64), "groups are tried");
    }

    #[test]
    fn few_never_go_together_and_say_nothing_of_many() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        assert!(pace.group_pays(COUNT_MIN) && !pace.group_pays(COUNT_MIN - 1));
        let mut pace = Pace::default();
        run(&mut pace, &mut now, VALID * 2, COUNT_MIN - 1, MS, MS);
        assert!(!pace.group_pays(1000), "nothing was tried");
    }

    #[test]
    fn a_group_that_failed_is_not_repeated_soon() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        pace.group_failed(now);
        assert_eq!(run(&mut pace, &mut now, VALID - WINDOW * 2, 64, MS, MS * 4), 0.0);
        run(&mut pace, &mut now, WINDOW * 4, 64, MS, MS * 4);
        assert!(pace.group_pays(64));
    }

    #[test]
    fn a_time_in_which_nobody_wanted_anything_does_not_count_against_the_way() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        run(&mut pace, &mut now, MS * 2000, 64, MS, MS * 4);
        for _ in 0..20 {
            now += WINDOW * 3 / 2;
            pace.group_stored(64, now - MS * 4, now);
            now += MS * 4;
            pace.group_stored(64, now - MS * 4, now);
            assert!(pace.group_pays(64));
        }
    }
}
