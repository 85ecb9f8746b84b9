//! What a group's dispatcher pulls: events without their data, each held until it is acknowledged or given back.

use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::pull as js;
use bytes::Bytes;
use causeway_event::{Event, Position};
use futures::StreamExt as _;
use tokio::sync::watch;

use super::GroupName;
use crate::message::{self, Place, Record};
use crate::{Log, LogError};

const BATCH: usize = 256;
const EXPIRES: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Stands for the data, which stays on the server.
const NO_DATA: &[u8] = b"null";

/// The pulls of one dispatcher.
pub struct GroupPull {
    log: Log,
    group: GroupName,
    connections: watch::Receiver<u64>,
    current: Option<js::Stream>,
}

/// Something that the group has to deal with.
pub struct Pulled {
    /// Where it stands.
    pub position: Position,
    /// The event, with `null` for its data. None if what stands there is no event of ours.
    pub event: Option<Event>,
    /// How to answer the server.
    pub hold: Hold,
}

/// What the server waits for an answer to.
#[derive(Clone)]
pub struct Hold {
    log: Log,
    subject: Subject,
}

impl Log {
    /// What the group has not acknowledged. Only the holder of its lease should pull.
    pub fn pull_group(&self, group: &GroupName) -> GroupPull {
        GroupPull { log: self.clone(), group: group.clone(), connections: self.inner.connections.clone(), current: None }
    }
}

impl GroupPull {
    /// The next one. Waits as long as it takes, across outages. None when the group was deleted. Cancel-safe: what is not returned
    /// comes again.
    pub async fn next(&mut self) -> Option<Pulled> {
        loop {
            let Some(messages) = &mut self.current else {
                match self.open().await {
                    Ok(Some(messages)) => self.current = Some(messages),
                    Ok(None) => return None,
                    Err(error) => {
                        tracing::debug!(%error, group = %self.group, "a group cannot be pulled yet");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                continue;
            };
            let message = tokio::select! {
                message = messages.next() => message,
                // What was asked of the old connection will not be answered on the new one.
                _ = self.connections.changed() => None,
            };
            match message {
                Some(Ok(message)) => {
                    if let Some(pulled) = self.accept(&message) {
                        return Some(pulled);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, group = %self.group, "a pull broke and is made again");
                    self.current = None;
                }
                None => self.current = None,
            }
        }
    }

    fn accept(&self, message: &async_nats::jetstream::Message) -> Option<Pulled> {
        let (info, subject) = (message.info().ok()?, message.reply.clone()?);
        let place =
            Place { subject: &message.subject, sequence: info.stream_sequence, time_ns: info.published.unix_timestamp_nanos() };
        let hold = Hold { log: self.log.clone(), subject };
        let position = Position::new(info.stream_sequence);
        Some(match message::record(&self.log.inner.names, &place, message.headers.as_ref(), NO_DATA) {
            Record::Event(stored) => Pulled { position, event: Some(stored.event), hold },
            Record::Unreadable { reason, .. } => {
                tracing::warn!(%position, %reason, group = %self.group, "not an event of ours, left out");
                Pulled { position, event: None, hold }
            }
        })
    }

    /// None if there is no such group.
    async fn open(&mut self) -> Result<Option<js::Stream>, LogError> {
        self.connections.mark_unchanged();
        if self.log.group(&self.group).await?.is_none() {
            return Ok(None);
        }
        let inner = &self.log.inner;
        let consumer: async_nats::jetstream::consumer::Consumer<js::Config> = inner
            .jetstream
            .get_consumer_from_stream(self.group.consumer(&self.log), inner.names.events_stream())
            .await
            .map_err(LogError::unavailable)?;
        let pull = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
        pull.messages().await.map(Some).map_err(LogError::unavailable)
    }
}

impl Hold {
    /// It is done with. Returns when the server has confirmed it.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.log.require_connection()?;
        let confirmed = self.log.inner.client.request(self.subject.clone(), answer(AckKind::Ack)).await;
        confirmed.map(drop).map_err(LogError::unavailable)
    }

    /// It is of no interest. If that is lost, it comes again.
    pub async fn skip(&self) {
        self.send(AckKind::Ack).await;
    }

    /// It is still held: the server's patience starts anew.
    pub async fn keep(&self) {
        self.send(AckKind::Progress).await;
    }

    /// Somebody else shall have it, at once.
    pub async fn give_back(&self) {
        self.send(AckKind::Nak(None)).await;
    }

    async fn send(&self, kind: AckKind) {
        if let Err(error) = self.log.inner.client.publish(self.subject.clone(), answer(kind)).await {
            tracing::debug!(%error, "an answer to the server was not sent; it asks again");
        }
    }
}

fn answer(kind: AckKind) -> Bytes {
    kind.into()
}
