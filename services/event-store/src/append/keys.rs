//! What was appended before under a key. The server remembers recent keys itself; older ones are in the read model, and behind it on the
//! log.

use std::sync::Arc;

use causeway_event::{Event, IdempotencyKey, Position};
use causeway_log::LogError;
use causeway_proto::{Appended, Kind, Problem};
use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use super::receipts::LOOKUPS_MAX;
use super::{Shape, other_events, receipt};
use crate::gateway::Gateway;
use crate::problem;

/// How many appends look through the log at a time: what is being caught up with comes over the same connection.
pub(crate) const LOOKUPS_ON_THE_LOG_MAX: usize = 4;

/// What an earlier append under this key did, if there was one that the server may have forgotten.
pub(super) async fn used(gateway: &Gateway, shape: &Shape, key: &IdempotencyKey) -> Result<Option<Appended>, Problem> {
    match gateway.ready.is_recent() {
        true => indexed(gateway, shape, key).await,
        false => find(gateway, shape, key).await,
    }
}

/// What the append did that the server says was done under this key.
pub(super) async fn remembered(gateway: &Gateway, shape: &Shape, key: &IdempotencyKey) -> Result<Option<Appended>, Problem> {
    if gateway.ready.is_recent() {
        gateway.store.fresh().await?;
        return indexed(gateway, shape, key).await;
    }
    find(gateway, shape, key).await
}

/// By a gateway that is catching up: in what it has, and then on the log itself.
async fn find(gateway: &Gateway, shape: &Shape, key: &IdempotencyKey) -> Result<Option<Appended>, Problem> {
    // All up to here is in the read model, now and later.
    let position = gateway.store.position();
    if position > Position::START
        && let Some(earlier) = indexed(gateway, shape, key).await?
    {
        return Ok(Some(earlier));
    }
    let limit = gateway.config.read_model.read_timeout;
    let looked = async {
        tokio::select! {
            found = on_the_log(gateway, shape, key, position) => found,
            // It has caught up meanwhile.
            () = gateway.ready.recent() => {
                gateway.store.fresh().await?;
                indexed(gateway, shape, key).await
            }
        }
    };
    tokio::time::timeout(limit, looked).await.unwrap_or_else(|_| {
        let detail = format!("whether the key was used could not be learned within {limit:?}; nothing was appended now");
        Err(Problem::new(Kind::Behind, detail).retry_after(problem::COME_BACK))
    })
}

async fn indexed(gateway: &Gateway, shape: &Shape, key: &IdempotencyKey) -> Result<Option<Appended>, Problem> {
    match gateway.store.by_key(&shape.0[0].0, key, shape.0.len()).await? {
        Some(events) => first_answer(gateway, shape, key, events).await.map(Some),
        None => Ok(None),
    }
}

/// Behind `after`, of the aggregate that the key belongs to.
async fn on_the_log(
    gateway: &Gateway,
    shape: &Shape,
    key: &IdempotencyKey,
    after: Position,
) -> Result<Option<Appended>, Problem> {
    let turn = gateway.lookups.acquire().await;
    let Some(first) = gateway.log.keyed(&shape.0[0].0, after, key).await.map_err(problem::of_log)? else { return Ok(None) };
    drop(turn);
    let events = run(gateway, first, shape.0.len()).await.map_err(problem::of_log)?;
    first_answer(gateway, shape, key, events).await.map(Some)
}

/// Of the events that are known to stand where the key was used. They are the append's own only if it was of so many, and of an append
/// that was, those at its end may not have come yet: an atomic append is not read in one piece.
async fn first_answer(
    gateway: &Gateway,
    shape: &Shape,
    key: &IdempotencyKey,
    mut events: Vec<Arc<Event>>,
) -> Result<Appended, Problem> {
    shape.begins_with(&events)?;
    let (Some(first), count) = (events.first().map(|event| event.position), shape.0.len()) else { return Err(other_events()) };
    if !gateway.log.is_append_of(first, count).await.map_err(problem::of_log)? {
        return Err(other_events());
    }
    if events.len() < count {
        let last = Position::new(first.get() + count as u64 - 1);
        // Of what was imported nobody knows how much belongs together, but that it does not go on behind the log's end.
        if gateway.log.last_position().await.map_err(problem::of_log)? < last
            && gateway.log.is_append_of(first, events.len()).await.map_err(problem::of_log)?
        {
            return Err(other_events());
        }
        gateway.store.wait_for(last).await?;
        events = gateway.store.by_key(&shape.0[0].0, key, count).await?.unwrap_or_default();
    }
    answer_again(shape, &events)
}

/// Up to `count` events from `first` on: an atomic append stands in one piece. Fewer where the log ends, or something else stands: then
/// the append was of fewer.
async fn run(gateway: &Gateway, first: Position, count: usize) -> Result<Vec<Arc<Event>>, LogError> {
    let _turn = gateway.receipts.acquire().await;
    let places = stream::iter(first.get()..first.get() + count as u64).map(Position::new);
    let found = places.map(|position| gateway.log.get(position)).buffered(LOOKUPS_MAX);
    let events = found.try_take_while(|found| future::ready(Ok(found.is_some()))).try_filter_map(future::ok);
    let events: Vec<_> = events.map_ok(|stored| Arc::new(stored.event)).try_collect().await?;
    match events.is_empty() {
        true => Err(LogError::Unavailable { reason: format!("its leader does not have position {first} yet") }),
        false => Ok(events),
    }
}

pub(super) fn answer_again(shape: &Shape, events: &[Arc<Event>]) -> Result<Appended, Problem> {
    shape.begins_with(events)?;
    if events.len() < shape.0.len() {
        return Err(other_events());
    }
    Ok(Appended { receipts: events.iter().map(|event| receipt(event)).collect(), duplicate: true })
}
