//! Groups of consumers: working on events beside others, and what was given up.
//!
//! ```text
//! join ──> deliveries, each to be answered ──> ...
//!            │  connection lost: wait, join again; what was not answered is delivered again
//!            └─ refused for good (another filter than the group's): one error, then the end
//! ```

use std::time::Duration;

use backon::ExponentialBackoff;
use causeway_event::{Event, Position};
use causeway_proto::v1::consume_request::Message as Say;
use causeway_proto::v1::consume_response::Message as Hear;
use causeway_proto::{timestamp_from, v1};
use futures::future::BoxFuture;
use futures::{FutureExt as _, stream};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Response, Status, Streaming};
use tracing::{info, warn};

use crate::client::{Effect, SILENCE_MAX, event};
use crate::{Client, ClientError, Filter, Kind, Start};

/// Answers that may wait to be sent.
const ANSWERS_MAX: usize = 1024;
/// A connection is not given up as silent before somebody listened to it for so long.
const LISTEN_MIN: Duration = Duration::from_secs(1);
/// A longer reason is refused by the gateway.
const REASON_CHARS_MAX: usize = 2000;

/// Which group to work for, and how. Of what the group is, its first start decides; joining it with something else is refused.
#[derive(Clone, Debug, Default)]
pub struct Consume {
    /// The group's name: `[a-zA-Z0-9_-]{1,64}`.
    pub group: String,
    /// Which events. Times, causes and descendants are not supported.
    pub filter: Filter,
    /// Where a new group begins.
    pub start: Start,
    /// How many deliveries to work on at once; 16 where absent.
    pub in_flight_max: Option<u32>,
    /// How long a delivery may stay unanswered; 30 s where absent.
    pub ack_wait: Option<Duration>,
    /// How often an event is delivered before it is parked; 10 where absent.
    pub deliveries_max: Option<u32>,
}

/// A member of a group. It joins again by itself when the connection is lost.
///
/// [`close`](Self::close) leaves the group in order. Dropping it leaves the group at once, and answers just given may be lost: then
/// the events come again.
///
/// ```no_run
/// # async fn example(client: causeway_client::Client) -> Result<(), causeway_client::ClientError> {
/// use causeway_client::Consume;
///
/// let mut consumer = client.consume(Consume { group: "readers".to_owned(), ..Consume::default() }).await?;
/// for _ in 0..10 {
///     let delivery = consumer.next().await?;
///     println!("{} {}", delivery.event.event_type, delivery.event.data.as_str());
///     delivery.ack().await;
/// }
/// consumer.close().await?;
/// # Ok(()) }
/// ```
pub struct Consumer {
    client: Client,
    start: v1::ConsumeStart,
    connection: Option<Connection>,
    /// The next connection, and the wait before it. It is kept here for whoever drops a pending `next` and calls it again.
    joining: Option<BoxFuture<'static, Result<Connection, ClientError>>>,
    waits: ExponentialBackoff,
    interrupted: bool,
}

struct Connection {
    say: mpsc::Sender<Word>,
    hear: Streaming<v1::ConsumeResponse>,
    /// Without a word by then, it is given up.
    silent_until: Instant,
    /// Whether it got a moment more, since nobody had listened.
    is_given_time: bool,
}

/// What is said to the gateway. `None` is the last: deliveries that nobody answered may be there still, and could go on.
type Word = Option<v1::ConsumeRequest>;

/// An event to work on. Until it is answered, it is delivered again: to whomever, after the group's wait, or when this member is
/// gone. So do what it asks for in a way that can bear to be done twice.
pub struct Delivery {
    /// The event.
    pub event: Event,
    /// How often it has been delivered, this time included.
    pub deliveries: u32,
    id: String,
    say: mpsc::Sender<Word>,
}

/// A group and how it does.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Which events it works on, how long a delivery may take, and after how many in vain an event is parked: what its first start
    /// said, and whoever joins must say as well. None for what another version of Causeway started.
    pub terms: Option<GroupTerms>,
    /// Everything up to here is acknowledged.
    pub acknowledged: Position,
    /// Events that members work on.
    pub in_flight: u64,
    /// Events that wait.
    pub pending: u64,
    /// Events that were given up.
    pub parked: u64,
}

