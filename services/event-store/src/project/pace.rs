//! Long work on a thread that others need as well.

use std::time::{Duration, Instant};

/// How long others wait for the thread.
const BUSY_MAX: Duration = Duration::from_millis(5);

/// Who works for long gives way now and then: other requests go on, and a request that has taken its time ends there.
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Called between any two steps.
    pub(super) async fn give_way(&mut self) {
        if self.0.elapsed() >= BUSY_MAX {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}
