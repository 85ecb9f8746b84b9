//! One HTTP exchange with a model server: send the request, read the answer piece by piece, watch the clock.
//!
//! Makes each request once. Follows no redirect: it would carry the key to a place that nobody configured.

use std::ops::Deref;
use std::time::Duration;

use causeway_runtime::config::{Secret, duration};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::{Limits, Progress, Reply};
use super::config::ModelConfig;
use super::failure::{Complaint, retry_after, shorten};
use super::sse::{Decoder, TooLong};
use super::{Generated, ModelError, Sink};

/// The most that is read of an error's body.
const ERROR_BYTES_MAX: usize = 16 * 1024;
/// What an event of the stream, or an answer in one piece, may have beyond the answer itself: its wrapping, doubled by escapes.
const WRAPPING_BYTES_MAX: usize = 64 * 1024;
/// How long to wait, after a whole answer, for the end of the response: a connection that has seen it can be used again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// How to talk to one server.
#[derive(Debug)]
pub(crate) struct Wire {
    client: Client,
    url: Url,
    headers: HeaderMap,
    key: Option<Secret>,
    idle_timeout: Duration,
    request_timeout: Duration,
    pub(crate) limits: Limits,
}

impl Wire {
    /// For requests to `path` below the configured address.
    pub(crate) fn new(config: &ModelConfig, path: &str, headers: &[(&'static str, String)]) -> Result<Self, ModelError> {
        causeway_runtime::install_crypto();
        let client = Client::builder()
            .user_agent(concat!("causeway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ModelError::config("base_url", format!("cannot be used: {}", describe(&error))))?;
        let mut url = config.url()?;
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| ModelError::config("api_key", "cannot stand in a header"))?;
            value.set_sensitive(true);
            map.insert(HeaderName::from_static(name), value);
        }
        Ok(Self {
            client,
            url,
            headers: map,
            key: config.key().map(Secret::from),
            idle_timeout: config.idle_timeout,
            request_timeout: config.request_timeout,
            limits: Limits { answer_bytes_max: config.answer_bytes_max, tool_calls_max: config.tool_calls_max },
        })
    }

    /// Sends `body` and reads the reply to its end.
    pub(crate) async fn exchange<R: Reply>(&self, body: &Value, reply: R, sink: &mut Sink<'_>) -> Result<Generated, ModelError> {
        let exchange = async {
            let response = self.send(body).await?;
            match content_type(&response) {
                // Some servers do not stream, whatever they are asked.
                kind if kind.contains("json") => self.read_whole(response, reply, sink).await,
                kind if kind.contains("html") => {
                    Err(ModelError::permanent(format!("{} answers with a page of HTML; is model.base_url right?", self.url)))
                }
                _ => self.read_stream(response, reply, sink).await,
            }
        };
        match timeout(self.request_timeout, exchange).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ModelError::retryable(format!(
                "the answer was not whole after {} (model.request_timeout)",
                duration::format(self.request_timeout)
            ))),
        }
    }

    async fn send(&self, body: &Value) -> Result<Response, ModelError> {
        let mut request = self.client.post(self.url.clone()).headers(self.headers.clone()).json(body);
        if let Some(traceparent) = causeway_runtime::telemetry::current_traceparent() {
            request = request.header("traceparent", traceparent);
        }
        let response = match timeout(self.idle_timeout, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_builder() => return Err(ModelError::permanent(describe(&error))),
            Ok(Err(error)) => return Err(self.broken("cannot ask the model server", &error)),
            Err(_elapsed) => return Err(self.silent()),
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            _ => Err(self.refusal(response).await),
        }
    }

    /// What a status other than success says, with as much of its body as is worth reading.
    async fn refusal(&self, mut response: Response) -> ModelError {
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let wait = retry_after(header(RETRY_AFTER.as_str()).as_deref(), header("retry-after-ms").as_deref(), Timestamp::now());
        let should_retry = header("x-should-retry").and_then(|said| said.parse().ok());
        let status = response.status();
        if let Some(target) = header("location").filter(|_| status.is_redirection()) {
            let target = shorten(&target, self.key());
            return ModelError::permanent(format!("{} moved to {target}; set model.base_url accordingly", self.url));
        }
        let mut body = Vec::new();
        // A body that breaks off or dawdles is not worth an error of its own: the status has said it.
        while let Ok(Ok(Some(chunk))) = timeout(self.idle_timeout.min(Duration::from_secs(5)), response.chunk()).await {
            body.extend_from_slice(&chunk);
            if ERROR_BYTES_MAX <= body.len() {
                body.truncate(ERROR_BYTES_MAX);
                break;
            }
        }
        let mut complaint = Complaint::from_body(&body, self.key());
        complaint.status = Some(status.as_u16());
        complaint.retry_after = wait;
        complaint.should_retry = should_retry;
        complaint.judge()
    }

