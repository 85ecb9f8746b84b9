//! A few connections that read, and the threads that they may block.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::executor::block_on;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Files, ModelError, Reader};

/// Connections to the database of the moment. A permit is held for as long as one is used; who holds all permits may
/// exchange the file.
pub(crate) struct Pool {
    size: u32,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Reader>>>,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        let size = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        Self { size, permits: Arc::new(Semaphore::new(size as usize)), idle: Arc::default() }
    }

    /// Waits for the right to use a connection; `None` when none came free in time.
    pub(crate) async fn permit(&self, timeout: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(timeout, self.permits.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Runs `ask` over a connection, on a thread that may block. It runs to its end even when nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        files: Arc<Files>,
        permit: OwnedSemaphorePermit,
        ask: impl FnOnce(&mut Reader) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, ModelError> {
        let idle = self.idle.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let kept = lock(&idle).pop();
            let mut reader = kept.map_or_else(|| Reader::open(files.path()), Ok)?;
            let answer = ask(&mut reader)?;
            lock(&idle).push(reader);
            Ok(answer)
        });
        asked.await.unwrap_or_else(|error| Err(ModelError::BrokeOff(error)))
    }

    /// Closes all connections and runs `exchange` while none can be opened. Blocks until the reads under way are done.
    pub(crate) fn exclusively<T>(&self, exchange: impl FnOnce() -> T) -> T {
        let _all = block_on(self.permits.acquire_many(self.size));
        lock(&self.idle).clear();
        exchange()
    }
}

fn lock(idle: &Mutex<Vec<Reader>>) -> std::sync::MutexGuard<'_, Vec<Reader>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
