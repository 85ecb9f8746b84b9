//! Following the log: catch up, then live, without gap or repeat, across reconnects and restarts of the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use causeway_event::Position;
use causeway_proof::Hash;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use self::pace::Pace;
use crate::LogError;
use crate::connection::Log;
use crate::message::{self, Place, Record};
use crate::raw::{Raw, behind};

mod pace;

/// A pull is renewed after this long.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server forgets a consumer that nobody has pulled from for this long.
const INACTIVE: Duration = Duration::from_secs(60);
/// Pause before a consumer that could not be made or broke is made again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Counts the runs of all subscriptions of this process.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// What a hash chain has of a record, for whoever would otherwise have to read it a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The same that [`causeway_proof::Entry::leaf`] says of what a [`crate::Walk`] finds there.
    pub hash: Hash,
    /// In which unbroken run of messages it came. Those of one run are of one log; between two, another one may have been put in
    /// its place.
    pub run: u64,
}

/// Another log stands in the place of the one that was read: a server came back with an older disk, or a backup was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what stands at position {0} is not what was read there: it is another log")]
pub struct Replaced(pub Position);

/// Events from a position on, for ever.
///
/// Made of one ephemeral consumer after another: whenever one breaks, the next starts behind the last message that came
/// through, provided that it still stands there, and a message that is not the next of its consumer breaks it.
pub struct Subscription {
    log: Log,
    seen: Position,
    /// When the log stored what was seen last, in nanoseconds: no other message has both its place and its time.
    stored_at: Option<i128>,
    connections: watch::Receiver<u64>,
    current: Option<Pull>,
    pace: Pace,
    /// A pull broke, or the last record was unreadable: the next one may be what breaks a connection.
    careful: bool,
    run: u64,
}

struct Pull {
    messages: pull::Stream,
    /// Sequence of the last message within this consumer, which has no gaps.
    delivered: u64,
}

impl Log {
    /// Everything behind `after`, then what is appended.
    pub fn subscribe(&self, after: Position) -> Subscription {
        Subscription {
            log: self.clone(),
            seen: after,
            stored_at: None,
            connections: self.inner.reading.connections.clone(),
            current: None,
            pace: Pace::full(self.inner.config.request_timeout),
            careful: false,
            run: 0,
        }
    }
}

impl Subscription {
    /// The next record. Waits as long as it takes, across outages. Cancel-safe: a record is either returned or comes again.
    pub async fn next(&mut self) -> Result<Record, Replaced> {
        Ok(self.next_with_leaf(|_| false).await?.0)
    }

    /// The next record as [`Self::next`] gives it, and its leaf if that is wanted of its position.
    pub async fn next_with_leaf(&mut self, wanted: impl Fn(Position) -> bool) -> Result<(Record, Option<Leaf>), Replaced> {
        loop {
            if self.careful && self.current.is_none() {
                match self.by_itself(&wanted).await? {
                    Some(record) => return Ok(record),
                    None => continue,
                }
            }
            let Some(pull) = &mut self.current else {
                self.connect().await?;
                continue;
            };
            let message = tokio::select! {
                biased;
                message = pull.messages.next() => message,
                // What was asked of the old connection will not be answered on the new one.
                _ = self.connections.changed() => {
                    self.broken(&"another connection");
                    continue;
                }
            };
            match message {
                Some(Ok(message)) => {
                    if let Some(record) = self.accept(&message, &wanted) {
                        return Ok(record);
                    }
                }
                Some(Err(error)) => self.broken(&error),
                None => self.broken(&"the pull ended"),
            }
        }
    }

