//! Durable consumers: hints that something happened in an aggregate, again and again until acknowledged.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{AckKind, message::Acker};
use causeway_event::{Category, Event, Position};
use futures::StreamExt as _;
use tokio::sync::watch;

use crate::message::{self, Place, Record};
use crate::raw::Looked;
use crate::{Log, LogError};

const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How a durable consumer delivers.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// The processor's name; all of its replicas share one consumer.
    pub processor: &'static str,
    /// The categories it wants to hear of.
    pub categories: &'static [Category],
    /// An event is delivered again if it was neither acknowledged nor marked as in progress for this long.
    pub ack_wait: Duration,
    /// The most deliveries that may be open at a time, over all replicas.
    pub ack_pending_max: i64,
}

/// A durable pull consumer.
pub struct Consumer {
    log: Log,
    config: ConsumerConfig,
    connections: watch::Receiver<u64>,
    current: Option<pull::Stream>,
    /// The end of the log when the consumer was opened.
    opened_at: Position,
    /// How far it was looked for what had broken it.
    looked: Looked,
}

/// Whether anybody can have had an event before us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody: it was appended after the consumer was opened, and the server counts one delivery.
    First,
    /// Somebody may have had it, and has neither acknowledged nor marked it since. A server that was killed forgets what it
    /// counted, so this is also what everything is that stood on the log when the consumer was opened.
    Again,
}

/// An event, until it is acknowledged.
pub struct Delivery {
    /// What happened.
    pub event: Event,
    /// Whether anybody can have had it before.
    pub seen: Seen,
    /// How often it has been delivered, this time included.
    pub deliveries: u32,
    acker: Acker,
}

impl Log {
    /// Opens the processor's consumer, creating it if it is not there. A new consumer starts with the first event of the log.
    pub async fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, LogError> {
        let mut consumer = Consumer {
            log: self.clone(),
            config,
            connections: self.inner.reading.connections.clone(),
            current: None,
            opened_at: Position::START,
            looked: Looked::default(),
        };
        consumer.current = Some(consumer.open().await?);
        Ok(consumer)
    }
}

impl Consumer {
    /// The next delivery. Waits as long as it takes, across outages. Cancel-safe: what is not returned is delivered again.
    ///
    /// What is not an event of ours is reported and put aside, once: no processor could ever do anything with it.
    pub async fn next(&mut self) -> Delivery {
        loop {
            let Some(messages) = &mut self.current else {
                self.reopen().await;
                continue;
            };
            let message = tokio::select! {
                biased;
                // What came before the break is as good as before, and would else come again only after a while.
                message = messages.next() => message,
                _ = self.connections.changed() => {
                    self.current = None;
                    continue;
                }
            };
            match message {
                Some(Ok(message)) => {
                    if let Some(delivery) = self.accept(message).await {
                        return delivery;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, processor = self.config.processor, "a pull broke and is made again");
                    self.current = None;
                }
                None => self.current = None,
            }
        }
    }

    async fn accept(&self, message: async_nats::jetstream::Message) -> Option<Delivery> {
        let (sequence, deliveries, time_ns) = match message.info() {
            Ok(info) => (info.stream_sequence, info.delivered, info.published.unix_timestamp_nanos()),
            Err(error) => {
                tracing::warn!(%error, "a delivery without its particulars, left to be delivered again");
                return None;
            }
        };
        // Answered over another connection than the one that reading may break.
        let acker = Acker::new(self.log.jetstream(), message.reply.clone());
        let place = Place { subject: &message.subject, sequence, time_ns };
        match message::record(&self.log.inner.names, &place, message.headers.as_ref(), &message.payload) {
            Record::Event(stored) => {
                let is_new = deliveries == 1 && stored.event.position > self.opened_at;
                let seen = if is_new { Seen::First } else { Seen::Again };
                let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
                Some(Delivery { event: stored.event, seen, deliveries, acker })
            }
            Record::Unreadable { position, reason } => {
                tracing::warn!(%position, %reason, processor = self.config.processor, "not an event of ours, left out");
                if let Err(error) = acker.ack_with(AckKind::Term).await {
                    tracing::debug!(%error, "could not be put aside and will come again");
                }
                None
            }
        }
    }

    async fn reopen(&mut self) {
        // What was outstanding comes again after a while; what broke the connection must not.
        let durable = self.log.inner.names.consumer(self.config.processor);
        let opened = match self.log.put_aside(&durable, &mut self.looked).await {
            // It may have been deleted, and is made again.
            Ok(()) | Err(LogError::Refused { .. }) => self.open().await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(messages) => self.current = Some(messages),
            Err(error) => {
                tracing::debug!(%error, processor = self.config.processor, "the consumer cannot be opened yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn open(&mut self) -> Result<pull::Stream, LogError> {
        self.connections.mark_unchanged();
        self.opened_at = self.log.last_position().await?;
        let names = &self.log.inner.names;
        let durable = names.consumer(self.config.processor);
        let config = pull::Config {
            durable_name: Some(durable.clone()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.config.ack_wait,
            // Unlimited: the attempts on the log decide when to give up.
            max_deliver: -1,
            max_ack_pending: self.config.ack_pending_max,
            filter_subjects: self.config.categories.iter().map(|category| names.category(*category)).collect(),
            ..pull::Config::default()
        };
        let unavailable = |error: &dyn std::fmt::Display| LogError::unavailable(format!("consumer {durable}: {error}"));
        let stream = names.events_stream();
        let consumer = self
            .log
            .inner
            .reading
            .jetstream()
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(|error| unavailable(&error))?;
        let batch = usize::try_from(self.config.ack_pending_max).unwrap_or(1);
        let pull = consumer.stream().max_messages_per_batch(batch).expires(EXPIRES).heartbeat(HEARTBEAT);
        pull.messages().await.map_err(|error| unavailable(&error))
    }
}

impl Delivery {
    /// Its place in the log.
    pub fn position(&self) -> Position {
        self.event.position
    }

    /// Done: it is not delivered again. A lost acknowledgement costs a harmless redelivery.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.answer(AckKind::Ack).await
    }

    /// Somebody is at work on it: the wait for an acknowledgement starts anew. Returns when the server has confirmed it.
    pub async fn mark_in_progress(&self) -> Result<(), LogError> {
        self.acker.double_ack_with(AckKind::Progress).await.map_err(LogError::unavailable)
    }

    /// Not now: it is delivered again after `delay`.
    pub async fn retry_after(&self, delay: Duration) -> Result<(), LogError> {
        self.answer(AckKind::Nak(Some(delay))).await
    }

    async fn answer(&self, kind: AckKind) -> Result<(), LogError> {
        self.acker.ack_with(kind).await.map_err(LogError::unavailable)
    }
}
