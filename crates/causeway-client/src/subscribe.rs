//! A subscription that outlives its connections.
//!
//! ```text
//! open ──> events, checkpoints .. caught up ──> events, checkpoints, heartbeats, deltas ..
//!            │  connection lost: wait, open again behind the last position seen
//!            └─ refused for good (a bad filter): one error, then the end
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use backon::ExponentialBackoff;
use causeway_event::{AggregateId, Delta, Event, Position};
use causeway_proto::v1;
use causeway_proto::v1::subscribe_response::Update as Wire;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tonic::Streaming;
use tracing::{info, warn};

use crate::client::{Effect, event};
use crate::{Client, ClientError, Filter};

/// What to follow.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Which events.
    pub filter: Filter,
    /// Where to begin.
    pub start: Start,
    /// Also give what the model is saying while it says it. Needs an aggregate in the filter.
    pub deltas: bool,
    /// Give each event's data in the version in which it was appended, not in the newest one of its type.
    pub raw: bool,
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
    CaughtUp {
        /// Everything up to here has been told or filtered out.
        position: Position,
        /// The last position of the log.
        head: Position,
    },
    /// Many events were filtered out: everything up to here has been told or filtered out, and it resumes.
    Checkpoint(Position),
    /// Nothing has come for a while; the subscription lives.
    Heartbeat {
        /// Everything up to here has been told or filtered out.
        position: Position,
        /// How many positions of the log are not told or filtered out yet.
        lag: u64,
    },
    /// A piece of a message that is being generated. Some may be lost: the log gets the whole message.
    Delta(AggregateId, Delta),
}

impl Update {
    /// Everything up to here has been told or filtered out: to go on later, subscribe behind it. A delta says nothing of that.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Event(event) => Some(event.position),
            Self::CaughtUp { position, .. } | Self::Checkpoint(position) | Self::Heartbeat { position, .. } => Some(*position),
            Self::Delta(..) => None,
        }
    }
}

/// A stream of updates. It reconnects by itself and resumes behind the last position that it was told of: no gap, no repeat.
/// It ends only with an error that another attempt would meet again.
pub struct Subscription(BoxStream<'static, Result<Update, ClientError>>);

struct Follower {
    client: Client,
    request: v1::SubscribeRequest,
    stream: Option<Streaming<v1::SubscribeResponse>>,
    position: Option<Position>,
    caught_up: bool,
    /// Until something came over a connection.
    waits: ExponentialBackoff,
    /// Why there is no connection.
    broken: Option<ClientError>,
    ready: VecDeque<Update>,
}

impl Client {
    /// Follows the log: what stands in it, then what is appended. Fails if the gateway cannot be reached, after the usual
    /// retries; later outages are bridged (see [`Subscription`]).
    ///
    /// ```no_run
    /// # async fn example(client: causeway_client::Client) -> Result<(), causeway_client::ClientError> {
    /// use causeway_client::{Start, Subscribe, Update};
    /// use futures::StreamExt as _;
    ///
    /// let subscribe = Subscribe { start: Start::After("42".to_owned()), ..Subscribe::default() };
    /// let mut updates = client.subscribe(subscribe).await?;
    /// while let Some(update) = updates.next().await.transpose()? {
    ///     match &update {
    ///         Update::Event(event) => println!("{} {}", event.event_type, event.data.as_str()),
    ///         Update::CaughtUp { head, .. } => println!("all of it up to {head}; what follows is live"),
    ///         Update::Checkpoint(_) | Update::Heartbeat { .. } | Update::Delta(..) => {}
    ///     }
    ///     // Kept beside what was made of the events, `update.position()` is where the next run begins.
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscription, ClientError> {
        Subscription::open(self.clone(), subscribe).await
    }
}

impl Subscription {
    async fn open(client: Client, subscribe: Subscribe) -> Result<Self, ClientError> {
        let (after, from_now) = match subscribe.start {
            Start::First => (String::new(), false),
            Start::Now => (String::new(), true),
            Start::After(place) => (place, false),
        };
        let Subscribe { filter, deltas, raw, .. } = subscribe;
        let request = v1::SubscribeRequest { filter: Some(filter.into()), after, from_now, deltas, raw };
        let begin = || async {
            let mut follower = Follower {
                client: client.clone(),
                request: request.clone(),
                stream: None,
                position: None,
                caught_up: false,
                waits: client.endless_waits(),
                broken: None,
                ready: VecDeque::new(),
            };
            follower.connect().await?;
            // The first word says that the server took the request: a bad one is an error here, not later.
            let first = follower.receive().await?;
            follower.ready.extend(first);
            Ok(follower)
        };
        let follower = client.retried(begin, ClientError::may_read_again).await?;
        let updates = futures::stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(update) => Some((Ok(update), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Self(updates.boxed()))
    }
}

impl Stream for Subscription {
    type Item = Result<Update, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Follower {
    /// The next update, through as many connections as it takes.
    async fn next(&mut self) -> Result<Update, ClientError> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(update);
            }
            let outcome = match self.stream {
                Some(_) => self.receive().await.map(|update| self.ready.extend(update)),
                None => self.reconnect().await,
            };
            let Err(error) = outcome else {
                self.waits = self.client.endless_waits();
                continue;
            };
            if !error.is_interruption() {
                return Err(error);
            }
            self.stream = None;
            if self.broken.replace(error.clone()).is_none() {
                warn!(%error, "subscription interrupted, connecting again");
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let mut request = self.request.clone();
        if let Some(position) = self.position {
            request.after = position.to_string();
            request.from_now = false;
        }
        let client = &self.client;
        let stream = client.answer(client.grpc.clone().subscribe(client.request(request)), Effect::Read).await?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Waits, longer each time, and connects; the first word of the server says that it worked.
    async fn reconnect(&mut self) -> Result<(), ClientError> {
        let wait = match &self.broken {
            Some(error) => self.client.wait(&mut self.waits, error),
            None => self.waits.next(),
        };
        tokio::time::sleep(wait.unwrap_or(self.client.options.retry_wait_max)).await;
        self.connect().await?;
        let first = self.receive().await?;
        self.ready.extend(first);
        self.broken = None;
        info!(position = self.position.map(Position::get), "subscription resumed");
        Ok(())
    }

    /// One message of the server. `None` is one that was known already.
    async fn receive(&mut self) -> Result<Option<Update>, ClientError> {
        let client = &self.client;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        match client.message(stream).await?.update {
            Some(Wire::Event(wire)) => {
                let event = event(Some(wire))?;
                let known = self.position.is_some_and(|position| event.position <= position);
                self.position = self.position.max(Some(event.position));
                Ok((!known).then(|| Update::Event(Box::new(event))))
            }
            Some(Wire::CaughtUp(v1::CaughtUp { position, head })) => {
                let position = self.reached(position);
                let head = Position::new(head);
                Ok(Some(match std::mem::replace(&mut self.caught_up, true) {
                    false => Update::CaughtUp { position, head },
                    true => Update::Heartbeat { position, lag: head.get().saturating_sub(position.get()) },
                }))
            }
            Some(Wire::Checkpoint(v1::Checkpoint { position })) => Ok(Some(Update::Checkpoint(self.reached(position)))),
            Some(Wire::Heartbeat(v1::Heartbeat { position, lag })) => {
                Ok(Some(Update::Heartbeat { position: self.reached(position), lag }))
            }
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
