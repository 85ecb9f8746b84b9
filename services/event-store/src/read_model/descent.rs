//! The descendants of an event: all that it caused, directly or over others. Pure: no SQL.
//!
//! An effect stands behind its cause on the log, so whoever looks at the events in order and knows the descendants so far can tell
//! of each event whether it is one more. The database finds the same set through its index of causes.

use std::collections::HashSet;

use causeway_event::{Event, EventId, Position};

/// More descendants than this are not looked for: such a chain is read by its correlation id.
pub(crate) const DESCENDANTS_MAX: usize = if cfg!(test) { 2_000 } else { 100_000 };

/// There are more than [`DESCENDANTS_MAX`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event has more than {DESCENDANTS_MAX} descendants; read its chain by the correlation id instead")]
pub(crate) struct TooMany;

/// All descendants of one event among the events up to a position.
///
/// A subscription starts with those that `Store::descendants` finds and shows each event of the log behind [`Self::reached`] to
/// [`Self::see`], in order and whatever else its filter says; events up to there may be shown again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Descendants {
    of: EventId,
    ids: HashSet<EventId>,
    /// Ascending.
    positions: Vec<Position>,
    reached: Position,
}

impl Descendants {
    /// Nothing has been looked at.
    #[cfg(test)]
    pub(crate) fn new(of: EventId) -> Self {
        Self { of, ids: HashSet::new(), positions: Vec::new(), reached: Position::START }
    }

    /// Those that stand up to `reached`, in any order.
    pub(super) fn found(of: EventId, found: impl IntoIterator<Item = (EventId, Position)>, reached: Position) -> Self {
        let (ids, mut positions): (HashSet<_>, Vec<_>) = found.into_iter().unzip();
        positions.sort_unstable();
        Self { of, ids, positions, reached }
    }

    /// All of the log up to here has been looked at.
    pub(crate) fn reached(&self) -> Position {
        self.reached
    }

    /// Where they stand, ascending.
    pub(crate) fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Whether the event is a descendant. Takes it in if it stands behind all that was looked at.
    pub(crate) fn see(&mut self, event: &Event) -> Result<bool, TooMany> {
        if event.position <= self.reached {
            return Ok(self.positions.binary_search(&event.position).is_ok());
        }
        let is_one = event.metadata.causation_id.is_some_and(|cause| self.is_cause(cause));
        if is_one {
            if self.positions.len() >= DESCENDANTS_MAX {
                return Err(TooMany);
            }
            self.ids.insert(event.id);
            self.positions.push(event.position);
        }
        self.reached = event.position;
        Ok(is_one)
    }

    /// All of the log up to here has been looked at, events or not.
    pub(crate) fn reach(&mut self, position: Position) {
        self.reached = self.reached.max(position);
    }

    /// Whether what names this event as its cause is a descendant.
    fn is_cause(&self, cause: EventId) -> bool {
        cause == self.of || self.ids.contains(&cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_model::generate;

    fn caused(position: u64, cause: u64) -> Event {
        let mut event = generate::event(position, "Zebra", "a");
        event.metadata.causation_id = Some(generate::event(cause, "Zebra", "a").id);
        event
    }

    #[test]
    fn the_effects_of_effects_are_descendants_and_the_event_itself_is_not() {
        let mut descendants = Descendants::new(generate::event(2, "Zebra", "a").id);
        let seen = [(1, 0), (2, 1), (3, 2), (4, 1), (5, 3), (7, 5), (8, 4)]
            .map(|(position, cause)| descendants.see(&caused(position, cause)).unwrap());
        assert_eq!(seen, [false, false, true, false, true, true, false]);
        assert_eq!(descendants.see(&caused(5, 3)), Ok(true), "what was seen before is answered again");
        assert_eq!(descendants.reached(), Position::new(8));
    }

    #[test]
    fn too_many_are_refused() {
        let mut descendants = Descendants::new(generate::event(1, "Zebra", "a").id);
        for position in 2..2 + DESCENDANTS_MAX as u64 {
            assert_eq!(descendants.see(&caused(position, 1)), Ok(true));
        }
        assert_eq!(descendants.see(&caused(1_000_000, 1)), Err(TooMany));
    }
}
