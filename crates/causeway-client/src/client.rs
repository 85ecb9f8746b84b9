//! The connection, and how a call is made: with a limit of time, in the caller's trace, and again where that can do no harm.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use causeway_event::Event;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::{Kind, Problem, v1};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::ClientError;

/// The largest answer that is taken: a view of a long conversation.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What may lie unread of one stream; a gateway sends no more ahead.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The window of the whole connection: the largest that HTTP/2 has. It is shared by all calls, and what lies unread of one takes away
/// from the others: with a smaller one a few subscriptions that nobody polls would hold up every other call.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Without a word for so long, the connection of a stream is given up and made anew. A gateway's heartbeats come twice as often
/// at the least: its configuration is held to that.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How a client behaves. The defaults suit a service on the same network.
#[derive(Clone, Debug)]
pub struct Options {
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For one answer, and for each next piece of a read. A read that takes longer is not made again.
    pub request_timeout: Duration,
    /// How often a call is made again that can do no harm twice: a read, or an append with an idempotency key.
    pub retries_max: u32,
    /// The wait before the first retry; doubled for each next one, and up to as long again by chance, so that many clients do
    /// not come back at once. A gateway that says when to come back is believed.
    pub retry_wait: Duration,
    /// The longest of these waits.
    pub retry_wait_max: Duration,
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
            retry_wait_max: Duration::from_secs(5),
            traceparent: || None,
        }
    }
}

/// Whether a call leaves something behind.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    Read,
    Write,
}

/// A connection to a gateway. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) grpc: EventStoreClient<Channel>,
    server: String,
    pub(crate) options: Options,
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
        if endpoint.uri().path_and_query().is_some_and(|path| path != "/") {
            return Err(invalid("it must be a host and a port, without a path: gRPC has paths of its own"));
        }
        if server.starts_with("https://") {
            let tls = tonic::transport::ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(|error| invalid(&error.to_string()))?;
        }
        let channel = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            // A gateway that vanished without a word is noticed while a subscription waits.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .user_agent(concat!("causeway-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| invalid(&error.to_string()))?
            .connect_lazy();
        let grpc = EventStoreClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { grpc, server: server.to_owned(), options })
    }

    /// Asks something that may be asked twice: it only reads, or does the same when it is done again.
    pub(crate) async fn ask<Q, A, F>(
        &self,
        question: Q,
        call: impl Fn(EventStoreClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let call = || self.answer(call(self.grpc.clone(), self.request(question.clone())), Effect::Read);
        self.retried(call, ClientError::may_read_again).await
    }

    /// The request with the trace that it belongs to.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = (self.options.traceparent)().and_then(|text| text.parse().ok()) {
            request.metadata_mut().insert("traceparent", value);
        }
        request
    }

    /// Awaits an answer.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
        effect: Effect,
    ) -> Result<T, ClientError> {
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

    /// The next message of a stream that never ends by itself, and is not silent for long.
    pub(crate) async fn message<T>(&self, stream: &mut Streaming<T>) -> Result<T, ClientError> {
        let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
        let message = message.map_err(|_| self.too_late(Kind::TimedOut))?.map_err(|status| self.error(&status))?;
        // A gateway that shuts down ends its streams.
        message.ok_or_else(|| self.too_late(Kind::Unavailable))
    }

    pub(crate) fn too_late(&self, kind: Kind) -> ClientError {
        let detail = match kind {
            Kind::Unavailable => format!("{} closed the connection", self.server),
            _ => format!("{} did not answer in time", self.server),
        };
        Problem::new(kind, detail).into()
    }

    /// The waits between the attempts of one call.
    pub(crate) fn waits(&self) -> ExponentialBackoff {
        self.backoff().with_max_times(usize::try_from(self.options.retries_max).unwrap_or(usize::MAX)).build()
    }

    /// The waits between attempts that go on until they succeed.
    pub(crate) fn endless_waits(&self) -> ExponentialBackoff {
        self.backoff().without_max_times().build()
    }

    fn backoff(&self) -> ExponentialBuilder {
        let Options { retry_wait, retry_wait_max, .. } = self.options;
        ExponentialBuilder::new().with_min_delay(retry_wait).with_max_delay(retry_wait_max).with_jitter()
    }

    /// How long to wait before the next attempt, if there is one: what the gateway asked for, if that is longer. A caller is not
    /// kept waiting for longer than for an answer.
    pub(crate) fn wait(&self, waits: &mut ExponentialBackoff, error: &ClientError) -> Option<Duration> {
        let asked = match error {
            ClientError::Problem(problem) => problem.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let wait = waits.next()?.max(asked);
        (asked <= self.options.request_timeout).then_some(wait)
    }

    /// Makes a call again while `again` says that it is safe and may help.
    pub(crate) async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        call: impl Fn() -> F,
        again: impl Fn(&ClientError) -> bool,
    ) -> Result<T, ClientError> {
        let mut waits = self.waits();
        loop {
            let error = match call().await {
                Err(error) if again(&error) => error,
                outcome => return outcome,
            };
            let Some(wait) = self.wait(&mut waits, &error) else { return Err(error) };
            debug!(%error, ?wait, "calling the gateway again");
            tokio::time::sleep(wait).await;
        }
    }
}

pub(crate) fn event(event: Option<v1::Event>) -> Result<Event, ClientError> {
    event.unwrap_or_default().try_into().map_err(ClientError::Unreadable)
}
