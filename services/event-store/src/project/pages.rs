//! The events of a view's id, page by page, as the types' registry shows them. The next page is read while the last one is
//! folded: a view that nobody looked at for long waits for both.

use std::pin::Pin;
use std::sync::Arc;

use causeway_event::{Event, Position};
use causeway_proto::Problem;
use futures::future::{BoxFuture, FutureExt as _, MaybeDone, maybe_done};

use super::Subject;
use crate::gateway::Gateway;
use crate::read_model::{Page, Query};
use crate::store::StoreError;

/// Events read at a time.
const PAGE_EVENTS: usize = 1000;

type Reading<'g> = Pin<Box<MaybeDone<BoxFuture<'g, Result<Page, StoreError>>>>>;

/// The pages behind a position.
pub(super) struct Pages<'g> {
    gateway: &'g Gateway,
    query: Query,
    under_way: Option<Reading<'g>>,
}

/// A page.
pub(super) struct Shown {
    pub(super) events: Vec<Arc<Event>>,
    /// Of the registry that showed them, or of one before.
    pub(super) revision: Position,
    /// All events of the id up to here are in this page or one before.
    pub(super) reached: Position,
}

impl<'g> Pages<'g> {
    /// What stands behind `after`, up to `last`, or to wherever the read model is.
    pub(super) fn behind(gateway: &'g Gateway, subject: &Subject, after: Position, last: Option<Position>) -> Self {
        let query = Query {
            filter: subject.filter.clone(),
            after: Some(after),
            before: last.map(Position::next),
            limit: PAGE_EVENTS,
            ..Query::default()
        };
        let under_way = Some(read(gateway, query.clone()));
        Self { gateway, query, under_way }
    }

    /// Whether the one that was last given is not the last one.
    pub(super) fn is_more(&self) -> bool {
        self.under_way.is_some()
    }

    /// The next page; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Shown>, Problem> {
        let Some(mut reading) = self.under_way.take() else { return Ok(None) };
        reading.as_mut().await;
        let Some(page) = reading.as_mut().take_output().transpose()? else { return Ok(None) };
        if page.next.is_some() {
            self.query.after = page.next;
            let mut reading = read(self.gateway, self.query.clone());
            // Sets it going.
            let _ = futures::poll!(reading.as_mut());
            self.under_way = Some(reading);
        }
        let revision = self.gateway.types.revision();
        let mut events = page.events;
        self.gateway.types.show_all(&mut events);
        let before = self.query.before.map_or(page.last_position, Position::previous);
        Ok(Some(Shown { events, revision, reached: page.next.unwrap_or(before.min(page.last_position)) }))
    }
}

fn read(gateway: &Gateway, query: Query) -> Reading<'_> {
    Box::pin(maybe_done(gateway.store.page(query).boxed()))
}
