//! A gateway of which only the wire is real: it answers as the test wrote down, and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_client::{Client, Kind, Options, Problem};
use causeway_event::Labels;
use causeway_proto::v1;
use causeway_proto::v1::append_stream_response::Result as Settled;
use causeway_proto::v1::consume_request::Message as Say;
use causeway_proto::v1::consume_response::Message as Hear;
use causeway_proto::v1::event_store_server::{EventStore, EventStoreServer};
use causeway_proto::v1::subscribe_response::Update as Wire;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryFutureExt as _};
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Plays a gateway: pops one prepared answer a call and keeps what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Gateway(pub(crate) Arc<Mutex<Script>>);

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) appends: Vec<Result<v1::AppendResponse, Status>>,
    /// One for each stream of appends: what each of its requests gets.
    pub(crate) streams: Vec<Vec<Step>>,
    /// One for each read: its events, and how it ends. Without any, a read gives as many events as it asks for.
    pub(crate) reads: Vec<(Vec<u64>, Option<Status>)>,
    pub(crate) subscriptions: Vec<Vec<Result<Wire, Status>>>,
    /// One for each watch: what it tells before its connection ends.
    pub(crate) watches: Vec<Vec<Result<v1::WatchResponse, Status>>>,
    pub(crate) diffs: Vec<Result<v1::DiffResponse, Status>>,
    pub(crate) traces: Vec<Result<v1::TraceResponse, Status>>,
    pub(crate) views: Vec<Result<v1::ListViewsResponse, Status>>,
    pub(crate) types: Vec<Result<v1::ListTypesResponse, Status>>,
    pub(crate) registrations: Vec<Result<v1::RegisterTypeResponse, Status>>,
    /// One for each member that joins: its deliveries, and how they end. Without that there is silence until the member leaves.
    pub(crate) joins: Vec<(Vec<u64>, Option<Status>)>,
    /// How long a member waits until it is let in, and until it is let go.
    pub(crate) member_wait: Duration,
    /// What the next calls are refused with: to count, to get, to read, to subscribe, to watch and to join.
    pub(crate) refusals: Vec<Status>,
    asked: Vec<String>,
}

/// What a request of a stream of appends gets.
pub(crate) enum Step {
    Appended(u64),
    Problem(Problem),
    /// No answer, and the end of the stream.
    Broken,
}

impl Gateway {
    /// Starts it; gives a client of it.
    pub(crate) async fn start(&self) -> Client {
        self.start_with(options()).await
    }

    /// The same with other options.
    pub(crate) async fn start_with(&self, options: Options) -> Client {
        client_of(self.listen().await, options)
    }

    /// The same, but the first connections, so many, are cut as soon as a call has come over them.
    pub(crate) async fn start_behind_cuts(&self, cuts: usize) -> Client {
        let server = self.listen().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for _ in 0..cuts {
                let (mut connection, _) = listener.accept().await.unwrap();
                until_a_call(&mut connection).await;
            }
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut gateway = TcpStream::connect(server).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut connection, &mut gateway).await });
            }
        });
        client_of(address, options())
    }

    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = EventStoreServer::new(self.clone());
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        address
    }

    fn tell(&self, what: String) {
        self.0.lock().unwrap().asked.push(what);
    }

    fn refuse(&self) -> Result<(), Status> {
        let refusals = &mut self.0.lock().unwrap().refusals;
        if refusals.is_empty() { Ok(()) } else { Err(refusals.remove(0)) }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }
}

fn client_of(server: SocketAddr, options: Options) -> Client {
    Client::connect_with(&format!("http://{server}"), options).unwrap()
}

/// Reads what HTTP/2 begins with, and then frame by frame up to the headers of a call.
async fn until_a_call(connection: &mut TcpStream) {
    const HEADERS: u8 = 1;
    connection.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        connection.read_exact(&mut vec![0; length as usize]).await.unwrap();
    }
}

pub(crate) fn options() -> Options {
    Options {
        retry_wait: Duration::from_millis(1),
        traceparent: || Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ..Options::default()
    }
}

