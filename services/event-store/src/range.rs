//! A read of any length: page after page of one query, up to where the log ended when it was asked.

use std::sync::Arc;
use std::time::Instant;

use causeway_event::{Event, Position};
use causeway_proto::{Kind, Problem};
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OwnedSemaphorePermit;

use crate::cursor::{Border, Cursor, Moment};
use crate::gateway::Gateway;
use crate::read_model::{Filter, Order, PIECE_BYTES_MAX, Page, Query};

/// Events of one page: few enough to bound the memory of a slow reader, many enough to make the query cheap.
const PAGE_EVENTS: usize = 256;

/// A moment that a client named, and the field it came in.
pub(crate) type Named = (Moment, &'static str);

/// What a client asked to read or to count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    /// Behind this moment.
    pub(crate) after: Option<Named>,
    /// Before this moment.
    pub(crate) before: Option<Named>,
    /// At this moment or behind it.
    pub(crate) from: Option<Named>,
    /// Before this moment as well.
    pub(crate) until: Option<Named>,
    pub(crate) order: Order,
    /// Data in the version in which it was appended.
    pub(crate) raw: bool,
}

impl Wanted {
    /// The query as of now, and where the log ends as of now. What is appended later is not part of it.
    pub(crate) async fn resolve(self, gateway: &Gateway) -> Result<(Query, Position), Problem> {
        let store = &gateway.store;
        let last = gateway.fresh().await?;
        let end = last.next();
        let mut query = Query { filter: self.filter, order: self.order, limit: PAGE_EVENTS, ..Query::default() };
        for (named, side) in
            [(self.after, Side::Behind), (self.from, Side::From), (self.until, Side::Before), (self.before, Side::Before)]
        {
            if let Some((moment, field)) = named {
                query.cut(moment.border(store, field).await?, side);
            }
        }
        query.before = Some(query.before.unwrap_or(end).min(end));
        if let Some(of) = query.filter.descendants_of {
            query.descendants = Some(Arc::new(store.descendants(of).await?));
        }
        Ok((query, last))
    }
}

/// Which side of a border is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Behind,
    From,
    Before,
}

impl Query {
    /// Goes on with the next page.
    fn go_on(&mut self, next: Position) {
        match self.order {
            Order::Forwards => self.after = Some(next),
            Order::Backwards => self.before = Some(next),
        }
    }

    /// Narrows it to one side of a border.
    fn cut(&mut self, border: Border, side: Side) {
        let filter = &mut self.filter;
        match (border, side) {
            (Border::At(position), Side::Behind) => self.after = self.after.max(Some(position)),
            (Border::At(position), Side::From) if position > Position::START => {
                self.after = self.after.max(Some(position.previous()));
            }
            (Border::At(_), Side::From) => {}
            (Border::At(position), Side::Before) => {
                self.before = Some(self.before.map_or(position, |before| before.min(position)));
            }
            // Stored times are whole microseconds: behind this one is from the next one on.
            (Border::Time(time), Side::Behind) => filter.from = filter.from.max(Some(next_microsecond(time))),
            (Border::Time(time), Side::From) => filter.from = filter.from.max(Some(time)),
            (Border::Time(time), Side::Before) => filter.until = Some(filter.until.map_or(time, |until| until.min(time))),
        }
    }
}

fn next_microsecond(time: Timestamp) -> Timestamp {
    time.checked_add(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MAX)
}

/// Opens a read of at most `limit` events: its pages, and where the log ends. Pulled by the reader, so that a slow one slows
/// only itself.
pub(crate) async fn open(
    gateway: Arc<Gateway>,
    wanted: Wanted,
    limit: Option<u64>,
) -> Result<(impl Stream<Item = Result<Vec<Arc<Event>>, Problem>> + Send + 'static, Position), Problem> {
    let place = gateway.open_stream()?;
    let raw = wanted.raw;
    let (query, last) = gateway.within(wanted.resolve(&gateway)).await?;
    let query = Query { bytes_max: PIECE_BYTES_MAX, ..query };
    Ok((pages(gateway, place, query, limit, raw), last))
}

/// One page of at most `limit` events, and where the log ends.
pub(crate) async fn page(gateway: &Gateway, wanted: Wanted, limit: usize) -> Result<(Page, Position), Problem> {
    let raw = wanted.raw;
    let page = async {
        let begun = Instant::now();
        let (query, last) = wanted.resolve(gateway).await?;
        let mut query = Query { limit, ..query };
        // Where nothing passes for long, a page that goes no further than half the time allows still brings its reader on.
        loop {
            let page = gateway.store.page(query.clone()).await?;
            match page.next {
                Some(next) if page.events.is_empty() && begun.elapsed() < gateway.config.request_timeout / 2 => query.go_on(next),
                _ => return Ok::<_, Problem>((Page { events: show(gateway, raw, page.events), ..page }, last)),
            }
        }
    };
    gateway.within(page).await
}

/// Events as they are shown: in the newest version of their types, unless they are wanted raw.
fn show(gateway: &Gateway, raw: bool, mut events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
    if !raw {
        gateway.types.show_all(&mut events);
    }
    events
}

fn pages(
    gateway: Arc<Gateway>,
    place: OwnedSemaphorePermit,
    mut query: Query,
    limit: Option<u64>,
    raw: bool,
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
            left = left.saturating_sub(page.events.len() as u64);
            yield show(&gateway, raw, page.events);
            match page.next {
                Some(next) => query.go_on(next),
                None => break,
            }
        }
    }
}

/// How many events pass, and where the log ended when they were counted.
pub(crate) async fn count(gateway: &Gateway, wanted: Wanted) -> Result<(u64, Position), Problem> {
    let count = async {
        let (query, last) = wanted.resolve(gateway).await?;
        Ok::<_, Problem>((gateway.store.count(query).await?, last))
    };
    gateway.within(count).await
}

/// One event. What the read model has not got may be on the log all the same.
pub(crate) async fn one(gateway: &Gateway, cursor: Cursor, raw: bool) -> Result<Option<Arc<Event>>, Problem> {
    let find = async || match cursor {
        Cursor::At(position) => gateway.store.by_position(position).await,
        Cursor::Event(id) => gateway.store.by_id(id).await,
    };
    let mut found = find().await?;
    if found.is_none() {
        gateway.fresh().await?;
        found = find().await?;
    }
    Ok(show(gateway, raw, found.into_iter().collect()).pop())
}
