//! The log's acknowledgement names places; the times come from what follows the log anyway, or else from the log.

use std::fmt::Display;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use causeway_event::{Event, Position};
use causeway_log::LogError;
use causeway_proto::{Appended, Kind, Problem};
use futures::{FutureExt as _, StreamExt as _, stream};

use super::keys::answer_again;
use super::{Shape, receipt};
use crate::gateway::Gateway;

/// A feed that is as far as the log brings the times within this. One that is not broke off, or is catching up: the log itself is
/// asked, which costs a request for each event.
const STILL: Duration = Duration::from_millis(500);
/// Between two attempts to ask the log.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an append that was acknowledged may wait for the times of its events.
const TIMES_MAX: Duration = Duration::from_secs(10);
/// How many of them are asked for at a time, for one append ...
pub(super) const LOOKUPS_MAX: usize = 32;
/// ... and how many appends ask at a time. The others wait in turn.
pub(crate) const RECEIPTS_MAX: usize = 32;

type Events = Vec<Arc<Event>>;

/// What the client gets for what was appended.
pub(super) async fn of(gateway: &Gateway, shape: &Shape, appended: causeway_log::Appended) -> Result<Appended, Problem> {
    let places = || appended.receipts.iter().map(|receipt| receipt.position);
    let (Some(first), Some(last)) = (places().min(), places().max()) else {
        return Ok(Appended { receipts: vec![], duplicate: appended.duplicate });
    };
    let mut arrived = pin!(gateway.store.arrived(first, last));
    // A feed that is known to be behind is not waited for.
    let still = if gateway.store.catching_up().is_some() { Duration::ZERO } else { STILL };
    let events = match tokio::time::timeout(still, &mut arrived).await {
        Ok(Some(events)) => events,
        Ok(None) => late(looked_up(gateway, first, last), first).boxed().await?,
        Err(_) => late(either(arrived, looked_up(gateway, first, last)), first).boxed().await?,
    };
    match appended.duplicate {
        true => answer_again(shape, &events),
        false => Ok(Appended { receipts: events.iter().map(|event| receipt(event)).collect(), duplicate: false }),
    }
}

/// The events of an append that begins at `first`, if they come in time after all.
async fn late(events: impl Future<Output = Result<Events, LogError>>, first: Position) -> Result<Events, Problem> {
    let unknown = |why: &dyn Display| {
        let detail = format!("it is on the log from position {first}, which did not say when it stored it: {why}");
        Problem { appended: Some(first), ..Problem::new(Kind::OutcomeUnknown, detail) }
    };
    match tokio::time::timeout(TIMES_MAX, events).await {
        Ok(events) => events.map_err(|error| unknown(&error)),
        Err(_) => Err(unknown(&format_args!("not within {TIMES_MAX:?}"))),
    }
}

/// What has them first: the feed, or the log.
async fn either(
    arrived: Pin<&mut impl Future<Output = Option<Events>>>,
    looked_up: impl Future<Output = Result<Events, LogError>>,
) -> Result<Events, LogError> {
    tokio::select! {
        Some(events) = arrived => Ok(events),
        events = looked_up => events,
    }
}

/// The events from `first` to `last`, which are on the log, from the log. Waits as long as it takes; fails only on what does not pass.
async fn looked_up(gateway: &Gateway, first: Position, last: Position) -> Result<Events, LogError> {
    let _turn = gateway.receipts.acquire().await;
    loop {
        let places = stream::iter(first.get()..=last.get()).map(Position::new);
        let mut found = places.map(|position| gateway.log.get(position)).buffered(LOOKUPS_MAX);
        let mut events = Vec::new();
        loop {
            match found.next().await {
                Some(Ok(Some(stored))) => events.push(Arc::new(stored.event)),
                Some(Err(error)) if !error.is_transient() => return Err(error),
                // The log is away for a moment, or a replica was asked that is behind.
                Some(Ok(None) | Err(_)) => break,
                None => return Ok(events),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_acknowledged_and_has_no_time_says_where_it_stands() {
        let silent = late(std::future::pending(), Position::new(7)).await.unwrap_err();
        assert_eq!((silent.kind, silent.appended), (Kind::OutcomeUnknown, Some(Position::new(7))));
        let broken = late(async { Err(LogError::Unavailable { reason: "gone".into() }) }, Position::new(7)).await.unwrap_err();
        assert_eq!((broken.kind, broken.appended), (Kind::OutcomeUnknown, Some(Position::new(7))));
    }
}
