//! The calls, one method each.

use std::future::Future;
use std::time::Duration;

use causeway_event::{AggregateId, Category, CorrelationId, Event, Position};
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::{Appended, Draft, Expected, Kind, Problem, timestamp, v1};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tracing::debug;

use crate::{ClientError, Subscribe, Subscription};

/// The largest answer that is taken: a view of a long conversation.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How a client behaves. The defaults suit a service on the same network.
#[derive(Clone, Debug)]
pub struct Options {
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For one answer, and for each next piece of a read.
    pub request_timeout: Duration,
    /// How often a call is made again that can do no harm twice: a read, or an append with an idempotency key.
    pub retries_max: u32,
    /// The wait before the first retry; doubled for each next one.
    pub retry_wait: Duration,
    /// Says in which span a call is made (`traceparent`), so that chains join the caller's trace.
    pub traceparent: fn() -> Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retries_max: 3,
            retry_wait: Duration::from_millis(100),
            traceparent: || None,
        }
    }
}

/// Whether a call leaves something behind.
#[derive(Clone, Copy)]
enum Effect {
    Read,
    Write,
}

/// A connection to a gateway. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: EventStoreClient<Channel>,
    server: String,
    pub(crate) options: Options,
}

/// Events to append, all or none.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// 1 to 1000.
    pub events: Vec<Draft>,
    /// Fences; none accepts any state of the log.
    pub expected: Vec<Expected>,
    /// Makes it happen at most once, however often it is sent. With a key, an append is retried here.
    pub idempotency_key: Option<String>,
}

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
    /// Only behind this position or event id.
    pub after: Option<String>,
    /// Only before this position or event id.
    pub before: Option<String>,
    /// The direction.
    pub order: Order,
    /// At most so many; all where absent.
    pub limit: Option<u64>,
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Project {
    /// The view's name: `conversation`.
    pub view: String,
    /// Its id; for a conversation, the aggregate.
    pub id: String,
    /// The moment: a position, an event id or an RFC 3339 time. Now where absent.
    pub as_of: Option<String>,
    /// Wait until this position is folded: read your own writes.
    pub min_position: Option<Position>,
}

/// A view of one id.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// The view's name.
    pub view: String,
    /// Its id.
    pub id: String,
    /// The last event of the log that it takes account of.
    pub position: Position,
    /// The state, as JSON.
    pub state: Vec<u8>,
}

impl Client {
    /// A client of the gateway at `server` (`http://host:port`). Connects with the first call, and again after an outage.
    /// Must be called inside a runtime.
    pub fn connect(server: &str) -> Result<Self, ClientError> {
        Self::connect_with(server, Options::default())
    }

