//! Who waits until the feed has come to a position of the log: appends, for the times of their events.
//!
//! Each is woken once, when it is there. A watch on the feed's end would wake all of them for each event.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use causeway_event::Position;
use tokio::sync::oneshot;

/// Those who wait, by what they wait for.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<State>);

#[derive(Default)]
struct State {
    end: Position,
    /// The last ticket given out: several may wait for one position.
    tickets: u64,
    waiting: BTreeMap<(Position, u64), oneshot::Sender<()>>,
}

impl Arrivals {
    /// The feed has come to `end`.
    pub(crate) fn reached(&self, end: Position) {
        let mut state = self.lock();
        state.end = state.end.max(end);
        if state.waiting.first_key_value().is_none_or(|((first, _), _)| *first > end) {
            return;
        }
        let later = state.waiting.split_off(&(end.next(), 0));
        let due = std::mem::replace(&mut state.waiting, later);
        drop(state);
        for waiting in due.into_values() {
            // Whoever has given up waiting misses nothing.
            let _ = waiting.send(());
        }
    }

    /// Waits until the feed has come to `position`, if it was not there before.
    pub(crate) async fn wait(&self, position: Position) {
        let mut waiting = {
            let mut state = self.lock();
            if position <= state.end {
                return;
            }
            let (wake, there) = oneshot::channel();
            state.tickets += 1;
            let place = (position, state.tickets);
            state.waiting.insert(place, wake);
            Waiting { arrivals: self, place, there }
        };
        // The sender goes only when it is there.
        let _ = (&mut waiting.there).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits. Whoever gives up leaves nothing behind.
struct Waiting<'a> {
    arrivals: &'a Arrivals,
    place: (Position, u64),
    there: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.there.is_terminated() {
            self.arrivals.lock().waiting.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_is_woken_when_its_position_is_there_and_not_before() {
        let arrivals = Arrivals::default();
        let (mut third, mut fifth) = (Box::pin(arrivals.wait(Position::new(3))), Box::pin(arrivals.wait(Position::new(5))));
        assert!(third.as_mut().now_or_never().is_none() && fifth.as_mut().now_or_never().is_none());
        arrivals.reached(Position::new(4));
        assert!(third.as_mut().now_or_never().is_some() && fifth.as_mut().now_or_never().is_none());
        arrivals.reached(Position::new(5));
        fifth.await;
        arrivals.wait(Position::new(2)).await;
    }
    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_nothing_behind() {
        let arrivals = Arrivals::default();
        let (mut stays, mut goes) = (Box::pin(arrivals.wait(Position::new(3))), Box::pin(arrivals.wait(Position::new(3))));
        assert!(stays.as_mut().now_or_never().is_none() && goes.as_mut().now_or_never().is_none());
        drop(goes);
        assert_eq!(arrivals.lock().waiting.len(), 1);
        arrivals.reached(Position::new(3));
        stays.await;
        assert!(arrivals.lock().waiting.is_empty());
    }
}
