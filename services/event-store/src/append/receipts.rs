//! The log's acknowledgement names places; the times come from what follows the log anyway, or else from the log.

use std::sync::Arc;
use std::time::Duration;

use causeway_event::{Event, Position};
use causeway_proto::{Appended, Kind, Problem};
use futures::{StreamExt as _, stream};

use super::{Shape, answer_again, receipt};
use crate::gateway::Gateway;

/// How long to wait for an appended event to come by, before the log itself is asked for its time. That costs a request for each
/// event: it is for a feed that broke off, not for one that is busy.
const COMES_BY: Duration = Duration::from_millis(500);
/// Between two attempts to ask the log.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an append that was acknowledged may wait for the times of its events.
const TIMES_MAX: Duration = Duration::from_secs(10);
/// How many of them are asked for at a time.
const LOOKUPS_MAX: usize = 32;

/// What the client gets for what was appended.
pub(super) async fn of(gateway: &Gateway, shape: &Shape, appended: causeway_log::Appended) -> Result<Appended, Problem> {
    let places = || appended.receipts.iter().map(|receipt| receipt.position);
    let (Some(first), Some(last)) = (places().min(), places().max()) else {
        return Ok(Appended { receipts: vec![], duplicate: appended.duplicate });
    };
    let events = match tokio::time::timeout(COMES_BY, gateway.store.arrived(first, last)).await {
        Ok(Some(events)) => events,
        Ok(None) | Err(_) => tokio::time::timeout(TIMES_MAX, looked_up(gateway, first, last)).await.map_err(|_| {
            let detail =
                format!("it is on the log from position {first}, which has gone away before it could say when it stored it");
            Problem::new(Kind::OutcomeUnknown, detail)
        })?,
    };
    match appended.duplicate {
        true => answer_again(shape, &events),
        false => Ok(Appended { receipts: events.iter().map(|event| receipt(event)).collect(), duplicate: false }),
    }
}

/// The events from `first` to `last`, which are on the log. Waits as long as it takes.
async fn looked_up(gateway: &Gateway, first: Position, last: Position) -> Vec<Arc<Event>> {
    loop {
        let places = stream::iter(first.get()..=last.get()).map(Position::new);
        let found = places.map(|position| gateway.log.get(position)).buffered(LOOKUPS_MAX).collect::<Vec<_>>().await;
        let events = found.into_iter().map(|found| found.ok().flatten().map(|stored| Arc::new(stored.event)));
        if let Some(events) = events.collect() {
            return events;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
