//! Group commit: single appends without a fence that wait at the same time share one atomic batch, where that is faster.
//!
//! A server that syncs each message (`sync_interval: always`) pays the disk once for each; for a batch it pays a few times,
//! whatever its size. A server that does not sync pays more for a batch than for a thousand singles. `pace.rs` finds out which it
//! is, by trying; an idle log always appends singly, for latency.
//!
//! ```text
//! begin ── few in flight, or singles are faster ──> sent alone
//!       └─ queue ── the task takes all that wait ──> one batch ── stored ──────────────> each its position
//!                                                              └─ refused or unanswered ─> each sent alone, in order
//! ```
//!
//! Each member keeps its own message id, so the server knows it again whichever way it came. A batch with an id that the server
//! knows is refused as a whole, and stores nothing; one that went unanswered may be stored, and then each member's own retry is
//! answered with the place where it stands. So the fallback is the ordinary single append, and every answer is that append's own.
//!
//! Whatever goes through here keeps its order: while the task has anything in hand, everybody queues behind it.

mod pace;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_event::Position;
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use self::pace::Pace;
use super::answer::Answer;
use super::prepare::{Message, Prepared};
use super::publisher::{Publisher, Sent};
use super::single::{self, Attempt};
use super::{Begun, EVENTS_MAX};
use crate::Log;

/// The most bytes of one group, headers not counted.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Those who were in the last group are waited for, so that they are in the next one too: as long as that group took, which at most
/// doubles their time, and never longer than this.
const GATHER_MAX: Duration = Duration::from_millis(5);

/// Those who went together are expected together again for so long.
const TOGETHER: Duration = Duration::from_millis(100);

/// Whether appends that wait for the disk at the same time share one write to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupCommit {
    /// Where it was measured to be faster.
    #[default]
    Auto,
    /// Always when two or more wait.
    Always,
    /// Never.
    Never,
}

/// Those that wait together, and the task that sends them.
pub(crate) struct Group {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Ticket(u64);

struct Shared {
    publisher: Publisher,
    when: GroupCommit,
    state: Mutex<State>,
    /// Enough wait for the task to look.
    enough: Notify,
    /// Up to here all have been handed to the connection for good.
    handed_over: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    /// The last ticket given out.
    tickets: u64,
    /// The task has something in hand or in the queue: nobody may go past it.
    busy: bool,
    /// How many must wait before the task is woken once more: as many as are likely to come.
    enough: usize,
    /// How many went together the last time, and when.
    last: usize,
    taken_at: Option<Instant>,
    /// How long others are waited for.
    gather: Duration,
    /// Singles that are on their way.
    in_flight: usize,
    pace: Pace,
}

struct Waiting {
    prepared: Arc<Prepared>,
    handed: oneshot::Sender<Handed>,
}

/// What the task did with one that waited.
enum Handed {
    /// Its group is on the log, and it stands here.
    Stored(Position),
    /// It was sent alone.
    Alone(Sent, Attempt),
}

/// A single on its way: measured, and counted until it is dropped.
struct Flight {
    shared: Arc<Shared>,
    begun: Instant,
    /// Singles on their way when it began, with this one.
    among: usize,
}

impl Group {
    pub(crate) fn start(publisher: Publisher, when: GroupCommit) -> Self {
        let shared = Arc::new(Shared {
            publisher,
            when,
            state: Mutex::new(State { gather: GATHER_MAX, ..State::default() }),
            enough: Notify::new(),
            handed_over: watch::Sender::new(0),
        });
        let task = tokio::spawn(run(shared.clone()));
        Self { shared, task }
    }

    /// Sends an append that may be grouped, or queues it: then it has a ticket.
    pub(super) async fn begin(&self, log: &Log, prepared: Arc<Prepared>) -> (Begun, Option<Ticket>) {
        let log = log.clone();
        match self.shared.enter(&prepared) {
            Entered::Alone(flight) => {
                let sent = flight.measured(self.shared.publisher.send(&prepared.messages[0]).await);
                (async move { log.settle_single(&prepared, sent, Attempt::First).await }.boxed(), None)
            }
            Entered::Queued(handed, ticket) => {
                let begun = async move {
                    match handed.await {
                        Ok(Handed::Stored(position)) => Ok(single::done(&prepared.messages[0], position)),
                        Ok(Handed::Alone(sent, attempt)) => log.settle_single(&prepared, sent, attempt).await,
                        // The task is gone in the middle of it.
                        Err(_) => {
                            let sent = log.inner.publisher.send(&prepared.messages[0]).await;
                            log.settle_single(&prepared, sent, Attempt::AfterSilence).await
                        }
                    }
                };
                (begun.boxed(), Some(ticket))
            }
        }
    }

