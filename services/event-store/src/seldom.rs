//! What happens often is told seldom: a thousand lines that say the same hide all others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one line pass in so long, with the number of what happened since the line before.
#[derive(Debug)]
pub(crate) struct Seldom {
    pause: Duration,
    untold: Mutex<Untold>,
}

#[derive(Debug)]
struct Untold {
    count: u64,
    /// When the last line was.
    told: Option<Instant>,
}

impl Seldom {
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, untold: Mutex::new(Untold { count: 0, told: None }) }
    }

    /// It happened so many times more. How many are to be told now, if it is time.
    pub(crate) fn add(&self, more: u64, now: Instant) -> Option<u64> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.count += more;
        let is_early = untold.told.is_some_and(|told| now.saturating_duration_since(told) < self.pause);
        if untold.count == 0 || is_early {
            return None;
        }
        untold.told = Some(now);
        Some(std::mem::take(&mut untold.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_further_ones_together() {
        let (seldom, begin) = (Seldom::new(Duration::from_secs(10)), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(seldom.add(0, at(0)), None, "nothing happened");
        assert_eq!(seldom.add(1, at(0)), Some(1));
        assert_eq!(seldom.add(1, at(1)), None);
        assert_eq!(seldom.add(1, at(9)), None);
        assert_eq!(seldom.add(0, at(10)), Some(2), "also if nothing more happens");
        assert_eq!(seldom.add(0, at(30)), None);
        assert_eq!(seldom.add(1, at(30)), Some(1));
    }
}