/// What a group is.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupTerms {
    /// Types; a trailing `*` makes a prefix. Empty for all.
    pub types: Vec<String>,
    /// The category, empty for all; so the following.
    pub category: String,
    /// The aggregate.
    pub aggregate_id: String,
    /// The chain.
    pub correlation_id: String,
    /// The source.
    pub source: String,
    /// See [`Consume::ack_wait`].
    pub ack_wait: Duration,
    /// See [`Consume::deliveries_max`].
    pub deliveries_max: u32,
}

/// An event that a group, or one of Causeway's processors, gave up on.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// Its number among the parked.
    pub letter: u64,
    /// Who gave up.
    pub group: String,
    /// On what.
    pub event: Event,
    /// Why.
    pub reason: String,
    /// When.
    pub parked_at: Timestamp,
    /// How often it had been delivered.
    pub deliveries: u32,
}

impl Client {
    /// Starts a group or joins it.
    pub async fn consume(&self, consume: Consume) -> Result<Consumer, ClientError> {
        let (after, from_now) = match consume.start {
            Start::First => (String::new(), false),
            Start::Now => (String::new(), true),
            Start::After(place) => (place, false),
        };
        let start = v1::ConsumeStart {
            group: consume.group,
            filter: Some(consume.filter.into()),
            after,
            from_now,
            in_flight_max: consume.in_flight_max.unwrap_or_default(),
            ack_wait: consume.ack_wait.and_then(|wait| wait.try_into().ok()),
            deliveries_max: consume.deliveries_max.unwrap_or_default(),
        };
        // To join is to ask: the same again makes no other group.
        let connection = self.retried(|| join(self.clone(), start.clone()), ClientError::may_read_again).await?;
        let (client, waits) = (self.clone(), self.endless_waits());
        Ok(Consumer { client, start, connection: Some(connection), joining: None, waits, interrupted: false })
    }

