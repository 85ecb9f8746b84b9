//! One message by itself, as the stream's leader has it: the way to read that no message can break.
//!
//! Headers are what a publisher sent, and the client library ends its connection, or panics, at some that the server stored without a
//! word. This answers with JSON and the headers in base64. It is slow, so it is for lookups and for getting past what broke a
//! reader: one that broke takes its next message this way, whatever that is, and so never breaks twice at the same one.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_event::{Invalid, Position};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::message::{self, Place, Record};
use crate::names::Names;
use crate::{Log, LogError};

/// How many messages are looked at at a time for those that broke a consumer ...
const LOOKS_MAX: usize = 64;
/// ... and how many after one break, at either end: if what breaks it lies between them, it breaks once more and comes nearer.
const LOOKS_OF_A_BREAK_MAX: u64 = 4096;
/// Of how many messages it is told that they cannot be read.
const TOLD_MAX: usize = 1024;

/// How far a consumer was looked through for what no client can read: from its floor on, and at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    up_to: u64,
    newest: u64,
}

/// A message of the stream, with its headers as they came.
pub(crate) struct Raw {
    pub(crate) subject: String,
    pub(crate) position: Position,
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Bytes,
    pub(crate) time_ns: i128,
}

impl Log {
    /// What the leader has for this request: `seq`, `seq` with `next_by_subj`, or `last_by_subj`.
    pub(crate) async fn raw(&self, request: &Value) -> Result<Option<Raw>, LogError> {
        self.raw_within(request, self.inner.config.request_timeout).await
    }

    /// The same for one who knows better how long an answer may take.
    pub(crate) async fn raw_within(&self, request: &Value, timeout: Duration) -> Result<Option<Raw>, LogError> {
        let raw = self.raw_of_within(&self.inner.names.events_stream(), request, timeout).await?;
        if let Some(raw) = &raw
            && let Err(reason) = raw.readable()
        {
            self.tell(raw.position, reason);
        }
        Ok(raw)
    }

    /// What the leader of this stream has for such a request.
    pub(crate) async fn raw_of(&self, stream: &str, request: &Value) -> Result<Option<Raw>, LogError> {
        self.raw_of_within(stream, request, self.inner.config.request_timeout).await
    }

    async fn raw_of_within(&self, stream: &str, request: &Value, timeout: Duration) -> Result<Option<Raw>, LogError> {
        match self.api_within(&format!("$JS.API.STREAM.MSG.GET.{stream}"), request, timeout).await {
            Ok(answer) => {
                let raw = Raw::read(&answer["message"]);
                raw.map(Some).ok_or_else(|| LogError::unavailable("a message was cut short"))
            }
            Err(LogError::Refused { code: 10037, .. }) => Ok(None),
            Err(LogError::Refused { reason, .. }) => Err(LogError::unavailable(reason)),
            Err(error) => Err(error),
        }
    }

    /// The first message on `subject` behind a position.
    pub(crate) async fn raw_behind(&self, after: Position, subject: &str) -> Result<Option<Raw>, LogError> {
        self.raw(&behind(after, subject)).await
    }

    /// Acknowledges what a durable consumer was given and the client cannot read: it would break every connection that it comes over
    /// again. Goes on where earlier breaks left off.
    pub(crate) async fn put_aside(&self, durable: &str, looked: &mut Looked) -> Result<(), LogError> {
        let stream = self.inner.names.events_stream();
        let info = match self.api(&format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"), &json!({})).await {
            // It was deleted; one that is made in its place begins anew.
            Err(error @ LogError::Refused { .. }) => {
                *looked = Looked::default();
                return Err(error);
            }
            info => info?,
        };
        // Mostly nothing is outstanding, and a connection broke because connections do.
        if info["num_ack_pending"] == 0 {
            return Ok(());
        }
        let at = |of: &str| info[of]["stream_seq"].as_u64().unwrap_or_default();
        let delivered = at("delivered");
        if delivered < looked.up_to || delivered < looked.newest {
            *looked = Looked::default();
        }
        let first = at("ack_floor").max(looked.up_to) + 1;
        let last = delivered.min(first.saturating_add(LOOKS_OF_A_BREAK_MAX));
        // What broke it was mostly given just now. If not it lies further back, behind what one event keeps unacknowledged, and is come to.
        let newest = delivered.saturating_sub(LOOKS_OF_A_BREAK_MAX).max(last).max(looked.newest) + 1..=delivered;
        let mut looks = stream::iter(newest.chain(first..=last)).map(|seq| self.look(seq)).buffered(LOOKS_MAX);
        while let Some((seq, raw)) = looks.next().await {
            if raw?.is_some_and(|raw| raw.readable().is_err()) {
                // Deliveries, place, its number in the consumer, time, what is left. The server knows the number of what it waits
                // for by the place; of what it does not wait for no number fits, so that its floor stays where it is.
                let client = self.client();
                let answered = client.request(format!("$JS.ACK.{stream}.{durable}.1.{seq}.0.0.0"), "+ACK".into());
                answered.await.map_err(LogError::unavailable)?;
            }
            match seq <= last {
                true => looked.up_to = seq,
                false => looked.newest = seq,
            }
        }
        Ok(())
    }

