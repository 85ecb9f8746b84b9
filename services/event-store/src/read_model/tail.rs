//! The newest events in memory: the way from the log to the writer, and to live subscribers.
//!
//! ```text
//!            start                 written                 end
//!   ------- | ---- read by subscribers ---- | -- not written yet -- |   the log goes on
//!   written, |                              |
//!   forgotten                               the writer takes from here
//! ```
//!
//! Everything behind `start` up to `end` is held. What is written may be forgotten, what is not may not: so a subscriber finds
//! all behind its cursor either here (`start <= cursor`) or in the database (`cursor < start <= written`), and there is no
//! moment between the two. `end` is what live subscribers see at once; `committed` is what queries may be answered from: all that
//! is written, or nothing while the database is being made.
//!
//! When the database has to be made again, the tail starts again from nothing under the next *epoch*, and whoever still
//! works for the epoch before is refused. Subscribers go on over that, unless it was the log that lost its end: then nobody knows
//! what of that they were given.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use causeway_event::{Event, IdempotencyKey, Position};
use tokio::sync::watch;

use super::{Filter, PIECE_BYTES_MAX};

/// Beyond what the ring keeps, so many events ...
const UNWRITTEN_EVENTS_MAX: usize = 32 << 10;
/// ... or bytes may wait for the writer before the log is read no further.
const UNWRITTEN_BYTES_MAX: usize = 32 << 20;
/// What the writer takes into one transaction.
const BATCH_EVENTS_MAX: usize = 16 << 10;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// What an event takes in memory beside its data.
const EVENT_BYTES: usize = 512;
/// Events that one read looks at: readers hold up the feed for that long.
const LOOKED_AT_MAX: usize = 1024;

/// An event and the idempotency key of its append.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) event: Arc<Event>,
    pub(crate) key: Option<IdempotencyKey>,
}

/// What one transaction writes: all of the log behind what is written, up to `end`.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) arrived: Vec<Arrived>,
    pub(crate) end: Position,
}

/// How much written history the tail keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailLimits {
    pub(crate) events_max: usize,
    pub(crate) bytes_max: usize,
}

/// Whether what was read of the log is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Kept,
    /// It belongs to an epoch that is over.
    Stale,
}

/// What a subscriber finds behind its cursor.
#[derive(Debug)]
pub(crate) enum Behind {
    /// The tail does not reach back that far: the database has it.
    Forgotten,
    /// What passes the filter, up to the new cursor.
    Events(Vec<Arc<Event>>, Position),
}

/// How far the log has been read, and how often it was found to have lost its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) position: Position,
    pub(crate) losses: u64,
}

pub(crate) struct Tail {
    limits: TailLimits,
    state: RwLock<State>,
    end: watch::Sender<End>,
    /// `None` while the database cannot answer.
    committed: watch::Sender<Option<Position>>,
}

struct State {
    epoch: u64,
    start: Position,
    end: Position,
    written: Position,
    /// Whether queries may be answered from what is written.
    serving: bool,
    /// The furthest that was ever readable, in whatever epoch.
    furthest: Position,
    events: VecDeque<Arrived>,
    bytes: usize,
}

impl Tail {
    /// The tail of a database that has all up to `position`. Nothing is readable until [`Self::serve`].
    pub(crate) fn new(position: Position, limits: TailLimits) -> Self {
        let state = State::starting(0, position, position);
        let (end, committed) = (watch::Sender::new(End { position, losses: 0 }), watch::Sender::new(None));
        Self { limits, state: RwLock::new(state), end, committed }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.read().epoch
    }

    /// The furthest that queries could ever be answered from: no answer may come from less.
    pub(crate) fn furthest(&self) -> Position {
        self.read().furthest
    }

    /// Where the feed has to go on, and for which epoch.
    pub(crate) fn feed_from(&self) -> (u64, Position) {
        let state = self.read();
        (state.epoch, state.end)
    }

    /// How far the log has been read.
    pub(crate) fn end(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// How often the log was found to be another one, or to have lost its end.
    pub(crate) fn losses(&self) -> u64 {
        self.end.borrow().losses
    }

    /// How far the database goes, whether or not it answers.
    pub(crate) fn written(&self) -> Position {
        self.read().written
    }

    /// How far queries can be answered; a change of anything that is written wakes whoever waits.
    pub(crate) fn committed(&self) -> watch::Receiver<Option<Position>> {
        self.committed.subscribe()
    }

    /// Takes what the log had behind `end`, up to the new end; positions that hold no event are in between.
    pub(crate) fn push(&self, epoch: u64, arrived: Vec<Arrived>, end: Position) -> Pushed {
        let mut state = self.write();
        if state.epoch != epoch {
            return Pushed::Stale;
        }
        for one in arrived {
            // The log promises no repeat; a position twice would look like damage later.
            if state.end < one.event.position {
                state.end = one.event.position;
                state.bytes += bytes(&one);
                state.events.push_back(one);
            }
        }
        state.end = state.end.max(end);
        self.end.send_modify(|end| end.position = state.end);
        Pushed::Kept
    }

    /// Whether the writer is so far behind that the log should be read no further.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.read();
        state.events.len() >= self.limits.events_max + UNWRITTEN_EVENTS_MAX
            || state.bytes >= self.limits.bytes_max + UNWRITTEN_BYTES_MAX
    }

    /// How many positions wait to be written.
    pub(crate) fn backlog(&self) -> u64 {
        let state = self.read();
        state.end.get().saturating_sub(state.written.get())
    }

