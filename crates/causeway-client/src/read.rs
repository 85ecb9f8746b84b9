//! Reads: what stands in the log.

use causeway_event::{AggregateId, Category, CorrelationId, Event, EventId, Position, Source};
use causeway_proto::{Kind, timestamp, timestamp_from, v1};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tonic::Streaming;
use tracing::debug;

use crate::client::event;
use crate::{Client, ClientError};

/// Which events; everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these; a trailing `*` makes a prefix.
    pub types: Vec<String>,
    /// Of this category.
    pub category: Option<Category>,
    /// Of this aggregate.
    pub aggregate_id: Option<AggregateId>,
    /// Of this chain.
    pub correlation_id: Option<CorrelationId>,
    /// Appended by this source.
    pub source: Option<Source>,
    /// Caused directly by this event.
    pub caused_by: Option<EventId>,
    /// Caused by this event, directly or over others.
    pub descendants_of: Option<EventId>,
    /// Stored at or after this time.
    pub from: Option<Timestamp>,
    /// Stored before this time.
    pub until: Option<Timestamp>,
}

/// The direction of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// From the oldest.
    #[default]
    Forwards,
    /// From the newest.
    Backwards,
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Which events.
    pub filter: Filter,
    /// Only behind this position, event id or RFC 3339 time.
    pub after: Option<String>,
    /// Only before this position, event id or RFC 3339 time.
    pub before: Option<String>,
    /// Only at this position, event id or RFC 3339 time, or behind it.
    pub from: Option<String>,
    /// Only before this one, as with `before`; both may be given.
    pub until: Option<String>,
    /// The direction.
    pub order: Order,
    /// At most so many; all where absent.
    pub limit: Option<u64>,
    /// Give each event's data in the version in which it was appended, not in the newest one of its type.
    pub raw: bool,
}

/// What to count.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Which events.
    pub filter: Filter,
    /// Only behind this position, event id or RFC 3339 time.
    pub after: Option<String>,
    /// Only before this position, event id or RFC 3339 time.
    pub before: Option<String>,
    /// Only at this position, event id or RFC 3339 time, or behind it.
    pub from: Option<String>,
    /// Only before this one, as with `before`; both may be given.
    pub until: Option<String>,
}

/// How many events there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// So many, exactly.
    pub count: u64,
    /// Where the log ended when they were counted.
    pub last_position: Position,
}

/// An aggregate that has events.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Its id.
    pub aggregate_id: AggregateId,
    /// Its first event.
    pub first_position: Position,
    /// Its last event.
    pub last_position: Position,
    /// When its last event was stored.
    pub last_timestamp: Timestamp,
}

