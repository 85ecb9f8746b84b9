//! The client against a gateway of which only the wire is real: what it sends, what it makes of answers, and of none.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_client::{
    Append, Client, ClientError, Draft, Filter, Kind, Options, Problem, Project, Read, Start, Subscribe, Update,
};
use causeway_event::{Data, Labels, Position};
use causeway_proto::v1;
use causeway_proto::v1::event_store_server::{EventStore, EventStoreServer};
use causeway_proto::v1::subscribe_response::Update as Wire;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Plays a gateway: pops one prepared answer a call and keeps what it was asked.
#[derive(Clone, Default)]
struct Gateway(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    appends: Vec<Result<v1::AppendResponse, Status>>,
    subscriptions: Vec<Vec<Result<Wire, Status>>>,
    asked: Vec<String>,
}

impl Gateway {
    /// Starts it; gives a client of it.
    async fn start(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let service = EventStoreServer::new(self.clone());
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Client::connect_with(&server, options()).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }
}

fn options() -> Options {
    Options {
        retry_wait: Duration::from_millis(1),
        traceparent: || Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ..Options::default()
    }
}

#[tonic::async_trait]
impl EventStore for Gateway {
    type ReadStream = BoxStream<'static, Result<v1::ReadResponse, Status>>;
    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let trace = request.metadata().get("traceparent").map_or("", |value| value.to_str().unwrap()).to_owned();
        let mut script = self.0.lock().unwrap();
        let request = request.into_inner();
        script.asked.push(format!("{} {} {trace}", request.events[0].r#type, request.idempotency_key));
        script.appends.remove(0).map(Response::new)
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let positions = 1..=request.into_inner().limit;
        let events = positions.map(|position| Ok(v1::ReadResponse { event: Some(event(position)) }));
        Ok(Response::new(futures::stream::iter(events).boxed()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        match request.into_inner().id.as_str() {
            "7" => Ok(Response::new(v1::GetResponse { event: Some(event(7)) })),
            id => Err(Problem::new(Kind::NotFound, format!("there is no event {id}")).into()),
        }
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        script.asked.push(format!("after={} now={}", request.after, request.from_now));
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
}

fn event(position: u64) -> v1::Event {
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
        }),
    }
}

fn v1_time() -> prost_types::Timestamp {
    causeway_proto::timestamp("2026-11-23T10:00:00Z".parse().unwrap())
}

fn note(idempotency_key: Option<&str>) -> Append {
    let draft = Draft {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "me".parse().unwrap(),
        data: Data::from_json(b"{}").unwrap(),
        source: None,
        causation_id: None,
        correlation_id: None,
        labels: Labels::new(),
    };
    Append { events: vec![draft], idempotency_key: idempotency_key.map(str::to_owned), ..Append::default() }
}

fn appended(position: u64) -> Result<v1::AppendResponse, Status> {
    let v1::Event { id, timestamp, .. } = event(position);
    let correlation_id = "0af7651916cd43dd8448eb211c80319c".to_owned();
    Ok(v1::AppendResponse { events: vec![v1::Appended { id, position, timestamp, correlation_id }], duplicate: false })
}

fn lost() -> Result<v1::AppendResponse, Status> {
    Err(Problem::new(Kind::OutcomeUnknown, "no acknowledgement came").into())
}

#[tokio::test]
async fn a_lost_answer_is_settled_with_a_key_and_told_without_one() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends = vec![lost(), appended(3), lost()];
    let client = gateway.start().await;
    let receipt = client.append(note(Some("k"))).await.unwrap().receipts.remove(0);
    assert_eq!(receipt.position, Position::new(3));
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown));
    let traceparent = (options().traceparent)().unwrap();
    assert_eq!(
        gateway.asked(),
        [format!("NoteTaken k {traceparent}"), format!("NoteTaken k {traceparent}"), format!("NoteTaken  {traceparent}")]
    );
}

/// What the transport says of a connection that broke, and many a proxy of anything: no details.
fn broken() -> Result<v1::AppendResponse, Status> {
    Err(Status::unavailable("upstream connect error or disconnect/reset before headers"))
}

#[tokio::test]
async fn an_append_that_may_have_arrived_is_sent_again_only_with_a_key() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().appends = vec![broken(), broken(), appended(3)];
    let client = gateway.start().await;
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error}");
    assert!(!error.is_transient());
    assert_eq!(gateway.asked().len(), 1, "sent once");
    assert_eq!(client.append(note(Some("k"))).await.unwrap().receipts[0].position, Position::new(3));
    assert_eq!(gateway.asked().len(), 3);
}

