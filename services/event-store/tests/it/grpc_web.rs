//! gRPC-Web by hand-made frames over HTTP/1.1, as a browser sends them.

use causeway_event_store::{Config, ReadModelConfig};
use causeway_proto::v1;
use causeway_testkit::NatsServer;
use futures::StreamExt as _;
use reqwest::Method;

use crate::harness::{Gateway, LIMIT, World};

const SERVICE: &str = "/causeway.v1.EventStore";
/// Marks a frame that holds trailers.
const TRAILERS: u8 = 0x80;

fn frame(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame
}

/// Takes a whole frame off the front.
pub(crate) fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    let frame: Vec<u8> = bytes.drain(..5 + length).collect();
    Some((frame[0], frame[5..].to_vec()))
}

pub(crate) fn call(gateway: &Gateway, method: &str, message: &impl prost::Message) -> reqwest::RequestBuilder {
    let request = gateway.request(Method::POST, &format!("{SERVICE}/{method}")).version(reqwest::Version::HTTP_11);
    request.header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1").body(frame(message))
}

fn append() -> v1::AppendRequest {
    let event =
        v1::NewEvent { r#type: "NoteTaken".into(), aggregate_id: "a".into(), data: b"{}".to_vec(), ..v1::NewEvent::default() };
    v1::AppendRequest { events: vec![event], ..v1::AppendRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_streams_work_from_a_browser() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let response = call(&gateway, "Append", &append()).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
    let mut bytes = response.bytes().await.unwrap().to_vec();
    let (_, message) = take_frame(&mut bytes).unwrap();
    let appended: v1::AppendResponse = prost::Message::decode(message.as_slice()).unwrap();
    assert_eq!(appended.events[0].position, 1);
    let (flag, trailers) = take_frame(&mut bytes).unwrap();
    assert_eq!((flag, String::from_utf8(trailers).unwrap().replace(' ', "").trim()), (TRAILERS, "grpc-status:0"));

    let mut stream = call(&gateway, "Subscribe", &v1::SubscribeRequest::default()).send().await.unwrap().bytes_stream();
    let (mut bytes, mut heard) = (Vec::new(), Vec::new());
    while heard.len() < 3 {
        let chunk = tokio::time::timeout(LIMIT, stream.next()).await.expect("more in time").unwrap().unwrap();
        bytes.extend(chunk);
        while let Some((flag, message)) = take_frame(&mut bytes) {
            assert_eq!(flag, 0, "the stream goes on");
            let response: v1::SubscribeResponse = prost::Message::decode(message.as_slice()).unwrap();
            heard.push(response.update.unwrap());
        }
    }
    use v1::subscribe_response::Update;
    assert!(matches!(heard[..], [Update::Event(_), Update::CaughtUp(_), Update::Heartbeat(_), ..]), "{heard:?}");

    let mut bad = append();
    bad.events[0].r#type = "note".into();
    let refused = call(&gateway, "Append", &bad).send().await.unwrap();
    let in_head = refused.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    let mut body = refused.bytes().await.unwrap().to_vec();
    let in_body = take_frame(&mut body).map(|(_, trailers)| String::from_utf8(trailers).unwrap());
    assert!(in_head.as_deref() == Some("3") || in_body.is_some_and(|text| text.contains("grpc-status:3")));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_configured_origin_may_call_and_read_errors() {
    let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let config = Config { read_model, cors_origins: vec!["https://example.com".into()], ..Config::default() };
    let gateway = Gateway::start_with(&nats, config).await;
    let preflight = async |origin: &str| {
        let request = gateway.request(Method::OPTIONS, &format!("{SERVICE}/Append")).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let asked = "content-type,x-grpc-web,x-user-agent,grpc-timeout,traceparent,ce-specversion";
        gateway.send(request.header("access-control-request-headers", asked)).await
    };
    let allowed = preflight("https://example.com").await;
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://example.com");
    let headers = allowed.headers["access-control-allow-headers"].to_str().unwrap();
    for header in ["content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "traceparent", "ce-specversion"] {
        assert!(headers.contains(header), "{header} of {headers}");
    }
    assert!(preflight("https://example.org").await.headers.get("access-control-allow-origin").is_none());

    let response = call(&gateway, "Append", &append()).header("origin", "https://example.com").send().await.unwrap();
    let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert_eq!(
        exposed.replace(' ', ""),
        "grpc-status,grpc-message,grpc-status-details-bin,retry-after,location,causeway-last-position"
    );
    gateway.stop().await;
}
