//! Subscriptions: what is there, then what comes, in order, without gap or repeat.
//!
//! Nothing runs for a subscriber that does not ask: the stream works when it is polled, so a slow reader slows only itself. It
//! takes the newest events from the tail; what the tail has forgotten it reads in pages from the database. The cursor says
//! how far it is, and only moves over what was delivered or does not pass the filter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use causeway_event::{Event, Position};
use causeway_log::LogError;
use futures::future::BoxFuture;
use futures::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Store, StoreError};
use crate::read_model::{Behind, Filter, Page, Query};

/// Events of one page of catching up.
const PAGE_EVENTS: usize = 512;
/// Pause before something is tried again that is not to be had at the moment.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    /// The next event that passes the filter.
    Event(Arc<Event>),
    /// Once: all that the log had when the subscription began has been delivered; all up to here was looked at. What follows
    /// is live.
    CaughtUp(Position),
    /// Nothing passed the filter for a while; all up to here was looked at.
    Heartbeat(Position),
}

impl Store {
    /// Everything behind `after` that passes `filter`, then what is appended. Ends only with an error.
    pub(crate) fn subscribe(
        &self,
        filter: Filter,
        after: Position,
        heartbeat: Duration,
    ) -> impl Stream<Item = Result<Update, StoreError>> + Send + 'static + use<> {
        let subscriber = Subscriber {
            end: self.shared.tail.end(),
            store: self.clone(),
            filter,
            cursor: after,
            ready: VecDeque::new(),
            page: None,
            head: Head::Unknown { ask_at: Instant::now(), asking: None },
            heartbeat,
            beat_at: Instant::now() + heartbeat,
        };
        stream::unfold(Some(subscriber), |subscriber| async {
            let mut subscriber = subscriber?;
            match subscriber.next().await {
                Ok(update) => Some((Ok(update), Some(subscriber))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

struct Subscriber {
    store: Store,
    filter: Filter,
    /// All up to here was looked at and is delivered or in `ready`.
    cursor: Position,
    ready: VecDeque<Update>,
    /// A page under way: it is waited for across heartbeats, not begun again.
    page: Option<BoxFuture<'static, Result<Page, StoreError>>>,
    head: Head,
    end: watch::Receiver<Position>,
    heartbeat: Duration,
    beat_at: Instant,
}

/// Where the log ended when the subscription began.
enum Head {
    /// The log has not said so far.
    Unknown { ask_at: Instant, asking: Option<BoxFuture<'static, Result<Position, LogError>>> },
    /// Here; the cursor has not reached it.
    Ahead(Position),
    /// The cursor has been there, and the subscriber was told.
    Reached,
}

impl Subscriber {
    async fn next(&mut self) -> Result<Update, StoreError> {
        let closed = self.store.shared.closed.clone();
        loop {
            if let Some(update) = self.ready.pop_front() {
                self.beat_at = Instant::now() + self.heartbeat;
                return Ok(update);
            }
            let beat_at = self.beat_at;
            // The heartbeat stands first: a long run of events that do not pass must not silence it.
            tokio::select! {
                biased;
                () = sleep_until(beat_at) => self.ready.push_back(Update::Heartbeat(self.cursor)),
                () = closed.cancelled() => return Err(StoreError::Closed),
                looked = self.look() => looked?,
            }
        }
    }

    /// Looks at what is behind the cursor, or waits until there may be something. May be dropped at any await.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.learn_head().await;
        let before = self.cursor;
        match self.page.is_none().then(|| self.store.shared.tail.behind(self.cursor, &self.filter)) {
            Some(Behind::Events(events, reached)) => {
                self.ready.extend(events.into_iter().map(Update::Event));
                self.cursor = reached;
            }
            Some(Behind::Forgotten) | None => self.look_at_page().await?,
        }
        if let Head::Ahead(head) = self.head
            && head <= self.cursor
        {
            self.head = Head::Reached;
            self.ready.push_back(Update::CaughtUp(self.cursor));
        }
        if self.ready.is_empty() && self.cursor == before {
            self.wait().await;
        }
        Ok(())
    }

    async fn learn_head(&mut self) {
        let Head::Unknown { ask_at, asking } = &mut self.head else { return };
        if Instant::now() < *ask_at {
            return;
        }
        let asking = asking.get_or_insert_with(|| {
            let shared = self.store.shared.clone();
            Box::pin(async move { shared.last_position().await })
        });
        self.head = match asking.await {
            Ok(head) => Head::Ahead(head),
            // The log is away. What is here can be delivered; only the mark has to wait.
            Err(_) => Head::Unknown { ask_at: Instant::now() + RETRY_PAUSE, asking: None },
        };
    }

    async fn look_at_page(&mut self) -> Result<(), StoreError> {
        let page = self.page.get_or_insert_with(|| {
            let query = Query { filter: self.filter.clone(), after: Some(self.cursor), limit: PAGE_EVENTS, ..Query::default() };
            let store = self.store.clone();
            Box::pin(async move { store.page(query).await })
        });
        let page = page.await;
        self.page = None;
        match page {
            Ok(page) => {
                let reached = match page.events.last() {
                    Some(last) if page.more => last.position,
                    _ => page.last_position,
                };
                self.cursor = self.cursor.max(reached);
                self.ready.extend(page.events.into_iter().map(Update::Event));
            }
            // The model is being made again, or all readers are busy: late, but not lost.
            Err(StoreError::Behind { .. } | StoreError::Busy) => sleep(RETRY_PAUSE).await,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Until there is something behind the cursor, or it is time to ask for the head again.
    async fn wait(&mut self) {
        let cursor = self.cursor;
        let more = self.end.wait_for(|end| cursor < *end);
        match self.head {
            Head::Unknown { ask_at, .. } => tokio::select! {
                _ = more => {}
                () = sleep_until(ask_at) => {}
            },
            Head::Ahead(_) | Head::Reached => _ = more.await,
        }
    }
}
