//! Limits of a processor's shell.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

/// How a processor takes and holds its work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// An event is taken over by another replica when its owner has not been heard of for this long.
    #[serde(with = "compact::required")]
    pub ack_wait: Duration,
    /// The most events in hand at a time, over all replicas: those at work, and those that wait behind one of the same aggregate.
    pub in_flight_max: u16,
    /// The most actions for one hint, against a decision that never comes to rest.
    pub actions_max: u32,
    /// The shortest pause before a failed event is delivered again; it doubles each time.
    #[serde(with = "compact::required")]
    pub retry_min: Duration,
    /// The longest pause before a failed event is delivered again.
    #[serde(with = "compact::required")]
    pub retry_max: Duration,
    /// How long work that has begun may go on after the order to stop.
    #[serde(with = "compact::required")]
    pub drain_timeout: Duration,
    /// How many aggregates' states are kept in memory between hints.
    pub cache_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(30),
            in_flight_max: 256,
            actions_max: 1000,
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            cache_max: 1000,
        }
    }
}

impl Config {
    /// The pause before delivery `deliveries + 1`: exponential, with up to as much again by chance, so that what failed together
    /// does not come back together.
    pub(crate) fn retry_pause(&self, deliveries: u32) -> Duration {
        use backon::BackoffBuilder as _;
        let nth = usize::try_from(deliveries.saturating_sub(1).min(30)).unwrap_or(30);
        let mut pauses = backon::ExponentialBuilder::default()
            .with_min_delay(self.retry_min)
            .with_max_delay(self.retry_max)
            .with_jitter()
            .without_max_times()
            .build();
        pauses.nth(nth).unwrap_or(self.retry_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let config = Config::default();
        assert!(config.retry_pause(1) < Duration::from_secs(3));
        assert!(config.retry_pause(5) >= Duration::from_secs(16));
        assert!(config.retry_pause(u32::MAX) <= 2 * config.retry_max);
    }
}
