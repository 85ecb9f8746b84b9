//! Whether we can still be sure that nobody else has taken over what we hold.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last in-progress marks that got through. Shared by all runs of a process.
///
/// It says nothing about others: a twin that takes over is kept out by the log's fences. It keeps us from starting an effect
/// when the broker has every reason to think that we are gone, such as after a pause of the whole process.
#[derive(Clone)]
pub(crate) struct Tenure {
    ack_wait: Duration,
    last_mark: Arc<Mutex<Instant>>,
}

impl Tenure {
    pub(crate) fn new(ack_wait: Duration) -> Self {
        Self { ack_wait, last_mark: Arc::new(Mutex::new(Instant::now())) }
    }

    /// The marks got through at `at`. Says whether those before came in time.
    pub(crate) fn marked(&self, at: Instant) -> bool {
        let mut last_mark = self.last_mark.lock().unwrap_or_else(PoisonError::into_inner);
        let in_time = at.duration_since(*last_mark) < self.ack_wait;
        *last_mark = at;
        in_time
    }

    /// Whether the last marks are fresh enough.
    pub(crate) fn is_held(&self) -> bool {
        self.last_mark.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < self.ack_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_slept_too_long_does_not_trust_its_claims() {
        let tenure = Tenure::new(Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(tenure.is_held());
        assert!(tenure.marked(Instant::now()));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!tenure.is_held());
        assert!(!tenure.marked(Instant::now()));
        assert!(tenure.is_held(), "for what is taken from here on");
    }
}