/// Calls that no test here makes, as `async_trait` would write them.
macro_rules! not_played {
    ($($name:ident($request:ty) -> $response:ty,)*) => {
        $(fn $name<'life, 'async_trait>(
            &'life self,
            _request: Request<$request>,
        ) -> BoxFuture<'async_trait, Result<Response<$response>, Status>>
        where
            'life: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl EventStore for Gateway {
    type AppendStreamStream = BoxStream<'static, Result<v1::AppendStreamResponse, Status>>;
    type ConsumeStream = BoxStream<'static, Result<v1::ConsumeResponse, Status>>;
    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    not_played! {
        list_groups(v1::ListGroupsRequest) -> v1::ListGroupsResponse,
        delete_group(v1::DeleteGroupRequest) -> v1::DeleteGroupResponse,
        list_parked(v1::ListParkedRequest) -> v1::ListParkedResponse,
        replay_parked(v1::ReplayParkedRequest) -> v1::ReplayParkedResponse,
        discard_parked(v1::DiscardParkedRequest) -> v1::DiscardParkedResponse,
    }

    type ReadStream = BoxStream<'static, Result<v1::ReadResponse, Status>>;
    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let trace = request.metadata().get("traceparent").map_or("", |value| value.to_str().unwrap()).to_owned();
        let mut script = self.0.lock().unwrap();
        let request = request.into_inner();
        script.asked.push(format!("{} {} {trace}", request.events[0].r#type, request.idempotency_key));
        script.appends.remove(0).map(Response::new)
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let mut steps = self.0.lock().unwrap().streams.remove(0).into_iter();
        self.tell("stream".to_owned());
        let gateway = self.clone();
        let answers = request.into_inner().map(move |request| {
            let v1::AppendStreamRequest { request_id, append } = request?;
            let append = append.unwrap();
            gateway.tell(format!("{} {}", append.events[0].r#type, append.idempotency_key));
            let result = match steps.next().expect("a step for each request") {
                Step::Appended(position) => Settled::Appended(appended(position)?),
                Step::Problem(problem) => Settled::Problem(problem.into()),
                Step::Broken => return Err(Status::unknown("h2 protocol error")),
            };
            Ok(v1::AppendStreamResponse { request_id, result: Some(result) })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn consume(&self, request: Request<Streaming<v1::ConsumeRequest>>) -> Result<Response<Self::ConsumeStream>, Status> {
        let mut requests = request.into_inner();
        let start = requests.message().await?.and_then(|request| request.message);
        let Some(Say::Start(v1::ConsumeStart { group, .. })) = start else { return Err(Status::internal("no start")) };
        self.tell(format!("join {group}"));
        let wait = self.0.lock().unwrap().member_wait;
        tokio::time::sleep(wait).await;
        self.refuse()?;
        let (positions, end) = self.0.lock().unwrap().joins.remove(0);
        let deliveries = positions.into_iter().map(|position| {
            let delivery_id = position.to_string();
            Hear::Delivery(v1::Delivery { delivery_id, event: Some(event(position)), deliveries: 1 })
        });
        let told = std::iter::once(Hear::Started(v1::ConsumeStarted { group })).chain(deliveries);
        let told = told.map(|message| Ok(v1::ConsumeResponse { message: Some(message) })).chain(end.map(Err));
        let gateway = self.clone();
        let left = async move {
            while let Some(request) = requests.message().await? {
                match request.message {
                    Some(Say::Ack(ack)) => gateway.tell(format!("ack {}", ack.delivery_id)),
                    other => gateway.tell(format!("{other:?}")),
                }
            }
            gateway.tell("left".to_owned());
            let wait = gateway.0.lock().unwrap().member_wait;
            tokio::time::sleep(wait).await;
            Ok(futures::stream::empty())
        };
        Ok(Response::new(futures::stream::iter(told).chain(left.try_flatten_stream()).boxed()))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let v1::ReadRequest { after, before, limit, .. } = request.into_inner();
        self.tell(format!("read after={after} before={before} limit={limit}"));
        self.refuse()?;
        let reads = &mut self.0.lock().unwrap().reads;
        let (positions, end) = if reads.is_empty() { ((1..=limit).collect(), None) } else { reads.remove(0) };
        let events = positions.into_iter().map(|position| Ok(v1::ReadResponse { event: Some(event(position)) }));
        Ok(Response::new(futures::stream::iter(events.chain(end.map(Err))).boxed()))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let v1::CountRequest { filter, after, before, from, until } = request.into_inner();
        let v1::Filter { source, caused_by, descendants_of, .. } = filter.unwrap_or_default();
        self.tell(format!("count {source} {caused_by} {descendants_of} after={after} before={before} from={from} until={until}"));
        self.refuse()?;
        Ok(Response::new(v1::CountResponse { count: 3, last_position: 9 }))
    }

    async fn list_aggregates(
        &self,
        request: Request<v1::ListAggregatesRequest>,
    ) -> Result<Response<v1::ListAggregatesResponse>, Status> {
        let v1::ListAggregatesRequest { prefix, after, .. } = request.into_inner();
        let (aggregate_id, next) = match after.as_str() {
            "" => (format!("{prefix}1"), format!("{prefix}1")),
            _ => (format!("{prefix}2"), String::new()),
        };
        let last_timestamp = Some(v1_time());
        let aggregate = v1::Aggregate { aggregate_id, first_position: 1, last_position: 2, last_timestamp };
        Ok(Response::new(v1::ListAggregatesResponse { aggregates: vec![aggregate], next }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.refuse()?;
        match request.into_inner().id.as_str() {
            "7" => Ok(Response::new(v1::GetResponse { event: Some(event(7)) })),
            id => Err(Problem::new(Kind::NotFound, format!("there is no event {id}")).into()),
        }
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        self.tell(format!("after={} now={}", request.after, request.from_now));
        self.refuse()?;
        let mut script = self.0.lock().unwrap();
        if script.subscriptions.is_empty() {
            return Ok(Response::new(futures::stream::pending().boxed()));
        }
        let updates = script.subscriptions.remove(0).into_iter();
        let updates = updates.map(|update| update.map(|update| v1::SubscribeResponse { update: Some(update) }));
        Ok(Response::new(futures::stream::iter(updates).boxed()))
    }

    async fn project(&self, request: Request<v1::ProjectRequest>) -> Result<Response<v1::ProjectResponse>, Status> {
        let v1::ProjectRequest { view, id, as_of, min_position } = request.into_inner();
        match view.as_str() {
            "conversation" => {
                let state = format!("{{\"as_of\":\"{as_of}\"}}").into_bytes();
                Ok(Response::new(v1::ProjectResponse { view, id, position: min_position, state }))
            }
            _ => Err(Problem::invalid("/view", "is not a view").into()),
        }
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffResponse>, Status> {
        let v1::DiffRequest { view, id, from, to } = request.into_inner();
        self.tell(format!("diff {view} {id} from={from} to={to}"));
        self.0.lock().unwrap().diffs.remove(0).map(Response::new)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { view, id, min_position, states } = request.into_inner();
        self.tell(format!("watch {view} {id} min={min_position} states={states}"));
        self.refuse()?;
        let told = self.0.lock().unwrap().watches.remove(0);
        Ok(Response::new(futures::stream::iter(told).boxed()))
    }

    async fn list_views(&self, _request: Request<v1::ListViewsRequest>) -> Result<Response<v1::ListViewsResponse>, Status> {
        self.tell("views".to_owned());
        self.0.lock().unwrap().views.remove(0).map(Response::new)
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceResponse>, Status> {
        let request = request.into_inner();
        let scope = request.scope().as_str_name().trim_start_matches("TRACE_SCOPE_");
        self.tell(format!("trace {} {scope} as_of={}", request.id, request.as_of));
        self.0.lock().unwrap().traces.remove(0).map(Response::new)
    }

    async fn list_types(&self, _request: Request<v1::ListTypesRequest>) -> Result<Response<v1::ListTypesResponse>, Status> {
        self.tell("types".to_owned());
        self.0.lock().unwrap().types.remove(0).map(Response::new)
    }

    async fn register_type(
        &self,
        request: Request<v1::RegisterTypeRequest>,
    ) -> Result<Response<v1::RegisterTypeResponse>, Status> {
        let v1::RegisterTypeRequest { name, schema, upcast, version, description } = request.into_inner();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        self.tell(format!("register {name} {version} {} {} {description}", text(schema), text(upcast)));
        self.0.lock().unwrap().registrations.remove(0).map(Response::new)
    }
}

pub(crate) fn event(position: u64) -> v1::Event {
    v1::Event {
        id: format!("evt_01k9x3m5v8e7rs2q4n6p8t0{position:03}"),
        position,
        timestamp: Some(v1_time()),
        r#type: "NoteTaken".to_owned(),
        aggregate_id: "me".to_owned(),
        data: b"{}".to_vec(),
        metadata: Some(v1::Metadata {
            source: "test".to_owned(),
            causation_id: None,
            correlation_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            labels: Labels::new(),
            schema_version: 0,
        }),
    }
}

fn v1_time() -> prost_types::Timestamp {
    causeway_proto::timestamp("2026-11-23T10:00:00Z".parse().unwrap())
}

pub(crate) fn appended(position: u64) -> Result<v1::AppendResponse, Status> {
    let v1::Event { id, timestamp, .. } = event(position);
    let correlation_id = "0af7651916cd43dd8448eb211c80319c".to_owned();
    Ok(v1::AppendResponse {
        events: vec![v1::Appended { id, position, timestamp, correlation_id }],
        duplicate: false,
        conflict: None,
    })
}
