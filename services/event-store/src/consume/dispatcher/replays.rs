//! What was parked and is to be delivered again: read from the log of dead letters, a bounded part at a time, and handed to `Dispatch`.

use std::time::Instant;

use causeway_event::Position;
use causeway_log::{LogError, Replay};
use futures::FutureExt as _;

use super::super::dispatch::{Arrival, Origin};
use super::{Done, Office, Term};

/// What one such look brings at most ...
const REPLAYS_LOOK_MAX: usize = 256;
/// ... and all together, before some of it is dealt with.
const REPLAYS_HELD_MAX: usize = 1024;

/// What is on its way back to the group.
#[derive(Default)]
pub(super) struct Replays {
    /// A look is under way.
    looking: bool,
    /// The last one that was read, and whether there is more behind it.
    read_up_to: u64,
    more: bool,
    /// All that there was to begin with was read.
    pub(super) complete: bool,
    /// How many are worked on or wait for it.
    here: usize,
    /// Another delivery of the same event is under way.
    postponed: Vec<Replay>,
}

impl Term {
    /// Looks behind what was read already, unless there is enough here.
    pub(super) fn look_for_replays(&mut self) {
        let Replays { looking, read_up_to, here, postponed, .. } = &mut self.replays;
        if !*looking && *here + postponed.len() < REPLAYS_HELD_MAX {
            *looking = true;
            let (Office { log, group, .. }, after) = (self.office.clone(), *read_up_to);
            self.work.push(async move { Done::Replays(log.replays(&group, after, REPLAYS_LOOK_MAX).await) }.boxed());
        }
    }

    pub(super) fn read_replays(&mut self, found: Result<(Vec<Replay>, bool), LogError>) {
        self.replays.looking = false;
        match found {
            Ok((found, more)) => {
                self.replays.more = more;
                self.replays.complete |= !more;
                for replay in found {
                    self.replays.read_up_to = replay.number;
                    self.take(replay);
                }
                if more {
                    self.look_for_replays();
                }
            }
            Err(error) => tracing::debug!(%error, group = %self.office.group, "replays of a group cannot be read yet"),
        }
    }

    fn take(&mut self, replay: Replay) {
        let origin = Origin::Replay(replay.number);
        match self.dispatch.arrive(replay.position, &replay.aggregate_id, origin, Instant::now()) {
            Arrival::Known => self.replays.postponed.push(replay),
            Arrival::Taken | Arrival::Settled => self.replays.here += 1,
        }
    }

    /// The event at this position was struck off: it may be here once more, and there is room for another.
    pub(super) fn go_on_with_replays(&mut self, position: Position, origin: Origin) {
        if matches!(origin, Origin::Replay(_)) {
            self.replays.here = self.replays.here.saturating_sub(1);
        }
        if let Some(index) = self.replays.postponed.iter().position(|replay| replay.position == position) {
            let replay = self.replays.postponed.remove(index);
            self.take(replay);
        }
        if self.replays.more {
            self.look_for_replays();
        }
    }
}
