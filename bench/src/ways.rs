//! The ways to append: straight to JetStream, through gRPC, through HTTP; one event a call, many a call, or one after the other
//! without waiting.
//!
//! The raw way publishes what the gateway publishes: its headers and its stream's configuration are copied from what the
//! gateway itself has made, so that the difference is the gateway and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use causeway_event::EventId;
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use futures::future::BoxFuture;
use futures::stream::{self as streams, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use crate::process::Causeway;

/// The bytes of an event's data.
pub(crate) const DATA_BYTES: usize = 256;
/// Of no category that a processor listens to.
const TYPE: &str = "BenchNoted";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Appends of a pipeline that are on their way at a time, by every way.
const WINDOW: usize = 1000;

/// How an event gets to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// What the others are compared with.
    Raw,
    Grpc,
    /// An append of a stream that stays open, and its answer, before the next one.
    GrpcStream,
    Http,
    /// A gRPC call that appends nothing, the health check: what the way to the gateway and back takes by itself.
    GrpcEmpty,
    /// The same over HTTP.
    HttpEmpty,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw JetStream",
            Self::Grpc => "gRPC",
            Self::GrpcStream => "gRPC stream",
            Self::Http => "HTTP",
            Self::GrpcEmpty => "gRPC, appending nothing",
            Self::HttpEmpty => "HTTP, appending nothing",
        }
    }
}

/// One client: each call appends, and waits for its acknowledgement.
pub(crate) type Append = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// One client that appends one event after the other until a moment, without waiting between; says how many were acknowledged.
pub(crate) type Pipeline = Arc<dyn Fn(Instant) -> BoxFuture<'static, Result<usize>> + Send + Sync>;

/// `count` clients, each with a connection and an aggregate of its own, that append so many events a call.
pub(crate) async fn clients(causeway: &Causeway, way: Way, count: usize, events: usize) -> Result<Vec<Append>> {
    let mut clients = Vec::with_capacity(count);
    for index in 0..count {
        let aggregate = format!("bench-{index}");
        let append = match (way, events) {
            (Way::Raw, 1) => raw(causeway, &aggregate).await?,
            (Way::Raw, _) => raw_batch(causeway, &aggregate, events).await?,
            (Way::Grpc, _) => grpc(causeway, &aggregate, events).await?,
            (Way::GrpcStream, _) => grpc_stream(causeway, &aggregate, events).await?,
            (Way::Http, _) => http(causeway, &aggregate, events)?,
            (Way::GrpcEmpty, _) => grpc_empty(causeway).await?,
            (Way::HttpEmpty, _) => http_empty(causeway)?,
        };
        // The first call connects.
        append().await.with_context(|| format!("the first append by {}", way.name()))?;
        clients.push(append);
    }
    Ok(clients)
}

/// A pipeline by this way; HTTP has none.
pub(crate) async fn pipeline(causeway: &Causeway, way: Way) -> Result<Pipeline> {
    match way {
        Way::Raw => raw_pipeline(causeway).await,
        _ => grpc_pipeline(causeway).await,
    }
}

async fn raw_pipeline(causeway: &Causeway) -> Result<Pipeline> {
    let (js, example) = example(causeway, "bench-0").await?;
    Ok(Arc::new(move |until| {
        let (js, example) = (js.clone(), example.clone());
        async move {
            let (mut acknowledged, mut waiting) = (0, FuturesUnordered::new());
            while Instant::now() < until {
                if waiting.len() == WINDOW {
                    waiting.next().await.transpose()?;
                    acknowledged += 1;
                }
                let Example { subject, headers, payload } = example.clone();
                let sent = js.publish_with_headers(subject, fresh(&headers), payload).await?;
                waiting.push(sent.into_future());
            }
            Ok(acknowledged + waiting.try_collect::<Vec<_>>().await?.len())
        }
        .boxed()
    }))
}

