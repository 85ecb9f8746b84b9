//! What every request has at hand: the log, the read side, and the bounds on what is under way.

use std::sync::Arc;
use std::time::Duration;

use causeway_event::Position;
use causeway_log::Log;
use causeway_proto::{Kind, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::consume::Groups;
use crate::problem::{self, COME_BACK};
use crate::project::Views;
use crate::ready::Readiness;
use crate::store::Store;
use crate::types::Types;
use crate::{Config, append};

const APPENDS: Refusals =
    Refusals { full: "too many appends are waiting for the log", slow: "the log is too slow for what is being appended" };

/// Shared by all requests. Holds no state but caches.
pub(crate) struct Gateway {
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) types: Types,
    pub(crate) views: Views,
    pub(crate) config: Config,
    pub(crate) ready: Readiness,
    pub(crate) appends: Gate,
    /// Appends that ask the log for the times of their events.
    pub(crate) receipts: Semaphore,
    /// Appends that look on the log for where their key was used.
    pub(crate) lookups: Semaphore,
    pub(crate) groups: Groups,
    /// Cancelled when the process is asked to stop: streams, which never end by themselves, end then.
    pub(crate) stop: CancellationToken,
    streams: Arc<Semaphore>,
}

impl Gateway {
    pub(crate) fn new(log: Log, store: Store, types: Types, config: Config, stop: CancellationToken) -> Self {
        let limits = &config.limits;
        Self {
            appends: Gate::new(limits.appends_max, limits.appends_waiting_max, limits.append_wait, APPENDS),
            receipts: Semaphore::new(append::RECEIPTS_MAX),
            lookups: Semaphore::new(append::LOOKUPS_ON_THE_LOG_MAX),
            streams: semaphore(limits.streams_max),
            ready: Readiness::default(),
            groups: Groups::default(),
            log,
            store,
            types,
            views: Views::new(&config),
            config,
            stop,
        }
    }

    /// Waits until all is readable that the log had when this was called, and until it is shown in the versions of types that
    /// stand before it.
    pub(crate) async fn fresh(&self) -> Result<Position, Problem> {
        let last = self.store.fresh().await?;
        self.types.fresh(&self.log, self.store.registered()).await.map_err(problem::of_log)?;
        Ok(last)
    }

    /// A place among the streams, held until it is dropped.
    pub(crate) fn open_stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let streams_max = self.config.limits.streams_max;
            Problem::new(Kind::Overloaded, format!("{streams_max} streams are open, which is the limit")).retry_after(COME_BACK)
        })
    }

    /// Does a read within the time that a request may take.
    pub(crate) async fn within<T, E: Into<Problem>>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, Problem> {
        let limit = self.config.request_timeout;
        match tokio::time::timeout(limit, read).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(Problem::new(Kind::TimedOut, format!("no answer within {limit:?}; nothing was changed"))),
        }
    }
}

/// With so many places, or as many as there can be.
pub(crate) fn semaphore(places: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
}

/// So many inside, so many at the door for so long; the rest is turned away at once. In turn: nobody who takes little room goes by
/// somebody who waits for much.
pub(crate) struct Gate {
    room: usize,
    inside: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    wait_max: Duration,
    refusals: Refusals,
}

/// What those hear who are turned away.
pub(crate) struct Refusals {
    /// No place at the door was left.
    pub(crate) full: &'static str,
    /// It was in vain to wait there.
    pub(crate) slow: &'static str,
}

/// Held by whoever is inside.
#[derive(Debug)]
pub(crate) struct Pass {
    _inside: OwnedSemaphorePermit,
}

impl Gate {
    pub(crate) fn new(inside_max: usize, waiting_max: usize, wait_max: Duration, refusals: Refusals) -> Self {
        let room = inside_max.min(Semaphore::MAX_PERMITS);
        Self { room, inside: semaphore(inside_max), waiting: semaphore(waiting_max), wait_max, refusals }
    }

    /// With what takes the room of so many.
    pub(crate) async fn enter(&self, room: usize) -> Result<Pass, Problem> {
        let room = self.room_of(room);
        let overloaded = |detail: &str| Problem::new(Kind::Overloaded, detail).retry_after(COME_BACK);
        if let Ok(inside) = self.inside.clone().try_acquire_many_owned(room) {
            return Ok(Pass { _inside: inside });
        }
        let _place = self.waiting.try_acquire().map_err(|_| overloaded(self.refusals.full))?;
        match tokio::time::timeout(self.wait_max, self.inside.clone().acquire_many_owned(room)).await {
            Ok(Ok(inside)) => Ok(Pass { _inside: inside }),
            Ok(Err(_)) | Err(_) => Err(overloaded(self.refusals.slow)),
        }
    }

    /// Waits for a place as long as it takes: for those who can be made to wait, since what they send is read no further.
    pub(crate) async fn enter_in_turn(&self, room: usize) -> Result<Pass, Problem> {
        let inside = self.inside.clone().acquire_many_owned(self.room_of(room)).await;
        let inside = inside.map_err(|_| Problem::new(Kind::Unavailable, "the gateway is shutting down"))?;
        Ok(Pass { _inside: inside })
    }

    /// What takes more than there is goes in alone.
    fn room_of(&self, room: usize) -> u32 {
        u32::try_from(room.min(self.room)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gate_lets_some_in_some_wait_and_turns_the_rest_away() {
        let gate = Gate::new(1, 1, Duration::from_secs(1), APPENDS);
        let inside = gate.enter(1).await.unwrap();
        let (waited, refused) = tokio::join!(gate.enter(1), gate.enter(1));
        assert_eq!(waited.map(drop).unwrap_err().kind, Kind::Overloaded, "waited its second in vain");
        assert_eq!(refused.map(drop).unwrap_err().retry_after, Some(COME_BACK), "found no place at the door");
        drop(inside);
        assert!(gate.enter(1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_large_takes_the_room_of_many_and_is_not_gone_by() {
        let gate = Gate::new(10, 10, Duration::from_secs(1), APPENDS);
        let large = gate.enter(8).await.unwrap();
        let small = gate.enter(2).await.unwrap();
        let (second, behind) = (gate.enter_in_turn(8), gate.enter(1));
        let mut second = std::pin::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(small);
        assert!(behind.await.is_err(), "it would go by");
        drop(large);
        let second = second.await.unwrap();
        assert!(gate.enter(3).await.is_err());
        drop(second);
        assert!(gate.enter(1000).await.is_ok(), "what is larger than the room goes in alone");
        let gate = Gate::new(70, 0, Duration::from_secs(1), APPENDS);
        let (_inside, begun) = (gate.enter(65).await.unwrap(), tokio::time::Instant::now());
        assert!(gate.enter(65).await.is_err() && begun.elapsed().is_zero(), "nobody may wait");
    }
}