    /// Waits until what has this ticket can no longer be overtaken.
    pub(super) async fn handed_over(&self, ticket: Ticket) {
        // An error means that the task is gone, and with it whatever could be overtaken.
        let _ = self.shared.handed_over.subscribe().wait_for(|handed_over| *handed_over >= ticket.0).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Entered {
    Alone(Flight),
    Queued(oneshot::Receiver<Handed>, Ticket),
}

impl Shared {
    fn enter(self: &Arc<Self>, prepared: &Arc<Prepared>) -> Entered {
        let mut state = self.lock();
        if !state.busy && state.taken_at.is_none_or(|at| at.elapsed() > TOGETHER) {
            (state.enough, state.last) = (0, 0);
        }
        // The first of those who went together a moment ago would not go alone if they all came at once.
        if !state.busy && !self.pays(&state, state.enough.max(state.in_flight + 1)) {
            return Entered::Alone(self.flight(&mut state));
        }
        let (handed, wait) = oneshot::channel();
        state.queue.push_back(Waiting { prepared: prepared.clone(), handed });
        state.tickets += 1;
        if !state.busy {
            // Those in flight come back soon and belong into the first group.
            state.enough = state.enough.max(state.in_flight + 1).min(EVENTS_MAX);
            state.busy = true;
            self.enough.notify_one();
        } else if state.queue.len() >= state.enough {
            self.enough.notify_one();
        }
        Entered::Queued(wait, Ticket(state.tickets))
    }

    fn flight(self: &Arc<Self>, state: &mut State) -> Flight {
        state.in_flight += 1;
        Flight { shared: self.clone(), begun: Instant::now(), among: state.in_flight }
    }

    fn pays(&self, state: &State, count: usize) -> bool {
        match self.when {
            GroupCommit::Never => false,
            GroupCommit::Always => count > 1,
            GroupCommit::Auto => state.pace.group_pays(count),
        }
    }

    /// How long it is worth waiting for more: not at all if they go one by one anyway.
    fn gathering(&self) -> Option<Duration> {
        let state = self.lock();
        (state.queue.len() < state.enough && self.pays(&state, state.enough)).then_some(state.gather)
    }

    /// What waits, as far as it fits into one batch. Nothing means that the task has nothing in hand.
    fn take(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        let (mut taken, mut bytes, mut ids) = (Vec::with_capacity(state.queue.len().min(EVENTS_MAX)), 0, HashSet::new());
        while let Some(next) = state.queue.front()
            && taken.len() < EVENTS_MAX
        {
            bytes += next.prepared.messages[0].payload.len();
            // The same id twice would refuse the batch; the second finds the first stored.
            if !taken.is_empty() && bytes > GROUP_BYTES_MAX || !ids.insert(next.prepared.message_id.clone()) {
                break;
            }
            taken.extend(state.queue.pop_front());
        }
        state.busy = !taken.is_empty();
        if !taken.is_empty() {
            // Those who went with the one before come back as well, and those who went alone.
            state.enough = (taken.len() + state.in_flight).max(state.last).min(EVENTS_MAX);
            state.last = taken.len();
            state.taken_at = Some(Instant::now());
        }
        taken
    }

    /// Sends those who waited: together if that pays, else one after the other.
    async fn send(self: &Arc<Self>, waiting: Vec<Waiting>) {
        let count = waiting.len();
        let together = self.pays(&self.lock(), count);
        match together && count > 1 {
            true => self.send_group(waiting).await,
            false => self.send_singles(waiting, Attempt::First).await,
        }
        self.handed_over.send_modify(|handed_over| *handed_over += count as u64);
    }

    async fn send_group(self: &Arc<Self>, waiting: Vec<Waiting>) {
        let begun = Instant::now();
        let sent = self.publisher.send_batch(waiting.iter().map(Waiting::message)).await;
        let answer = sent.await;
        let attempt = match answer {
            Answer::Stored { last, .. } if last.get() >= waiting.len() as u64 => {
                let mut state = self.lock();
                state.pace.stored(waiting.len(), waiting.len(), begun, Instant::now());
                state.gather = begun.elapsed().min(GATHER_MAX);
                drop(state);
                // The server stores a batch without a gap.
                let first = last.get() + 1 - waiting.len() as u64;
                for (one, position) in waiting.into_iter().zip(first..) {
                    let _ = one.handed.send(Handed::Stored(Position::new(position)));
                }
                return;
            }
            Answer::Silence | Answer::Stored { .. } => Attempt::AfterSilence,
            // Each of these stores nothing.
            Answer::WrongLast { .. }
            | Answer::DuplicateInBatch
            | Answer::Incomplete
            | Answer::Unavailable(_)
            | Answer::Refused { .. } => Attempt::First,
        };
        tracing::debug!(?answer, count = waiting.len(), "a group was not stored; each of it goes alone");
        self.lock().pace.group_failed(Instant::now());
        self.send_singles(waiting, attempt).await;
    }

    async fn send_singles(self: &Arc<Self>, waiting: Vec<Waiting>, attempt: Attempt) {
        for one in waiting {
            let flight = self.flight(&mut self.lock());
            let sent = flight.measured(self.publisher.send(one.message()).await);
            // Whoever does not wait any more has its event on the log all the same.
            let _ = one.handed.send(Handed::Alone(sent, attempt));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn message(&self) -> &Message {
        &self.prepared.messages[0]
    }
}

impl Flight {
    fn measured(self, sent: Sent) -> Sent {
        async move {
            let answer = sent.await;
            if matches!(answer, Answer::Stored { .. }) {
                let mut state = self.shared.lock();
                state.pace.stored(1, self.among, self.begun, Instant::now());
            }
            answer
        }
        .boxed()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.lock().in_flight -= 1;
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        shared.enough.notified().await;
        loop {
            if let Some(gather) = shared.gathering() {
                // If it takes too long, fewer come together, which is no harm.
                let gathered = async {
                    while shared.gathering().is_some() {
                        shared.enough.notified().await;
                    }
                };
                let _ = tokio::time::timeout(gather, gathered).await;
            }
            let waiting = shared.take();
            if waiting.is_empty() {
                break;
            }
            shared.send(waiting).await;
        }
    }
}