    /// The groups that there are, by name.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, ClientError> {
        let request = v1::ListGroupsRequest {};
        let response = self.ask(request, |mut grpc, request| async move { grpc.list_groups(request).await }).await?;
        let terms = |filter: v1::Filter, group: &v1::Group| GroupTerms {
            types: filter.types,
            category: filter.category,
            aggregate_id: filter.aggregate_id,
            correlation_id: filter.correlation_id,
            source: filter.source,
            ack_wait: group.ack_wait.and_then(|wait| wait.try_into().ok()).unwrap_or_default(),
            deliveries_max: group.deliveries_max,
        };
        let group = |mut group: v1::Group| GroupInfo {
            terms: group.filter.take().map(|filter| terms(filter, &group)),
            name: group.name,
            acknowledged: Position::new(group.acknowledged_position),
            in_flight: group.in_flight,
            pending: group.pending,
            parked: group.parked,
        };
        Ok(response.groups.into_iter().map(group).collect())
    }

    /// Ends a group: its place in the log is forgotten. What it gave up stays listed.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let request = v1::DeleteGroupRequest { group: group.to_owned() };
        self.change(|| {
            let (mut grpc, request) = (self.grpc.clone(), self.request(request.clone()));
            async move { grpc.delete_group(request).await }
        })
        .await
        .map(drop)
    }

    /// Events that a group or processor gave up on, or all did; those behind the letter `after`, at most `limit` (100 where 0). The
    /// oldest first.
    pub async fn parked(&self, group: Option<&str>, after: u64, limit: u32) -> Result<Vec<Parked>, ClientError> {
        let limit = if limit == 0 { 100 } else { limit };
        let mut request = v1::ListParkedRequest { group: group.unwrap_or_default().to_owned(), after, limit };
        let mut found = Vec::new();
        // One answer has fewer where they are large.
        while found.len() < limit as usize {
            request.limit = limit - found.len() as u32;
            let page = self.ask(request.clone(), |mut grpc, request| async move { grpc.list_parked(request).await }).await?;
            found.extend(page.parked);
            match page.next {
                0 => break,
                next => request.after = next,
            }
        }
        let parked = |parked: v1::Parked| {
            let parked_at = timestamp_from(parked.parked_at.unwrap_or_default()).map_err(ClientError::Unreadable)?;
            Ok(Parked {
                letter: parked.letter,
                group: parked.group,
                event: event(parked.event)?,
                reason: parked.reason,
                parked_at,
                deliveries: parked.deliveries,
            })
        };
        found.into_iter().map(parked).collect()
    }

    /// Delivers to their group again what it gave up: these letters, or all of the group's without any. Says how many. After
    /// [`Kind::OutcomeUnknown`] some may be on their way; the same again does the rest.
    pub async fn replay_parked(&self, group: &str, letters: &[u64]) -> Result<u32, ClientError> {
        let mut request = v1::ReplayParkedRequest { group: group.to_owned(), letters: letters.to_vec(), up_to: 0 };
        let mut replayed = 0;
        loop {
            let response = self
                .change(|| {
                    let (mut grpc, request) = (self.grpc.clone(), self.request(request.clone()));
                    async move { grpc.replay_parked(request).await }
                })
                .await?;
            replayed += response.replayed;
            match response.more_up_to {
                0 => return Ok(replayed),
                up_to => request.up_to = up_to,
            }
        }
    }

    /// Takes what a group or processor gave up off the list for good: these letters, or all without any. The events stay on the log.
    /// Says how many; after [`Kind::OutcomeUnknown`] the same again does the rest.
    pub async fn discard_parked(&self, group: &str, letters: &[u64]) -> Result<u32, ClientError> {
        let request = v1::DiscardParkedRequest { group: group.to_owned(), letters: letters.to_vec(), up_to: 0 };
        let discarded = self.change(|| {
            let (mut grpc, request) = (self.grpc.clone(), self.request(request.clone()));
            async move { grpc.discard_parked(request).await }
        });
        Ok(discarded.await?.discarded)
    }

    /// Makes a call that changes something; again only while nothing was changed.
    async fn change<A, F>(&self, call: impl Fn() -> F) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.retried(|| self.answer(call(), Effect::Write), ClientError::changed_nothing).await
    }
}

