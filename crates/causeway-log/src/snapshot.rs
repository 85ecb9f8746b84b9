//! Snapshots of whole streams, with their consumers: JetStream's own snapshot and restore, spoken by hand.
//!
//! ```text
//! snapshot: request -> config, state;  then chunks to our inbox, each answered so that the server sends on;  empty: the end
//! restore:  request with config, state -> a subject;  each chunk is a request to it;  an empty one: build the stream
//! ```
//!
//! What the chunks hold is the server's affair (an S2-compressed tar of its files): they are kept as they come.

use std::time::Duration;

use async_nats::jetstream::stream;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::connection::{not_enabled, not_found};
use crate::names::Names;
use crate::{Log, LogError};

/// Bytes of one message of a snapshot.
const CHUNK_BYTES: usize = 128 * 1024;
/// How long the server may be silent: it reads, or builds, a whole stream meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What can be said of a stream at a moment.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// How many messages it holds.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sequence of the first; 0 where there is none.
    pub first: u64,
    /// The sequence of the last that it ever had.
    pub last: u64,
    /// How many consumers it has.
    pub consumers: usize,
}

/// What a stream holds of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Just that: as many messages, the first and the last at the same positions and stored at the same nanosecond.
    Same,
    /// That, and what came behind it.
    More,
    /// Something else, or a part of it.
    Other,
}

/// What is being restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Restoring {
    /// When the backup was made.
    pub made: String,
    /// The streams that were not there when it began: what there is of them, it has made.
    pub streams: Vec<String>,
}

impl StreamFacts {
    pub(crate) fn of(info: &stream::Info) -> Self {
        Self {
            name: info.config.name.clone(),
            messages: info.state.messages,
            bytes: info.state.bytes,
            // The server itself says 0 or the next one, as it happens.
            first: if info.state.messages == 0 { 0 } else { info.state.first_sequence },
            last: info.state.last_sequence,
            consumers: info.state.consumer_count,
        }
    }
}

/// A snapshot under way: its chunks, until there is none.
pub struct Snapshot {
    log: Log,
    stream: String,
    chunks: async_nats::Subscriber,
    /// The stream's configuration and state as the server said them, for the restore.
    description: Value,
    received: u64,
}

