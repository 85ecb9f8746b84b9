//! Leaves of what the read model's feed reads anyway, on their way to the signer: a log is not read twice to be signed.
//!
//! What does not get through is no loss: where leaves are missing, the signer reads the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_event::Position;
use causeway_log::{Record, Replaced, Subscription};
use causeway_proof::Hash;
use tokio::sync::mpsc;

use super::is_checkpoint;

/// Leaves that may wait for the signer's next look, and while it reads the log up to where they begin: some MiB at most.
pub(super) const WAITING_MAX: usize = if cfg!(test) { 8192 } else { 65_536 };

/// A link of the chain, and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    pub(super) position: Position,
    pub(super) hash: Hash,
    /// See [`causeway_log::Leaf::run`].
    pub(super) run: u64,
    pub(super) is_checkpoint: bool,
}

/// The feed's end.
pub(crate) struct Leaves {
    /// Nobody wants those up to here.
    behind: AtomicU64,
    sender: mpsc::Sender<Leaf>,
}

/// The signer's end.
pub(crate) struct Incoming {
    leaves: Arc<Leaves>,
    receiver: mpsc::Receiver<Leaf>,
}

/// Both ends. None are wanted until the signer says so.
pub(crate) fn leaves() -> (Arc<Leaves>, Incoming) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let leaves = Arc::new(Leaves { behind: AtomicU64::new(u64::MAX), sender });
    (leaves.clone(), Incoming { leaves, receiver })
}

impl Leaves {
    /// The next record of the log, whose leaf is handed on if it is wanted.
    pub(crate) async fn next_of(&self, subscription: &mut Subscription) -> Result<Record, Replaced> {
        let wanted = |position: Position| self.behind.load(Ordering::Relaxed) < position.get();
        let (record, leaf) = subscription.next_with_leaf(wanted).await?;
        if let Some(leaf) = leaf {
            let is_checkpoint =
                matches!(&record, Record::Event(stored) if is_checkpoint(&stored.event.aggregate_id, &stored.event.event_type));
            // One too many is read by the signer itself.
            let _ = self.sender.try_send(Leaf { position: record.position(), hash: leaf.hash, run: leaf.run, is_checkpoint });
        }
        Ok(record)
    }
}

impl Incoming {
    /// From now on those behind this position are wanted.
    pub(super) fn want_behind(&self, position: Position) {
        self.leaves.behind.store(position.get(), Ordering::Relaxed);
    }

    /// Those that have come since.
    pub(super) fn waiting(&mut self) -> Vec<Leaf> {
        std::iter::from_fn(|| self.receiver.try_recv().ok()).take(WAITING_MAX).collect()
    }
}
