//! A few connections that read, and the threads that they may block.
//!
//! SQLite runs a statement to its end unless it is told to stop. It asks us now and then: a read stops when nobody waits for its answer
//! any more, or when the file is to be exchanged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::executor::block_on;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Files, ModelError, Reader};

/// Steps of SQLite between two looks at whether to go on: well under a millisecond of work.
pub(super) const STEPS: i32 = 10_000;

/// Connections to the database of the moment. A permit is held for as long as one is used; who holds all permits may
/// exchange the file.
pub(crate) struct Pool {
    size: u32,
    short: Arc<Semaphore>,
    counts: Arc<Semaphore>,
    long: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Reader>>>,
    exchanging: Arc<AtomicBool>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// Of those who ask for events.
    Short,
    /// Of as many who count them: that may take as long as somebody waits for it, and keeps no reader from those who ask.
    Count,
    /// Of the one who reads all of the file.
    Long,
}

/// When a read is to break off.
#[derive(Clone)]
pub(super) struct Until {
    /// Held by whoever waits for the answer.
    waiting: Weak<()>,
    exchanging: Arc<AtomicBool>,
}

impl Until {
    #[cfg(test)]
    pub(super) fn over() -> Self {
        Self { waiting: Weak::new(), exchanging: Arc::default() }
    }

    fn is_over(&self) -> bool {
        self.waiting.strong_count() == 0 || self.exchanging.load(Ordering::SeqCst)
    }

    /// Makes every statement of the connection fail with [`ModelError::Interrupted`] from then on.
    pub(super) fn watch(&self, conn: &mut Connection) -> Result<(), ModelError> {
        let until = self.clone();
        Ok(conn.progress_handler(STEPS, Some(move || until.is_over()))?)
    }
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        let size = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        Self {
            size,
            short: Arc::new(Semaphore::new(size as usize)),
            counts: Arc::new(Semaphore::new(size as usize)),
            long: Arc::new(Semaphore::new(1)),
            idle: Arc::default(),
            exchanging: Arc::default(),
        }
    }

    /// Waits for the right to use a connection; `None` when none came free in time.
    pub(crate) async fn permit(&self, turn: Turn, timeout: Duration) -> Option<OwnedSemaphorePermit> {
        let permits = match turn {
            Turn::Short => &self.short,
            Turn::Count => &self.counts,
            Turn::Long => &self.long,
        };
        tokio::time::timeout(timeout, permits.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Runs `ask` over a connection, on a thread that may block. Dropped, it breaks off what SQLite is doing, and the permit is free
    /// a moment later.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        files: Arc<Files>,
        permit: OwnedSemaphorePermit,
        ask: impl FnOnce(&mut Reader) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, ModelError> {
        let (idle, waiting) = (self.idle.clone(), Arc::new(()));
        let until = Until { waiting: Arc::downgrade(&waiting), exchanging: self.exchanging.clone() };
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            if until.is_over() {
                return Err(ModelError::Interrupted);
            }
            let kept = lock(&idle).pop();
            let mut reader = kept.map_or_else(|| files.reader(), Ok)?;
            reader.watch(until)?;
            let answer = ask(&mut reader)?;
            lock(&idle).push(reader);
            Ok(answer)
        });
        let answer = asked.await.unwrap_or_else(|error| Err(ModelError::BrokeOff(error)));
        drop(waiting);
        answer
    }

    /// Closes all connections and runs `exchange` while none can be opened. Reads under way are broken off.
    pub(crate) fn exclusively<T>(&self, exchange: impl FnOnce() -> T) -> T {
        self.exchanging.store(true, Ordering::SeqCst);
        let _all = block_on(async {
            (self.short.acquire_many(self.size).await, self.counts.acquire_many(self.size).await, self.long.acquire().await)
        });
        lock(&self.idle).clear();
        let exchanged = exchange();
        self.exchanging.store(false, Ordering::SeqCst);
        exchanged
    }
}

fn lock(idle: &Mutex<Vec<Reader>>) -> std::sync::MutexGuard<'_, Vec<Reader>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
