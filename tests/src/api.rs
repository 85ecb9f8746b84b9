//! The gateway's HTTP API, as a client that knows nothing but the documentation sees it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eventsource_stream::{EventStream, Eventsource};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::turn::types;

/// How long one request may take. Longer than any timeout that the server has by default.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);
/// How long a test may wait for something to appear in a stream.
const STREAM_LIMIT: Duration = Duration::from_secs(60);

/// An HTTP client of this process.
pub fn client() -> reqwest::Client {
    // A second call finds the provider installed: no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client without any option that can fail")
}

/// One gateway.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    client: reqwest::Client,
}

impl Api {
    /// The gateway at this address.
    pub fn new(base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), client: client() }
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to be completed.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).timeout(REQUEST_LIMIT)
    }

    /// GET, any status.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        answer(self.request(Method::GET, path)).await
    }

    /// POST of a JSON body, any status.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// GET that must succeed.
    pub async fn fetch(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path).await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Appends one event, which must succeed. The receipt.
    pub async fn append(&self, event: &Value) -> Result<Value> {
        let (status, body) = self.post("/events", event).await?;
        ensure!(status == StatusCode::CREATED, "POST /events {event}: {status} {body}");
        Ok(body)
    }

    /// Says something in a session. The receipt.
    pub async fn say(&self, session: &str, text: &str) -> Result<Value> {
        self.append(&json!({"type": "MessageReceived", "aggregate_id": session, "data": {"content": text},
                            "metadata": {"source": "test"}}))
            .await
    }

    /// All events of the log that match a query such as `aggregate_id=a&type=Message*`, in order.
    pub async fn events(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/events?{query}");
        let response = self.request(Method::GET, &path).header("accept", "application/x-ndjson").send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status == StatusCode::OK, "GET {path}: {status} {text}");
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("the line {line:?}"))).collect()
    }

    /// Where the log ends.
    pub async fn last_position(&self) -> Result<u64> {
        self.fetch("/events?limit=1").await?["last_position"].as_u64().context("last_position")
    }

    /// Waits until an event of this type stands in the session, and returns all of the session's events.
    pub async fn wait_for(&self, session: &str, event_type: &str) -> Result<Vec<Value>> {
        let mut sse = self.stream(&format!("aggregate_id={session}&type={event_type}"), None).await?;
        let waited = sse.until(|seen| seen.kind == event_type).await;
        let events = self.events(&format!("aggregate_id={session}")).await?;
        waited.with_context(|| format!("{event_type} in {session}, where there is {:?}", types(&events)))?;
        Ok(events)
    }

    /// Opens the SSE stream, after a position if one is given.
    pub async fn stream(&self, query: &str, last_event_id: Option<u64>) -> Result<Sse> {
        let mut request = self.client.get(format!("{}/events/stream?{query}", self.base)).header("accept", "text/event-stream");
        if let Some(position) = last_event_id {
            request = request.header("last-event-id", position.to_string());
        }
        let response = timeout(REQUEST_LIMIT, request.send()).await.context("no answer to GET /events/stream")??;
        let status = response.status();
        if status != StatusCode::OK {
            bail!("GET /events/stream?{query}: {status} {}", response.text().await?);
        }
        Ok(Sse(response.bytes_stream().boxed().eventsource()))
    }
}

async fn answer(request: RequestBuilder) -> Result<(StatusCode, Value)> {
    let response = request.send().await?;
    let status = response.status();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// One message of a server-sent event stream.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What a client that breaks off here would send as `Last-Event-ID`: the newest `id:` line so far.
    pub id: String,
    /// The `event:` line.
    pub kind: String,
    /// The `data:` lines as JSON, or null.
    pub data: Value,
}

impl Seen {
    /// Whether it is an event of the log, not a mark or a live piece.
    pub fn is_event(&self) -> bool {
        self.data["id"].is_string() && self.data["position"].is_u64()
    }
}

type Body = BoxStream<'static, reqwest::Result<bytes::Bytes>>;

/// An open server-sent event stream.
pub struct Sse(EventStream<Body>);

impl Sse {
    /// The next message, whatever it is. None when the stream ends or breaks.
    pub async fn next(&mut self) -> Result<Option<Seen>> {
        let next = timeout(STREAM_LIMIT, self.0.next()).await.context("nothing came over SSE")?;
        let Some(Ok(message)) = next else { return Ok(None) };
        let data = serde_json::from_str(&message.data).unwrap_or(Value::Null);
        Ok(Some(Seen { id: message.id, kind: message.event, data }))
    }

    /// All messages up to the first that satisfies `last`, which must come within the limit.
    pub async fn until(&mut self, last: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        let reading = async {
            while let Some(seen) = self.next().await? {
                let done = last(&seen);
                all.push(seen);
                if done {
                    return Ok(());
                }
            }
            bail!("the stream ended")
        };
        match timeout(STREAM_LIMIT, reading).await {
            Ok(Ok(())) => Ok(all),
            Ok(Err(error)) => Err(error.context(format!("after {}", kinds(&all)))),
            Err(_) => bail!("it did not come within {STREAM_LIMIT:?}, but {}", kinds(&all)),
        }
    }
}

fn kinds(all: &[Seen]) -> String {
    all.iter().map(|seen| seen.kind.as_str()).collect::<Vec<_>>().join(", ")
}
