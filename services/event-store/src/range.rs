//! A read of any length: page after page of one query, up to where the log ended when it was asked.

use std::sync::Arc;

use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use futures::Stream;

use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::store::{Filter, Order, Query};

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

/// The pages of a query, at most `limit` events in all. Pulled by the reader: a slow one slows only itself.
pub(crate) fn pages(
    gateway: Arc<Gateway>,
    mut query: Query,
    limit: Option<u64>,
) -> impl Stream<Item = Result<Vec<Arc<Event>>, Problem>> + Send {
    async_stream::try_stream! {
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0 {
            query.limit = usize::try_from(left).unwrap_or(PAGE_EVENTS).min(PAGE_EVENTS);
            let page = match gateway.stop.is_cancelled() {
                false => gateway.within(gateway.store.page(query.clone())).await?,
                true => Err(Problem::new(Kind::Unavailable, "the gateway is shutting down"))?,
            };
            left = left.saturating_sub(page.events.len() as u64);
            match (page.events.last(), &query.order) {
                (None, _) => break,
                (Some(last), Order::Forwards) => query.after = Some(last.position),
                (Some(last), Order::Backwards) => query.before = Some(last.position),
            }
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
