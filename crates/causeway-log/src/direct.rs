//! Direct gets: pages and tails, answered by any replica without state on the server.
//!
//! A replica may lag: whoever needs to have read up to a position says so and reads again until it has.

use std::time::Duration;

use async_nats::Message;
use async_nats::connection::State;
use bytes::Bytes;
use causeway_event::{AggregateId, Category, IdempotencyKey, Position};
use futures::StreamExt as _;
use serde_json::json;

use crate::message::{self, Place, Record};
use crate::names::Names;
use crate::{Log, LogError};

/// Messages, and bytes, of one page of a tail: what is held in memory at a time, and what the server has to get rid of at once over a
/// connection that others read from as well.
const PAGE_MESSAGES_MAX: usize = 512;
const PAGE_BYTES_MAX: usize = 2 << 20;
/// Pause before a lagging replica is asked again.
const LAG_PAUSE: Duration = Duration::from_millis(20);

impl Log {
    /// The first event of the aggregate behind `after` that was appended under this key. It reads all that the aggregate has there: meant
    /// for one who has no index of it.
    pub async fn keyed(
        &self,
        aggregate: &AggregateId,
        after: Position,
        key: &IdempotencyKey,
    ) -> Result<Option<Position>, LogError> {
        // A replica may not have what the leader just called a duplicate.
        let last = self.last_on(&self.inner.names.aggregate(aggregate)).await?;
        if last <= after {
            return Ok(None);
        }
        let mut first = None;
        self.tail(aggregate, after, last, |_, record| match record {
            Record::Event(stored) if stored.key.as_ref() == Some(key) => _ = first.get_or_insert(stored.event.position),
            Record::Event(_) | Record::Unreadable { .. } => {}
        })
        .await?;
        Ok(first)
    }

    /// Hands every record of the aggregate behind `after` to `each`, in order and with the category of its subject, until the
    /// replica's end has been reached and at least `at_least` has been seen or passed. Returns the last position seen.
    pub(crate) async fn tail(
        &self,
        aggregate: &AggregateId,
        after: Position,
        at_least: Position,
        mut each: impl FnMut(Option<Category>, &Record),
    ) -> Result<Position, LogError> {
        let limit = self.inner.config.request_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        // After silence an error: one at a time would go on for ever. A break comes at once.
        let mut patience = deadline;
        let mut seen = after;
        loop {
            let before = seen;
            let more = match self.page(aggregate, &mut seen, &mut each).await {
                // What comes next may be what broke it.
                Err(error) if error.is_transient() && tokio::time::Instant::now() < patience => {
                    self.one(aggregate, &mut seen, &mut each).await?
                }
                Ok(true) if seen == before => self.one(aggregate, &mut seen, &mut each).await?,
                page => page?,
            };
            patience = tokio::time::Instant::now() + limit;
            match more {
                true => {}
                false if seen >= at_least => return Ok(seen),
                false if tokio::time::Instant::now() > deadline => {
                    return Err(LogError::unavailable(format!("no replica has position {at_least} yet")));
                }
                false => tokio::time::sleep(LAG_PAUSE).await,
            }
        }
    }

    /// Reads one page; says whether there is more.
    async fn page(
        &self,
        aggregate: &AggregateId,
        seen: &mut Position,
        each: &mut impl FnMut(Option<Category>, &Record),
    ) -> Result<bool, LogError> {
        let request = json!({
            "seq": seen.next().get(), "next_by_subj": self.inner.names.aggregate(aggregate), "batch": PAGE_MESSAGES_MAX,
            "max_bytes": PAGE_BYTES_MAX,
        });
        self.batch(&request, |message| {
            let record = self.record_of(message)?;
            each(header(message, "Nats-Subject").and_then(Names::category_of), &record);
            *seen = record.position();
            Ok(())
        })
        .await
    }

