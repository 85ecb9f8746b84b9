//! Whether somebody waits for the writer, and whether the writer may be left to linger.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Shared by those who wait for what is written, the feed, and the writer.
#[derive(Default)]
pub(crate) struct Haste {
    waiting: AtomicUsize,
    lingering: AtomicBool,
}

impl Haste {
    /// Somebody waits for as long as this is held. The writer has to be woken after it.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    pub(super) fn nobody_waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// The writer lets events gather for as long as this is held, and looks at the tail afterwards.
    pub(super) fn linger(&self) -> Lingering<'_> {
        self.lingering.store(true, Ordering::SeqCst);
        Lingering(self)
    }

    /// Whether the writer comes by itself for what has just been put into the tail.
    pub(super) fn comes_by_itself(&self) -> bool {
        self.lingering.load(Ordering::SeqCst)
    }
}

pub(crate) struct Waiting<'h>(&'h Haste);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) struct Lingering<'h>(&'h Haste);

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.lingering.store(false, Ordering::SeqCst);
    }
}