    /// [`Client::connect`] with other options.
    pub fn connect_with(server: &str, options: Options) -> Result<Self, ClientError> {
        let invalid = |reason: &str| ClientError::Address { server: server.to_owned(), reason: reason.to_owned() };
        if !server.starts_with("http://") && !server.starts_with("https://") {
            return Err(invalid("it must start with http:// or https://"));
        }
        let mut endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| invalid(&error.to_string()))?;
        if server.starts_with("https://") {
            let tls = tonic::transport::ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(|error| invalid(&error.to_string()))?;
        }
        let channel = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // A gateway that vanished without a word is noticed while a subscription waits.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .user_agent(concat!("causeway-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| invalid(&error.to_string()))?
            .connect_lazy();
        let grpc = EventStoreClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { grpc, server: server.to_owned(), options })
    }

    /// Appends events, all or none. The answer comes after they are on the log.
    ///
    /// [`Kind::OutcomeUnknown`] says that nobody knows whether they are: the same append with the same key settles it. With
    /// a key that is done here, as often as the options say.
    pub async fn append(&self, append: Append) -> Result<Appended, ClientError> {
        let keyed = append.idempotency_key.is_some();
        let request = v1::AppendRequest {
            events: append.events.into_iter().map(Into::into).collect(),
            expected: append.expected.into_iter().map(Into::into).collect(),
            idempotency_key: append.idempotency_key.unwrap_or_default(),
        };
        let call = || async {
            let mut grpc = self.grpc.clone();
            let answer = grpc.append(self.request(request.clone()));
            let answer = self.answer(answer, Effect::Write).await?;
            Appended::try_from(answer).map_err(ClientError::Unreadable)
        };
        let again = |error: &ClientError| match error.kind() {
            Some(Kind::OutcomeUnknown) => keyed,
            // These say that nothing was written.
            Some(Kind::Unavailable | Kind::Overloaded) => true,
            _ => matches!(error, ClientError::Unreachable { .. }),
        };
        self.retried(call, again).await
    }

    /// Reads events that stand in the log now, as a stream with backpressure. It ends with the last of them or an error.
    pub async fn read(
        &self,
        read: Read,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + Send + Unpin + use<>, ClientError> {
        let request = v1::ReadRequest {
            filter: Some(read.filter.into()),
            after: read.after.unwrap_or_default(),
            before: read.before.unwrap_or_default(),
            order: match read.order {
                Order::Forwards => v1::Order::Forwards.into(),
                Order::Backwards => v1::Order::Backwards.into(),
            },
            limit: read.limit.unwrap_or_default(),
        };
        let call = || async { self.answer(self.grpc.clone().read(self.request(request.clone())), Effect::Read).await };
        let stream = self.retried(call, ClientError::is_transient).await?;
        let (client, timeout) = (self.clone(), self.options.request_timeout);
        let events = futures::stream::try_unfold(stream, move |mut stream| {
            let client = client.clone();
            async move {
                let next = tokio::time::timeout(timeout, stream.message()).await;
                let next = next.map_err(|_| client.too_late(Kind::TimedOut))?.map_err(|status| client.error(&status))?;
                next.map(|response| Ok((event(response.event)?, stream))).transpose()
            }
        });
        Ok(events.boxed())
    }

    /// One event, by id or position; `None` if there is none.
    pub async fn get(&self, id: &str) -> Result<Option<Event>, ClientError> {
        let request = v1::GetRequest { id: id.to_owned() };
        let call = || async { self.answer(self.grpc.clone().get(self.request(request.clone())), Effect::Read).await };
        match self.retried(call, ClientError::is_transient).await {
            Ok(response) => event(response.event).map(Some),
            Err(error) if error.kind() == Some(Kind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A view of one id, now or as of a moment.
    pub async fn project(&self, project: Project) -> Result<Projection, ClientError> {
        let request = v1::ProjectRequest {
            view: project.view,
            id: project.id,
            as_of: project.as_of.unwrap_or_default(),
            min_position: project.min_position.map(Position::get).unwrap_or_default(),
        };
        let call = || async { self.answer(self.grpc.clone().project(self.request(request.clone())), Effect::Read).await };
        let response = self.retried(call, ClientError::is_transient).await?;
        let v1::ProjectResponse { view, id, position, state } = response;
        Ok(Projection { view, id, position: Position::new(position), state })
    }

    /// Follows the log: what stands in it, then what is appended. Fails if the gateway cannot be reached; later outages are
    /// bridged (see [`Subscription`]).
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscription, ClientError> {
        Subscription::open(self.clone(), subscribe).await
    }

    pub(crate) async fn open_subscription(
        &self,
        request: v1::SubscribeRequest,
    ) -> Result<tonic::Streaming<v1::SubscribeResponse>, ClientError> {
        self.answer(self.grpc.clone().subscribe(self.request(request)), Effect::Read).await
    }

    /// The request with the trace that it belongs to.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = (self.options.traceparent)().and_then(|text| text.parse().ok()) {
            request.metadata_mut().insert("traceparent", value);
        }
        request
    }

    /// Awaits an answer.
    async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>, effect: Effect) -> Result<T, ClientError> {
        // What it means that no answer came in time, and that the connection broke before it came.
        let (late, broken) = match effect {
            Effect::Read => (Kind::TimedOut, Kind::Unavailable),
            Effect::Write => (Kind::OutcomeUnknown, Kind::OutcomeUnknown),
        };
        match tokio::time::timeout(self.options.request_timeout, call).await {
            Ok(answer) => {
                answer.map(Response::into_inner).map_err(|status| ClientError::from_status(&self.server, &status, broken))
            }
            Err(_elapsed) => Err(self.too_late(late)),
        }
    }

    /// The end of a stream, which only reads.
    pub(crate) fn error(&self, status: &Status) -> ClientError {
        ClientError::from_status(&self.server, status, Kind::Unavailable)
    }

    pub(crate) fn too_late(&self, kind: Kind) -> ClientError {
        let detail = match kind {
            Kind::Unavailable => format!("{} closed the connection", self.server),
            _ => format!("{} did not answer in time", self.server),
        };
        Problem::new(kind, detail).into()
    }

    /// Makes a call again while `again` says that it is safe and may help.
    async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        call: impl Fn() -> F,
        again: impl Fn(&ClientError) -> bool,
    ) -> Result<T, ClientError> {
        let mut attempt = 0;
        loop {
            match call().await {
                Err(error) if attempt < self.options.retries_max && again(&error) => {
                    let wait = self.options.retry_wait * 2_u32.pow(attempt.min(10));
                    let wait = match &error {
                        ClientError::Problem(Problem { retry_after: Some(asked), .. }) => wait.max(*asked),
                        _ => wait,
                    };
                    debug!(attempt, %error, ?wait, "calling the gateway again");
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
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
        }
    }
}

pub(crate) fn event(event: Option<v1::Event>) -> Result<Event, ClientError> {
    event.unwrap_or_default().try_into().map_err(ClientError::Unreadable)
}