    fn accept(
        &mut self,
        message: &async_nats::jetstream::Message,
        wanted: impl Fn(Position) -> bool,
    ) -> Option<(Record, Option<Leaf>)> {
        let pull = self.current.as_mut()?;
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => {
                self.broken(&error);
                return None;
            }
        };
        if info.consumer_sequence != pull.delivered + 1 {
            self.broken(&"a message was lost on the way");
            return None;
        }
        pull.delivered = info.consumer_sequence;
        let time_ns = info.published.unix_timestamp_nanos();
        (self.seen, self.stored_at) = (Position::new(info.stream_sequence), Some(time_ns));
        let place = Place { subject: &message.subject, sequence: info.stream_sequence, time_ns };
        let headers = message.headers.as_ref();
        let record = message::record(&self.log.inner.names, &place, headers, &message.payload);
        let leaf = wanted(self.seen).then(|| {
            let entry = self.log.entry_of(record.clone(), &place, headers, &message.payload);
            Leaf { hash: entry.leaf(), run: self.run }
        });
        if self.pace.brought(message.payload.len() as u64, Instant::now(), info.pending) {
            self.current = None;
        }
        Some((record, leaf))
    }

    fn broken(&mut self, reason: &dyn std::fmt::Display) {
        tracing::debug!(position = %self.seen, %reason, "a pull on the log broke and is made again");
        self.current = None;
        self.careful = true;
        self.pace.broke();
    }

    /// What the log has for such a request, waited for with the patience that this link needs.
    async fn look(&mut self, request: &Value) -> Result<Option<Raw>, LogError> {
        let asked = Instant::now();
        let found = self.log.inner.asking.unbroken(self.log.raw_within(request, self.pace.patience())).await;
        if found.is_err() {
            self.pace.waited(asked.elapsed());
        }
        found
    }

    /// The next record in the way that nothing can break, if there is one.
    async fn by_itself(&mut self, wanted: impl Fn(Position) -> bool) -> Result<Option<(Record, Option<Leaf>)>, Replaced> {
        let next = behind(self.seen, &self.log.inner.names.all_events());
        let raw = match self.look(&next).await {
            Ok(raw) => raw,
            Err(error) => {
                tracing::debug!(%error, "the log cannot be followed yet");
                tokio::time::sleep(RETRY_PAUSE).await;
                // A message that is too large for the link to come in the time of one answer may come in a pull.
                self.careful = false;
                return Ok(None);
            }
        };
        // Nothing is behind it: whoever is made next looks whether it is still there.
        let Some(raw) = raw else {
            self.careful = false;
            self.pace.caught_up();
            return Ok(None);
        };
        if !self.goes_on().await? {
            return Ok(None);
        }
        self.careful = raw.readable().is_err();
        (self.seen, self.stored_at) = (raw.position, Some(raw.time_ns));
        let leaf = wanted(raw.position)
            .then(|| Leaf { hash: self.log.raw_entry(&raw).leaf(), run: RUNS.fetch_add(1, Ordering::Relaxed) });
        Ok(Some((raw.record(&self.log.inner.names), leaf)))
    }

    /// Whether what was seen last still stands there, so that what was just found behind it goes on from it. False if that cannot be
    /// known yet. Asked after that was found: a log that is replaced in between is noticed the next time at the latest.
    async fn goes_on(&mut self) -> Result<bool, Replaced> {
        if self.seen == Position::START {
            return Ok(true);
        }
        let missing = match self.look(&json!({ "seq": self.seen.get() })).await {
            Ok(Some(raw)) if *self.stored_at.get_or_insert(raw.time_ns) == raw.time_ns => return Ok(true),
            Ok(Some(_)) => return Err(Replaced(self.seen)),
            Ok(None) => self.log.last_position().await,
            Err(error) => Err(error),
        };
        match missing {
            // The server lost that one.
            Ok(last) if self.seen <= last => return Ok(true),
            // A log that is too short may be so for a moment only.
            Ok(last) => tracing::debug!(seen = %self.seen, %last, "the log does not have what was read of it"),
            Err(error) => tracing::debug!(%error, "the log cannot be followed yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(false)
    }

    async fn connect(&mut self) -> Result<(), Replaced> {
        self.connections.mark_unchanged();
        // Also before: no consumer is made that nobody would pull from.
        if !self.goes_on().await? {
            return Ok(());
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.seen.next().get() },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE,
            ..pull::Config::default()
        };
        let stream = self.log.inner.names.events_stream();
        let made = async {
            let jetstream = self.log.inner.reading.jetstream();
            let consumer = jetstream.create_consumer_on_stream(config, stream).await.map_err(|error| error.to_string())?;
            if consumer.cached_info().num_pending == 0 {
                self.pace.caught_up();
            }
            let (batch, heartbeat) = (self.pace.batch(), self.pace.heartbeat());
            let pull = consumer.stream().max_messages_per_batch(batch).expires(EXPIRES).heartbeat(heartbeat);
            pull.messages().await.map_err(|error| error.to_string())
        };
        match made.await {
            Ok(messages) => {
                if self.goes_on().await? {
                    self.run = RUNS.fetch_add(1, Ordering::Relaxed);
                    self.pace.begun(Instant::now());
                    self.current = Some(Pull { messages, delivered: 0 });
                }
            }
            Err(error) => {
                tracing::debug!(error, "the log cannot be followed yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }
}