    async fn look(&self, seq: u64) -> (u64, Result<Option<Raw>, LogError>) {
        (seq, self.raw(&json!({ "seq": seq })).await)
    }

    /// Once for each.
    fn tell(&self, position: Position, reason: &str) {
        let mut told = self.inner.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Beyond that many nobody reads them one by one.
        if told.len() < TOLD_MAX && told.insert(position) {
            tracing::warn!(%position, reason, "a message of the log has headers that no client can read, and is passed by");
        }
    }
}

impl Raw {
    fn read(message: &Value) -> Option<Self> {
        let bytes = |name: &str| STANDARD.decode(message[name].as_str().unwrap_or_default()).ok();
        let time: jiff::Timestamp = message["time"].as_str()?.parse().ok()?;
        Some(Self {
            subject: message["subject"].as_str()?.to_owned(),
            position: Position::new(message["seq"].as_u64()?),
            headers: bytes("hdrs")?,
            payload: bytes("data")?.into(),
            time_ns: time.as_nanosecond(),
        })
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place { subject: &self.subject, sequence: self.position.get(), time_ns: self.time_ns }
    }

    /// What the client library makes of the headers, or why it cannot.
    pub(crate) fn readable(&self) -> Result<HeaderMap, &'static str> {
        headers(&self.headers)
    }

    /// The first of this name; none in headers that cannot be read.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.readable().ok()?.get(name).map(|value| value.as_str().to_owned())
    }

    pub(crate) fn record(&self, names: &Names) -> Record {
        match self.readable() {
            Ok(headers) => message::record(names, &self.place(), Some(&headers), &self.payload),
            Err(reason) => Record::Unreadable { position: self.position, reason: Invalid::new("headers", reason) },
        }
    }
}

/// The request for the first message on `subject` behind a position.
pub(crate) fn behind(after: Position, subject: &str) -> Value {
    json!({ "seq": after.next().get(), "next_by_subj": subject })
}

/// The client library's own reading of a message, without its end.
fn headers(bytes: &[u8]) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    if bytes.is_empty() {
        return Ok(headers);
    }
    let mut lines = std::str::from_utf8(bytes).map_err(|_| "are not UTF-8")?.lines().peekable();
    // A status is for answers of the server: the library would take the message for one.
    match lines.next().and_then(|version| version.strip_prefix("NATS/1.0")).map(str::trim) {
        Some("") => {}
        Some(_) => return Err("have a status"),
        None => return Err("do not begin with NATS/1.0"),
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or("have a line without a colon")?;
        let name: HeaderName = name.parse().map_err(|_| "have a name with a space, a control character or not in ASCII")?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        let value: HeaderValue = value.trim_end().parse().map_err(|_| "have a line break within a value")?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use causeway_testkit::{NatsServer, wait_until};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(flavor = "multi_thread")]
    async fn what_breaks_a_consumer_far_behind_its_floor_is_found_at_the_first_look() {
        let nats = NatsServer::start().await.unwrap();
        let log = Log::connect(&crate::Config { url: nats.url().as_str().into(), ..crate::Config::default() }).await.unwrap();
        // Nothing is acknowledged of all that is given, as if the first event rested; the last message is what no client can read.
        let unreadable = 2 * LOOKS_OF_A_BREAK_MAX + 100;
        let (stream, durable) = (log.inner.names.events_stream(), "slow");
        let config = json!({ "durable_name": durable, "ack_policy": "explicit", "max_ack_pending": unreadable });
        let create = json!({ "stream_name": stream, "config": config });
        log.api(&format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}"), &create).await.unwrap();
        let mut said = b"CONNECT {\"headers\":true,\"verbose\":false}\r\nSUB in 1\r\n".to_vec();
        for _ in 1..unreadable {
            said.extend_from_slice(b"PUB causeway.ev.a.custom 1\r\n1\r\n");
        }
        said.extend_from_slice(b"HPUB causeway.ev.a.custom 22 23\r\nNATS/1.0\r\nno colon\r\n\r\nx\r\n");
        let next = json!({ "batch": unreadable }).to_string();
        said.extend(format!("PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{durable} in {}\r\n{next}\r\n", next.len()).as_bytes());
        let (mut heard, mut says) = TcpStream::connect(nats.url().trim_start_matches("nats://")).await.unwrap().into_split();
        let listening = tokio::spawn(async move { tokio::io::copy(&mut heard, &mut tokio::io::sink()).await });
        says.write_all(&said).await.unwrap();
        let state = async || log.api(&format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"), &json!({})).await.unwrap();
        let pending = async || state().await["num_ack_pending"].as_u64().unwrap();
        wait_until("all to be given", LIMIT, async || (pending().await == unreadable).then_some(())).await;
        let mut looked = Looked::default();
        log.put_aside(durable, &mut looked).await.unwrap();
        assert_eq!(pending().await, unreadable - 1, "that one and no other was acknowledged");
        assert!(looked.up_to < unreadable - LOOKS_OF_A_BREAK_MAX && looked.newest == unreadable, "{looked:?}");
        listening.abort();
    }
}
