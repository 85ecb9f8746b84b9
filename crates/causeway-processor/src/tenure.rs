//! Whether we can still be sure that nobody else has taken over what we hold.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When the broker last heard that we are at work on something. Lost once, it stays lost.
///
/// It says nothing about others: a twin that takes over is kept out by the log's fences. It keeps us from starting an effect,
/// and from acknowledging, when the broker has every reason to think that we are gone: after a pause of the whole process, or
/// behind a link that has gone silent.
pub(crate) struct Tenure {
    ack_wait: Duration,
    /// None when lost.
    heard: Mutex<Option<Instant>>,
}

impl Tenure {
    /// Begins with a delivery that has just come.
    pub(crate) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, heard: Mutex::new(Some(Instant::now())) }
    }

    /// The broker confirmed marks that were sent at `sent`. Too late, it changes nothing.
    pub(crate) fn confirmed(&self, sent: Instant) {
        let mut heard = self.heard();
        if heard.is_some_and(|heard| sent.duration_since(heard) < self.ack_wait) {
            *heard = Some(sent);
        } else {
            *heard = None;
        }
    }

    /// Somebody else has taken over.
    pub(crate) fn lose(&self) {
        *self.heard() = None;
    }

    /// Whether what the broker heard last is fresh enough.
    pub(crate) fn is_held(&self) -> bool {
        self.heard().is_some_and(|heard| heard.elapsed() < self.ack_wait)
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_slept_too_long_does_not_trust_its_claims_again() {
        let tenure = Tenure::new(Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(tenure.is_held());
        tenure.confirmed(Instant::now());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!tenure.is_held());
        tenure.confirmed(Instant::now());
        assert!(!tenure.is_held(), "a late mark brings nothing back");
    }
}
