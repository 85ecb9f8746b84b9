//! Subscriptions: what is there, then what comes, in order, without gap or repeat.
//!
//! Nothing runs for a subscriber that does not ask: the stream works when it is polled, so a slow reader slows only itself. It
//! takes the newest events from the tail; what the tail has forgotten it reads in pages from the database. The cursor says
//! how far it is, and only moves over what was delivered or does not pass the filter.
//!
//! Who wants little of a busy log hears from time to time how far the cursor is (a checkpoint), so that it resumes there and
//! not at the last event that it got.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use causeway_event::{Event, Position};
use futures::future::BoxFuture;
use futures::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Store, StoreError};
use crate::read_model::{Behind, Descendants, End, Filter, PIECE_BYTES_MAX, Page, Query};

/// Events of one page of catching up.
const PAGE_EVENTS: usize = 512;
/// Pause before something is tried again that is not to be had at the moment.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A checkpoint is due when so many positions in a row were of no interest ...
const CHECKPOINT_POSITIONS: u64 = 10_000;
/// ... or when any were, and nothing was said for this long.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// What to follow.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: Filter,
    /// Behind this place, which the log has.
    pub(crate) after: Position,
    /// Where the log ended when the place was looked up.
    pub(crate) head: Position,
    /// [`Store::losses`] before that.
    pub(crate) losses: u64,
    pub(crate) heartbeat: Duration,
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    /// The next event that passes the filter.
    Event(Arc<Event>),
    /// Once: all that the log had when the subscription began has been delivered; all up to `position` was looked at, and the
    /// log is known to go up to `head`. What follows is live.
    CaughtUp { position: Position, head: Position },
    /// A long run did not pass the filter; all up to here was looked at.
    Checkpoint(Position),
    /// Nothing was said for a while. All up to `position` was looked at; so many positions that are known to be on the log were
    /// not.
    Heartbeat { position: Position, lag: u64 },
}

impl Store {
    /// Everything that passes, then what is appended. Ends only with an error.
    pub(crate) fn subscribe(
        &self,
        subscription: Subscription,
    ) -> impl Stream<Item = Result<Update, StoreError>> + Send + 'static + use<> {
        let Subscription { filter, after, head, losses, heartbeat } = subscription;
        let subscriber = Subscriber {
            end: self.shared.tail.end(),
            store: self.clone(),
            filter,
            cursor: after,
            told: after,
            descent: None,
            ready: VecDeque::new(),
            page: None,
            learning: None,
            head: Some(head),
            losses,
            heartbeat,
            spoke_at: Instant::now(),
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
    /// Up to here the subscriber knows that it can resume.
    told: Position,
    /// Who the descendants are, where the filter asks for them.
    descent: Option<Descent>,
    ready: VecDeque<Update>,
    /// A page under way: it is waited for across heartbeats, not begun again.
    page: Option<BoxFuture<'static, Result<Page, StoreError>>>,
    /// The same of who the descendants are.
    learning: Option<BoxFuture<'static, Result<Descendants, StoreError>>>,
    /// Where the log ended when the subscription began, until the cursor has been there and the subscriber was told.
    head: Option<Position>,
    losses: u64,
    end: watch::Receiver<End>,
    heartbeat: Duration,
    /// When it was last told something.
    spoke_at: Instant,
}

/// The descendants of an event: those that stood on the log at the beginning, and those plus all that came since.
struct Descent {
    found: Arc<Descendants>,
    all: Descendants,
}

impl Subscriber {
    async fn next(&mut self) -> Result<Update, StoreError> {
        let closed = self.store.shared.closed.clone();
        loop {
            // A cursor beyond the new end would skip what the log gets up to there, and one before it may have been given what is gone.
            if self.end.borrow().losses != self.losses {
                return Err(StoreError::LostItsEnd);
            }
            if let Some(update) = self.ready.pop_front() {
                self.spoke_at = Instant::now();
                self.told = match &update {
                    Update::Event(event) => event.position,
                    Update::CaughtUp { position, .. } | Update::Checkpoint(position) | Update::Heartbeat { position, .. } => {
                        *position
                    }
                };
                return Ok(update);
            }
            if self.cursor.get() - self.told.get() >= CHECKPOINT_POSITIONS {
                self.ready.push_back(Update::Checkpoint(self.cursor));
                continue;
            }
            let (beat_at, checkpoint_at) = (self.spoke_at + self.heartbeat, self.spoke_at + CHECKPOINT_INTERVAL);
            let moved = self.told < self.cursor;
            // The clocks stand first: a long run of events that do not pass must not silence them.
            tokio::select! {
                biased;
                () = sleep_until(beat_at) => {
                    let lag = self.known_end().get().saturating_sub(self.cursor.get());
                    self.ready.push_back(Update::Heartbeat { position: self.cursor, lag });
                }
                () = sleep_until(checkpoint_at), if moved => self.ready.push_back(Update::Checkpoint(self.cursor)),
                () = closed.cancelled() => return Err(StoreError::Closed),
                looked = self.look() => looked?,
            }
        }
    }