    async fn read_stream<R: Reply>(
        &self,
        mut response: Response,
        mut reply: R,
        sink: &mut Sink<'_>,
    ) -> Result<Generated, ModelError> {
        let mut decoder = Decoder::new(2 * self.limits.answer_bytes_max + WRAPPING_BYTES_MAX);
        loop {
            let chunk = self.chunk(&mut response).await?;
            match &chunk {
                Some(bytes) => decoder.push(bytes).map_err(too_long)?,
                None => decoder.end(),
            }
            if take_ready(&mut decoder, &mut reply, sink)? == Progress::Complete {
                let drained = async { while let Ok(Some(_)) = response.chunk().await {} };
                let _ = timeout(DRAIN_TIMEOUT, drained).await;
                return reply.finish();
            }
            if chunk.is_none() {
                return reply.finish();
            }
        }
    }

    async fn read_whole<R: Reply>(
        &self,
        mut response: Response,
        mut reply: R,
        sink: &mut Sink<'_>,
    ) -> Result<Generated, ModelError> {
        let bytes_max = 2 * self.limits.answer_bytes_max + WRAPPING_BYTES_MAX;
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            body.extend_from_slice(&chunk);
            if bytes_max < body.len() {
                return Err(too_long(TooLong { bytes_max }));
            }
        }
        let json: Value =
            serde_json::from_slice(&body).map_err(|error| ModelError::retryable(format!("the answer is not JSON: {error}")))?;
        reply.take_whole(&json, sink)?;
        reply.finish()
    }

    async fn chunk(&self, response: &mut Response) -> Result<Option<impl Deref<Target = [u8]> + use<>>, ModelError> {
        match timeout(self.idle_timeout, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.broken("the answer was cut", &error)),
            Err(_elapsed) => Err(self.silent()),
        }
    }

    fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Secret::expose)
    }

    fn broken(&self, what: &str, error: &reqwest::Error) -> ModelError {
        ModelError::retryable(format!("{what} ({}): {}", self.url, describe(error)))
    }

    fn silent(&self) -> ModelError {
        let waited = duration::format(self.idle_timeout);
        ModelError::retryable(format!("the model server was silent for {waited} (model.idle_timeout)"))
    }
}

/// Hands over all events that are whole, up to the answer's last.
fn take_ready<R: Reply>(decoder: &mut Decoder, reply: &mut R, sink: &mut Sink<'_>) -> Result<Progress, ModelError> {
    while let Some(event) = decoder.next() {
        if reply.take(&event, sink)? == Progress::Complete {
            return Ok(Progress::Complete);
        }
    }
    Ok(Progress::More)
}

fn too_long(error: TooLong) -> ModelError {
    let most = causeway_runtime::config::bytes::format(error.bytes_max as u64);
    ModelError::permanent(format!("the model server sent a piece of more than {most} (see model.answer_bytes_max)"))
}

fn content_type(response: &Response) -> String {
    response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
}

/// The error with its causes, which alone say what happened.
fn describe(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    match causes.pop() {
        Some(root) if error.is_connect() => format!("cannot connect: {root}"),
        Some(root) => root,
        None => error.to_string(),
    }
}

/// A reply read from bytes in hand, cut as given: what the network does, without one.
#[cfg(test)]
pub(crate) fn replay<'b, R: Reply>(
    chunks: impl IntoIterator<Item = &'b [u8]>,
    mut reply: R,
    sink: &mut Sink<'_>,
) -> Result<Generated, ModelError> {
    let mut decoder = Decoder::new(1 << 20);
    for chunk in chunks {
        decoder.push(chunk).map_err(too_long)?;
        if take_ready(&mut decoder, &mut reply, sink)? == Progress::Complete {
            return reply.finish();
        }
    }
    decoder.end();
    take_ready(&mut decoder, &mut reply, sink)?;
    reply.finish()
}