async fn grpc_pipeline(causeway: &Causeway) -> Result<Pipeline> {
    let client = connect(causeway).await?;
    let append = v1::AppendRequest { events: vec![event("bench-0")], ..v1::AppendRequest::default() };
    let request = v1::AppendStreamRequest { append: Some(append), ..v1::AppendStreamRequest::default() };
    Ok(Arc::new(move |until| {
        let (mut client, request) = (client.clone(), request.clone());
        async move {
            let window = Arc::new(Semaphore::new(WINDOW));
            let places = window.clone();
            let requests = streams::unfold((places, request), move |(places, request)| async move {
                places.acquire().await.ok()?.forget();
                (Instant::now() < until).then(|| (request.clone(), (places, request)))
            });
            let mut answers = client.append_stream(requests).await?.into_inner();
            let mut acknowledged = 0;
            while let Some(answer) = answers.message().await? {
                ensure!(matches!(answer.result, Some(v1::append_stream_response::Result::Appended(_))), "{answer:?}");
                window.add_permits(1);
                acknowledged += 1;
            }
            Ok(acknowledged)
        }
        .boxed()
    }))
}

/// JSON of [`DATA_BYTES`].
pub(crate) fn data() -> String {
    let empty = r#"{"note":""}"#.len();
    format!(r#"{{"note":"{}"}}"#, "x".repeat(DATA_BYTES - empty))
}

pub(crate) fn event(aggregate: &str) -> v1::NewEvent {
    v1::NewEvent { r#type: TYPE.into(), aggregate_id: aggregate.into(), data: data().into_bytes(), metadata: None }
}

/// A gRPC client with a connection of its own.
pub(crate) async fn connect(causeway: &Causeway) -> Result<EventStoreClient<Channel>> {
    let endpoint = Endpoint::from_shared(causeway.gateway().to_owned())?.tcp_nodelay(true).timeout(REQUEST_TIMEOUT);
    Ok(EventStoreClient::new(endpoint.connect().await?))
}

async fn grpc(causeway: &Causeway, aggregate: &str, events: usize) -> Result<Append> {
    let client = connect(causeway).await?;
    let request = v1::AppendRequest { events: vec![event(aggregate); events], ..v1::AppendRequest::default() };
    Ok(Arc::new(move || {
        let (mut client, request) = (client.clone(), request.clone());
        async move {
            client.append(request).await?;
            Ok(())
        }
        .boxed()
    }))
}

async fn grpc_stream(causeway: &Causeway, aggregate: &str, events: usize) -> Result<Append> {
    let append = v1::AppendRequest { events: vec![event(aggregate); events], ..v1::AppendRequest::default() };
    let request = v1::AppendStreamRequest { append: Some(append), ..v1::AppendStreamRequest::default() };
    let (send, requests) = mpsc::channel(1);
    let requests = streams::unfold(requests, |mut requests| async move { Some((requests.recv().await?, requests)) });
    // The answer to the call comes with the first answer of the stream at the latest.
    let mut client = connect(causeway).await?;
    let answers = client.append_stream(requests).await?.into_inner();
    let stream = Arc::new(Mutex::new((send, answers)));
    Ok(Arc::new(move || {
        let (stream, request) = (stream.clone(), request.clone());
        async move {
            let (send, answers) = &mut *stream.lock().await;
            send.send(request).await?;
            let answer = answers.message().await?.context("the stream ended")?;
            ensure!(matches!(answer.result, Some(v1::append_stream_response::Result::Appended(_))), "{answer:?}");
            Ok(())
        }
        .boxed()
    }))
}

fn http(causeway: &Causeway, aggregate: &str, events: usize) -> Result<Append> {
    let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).tcp_nodelay(true).no_proxy().build()?;
    let url = format!("{}/events", causeway.gateway());
    let data: serde_json::Value = serde_json::from_str(&data())?;
    let event = json!({ "type": TYPE, "aggregate_id": aggregate, "data": data });
    let body = if events == 1 { event.to_string() } else { json!(vec![event; events]).to_string() };
    Ok(Arc::new(move || {
        let request = client.post(&url).header("content-type", "application/json").body(body.clone());
        async move {
            let response = request.send().await?.error_for_status()?;
            response.bytes().await?;
            Ok(())
        }
        .boxed()
    }))
}

async fn grpc_empty(causeway: &Causeway) -> Result<Append> {
    let endpoint = Endpoint::from_shared(causeway.gateway().to_owned())?.tcp_nodelay(true).timeout(REQUEST_TIMEOUT);
    let client = HealthClient::new(endpoint.connect().await?);
    Ok(Arc::new(move || {
        let mut client = client.clone();
        async move {
            client.check(HealthCheckRequest::default()).await?;
            Ok(())
        }
        .boxed()
    }))
}

fn http_empty(causeway: &Causeway) -> Result<Append> {
    let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).tcp_nodelay(true).no_proxy().build()?;
    let url = format!("{}/healthz", causeway.gateway());
    Ok(Arc::new(move || {
        let request = client.get(&url);
        async move {
            request.send().await?.error_for_status()?.bytes().await?;
            Ok(())
        }
        .boxed()
    }))
}

