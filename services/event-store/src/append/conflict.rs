//! A conflict is answered with the events that caused it, so that whoever decided can fold them and decide again without a read.
//! They are shown as a read would show them: in the newest versions of their types.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{Conflict, Problem};

use crate::gateway::Gateway;
use crate::read_model::{Filter, Query};
use crate::store::StoreError;

/// The most events of one answer.
const EVENTS_MAX: usize = 100;
/// The most bytes of their data, as it is shown.
const DATA_BYTES_MAX: usize = 1 << 20;
/// How long the read model may take to have them. An append that is refused is not made to wait longer than one that is stored.
pub(super) const READ_MAX: Duration = Duration::from_secs(2);

/// The same problem; a conflict with its events, as far as they can be read in time.
pub(super) async fn with_events(gateway: &Gateway, mut problem: Problem) -> Problem {
    if let Some(conflict) = &mut problem.conflict {
        match tokio::time::timeout(READ_MAX, read_all(gateway, conflict)).await {
            Ok(Ok(())) => {}
            // The conflict itself is sure: what is missing can be read, and `more` says so.
            Ok(Err(error)) => tracing::debug!(%error, "a conflict is told without its events"),
            Err(_) => tracing::debug!("a conflict is told without its events, which took too long"),
        }
    }
    problem
}

/// What the answer has room for yet.
struct Room {
    events: usize,
    data_bytes: usize,
}

async fn read_all(gateway: &Gateway, conflict: &mut Conflict) -> Result<(), StoreError> {
    let mut room = Room { events: EVENTS_MAX, data_bytes: DATA_BYTES_MAX };
    read(gateway, conflict, &mut room).await?;
    for other in &mut conflict.others {
        read(gateway, other, &mut room).await?;
    }
    Ok(())
}

async fn read(gateway: &Gateway, conflict: &mut Conflict, room: &mut Room) -> Result<(), StoreError> {
    if conflict.actual <= conflict.expected || room.events == 0 {
        return Ok(());
    }
    gateway.store.wait_for(conflict.actual).await?;
    let filter =
        Filter { aggregate_id: Some(conflict.aggregate_id.clone()), category: Some(conflict.category), ..Filter::default() };
    let query = Query {
        filter,
        after: Some(conflict.expected),
        before: Some(conflict.actual.next()),
        limit: room.events,
        ..Query::default()
    };
    let page = gateway.store.page(query).await?;
    let shown = page.events.iter().map_while(|event| {
        let event = gateway.types.show(event);
        room.data_bytes = room.data_bytes.checked_sub(event.data.as_bytes().len())?;
        Some(event)
    });
    conflict.events = shown.map(Arc::unwrap_or_clone).collect();
    room.events -= conflict.events.len();
    conflict.more = page.next.is_some() || conflict.events.len() < page.events.len();
    Ok(())
}