impl Client {
    /// Reads events that stand in the log now, as a stream with backpressure. It ends with the last of them or an error.
    ///
    /// A connection that breaks on the way is made again, and the read goes on where it was.
    pub async fn read(
        &self,
        read: Read,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + Send + Unpin + use<>, ClientError> {
        let left = read.limit.filter(|limit| *limit > 0);
        let request = v1::ReadRequest::from(read);
        let stream = self.open_read(&request).await?;
        let reader = Reader { client: self.clone(), request, stream, left };
        Ok(futures::stream::try_unfold(reader, Reader::next).boxed())
    }

    /// One event, by id or position; `None` if there is none.
    pub async fn get(&self, id: &str) -> Result<Option<Event>, ClientError> {
        let request = v1::GetRequest { id: id.to_owned(), raw: false };
        match self.ask(request, |mut grpc, request| async move { grpc.get(request).await }).await {
            Ok(response) => event(response.event).map(Some),
            Err(error) if error.kind() == Some(Kind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many events there are, exactly.
    pub async fn count(&self, count: Count) -> Result<Counted, ClientError> {
        let request = v1::CountRequest {
            filter: Some(count.filter.into()),
            after: count.after.unwrap_or_default(),
            before: count.before.unwrap_or_default(),
            from: count.from.unwrap_or_default(),
            until: count.until.unwrap_or_default(),
        };
        let counted = self.ask(request, |mut grpc, request| async move { grpc.count(request).await }).await?;
        Ok(Counted { count: counted.count, last_position: Position::new(counted.last_position) })
    }

    /// The aggregates whose ids start so, in the order of their ids; all with an empty prefix. Fetched page by page as they are
    /// taken.
    pub fn aggregates(&self, prefix: &str) -> impl Stream<Item = Result<Aggregate, ClientError>> + Send + Unpin + use<> {
        let first = v1::ListAggregatesRequest { prefix: prefix.to_owned(), after: String::new(), limit: 0 };
        let client = self.clone();
        let pages = futures::stream::try_unfold(Some(first), move |request| {
            let client = client.clone();
            async move {
                let Some(request) = request else { return Ok(None) };
                let call = client.ask(request.clone(), |mut grpc, request| async move { grpc.list_aggregates(request).await });
                let page = call.await?;
                let next = (!page.next.is_empty()).then_some(v1::ListAggregatesRequest { after: page.next, ..request });
                let aggregates = page.aggregates.into_iter().map(aggregate);
                Ok::<_, ClientError>(Some((futures::stream::iter(aggregates), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn open_read(&self, request: &v1::ReadRequest) -> Result<Streaming<v1::ReadResponse>, ClientError> {
        self.ask(request.clone(), |mut grpc, request| async move { grpc.read(request).await }).await
    }
}

/// A read under way.
struct Reader {
    client: Client,
    /// What is still to be read.
    request: v1::ReadRequest,
    stream: Streaming<v1::ReadResponse>,
    /// How many events may still come, if that is limited.
    left: Option<u64>,
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Event, Self)>, ClientError> {
        let mut waits = self.client.waits();
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            match self.receive().await {
                Ok(Some(event)) => {
                    self.passed(event.position);
                    return Ok(Some((event, self)));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let wait = self.client.wait(&mut waits, &error).filter(|_| error.may_read_again());
                    let Some(wait) = wait else { return Err(error) };
                    debug!(%error, ?wait, "reading on over another connection");
                    tokio::time::sleep(wait).await;
                    self.stream = self.client.open_read(&self.request).await?;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Event>, ClientError> {
        let client = &self.client;
        let next = tokio::time::timeout(client.options.request_timeout, self.stream.message()).await;
        let next = next.map_err(|_| client.too_late(Kind::TimedOut))?.map_err(|status| client.error(&status))?;
        next.map(|response| event(response.event)).transpose()
    }

    /// What is read again begins behind this event.
    fn passed(&mut self, position: Position) {
        match self.request.order() {
            v1::Order::Backwards => self.request.before = position.to_string(),
            v1::Order::Forwards | v1::Order::Unspecified => self.request.after = position.to_string(),
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
            self.request.limit = *left;
        }
    }
}

fn aggregate(wire: v1::Aggregate) -> Result<Aggregate, ClientError> {
    let last_timestamp = timestamp_from(wire.last_timestamp.unwrap_or_default());
    Ok(Aggregate {
        aggregate_id: wire.aggregate_id.parse().map_err(ClientError::Unreadable)?,
        first_position: Position::new(wire.first_position),
        last_position: Position::new(wire.last_position),
        last_timestamp: last_timestamp.map_err(|invalid| ClientError::Unreadable(invalid.within("/last_timestamp")))?,
    })
}

impl From<Read> for v1::ReadRequest {
    fn from(read: Read) -> Self {
        Self {
            filter: Some(read.filter.into()),
            after: read.after.unwrap_or_default(),
            before: read.before.unwrap_or_default(),
            order: match read.order {
                Order::Forwards => v1::Order::Forwards.into(),
                Order::Backwards => v1::Order::Backwards.into(),
            },
            limit: read.limit.unwrap_or_default(),
            raw: read.raw,
            from: read.from.unwrap_or_default(),
            until: read.until.unwrap_or_default(),
        }
    }
}

impl From<Filter> for v1::Filter {
    fn from(filter: Filter) -> Self {
        Self {
            types: filter.types,
            category: filter.category.map(|category| category.to_string()).unwrap_or_default(),
            aggregate_id: filter.aggregate_id.map(String::from).unwrap_or_default(),
            correlation_id: filter.correlation_id.map(String::from).unwrap_or_default(),
            from_time: filter.from.map(timestamp),
            until_time: filter.until.map(timestamp),
            source: filter.source.map(String::from).unwrap_or_default(),
            caused_by: filter.caused_by.map(String::from).unwrap_or_default(),
            descendants_of: filter.descendants_of.map(String::from).unwrap_or_default(),
        }
    }
}