#[tokio::test]
async fn an_append_is_sent_once_when_the_connection_is_cut_under_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect_with(&format!("http://{}", listener.local_addr().unwrap()), options()).unwrap();
    let connections = tokio::spawn(async move {
        let mut taken = 0;
        // Takes what is sent and hangs up without a word.
        while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await {
            taken += 1;
            let mut bytes = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await;
        }
        taken
    });
    let error = client.append(note(None)).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error:?}");
    assert_eq!(connections.await.unwrap(), 1, "{error:?}");
}

#[tokio::test]
async fn an_append_without_a_key_did_nothing_where_nobody_was_there_to_get_it() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let client = Client::connect_with(&server, options()).unwrap();
    let error = client.append(note(None)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_refusal_comes_back_as_it_was() {
    let gateway = Gateway::default();
    let problem = Problem::invalid("/events/0/data/content", "is missing");
    gateway.0.lock().unwrap().appends = vec![Err(problem.clone().into())];
    let client = gateway.start().await;
    match client.append(note(Some("k"))).await.unwrap_err() {
        ClientError::Problem(told) => assert_eq!(told, problem),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_says_why() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let client = Client::connect_with(&server, options()).unwrap();
    let error = client.get("7").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("connection refused"), "{error}");
    assert!(matches!(Client::connect("localhost:8470"), Err(ClientError::Address { .. })));
}

#[tokio::test]
async fn events_and_views_are_read() {
    let client = Gateway::default().start().await;
    let read = client.read(Read { limit: Some(3), ..Read::default() }).await.unwrap();
    let positions: Vec<u64> = read.map(|event| event.unwrap().position.get()).collect().await;
    assert_eq!(positions, [1, 2, 3]);
    assert_eq!(client.get("7").await.unwrap().unwrap().position, Position::new(7));
    assert_eq!(client.get("8").await.unwrap(), None);
    let project = |view: &str| Project {
        view: view.into(),
        id: "me".into(),
        as_of: Some("4".into()),
        min_position: Some(Position::new(9)),
    };
    let projection = client.project(project("conversation")).await.unwrap();
    assert_eq!((projection.state, projection.position.get()), (br#"{"as_of":"4"}"#.to_vec(), 9));
    assert_eq!(client.project(project("nonsense")).await.unwrap_err().kind(), Some(Kind::Invalid));
}

#[tokio::test]
async fn a_subscription_goes_on_where_its_connection_broke() {
    let told = |position| Ok(Wire::Event(event(position)));
    let caught_up = |position| Ok(Wire::CaughtUp(v1::CaughtUp { position }));
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().subscriptions = vec![
        // Ends as a gateway does that shuts down.
        vec![told(1), told(2), caught_up(2)],
        // Breaks as a connection does; repeats an event.
        vec![told(2), told(3), Err(Status::unknown("h2 protocol error"))],
        vec![Err(Problem::new(Kind::Unavailable, "the log cannot be reached").into())],
        vec![caught_up(3), Ok(Wire::Heartbeat(v1::Heartbeat { position: 9 }))],
        vec![Err(Problem::invalid("/filter", "is wrong").into())],
    ];
    let client = gateway.start().await;
    let subscribe = Subscribe { start: Start::Now, filter: Filter::default(), deltas: false };
    let updates: Vec<_> = client.subscribe(subscribe).await.unwrap().collect().await;
    let told: Vec<String> = updates
        .iter()
        .map(|update| match update {
            Ok(Update::Event(event)) => format!("event {}", event.position),
            Ok(Update::CaughtUp(position)) => format!("caught up {position}"),
            Ok(Update::Heartbeat(position)) => format!("heartbeat {position}"),
            Ok(Update::Delta(..)) => "delta".to_owned(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(told, ["event 1", "event 2", "caught up 2", "event 3", "heartbeat 3", "heartbeat 9", "/filter: is wrong"]);
    assert_eq!(
        gateway.asked(),
        ["after= now=true", "after=2 now=false", "after=3 now=false", "after=3 now=false", "after=9 now=false"]
    );
}

#[tokio::test]
async fn a_bad_subscription_is_refused_at_once() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().subscriptions = vec![vec![Err(Problem::invalid("/after", "is no position").into())]];
    let error = gateway.start().await.subscribe(Subscribe::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Some(Kind::Invalid));
}