    /// Reads one record by itself; says whether there was one.
    async fn one(
        &self,
        aggregate: &AggregateId,
        seen: &mut Position,
        each: &mut impl FnMut(Option<Category>, &Record),
    ) -> Result<bool, LogError> {
        let Some(raw) = self.raw_behind(*seen, &self.inner.names.aggregate(aggregate)).await? else { return Ok(false) };
        each(Names::category_of(&raw.subject), &raw.record(&self.inner.names));
        *seen = raw.position;
        Ok(true)
    }

    /// Hands every message that one batched direct get answers with to `each`; says whether there is more.
    pub(crate) async fn batch(
        &self,
        request: &serde_json::Value,
        mut each: impl FnMut(&Message) -> Result<(), LogError>,
    ) -> Result<bool, LogError> {
        self.require_connection()?;
        let client = self.inner.reading.client();
        if client.connection_state() != State::Connected {
            return Err(LogError::unavailable("not connected to NATS for reading"));
        }
        let inbox = client.new_inbox();
        let mut connections = self.inner.reading.connections.clone();
        connections.mark_unchanged();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(LogError::unavailable)?;
        client
            .publish_with_reply(self.direct_subject(), inbox, Bytes::from(request.to_string()))
            .await
            .map_err(LogError::unavailable)?;
        // Each message names its predecessor in the page: what a reconnect swallowed would otherwise be a hole in a fold.
        let mut previous = 0;
        loop {
            let next = tokio::select! {
                biased;
                next = tokio::time::timeout(self.inner.config.request_timeout, answers.next()) => next,
                _ = connections.changed() => return Err(LogError::unavailable("the connection was replaced during a direct get")),
            };
            let Ok(Some(message)) = next else { return Err(LogError::unavailable("a direct get was not answered")) };
            // A message that was published with a status (older servers keep it) has its place all the same; the server's own
            // words have none.
            let status = message.status.filter(|_| header(&message, "Nats-Sequence").is_none());
            match status.map(|status| status.as_u16()) {
                None => {
                    if header(&message, "Nats-Last-Sequence").and_then(|last| last.parse().ok()) != Some(previous) {
                        return Err(LogError::unavailable("a message of a direct get was lost on the way"));
                    }
                    previous = sequence(&message)?;
                    each(&message)?;
                }
                // End of batch.
                Some(204) => return Ok(header(&message, "Nats-Num-Pending").is_some_and(|pending| pending != "0")),
                Some(404) => return Ok(false),
                Some(status) => return Err(refused(status, &message)),
            }
        }
    }

    fn direct_subject(&self) -> String {
        format!("$JS.API.DIRECT.GET.{}", self.inner.names.events_stream())
    }

    fn record_of(&self, message: &Message) -> Result<Record, LogError> {
        let place = place(message)?;
        Ok(message::record(&self.inner.names, &place, message.headers.as_ref(), &message.payload))
    }
}

/// Where the message of a direct get stands.
pub(crate) fn place(message: &Message) -> Result<Place<'_>, LogError> {
    let time: jiff::Timestamp = header(message, "Nats-Time-Stamp")
        .and_then(|time| time.parse().ok())
        .ok_or_else(|| LogError::unavailable("a direct get answered without a time"))?;
    let subject = header(message, "Nats-Subject").unwrap_or_default();
    Ok(Place { subject, sequence: sequence(message)?, time_ns: time.as_nanosecond() })
}

/// The last of this name: the server's own stand behind those that the message was published with.
fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.headers.as_ref().and_then(|headers| headers.get_last(name)).map(async_nats::HeaderValue::as_str)
}

fn sequence(message: &Message) -> Result<u64, LogError> {
    header(message, "Nats-Sequence")
        .and_then(|sequence| sequence.parse().ok())
        .ok_or_else(|| LogError::unavailable("a direct get answered without a sequence"))
}

fn refused(status: u16, message: &Message) -> LogError {
    match status {
        // Nobody is there to answer: a cluster without a leader, for one.
        503 => LogError::unavailable("no replica answers a direct get"),
        _ => LogError::Refused { code: status.into(), reason: message.description.clone().unwrap_or_default() },
    }
}
