//! A read of any length: page after page of one query, up to where the log ended when it was asked.

use std::sync::Arc;

use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;

use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::read_model::{Filter, Order, Query};

/// Events of one page: few enough to bound the memory of a slow reader, many enough to make the query cheap.
const PAGE_EVENTS: usize = 256;

/// What a client asked to read.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    pub(crate) after: Option<(Cursor, &'static str)>,
    pub(crate) before: Option<(Cursor, &'static str)>,
    pub(crate) order: Order,
}

impl Wanted {
    /// The query as of now, and where the log ends as of now. What is appended later is not part of it.
    pub(crate) async fn resolve(self, gateway: &Gateway) -> Result<(Query, Position), Problem> {
        let store = &gateway.store;
        let last = store.fresh().await?;
        let after = match self.after {
            Some((cursor, field)) => Some(cursor.resolve(store, field).await?),
            None => None,
        };
        let end = Position::new(last.get().saturating_add(1));
        let before = match self.before {
            Some((cursor, field)) => cursor.resolve(store, field).await?.min(end),
            None => end,
        };
        Ok((Query { filter: self.filter, after, before: Some(before), order: self.order, limit: PAGE_EVENTS }, last))
    }
}

/// Opens a read of at most `limit` events: its pages, and where the log ends. Pulled by the reader, so that a slow one slows
/// only itself.
pub(crate) async fn open(
    gateway: Arc<Gateway>,
    wanted: Wanted,
    limit: Option<u64>,
) -> Result<(impl Stream<Item = Result<Vec<Arc<Event>>, Problem>> + Send + 'static, Position), Problem> {
    let place = gateway.open_stream()?;
    let (query, last) = gateway.within(wanted.resolve(&gateway)).await?;
    Ok((pages(gateway, place, query, limit), last))
}

fn pages(
    gateway: Arc<Gateway>,
    place: OwnedSemaphorePermit,
    mut query: Query,
    limit: Option<u64>,
) -> impl Stream<Item = Result<Vec<Arc<Event>>, Problem>> + Send + 'static {
    async_stream::try_stream! {
        let _place = place;
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0 {
            if gateway.stop.is_cancelled() {
                Err(Problem::new(Kind::Unavailable, "the gateway is shutting down"))?;
            }
            query.limit = usize::try_from(left).unwrap_or(PAGE_EVENTS).min(PAGE_EVENTS);
            let page = gateway.within(gateway.store.page(query.clone())).await?;
            let Some(end) = page.events.last().map(|event| event.position) else { break };
            match query.order {
                Order::Forwards => query.after = Some(end),
                Order::Backwards => query.before = Some(end),
            }
            left = left.saturating_sub(page.events.len() as u64);
            yield page.events;
            if !page.more {
                break;
            }
        }
    }
}

/// One event. What the read model has not got may be on the log all the same.
pub(crate) async fn one(gateway: &Gateway, cursor: Cursor) -> Result<Option<Arc<Event>>, Problem> {
    let find = async || match cursor {
        Cursor::At(position) => gateway.store.by_position(position).await,
        Cursor::Event(id) => gateway.store.by_id(id).await,
    };
    if let Some(event) = find().await? {
        return Ok(Some(event));
    }
    gateway.store.fresh().await?;
    Ok(find().await?)
}