impl Log {
    /// All streams of this namespace, those of buckets included, by name; but for the copies of read models, which are made again.
    pub async fn streams(&self) -> Result<Vec<StreamFacts>, LogError> {
        self.require_connection()?;
        let all: Vec<stream::Info> = self.jetstream().streams().try_collect().await.map_err(LogError::unavailable)?;
        let namespace = |info: &stream::Info| Names::namespace_of(&info.config.name, &subjects(info)).map(str::to_owned);
        let (names, others): (_, Vec<String>) = (&self.inner.names, all.iter().filter_map(namespace).collect());
        let is_ours = |info: &&stream::Info| {
            let name = &info.config.name;
            let is_cache = name.strip_prefix("OBJ_") == Some(&names.read_models_bucket());
            names.has_stream(name, &subjects(info), &others) && !is_cache
        };
        let mut all: Vec<StreamFacts> = all.iter().filter(is_ours).map(StreamFacts::of).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// A stream as it is at this moment; none if there is none of this name.
    pub async fn stream_facts(&self, name: &str) -> Result<Option<StreamFacts>, LogError> {
        if self.stream_state(name).await?.is_none() {
            return Ok(None);
        }
        let stream = self.jetstream().get_stream(name).await.map_err(LogError::unavailable)?;
        Ok(Some(StreamFacts::of(stream.cached_info())))
    }

    /// What the server says of the messages that a stream holds at this moment; none if there is none of this name.
    async fn stream_state(&self, name: &str) -> Result<Option<Value>, LogError> {
        match self.api(&format!("$JS.API.STREAM.INFO.{name}"), &json!({})).await {
            Ok(answer) => Ok(Some(answer["state"].clone())),
            Err(LogError::Refused { code: 10059, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a stream of this name holds of what its snapshot was made of; none if there is no such stream.
    pub async fn held_of(&self, stream: &str, description: &Value) -> Result<Option<Held>, LogError> {
        let Some(state) = self.stream_state(stream).await? else { return Ok(None) };
        let saved = &description["state"];
        let same = |names: &[&str]| names.iter().all(|name| state[name] == saved[name]);
        let is_same = match state["messages"] == 0 {
            // Of none the server says as it happens where the first would be, and when.
            true => same(&["messages", "last_seq"]),
            false => same(&["messages", "first_seq", "first_ts", "last_seq", "last_ts"]),
        };
        if is_same {
            return Ok(Some(Held::Same));
        }
        let number = |state: &Value, name: &str| state[name].as_u64().unwrap_or_default();
        let last = number(saved, "last_seq");
        if number(&state, "last_seq") <= last || (number(saved, "messages") > 0 && !same(&["first_seq", "first_ts"])) {
            return Ok(Some(Held::Other));
        }
        let time = saved["last_ts"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let found = self.raw_of(stream, &json!({ "seq": last })).await?;
        let goes_on = found.is_some_and(|raw| Some(raw.time_ns) == time.map(jiff::Timestamp::as_nanosecond));
        Ok(Some(if goes_on { Held::More } else { Held::Other }))
    }

    /// Begins a snapshot of this stream and its consumers. The server checks every message of it first.
    pub async fn snapshot(&self, stream: &str) -> Result<Snapshot, LogError> {
        self.require_connection()?;
        let inbox = self.client().new_inbox();
        let chunks = self.client().subscribe(inbox.clone()).await.map_err(LogError::unavailable)?;
        let request = json!({ "deliver_subject": inbox, "no_consumers": false, "jsck": true, "chunk_size": CHUNK_BYTES });
        let answer = self.api_within(&format!("$JS.API.STREAM.SNAPSHOT.{stream}"), &request, SILENCE_MAX).await?;
        let description = json!({ "config": answer["config"], "state": answer["state"] });
        Ok(Snapshot { log: self.clone(), stream: stream.to_owned(), chunks, description, received: 0 })
    }

    /// Notes what is being restored: until [`Self::end_restore`] nobody takes it for the log.
    pub async fn begin_restore(&self, what: &Restoring, replicas: usize) -> Result<(), LogError> {
        let name = self.inner.names.restore_stream();
        let description = json!(what).to_string();
        let note =
            json!({ "name": name, "description": description, "storage": "file", "max_msgs": 1, "num_replicas": replicas });
        self.api(&format!("$JS.API.STREAM.CREATE.{name}"), &note).await.map(drop)
    }

    /// What [`Self::begin_restore`] noted, until [`Self::end_restore`].
    pub async fn restoring(&self) -> Result<Option<Restoring>, LogError> {
        let name = self.inner.names.restore_stream();
        match self.jetstream().get_stream(&name).await {
            Ok(stream) => {
                let description = stream.cached_info().config.description.as_deref().unwrap_or_default();
                Ok(Some(serde_json::from_str(description).unwrap_or_default()))
            }
            Err(error) if not_found(&error) || not_enabled(&error) => Ok(None),
            Err(error) => {
                Err(LogError::unavailable(format!("stream {name}, for which this user must be allowed to ask: {error}")))
            }
        }
    }

    /// All of it is there.
    pub async fn end_restore(&self) -> Result<(), LogError> {
        self.delete_stream(&self.inner.names.restore_stream()).await
    }

    /// Deletes what a restore that broke off has left of a stream.
    pub async fn delete_stream(&self, name: &str) -> Result<(), LogError> {
        self.api(&format!("$JS.API.STREAM.DELETE.{name}"), &json!({})).await.map(drop)
    }

    /// Builds a stream of this name, which must not exist, from the chunks of a snapshot and its description.
    pub async fn restore<E: From<LogError>>(
        &self,
        stream: &str,
        description: &Value,
        mut chunk: impl AsyncFnMut() -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let answer = self.api(&format!("$JS.API.STREAM.RESTORE.{stream}"), description).await?;
        let subject = answer["deliver_subject"].as_str().unwrap_or_default().to_owned();
        if subject.is_empty() {
            return Err(LogError::unavailable(format!("the restore of {stream} was answered without a subject")).into());
        }
        while let Some(bytes) = chunk().await? {
            for part in bytes.chunks(CHUNK_BYTES) {
                self.send_chunk(&subject, bytes.slice_ref(part)).await?;
            }
        }
        self.send_chunk(&subject, Bytes::new()).await?;
        Ok(())
    }

    /// Sends one chunk and waits until the server has taken it.
    async fn send_chunk(&self, subject: &str, chunk: Bytes) -> Result<(), LogError> {
        let request = async_nats::Request::new().payload(chunk).timeout(Some(SILENCE_MAX));
        let answer = self.client().send_request(subject.to_owned(), request).await.map_err(LogError::unavailable)?;
        if answer.payload.is_empty() {
            return Ok(());
        }
        parse(&answer.payload).map(drop)
    }

    /// A request to JetStream's API; its answer, or the error in it.
    pub(crate) async fn api(&self, subject: &str, request: &Value) -> Result<Value, LogError> {
        self.api_within(subject, request, self.inner.config.request_timeout).await
    }

    pub(crate) async fn api_within(&self, subject: &str, request: &Value, timeout: Duration) -> Result<Value, LogError> {
        self.require_connection()?;
        let request = async_nats::Request::new().payload(Bytes::from(request.to_string())).timeout(Some(timeout));
        let answer = self.client().send_request(subject.to_owned(), request).await;
        parse(&answer.map_err(|error| LogError::unavailable(format!("{subject}: {error}")))?.payload)
    }
}

impl Snapshot {
    /// What a restore needs to know, beside the chunks.
    pub fn description(&self) -> &Value {
        &self.description
    }

    /// The next chunk; none when all of it has come.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, LogError> {
        let broken = |why: &str| LogError::unavailable(format!("the snapshot of {} broke off: {why}", self.stream));
        let next = tokio::time::timeout(SILENCE_MAX, self.chunks.next()).await;
        let message = next.ok().flatten().ok_or_else(|| broken("the server fell silent"))?;
        if message.payload.is_empty() {
            let failed = message.status.is_some_and(|status| status.as_u16() >= 400);
            return match failed {
                true => Err(broken(message.description.as_deref().unwrap_or("the server gave no reason"))),
                false => Ok(None),
            };
        }
        self.received += 1;
        if let Some(reply) = message.reply {
            // The reply's subject ends in the chunk's size and number.
            let number = reply.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
            if number.is_some_and(|number| number != self.received) {
                return Err(broken("a chunk was lost on the way"));
            }
            self.log.client().publish(reply, Bytes::new()).await.map_err(|error| broken(&error.to_string()))?;
        }
        Ok(Some(message.payload))
    }
}

fn subjects(info: &stream::Info) -> Vec<String> {
    info.config.subjects.iter().map(ToString::to_string).collect()
}

fn parse(payload: &[u8]) -> Result<Value, LogError> {
    let answer: Value = serde_json::from_slice(payload)
        .map_err(|error| LogError::unavailable(format!("an answer of NATS cannot be read: {error}")))?;
    match answer.get("error") {
        Some(error) => Err(LogError::Refused {
            code: error["err_code"].as_u64().or(error["code"].as_u64()).unwrap_or_default(),
            reason: error["description"].as_str().unwrap_or_default().to_owned(),
        }),
        None => Ok(answer),
    }
}
