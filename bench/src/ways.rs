//! The ways to append one event: straight to JetStream, through gRPC, through HTTP.
//!
//! The raw way publishes what the gateway publishes: its headers and its stream's configuration are copied from what the
//! gateway itself has made, so that the difference is the gateway and nothing else.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use causeway_event::EventId;
use causeway_proto::v1;
use causeway_proto::v1::event_store_client::EventStoreClient;
use futures::FutureExt as _;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::process::Causeway;

/// The bytes of an event's data.
pub(crate) const DATA_BYTES: usize = 256;
/// Of no category that a processor listens to.
const TYPE: &str = "BenchNoted";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How an event gets to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// What the others are compared with.
    Raw,
    Grpc,
    Http,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Raw, Self::Grpc, Self::Http];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw JetStream",
            Self::Grpc => "gRPC",
            Self::Http => "HTTP",
        }
    }
}

/// One client: each call appends one event and waits for its acknowledgement.
pub(crate) type Append = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// `count` clients, each with a connection and an aggregate of its own.
pub(crate) async fn clients(causeway: &Causeway, way: Way, count: usize) -> Result<Vec<Append>> {
    let mut clients = Vec::with_capacity(count);
    for index in 0..count {
        let aggregate = format!("bench-{index}");
        let append = match way {
            Way::Raw => raw(causeway, &aggregate).await?,
            Way::Grpc => grpc(causeway, aggregate).await?,
            Way::Http => http(causeway, &aggregate)?,
        };
        // The first call connects.
        append().await.with_context(|| format!("the first append by {}", way.name()))?;
        clients.push(append);
    }
    Ok(clients)
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

async fn grpc(causeway: &Causeway, aggregate: String) -> Result<Append> {
    let client = connect(causeway).await?;
    let request = v1::AppendRequest { events: vec![event(&aggregate)], ..v1::AppendRequest::default() };
    Ok(Arc::new(move || {
        let (mut client, request) = (client.clone(), request.clone());
        async move {
            client.append(request).await?;
            Ok(())
        }
        .boxed()
    }))
}

fn http(causeway: &Causeway, aggregate: &str) -> Result<Append> {
    let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).tcp_nodelay(true).no_proxy().build()?;
    let url = format!("{}/events", causeway.gateway());
    let data: serde_json::Value = serde_json::from_str(&data())?;
    let body = json!({ "type": TYPE, "aggregate_id": aggregate, "data": data }).to_string();
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

/// The stream that holds the gateway's events.
pub(crate) async fn events_stream(js: &jetstream::Context) -> Result<stream::Stream> {
    let names: Vec<String> = js.stream_names().try_collect().await?;
    let name = names.iter().find(|name| name.ends_with("_EVENTS")).context("the stream of events")?;
    Ok(js.get_stream(name).await?)
}

async fn raw(causeway: &Causeway, aggregate: &str) -> Result<Append> {
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
    let (subject, headers, payload) = (format!("benchmark.{tail}"), stored.headers, stored.payload);
    Ok(Arc::new(move || {
        let (js, subject, headers, payload) = (js.clone(), subject.clone(), fresh(&headers), payload.clone());
        async move {
            js.publish_with_headers(subject, headers, payload).await?.await?;
            Ok(())
        }
        .boxed()
    }))
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
