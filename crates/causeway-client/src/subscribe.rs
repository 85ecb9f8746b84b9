//! A subscription that outlives its connections.
//!
//! ```text
//! open ──> events .. caught up ──> events, heartbeats, deltas ..
//!            │  connection lost: wait, open again behind the last position seen
//!            └─ refused for good (a bad filter): one error, then the end
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_event::{AggregateId, Delta, Event, Position};
use causeway_proto::v1;
use causeway_proto::v1::subscribe_response::Update as Wire;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use tonic::Streaming;
use tracing::{info, warn};

use crate::client::event;
use crate::{Client, ClientError, Filter, Kind};

/// Without a word for so long (heartbeats come far more often), a connection is given up and made anew.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The longest wait between two attempts to connect again.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// What to follow.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Which events.
    pub filter: Filter,
    /// Where to begin.
    pub start: Start,
    /// Also give what the model is saying while it says it. Needs an aggregate in the filter.
    pub deltas: bool,
}

/// Where a subscription begins.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// With the first event of the log.
    #[default]
    First,
    /// With what is appended from now on.
    Now,
    /// Behind this position or event id.
    After(String),
}

/// What a subscription tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An event; its position resumes.
    Event(Box<Event>),
    /// Everything that stood in the log has been told; what follows is live. Told once.
    CaughtUp(Position),
    /// Nothing new up to here.
    Heartbeat(Position),
    /// A piece of a message that is being generated. Some may be lost: the log gets the whole message.
    Delta(AggregateId, Delta),
}

/// A stream of updates. It reconnects by itself and resumes behind the last position that it was told of: no gap, no repeat.
/// It ends only with an error that another attempt would meet again.
pub struct Subscription {
    state: State,
}

enum State {
    /// Between two updates; dropping a pending `next` loses nothing.
    Busy(BoxFuture<'static, (Follower, Option<Result<Update, ClientError>>)>),
    Ended,
}

struct Follower {
    client: Client,
    request: v1::SubscribeRequest,
    stream: Option<Streaming<v1::SubscribeResponse>>,
    position: Option<Position>,
    caught_up: bool,
    failures: u32,
    ready: VecDeque<Update>,
}

impl Subscription {
    pub(crate) async fn open(client: Client, subscribe: Subscribe) -> Result<Self, ClientError> {
        let (after, from_now) = match subscribe.start {
            Start::First => (String::new(), false),
            Start::Now => (String::new(), true),
            Start::After(place) => (place, false),
        };
        let request = v1::SubscribeRequest { filter: Some(subscribe.filter.into()), after, from_now, deltas: subscribe.deltas };
        let mut follower =
            Follower { client, request, stream: None, position: None, caught_up: false, failures: 0, ready: VecDeque::new() };
        follower.connect().await?;
        // The first word says that the server took the request: a bad one is an error here, not later.
        let first = follower.receive().await?;
        follower.ready.extend(first);
        Ok(Self { state: State::Busy(follower.advance().boxed()) })
    }
}

impl Stream for Subscription {
    type Item = Result<Update, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let State::Busy(advance) = &mut self.state else { return Poll::Ready(None) };
        let (follower, update) = std::task::ready!(advance.poll_unpin(context));
        self.state = match &update {
            Some(Ok(_)) => State::Busy(follower.advance().boxed()),
            Some(Err(_)) | None => State::Ended,
        };
        Poll::Ready(update)
    }
}

impl Follower {
    /// The next update, through as many connections as it takes.
    async fn advance(mut self) -> (Self, Option<Result<Update, ClientError>>) {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return (self, Some(Ok(update)));
            }
            let outcome = match self.stream {
                Some(_) => self.receive().await.map(|update| self.ready.extend(update)),
                None => self.reconnect().await,
            };
            match outcome {
                Ok(()) => self.failures = 0,
                Err(error) if worth_another(&error) => {
                    if self.failures == 0 {
                        warn!(%error, "subscription interrupted, connecting again");
                    }
                    self.failures = self.failures.saturating_add(1);
                    self.stream = None;
                }
                Err(error) => return (self, Some(Err(error))),
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let mut request = self.request.clone();
        if let Some(position) = self.position {
            request.after = position.to_string();
            request.from_now = false;
        }
        self.stream = Some(self.client.open_subscription(request).await?);
        Ok(())
    }

    /// Waits, longer each time, and connects; the first word of the server says that it worked.
    async fn reconnect(&mut self) -> Result<(), ClientError> {
        let wait = self.client.options.retry_wait * 2_u32.pow(self.failures.min(10));
        tokio::time::sleep(wait.min(RECONNECT_WAIT_MAX)).await;
        self.connect().await?;
        let first = self.receive().await?;
        self.ready.extend(first);
        info!(position = self.position.map(Position::get), "subscription resumed");
        Ok(())
    }

    /// One message of the server. `None` is one that was known already.
    async fn receive(&mut self) -> Result<Option<Update>, ClientError> {
        let client = &self.client;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
        let message = message.map_err(|_| client.too_late(Kind::TimedOut))?.map_err(|status| client.error(&status))?;
        // A gateway that shuts down ends its streams.
        let message = message.ok_or_else(|| client.too_late(Kind::Unavailable))?;
        match message.update {
            Some(Wire::Event(wire)) => {
                let event = event(Some(wire))?;
                let known = self.position.is_some_and(|position| event.position <= position);
                self.position = self.position.max(Some(event.position));
                Ok((!known).then(|| Update::Event(Box::new(event))))
            }
            Some(Wire::CaughtUp(mark)) => {
                let position = self.reached(mark.position);
                let first = !std::mem::replace(&mut self.caught_up, true);
                Ok(Some(if first { Update::CaughtUp(position) } else { Update::Heartbeat(position) }))
            }
            Some(Wire::Heartbeat(mark)) => Ok(Some(Update::Heartbeat(self.reached(mark.position)))),
            Some(Wire::Delta(delta)) => {
                let aggregate_id = delta.aggregate_id.parse().map_err(ClientError::Unreadable)?;
                Ok(Some(Update::Delta(aggregate_id, delta.try_into().map_err(ClientError::Unreadable)?)))
            }
            // A later version of the gateway may tell more.
            None => Ok(None),
        }
    }

    fn reached(&mut self, position: u64) -> Position {
        let position = Position::new(position);
        self.position = self.position.max(Some(position));
        position
    }
}

/// Whether the connection failed rather than the request.
fn worth_another(error: &ClientError) -> bool {
    error.is_transient() || error.kind() == Some(Kind::OutcomeUnknown)
}