    /// What has to be written next in this epoch, if anything.
    pub(crate) fn unwritten(&self, epoch: u64) -> Option<Batch> {
        let state = self.read();
        if state.epoch != epoch || state.end <= state.written {
            return None;
        }
        let (mut arrived, mut size) = (Vec::new(), 0);
        let mut unwritten = state.behind(state.written);
        for one in unwritten.by_ref().take(BATCH_EVENTS_MAX) {
            arrived.push(one.clone());
            size += bytes(one);
            if size >= BATCH_BYTES_MAX {
                break;
            }
        }
        let end = match (unwritten.next(), arrived.last()) {
            (Some(_), Some(last)) => last.event.position,
            _ => state.end,
        };
        Some(Batch { arrived, end })
    }

    /// The writer has written up to `position`.
    pub(crate) fn commit(&self, epoch: u64, position: Position) {
        let mut state = self.write();
        if state.epoch != epoch {
            return;
        }
        state.written = position;
        while let Some(oldest) = state.events.front()
            && oldest.event.position <= position
            && (state.events.len() > self.limits.events_max || state.bytes > self.limits.bytes_max)
        {
            let (gone, size) = (oldest.event.position, bytes(oldest));
            state.start = gone;
            state.bytes -= size;
            state.events.pop_front();
        }
        self.publish(&mut state);
    }

    /// What of the tail passes `filter` behind `cursor`, a piece at a time: what one subscriber holds is bounded, however slow it is.
    pub(crate) fn behind(&self, cursor: Position, filter: &Filter) -> Behind {
        let state = self.read();
        if cursor < state.start {
            return Behind::Forgotten;
        }
        let (mut events, mut bytes, mut reached) = (Vec::new(), 0, cursor);
        for (looked_at, one) in state.behind(cursor).enumerate() {
            let passes = filter.matches(&one.event);
            bytes += if passes { one.event.data.as_bytes().len() } else { 0 };
            if looked_at >= LOOKED_AT_MAX || (bytes > PIECE_BYTES_MAX && passes && !events.is_empty()) {
                return Behind::Events(events, reached);
            }
            reached = one.event.position;
            events.extend(passes.then(|| one.event.clone()));
        }
        // The cursor of a reader may be ahead of a tail that had to start again.
        Behind::Events(events, state.end.max(cursor))
    }

    /// The event at a position, if it is among the newest.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<Event>> {
        let state = self.read();
        state.behind(position.previous()).next().filter(|one| one.event.position == position).map(|one| one.event.clone())
    }

    /// Gives up the database of `epoch`: nothing is readable until [`Self::serve`], and queries wait for all that was readable. With
    /// `shorter` the log goes only so far now. Says whether this call did it.
    pub(crate) fn give_up(&self, epoch: u64, shorter: Option<Position>) -> bool {
        let mut state = self.write();
        if state.epoch != epoch {
            return false;
        }
        *state = State::starting(epoch + 1, Position::START, shorter.unwrap_or(state.furthest));
        self.publish(&mut state);
        self.end.send_modify(|end| {
            *end = End { position: Position::START, losses: end.losses + u64::from(shorter.is_some()) };
        });
        true
    }

    /// What is written in this epoch can be asked for.
    pub(crate) fn serve(&self, epoch: u64) {
        let mut state = self.write();
        if state.epoch == epoch && !state.serving {
            state.serving = true;
            self.publish(&mut state);
        }
    }

    fn publish(&self, state: &mut State) {
        if state.serving {
            state.furthest = state.furthest.max(state.written);
        }
        self.committed.send_replace(state.serving.then_some(state.written));
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn starting(epoch: u64, position: Position, furthest: Position) -> Self {
        let events = VecDeque::new();
        Self { epoch, start: position, end: position, written: position, serving: false, furthest, events, bytes: 0 }
    }

    fn behind(&self, cursor: Position) -> impl Iterator<Item = &Arrived> {
        let first = self.events.partition_point(|one| one.event.position <= cursor);
        self.events.range(first..)
    }
}

fn bytes(arrived: &Arrived) -> usize {
    EVENT_BYTES + arrived.event.data.as_bytes().len()
}

#[cfg(test)]
mod tests {
    use causeway_event::Data;

    use super::*;
    use crate::read_model::generate;

    #[test]
    fn what_a_subscriber_takes_at_a_time_is_bounded_in_bytes() {
        let tail = Tail::new(Position::START, TailLimits { events_max: 1000, bytes_max: 1 << 30 });
        let large = |position| {
            let mut event = generate::event(position, ["Zebra", "ToolCalled"][position as usize % 2], "user_1");
            // One is larger than all that may be taken.
            event.data = Data::of(&"x".repeat(if position == 50 { 400_000 } else { 100_000 })).unwrap();
            Arrived { event: event.into(), key: None }
        };
        tail.push(0, (1..=100).map(large).collect(), Position::new(100));
        for (filter, step) in [(Filter::default(), 1), (Filter { types: vec!["Zebra".parse().unwrap()], ..Filter::default() }, 2)]
        {
            let (mut seen, mut cursor) = (Vec::new(), Position::START);
            while cursor < Position::new(100) {
                let Behind::Events(events, reached) = tail.behind(cursor, &filter) else { panic!("nothing is forgotten") };
                let bytes: usize = events.iter().map(|event| event.data.as_bytes().len()).sum();
                assert!(
                    bytes <= PIECE_BYTES_MAX || events.len() == 1,
                    "{} events of {bytes} bytes behind {cursor}",
                    events.len()
                );
                assert!(cursor < reached);
                seen.extend(events.iter().map(|event| event.position.get()));
                cursor = reached;
            }
            assert!(seen.into_iter().eq((step..=100).step_by(step as usize)));
        }
    }
}