impl Consumer {
    /// The next event to work on, through as many connections as it takes. An error is one that another attempt would meet again.
    ///
    /// It may be dropped while it waits, as by a timeout or in a `select!`, and called again: nothing is lost by that.
    pub async fn next(&mut self) -> Result<Delivery, ClientError> {
        loop {
            match self.advance().await {
                Ok(Some(delivery)) => return Ok(delivery),
                Ok(None) => {}
                Err(error) if error.is_interruption() => {
                    if !std::mem::replace(&mut self.interrupted, true) {
                        warn!(%error, "a group's member was interrupted, joining again");
                    }
                    self.connection = None;
                    let wait = self.client.wait(&mut self.waits, &error).unwrap_or(self.client.options.retry_wait_max);
                    let (wait, join) = (sleep(wait), join(self.client.clone(), self.start.clone()));
                    self.joining = Some(wait.then(|()| join).boxed());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves the group: says that nothing follows, and waits until the gateway has taken every answer that was given before. What was
    /// not answered goes back to the group, which does not count it as delivered.
    ///
    /// After an error, or where the connection was lost before, nobody knows whether the last answers were taken; if not, their
    /// events come again. It waits no longer than for an answer.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let Some(Connection { say, mut hear, .. }) = self.connection.take() else { return Ok(()) };
        let client = &self.client;
        let left = async {
            // A connection that broke says so where the gateway is heard.
            let _ = say.send(None).await;
            // Deliveries that crossed this go back as well.
            while hear.message().await.map_err(|status| client.error(&status))?.is_some() {}
            Ok(())
        };
        timeout(client.options.request_timeout, left).await.unwrap_or_else(|_| Err(client.too_late(Kind::TimedOut)))
    }

    /// A step towards the next delivery. It is cancel-safe: what is begun is kept in `self` across each wait.
    async fn advance(&mut self) -> Result<Option<Delivery>, ClientError> {
        let Some(connection) = &mut self.connection else {
            let joining = self.joining.get_or_insert_with(|| join(self.client.clone(), self.start.clone()).boxed());
            let joined = joining.await;
            self.joining = None;
            self.connection = Some(joined?);
            return Ok(None);
        };
        match connection.receive(&self.client).await? {
            Some(Hear::Started(_)) => {
                if std::mem::take(&mut self.interrupted) {
                    info!(group = self.start.group, "joined the group again");
                }
                self.waits = self.client.endless_waits();
                Ok(None)
            }
            Some(Hear::Delivery(delivery)) => Ok(Some(Delivery {
                event: event(delivery.event)?,
                deliveries: delivery.deliveries,
                id: delivery.delivery_id,
                say: connection.say.clone(),
            })),
            // A later version of the gateway may tell more.
            Some(Hear::Heartbeat(_)) | None => Ok(None),
        }
    }
}

async fn join(client: Client, start: v1::ConsumeStart) -> Result<Connection, ClientError> {
    let (say, said) = mpsc::channel(ANSWERS_MAX);
    let start = v1::ConsumeRequest { message: Some(Say::Start(start)) };
    let said = stream::unfold((Some(start), said), |(start, mut said)| async move {
        let next = match start {
            Some(start) => Some(start),
            None => said.recv().await.flatten(),
        };
        next.map(|next| (next, (None, said)))
    });
    let hear = client.answer(client.grpc.clone().consume(client.request(said)), Effect::Read).await?;
    Ok(Connection { say, hear, silent_until: Instant::now() + SILENCE_MAX, is_given_time: false })
}

impl Connection {
    /// What the gateway says next. `None` is what this version does not know.
    async fn receive(&mut self, client: &Client) -> Result<Option<Hear>, ClientError> {
        // Whoever did not listen by then has not heard what came meanwhile, and needs a moment to.
        if self.silent_until < Instant::now() && !std::mem::replace(&mut self.is_given_time, true) {
            self.silent_until = Instant::now() + LISTEN_MIN;
        }
        let message = timeout_at(self.silent_until, self.hear.message()).await;
        let message = message.map_err(|_| client.too_late(Kind::TimedOut))?.map_err(|status| client.error(&status))?;
        (self.silent_until, self.is_given_time) = (Instant::now() + SILENCE_MAX, false);
        // A gateway that shuts down ends its streams.
        Ok(message.ok_or_else(|| client.too_late(Kind::Unavailable))?.message)
    }
}

impl Delivery {
    /// Done: it is not delivered again. If the connection is gone by then, it is: answers are not confirmed.
    pub async fn ack(self) {
        let answer = Say::Ack(v1::ConsumeAck { delivery_id: self.id.clone() });
        self.answer(answer).await;
    }

    /// Not now: deliver it again after this long, or after a while that grows with the deliveries. Later events of its aggregate
    /// wait for it. Of the reason the first 2000 characters are told.
    pub async fn nak(self, delay: Option<Duration>, reason: &str) {
        let delay = delay.and_then(|delay| delay.try_into().ok());
        let answer = Say::Nak(v1::ConsumeNak { delivery_id: self.id.clone(), delay, reason: shortened(reason) });
        self.answer(answer).await;
    }

    /// Still at work: the time for an answer starts anew.
    pub async fn progress(&self) {
        self.answer(Say::Progress(v1::ConsumeProgress { delivery_id: self.id.clone() })).await;
    }

    /// Give it up: it is parked with the reason.
    pub async fn park(self, reason: &str) {
        let answer = Say::Park(v1::ConsumePark { delivery_id: self.id.clone(), reason: shortened(reason) });
        self.answer(answer).await;
    }

    async fn answer(&self, message: Say) {
        if self.say.send(Some(v1::ConsumeRequest { message: Some(message) })).await.is_err() {
            tracing::debug!(id = self.id, "the connection of a delivery is gone; it is delivered again");
        }
    }
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}