    /// As far as the log is known to go.
    fn known_end(&self) -> Position {
        self.end.borrow().position.max(self.cursor).max(self.head.unwrap_or_default())
    }

    /// Looks at what is behind the cursor, or waits until there may be something. May be dropped at any await.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.learn_descent().await?;
        if self.filter.descendants_of.is_some() && self.descent.is_none() {
            // Until they are known nobody can tell what is wanted, and the cursor must not move over it.
            return Ok(());
        }
        let before = self.cursor;
        // Whether an event is a descendant can only be told by who sees all events.
        let (all, wanted) = (Filter::default(), &self.filter);
        let wanted = if self.descent.is_some() { &all } else { wanted };
        match self.page.is_none().then(|| self.store.shared.tail.behind(self.cursor, wanted)) {
            Some(Behind::Events(events, reached)) => self.take(events, reached)?,
            Some(Behind::Forgotten) | None => self.look_at_page().await?,
        }
        if self.head.is_some_and(|head| head <= self.cursor) {
            self.head = None;
            self.ready.push_back(Update::CaughtUp { position: self.cursor, head: self.known_end() });
        }
        if self.ready.is_empty() && self.cursor == before {
            self.wait().await;
        }
        Ok(())
    }

    /// Moves the cursor over what was looked at.
    fn take(&mut self, events: Vec<Arc<Event>>, reached: Position) -> Result<(), StoreError> {
        match &mut self.descent {
            None => self.ready.extend(events.into_iter().map(Update::Event)),
            Some(descent) => {
                for event in events {
                    if descent.all.see(&event)? && self.filter.matches(&event) {
                        self.ready.push_back(Update::Event(event));
                    }
                }
                descent.all.reach(reached);
            }
        }
        self.cursor = self.cursor.max(reached);
        Ok(())
    }

    async fn learn_descent(&mut self) -> Result<(), StoreError> {
        let (Some(of), None) = (self.filter.descendants_of, &self.descent) else { return Ok(()) };
        let learning = self.learning.get_or_insert_with(|| {
            let store = self.store.clone();
            Box::pin(async move { store.descendants(of).await })
        });
        let learned = learning.await;
        self.learning = None;
        match learned {
            Ok(found) => {
                let found = Arc::new(found);
                self.descent = Some(Descent { all: (*found).clone(), found });
                Ok(())
            }
            Err(error) => late_or_lost(error).await,
        }
    }

    async fn look_at_page(&mut self) -> Result<(), StoreError> {
        let page = self.page.get_or_insert_with(|| {
            let mut query =
                Query { after: Some(self.cursor), limit: PAGE_EVENTS, bytes_max: PIECE_BYTES_MAX, ..Query::default() };
            match &self.descent {
                // What stood there at the beginning is found by the index, all else by looking at every event.
                Some(descent) if descent.found.reached() <= self.cursor => {}
                descent => {
                    query.filter = self.filter.clone();
                    query.descendants = descent.as_ref().map(|descent| descent.found.clone());
                }
            }
            let store = self.store.clone();
            Box::pin(async move { store.page(query).await })
        });
        let page = page.await;
        self.page = None;
        match page {
            Ok(page) => {
                let reached = page.next.unwrap_or(page.last_position);
                self.take(page.events, reached)
            }
            Err(error) => late_or_lost(error).await,
        }
    }

    /// Until there is something behind the cursor, or the log has lost its end.
    async fn wait(&mut self) {
        let (cursor, losses) = (self.cursor, self.losses);
        let _ = self.end.wait_for(|end| cursor < end.position || end.losses != losses).await;
    }
}

/// The model is being made again, or all readers are busy: late, but not lost. Anything else is.
async fn late_or_lost(error: StoreError) -> Result<(), StoreError> {
    match error {
        StoreError::Behind { .. } | StoreError::Busy => {
            sleep(RETRY_PAUSE).await;
            Ok(())
        }
        error => Err(error),
    }
}