/// The stream that holds the gateway's events.
pub(crate) async fn events_stream(js: &jetstream::Context) -> Result<stream::Stream> {
    let names: Vec<String> = js.stream_names().try_collect().await?;
    let name = names.iter().find(|name| name.ends_with("_EVENTS")).context("the stream of events")?;
    Ok(js.get_stream(name).await?)
}

/// What the gateway publishes for an event.
#[derive(Clone)]
struct Example {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

async fn raw(causeway: &Causeway, aggregate: &str) -> Result<Append> {
    let (js, example) = example(causeway, aggregate).await?;
    Ok(Arc::new(move || {
        let (js, Example { subject, headers, payload }) = (js.clone(), example.clone());
        async move {
            js.publish_with_headers(subject, fresh(&headers), payload).await?.await?;
            Ok(())
        }
        .boxed()
    }))
}

/// An atomic batch, as the gateway sends it: all but the last message without waiting.
async fn raw_batch(causeway: &Causeway, aggregate: &str, events: usize) -> Result<Append> {
    let (js, example) = example(causeway, aggregate).await?;
    Ok(Arc::new(move || {
        let (js, Example { subject, headers, payload }) = (js.clone(), example.clone());
        async move {
            let batch = Uuid::now_v7().simple().to_string();
            let headers = |sequence: usize| {
                let mut headers = fresh(&headers);
                headers.insert("Nats-Batch-Id", batch.as_str());
                headers.insert("Nats-Batch-Sequence", sequence.to_string());
                headers
            };
            for sequence in 1..events {
                js.client().publish_with_headers(subject.clone(), headers(sequence), payload.clone()).await?;
            }
            let mut last = headers(events);
            last.insert("Nats-Batch-Commit", "1");
            js.publish_with_headers(subject, last, payload).await?.await?;
            Ok(())
        }
        .boxed()
    }))
}

/// A connection, and a stream beside the gateway's that takes what the gateway's takes.
async fn example(causeway: &Causeway, aggregate: &str) -> Result<(jetstream::Context, Example)> {
    let js = jetstream::new(async_nats::connect(causeway.nats()).await?);
    let events = events_stream(&js).await?;
    let name = "BENCH_RAW";
    let subjects = vec!["benchmark.ev.>".to_owned()];
    js.get_or_create_stream(stream::Config { name: name.into(), subjects, ..events.cached_info().config.clone() }).await?;
    let request = v1::AppendRequest { events: vec![event(aggregate)], ..v1::AppendRequest::default() };
    let appended = connect(causeway).await?.append(request).await?.into_inner();
    let position = appended.events.first().context("a receipt")?.position;
    let stored = events.get_raw_message(position).await?;
    ensure!(stored.payload.len() == DATA_BYTES, "the stored payload has {} bytes", stored.payload.len());
    let tail = stored.subject.split_once('.').context("a subject of several tokens")?.1.to_owned();
    Ok((js, Example { subject: format!("benchmark.{tail}"), headers: stored.headers, payload: stored.payload }))
}

/// The same headers under a new id: otherwise the server would take the message for a repetition.
fn fresh(headers: &HeaderMap) -> HeaderMap {
    let id = EventId::from_uuid(Uuid::now_v7()).to_string();
    let mut headers = headers.clone();
    headers.insert("ce-id", id.as_str());
    headers.insert("Nats-Msg-Id", id.as_str());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_of_the_size_that_is_claimed() {
        assert_eq!(data().len(), DATA_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(&data()).is_ok());
    }
}
