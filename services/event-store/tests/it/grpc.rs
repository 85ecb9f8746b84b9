//! The same over gRPC, with the errors as a client gets them back.

use causeway_proto::v1::subscribe_response::Update;
use causeway_proto::{Appended, Draft, Kind, Problem, v1};
use futures::TryStreamExt as _;
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::World;

pub(crate) fn draft(aggregate: &str, number: usize) -> Draft {
    Draft {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: aggregate.parse().unwrap(),
        data: causeway_event::Data::of(&number).unwrap(),
        source: None,
        causation_id: None,
        correlation_id: None,
        labels: causeway_event::Labels::new(),
        schema_version: None,
    }
}

fn append(drafts: impl IntoIterator<Item = Draft>) -> v1::AppendRequest {
    v1::AppendRequest { events: drafts.into_iter().map(Into::into).collect(), ..v1::AppendRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_appended_read_followed_and_seen() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let response = client.append(append([draft("a", 1), draft("b", 2)])).await.unwrap().into_inner();
    let appended = Appended::try_from(response).unwrap();
    assert!(!appended.duplicate);

    let got = client.get(v1::GetRequest { id: appended.receipts[0].id.to_string(), raw: false }).await.unwrap().into_inner();
    let event = causeway_event::Event::try_from(got.event.unwrap()).unwrap();
    assert_eq!((event.data.as_str(), event.metadata.source.as_str()), ("1", "grpc"));
    assert_eq!((event.position, event.timestamp), (appended.receipts[0].position, appended.receipts[0].timestamp));
    assert_eq!(event.metadata.correlation_id, appended.receipts[0].correlation_id);

    let read = v1::ReadRequest { order: v1::Order::Backwards.into(), ..v1::ReadRequest::default() };
    let events: Vec<_> = client.read(read).await.unwrap().into_inner().try_collect().await.unwrap();
    let aggregates: Vec<_> = events.into_iter().map(|response| response.event.unwrap().aggregate_id).collect();
    assert_eq!(aggregates, ["b", "a"]);

    let filter = v1::Filter { aggregate_id: "a".into(), ..v1::Filter::default() };
    let follow = v1::SubscribeRequest { filter: Some(filter), deltas: true, ..v1::SubscribeRequest::default() };
    let mut updates = client.subscribe(follow).await.unwrap().into_inner();
    let mut update = async || updates.message().await.unwrap().unwrap().update.unwrap();
    assert!(matches!(update().await, Update::Event(event) if event.aggregate_id == "a"));
    assert!(matches!(update().await, Update::CaughtUp(at) if at.position == appended.receipts[1].position.get()));
    assert!(matches!(update().await, Update::Heartbeat(_)));
    let delta = causeway_event::Delta { turn: "t".into(), step: 1, kind: causeway_event::DeltaKind::Thinking, text: "hm".into() };
    gateway.log.publish_delta(&"a".parse().unwrap(), &delta).await;
    let heard = loop {
        match update().await {
            Update::Delta(heard) => break heard,
            Update::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(causeway_event::Delta::try_from(heard).unwrap(), delta);

    let project = v1::ProjectRequest { view: "conversation".into(), id: "a".into(), as_of: "1".into(), min_position: 1 };
    let seen = client.project(project).await.unwrap().into_inner();
    assert_eq!(seen.position, 1);
    assert!(serde_json::from_slice::<serde_json::Value>(&seen.state).unwrap()["messages"].is_array());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_comes_back_as_the_server_had_it() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let mut fenced = append([draft("a", 1)]);
    fenced.expected.push(v1::Expected::default());
    client.append(fenced.clone()).await.unwrap();
    let status = client.append(fenced).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let conflict = Problem::from(status).conflict.unwrap();
    assert_eq!((conflict.aggregate_id.as_str(), conflict.expected.get(), conflict.actual.get()), ("a", 0, 1));

    let mut bad = append([draft("a", 1), draft("a", 2)]);
    bad.events[1].aggregate_id = String::new();
    let refused = Problem::from(client.append(bad).await.unwrap_err());
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::Invalid, Some("/events/1/aggregate_id")));
    let mut large = append([draft("a", 1)]);
    large.events[0].data = format!("\"{}\"", "x".repeat(512 * 1024)).into_bytes();
    let refused = Problem::from(client.append(large.clone()).await.unwrap_err());
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::TooLarge, Some("/events/0/data")));
    large.events[0].data = vec![b' '; 5 * 1024 * 1024];
    assert_eq!(Problem::from(client.append(large).await.unwrap_err()).kind, Kind::TooLarge);

    let unknown = "evt_01k9x3m5v8e7rs2q4n6p8t0w1y";
    let refused = Problem::from(client.get(v1::GetRequest { id: unknown.into(), raw: false }).await.unwrap_err());
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::NotFound, Some("/id")));
    let view = v1::ProjectRequest { view: "mood".into(), id: "a".into(), ..v1::ProjectRequest::default() };
    let refused = Problem::from(client.project(view).await.unwrap_err());
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::NotFound, Some("/view")));
    let ahead = v1::SubscribeRequest { after: "99".into(), ..v1::SubscribeRequest::default() };
    let refused = Problem::from(client.subscribe(ahead).await.unwrap_err());
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::Invalid, Some("/after")));
    assert_eq!(gateway.last_position().await, 1, "nothing was written");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gives_the_first_answer() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let mut request = append([draft("a", 1)]);
    request.idempotency_key = "k".into();
    let mut first = client.append(request.clone()).await.unwrap().into_inner();
    let again = client.append(request).await.unwrap().into_inner();
    first.duplicate = true;
    assert_eq!(again, first);

    let mut traced = Request::new(append([draft("a", 1)]));
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    traced.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let receipt = client.append(traced).await.unwrap().into_inner();
    assert_eq!(receipt.events[0].correlation_id, "0af7651916cd43dd8448eb211c80319c");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_and_an_unknown_service_is_unimplemented() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let channel = gateway.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: "causeway.v1.EventStore".into() };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::Serving);

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let list =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut answers = reflection.server_reflection_info(futures::stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"causeway.v1.EventStore"), "{names:?}");

    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/causeway.v2.Nothing/Do");
    let codec = tonic_prost::ProstCodec::<v1::GetRequest, v1::GetResponse>::default();
    let unknown = grpc.unary(Request::new(v1::GetRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    gateway.stop().await;
}

/// Whoever watches its health does not hold a gateway up that is to stop.
#[tokio::test(flavor = "multi_thread")]
async fn who_watches_the_health_hears_that_the_gateway_stops_and_that_is_the_end() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut health = HealthClient::new(gateway.channel().await);
    let request = tonic_health::pb::HealthCheckRequest { service: "causeway.v1.EventStore".into() };
    let mut told = health.watch(request).await.unwrap().into_inner();
    assert_eq!(told.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let asked = std::time::Instant::now();
    gateway.stop().await;
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(told.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(told.message().await.unwrap().is_none());
}
