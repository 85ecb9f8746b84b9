//! What a group's dispatcher pulls: events without their data, each held until it is acknowledged or given back.
//!
//! The server gives to whoever asked, until the request runs out. So a request must not outlive its right: whoever pulls says until
//! when, and nothing is asked behind its back. What the server gave to a request and nobody took comes again after the hold time,
//! behind later events: an end of pulling takes what is on its way, and a break of the connection is told.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Message, StatusCode, Subject, Subscriber, jetstream};
use bytes::Bytes;
use causeway_event::{Event, Position};
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::GroupName;
use crate::message::{self, Place, Record};
use crate::raw::Looked;
use crate::{Log, LogError, link};

/// Events of one request at most.
const BATCH: usize = 256;
/// How long a request waits at the server at most.
const EXPIRES: Duration = Duration::from_secs(5);
/// A request that the server did not end this long after it should have is forgotten.
const LATE_MAX: Duration = Duration::from_secs(1);
/// How long it is waited for what is on its way when pulling ends.
const CLOSE_MAX: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Stands for the data, which stays on the server.
const NO_DATA: &[u8] = b"null";

/// The pulls of one dispatcher.
pub struct GroupPull {
    log: Log,
    group: GroupName,
    connections: watch::Receiver<u64>,
    inbox: Option<Inbox>,
    asked: Option<Asked>,
    /// The connection broke, perhaps at something that would break it again.
    broke: bool,
    /// How far it was looked for that.
    looked: Looked,
    /// The looking.
    putting_aside: Option<AbortOnDropHandle<(Looked, Result<(), LogError>)>>,
}

struct Inbox {
    subject: Subject,
    messages: Subscriber,
}

/// A pull request at the server, or a pause before the next one; it ends at `ends`.
struct Asked {
    left: usize,
    ends: Instant,
}

/// What comes of pulling.
#[expect(clippy::large_enum_variant, reason = "handed on at once, never kept")]
pub enum Pull {
    /// Something to deal with.
    Came(Pulled),
    /// The connection broke. What was on its way is lost, and comes again after [`Log::GROUP_HOLD`].
    Broke,
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
        let mut connections = self.inner.reading.connections.clone();
        connections.mark_unchanged();
        GroupPull {
            log: self.clone(),
            group: group.clone(),
            connections,
            inbox: None,
            asked: None,
            broke: false,
            looked: Looked::default(),
            putting_aside: None,
        }
    }
}

impl GroupPull {
    /// The next one. Waits as long as it takes, across outages, but asks the server for nothing that it could give after `until`.
    /// Cancel-safe.
    pub async fn next(&mut self, until: std::time::Instant) -> Pull {
        let until = Instant::from_std(until);
        loop {
            let now = Instant::now();
            if self.asked.as_ref().is_some_and(|asked| asked.ends <= now) {
                self.asked = None;
            }
            if self.asked.is_none()
                && now < until
                && let Err(error) = self.ask(until.duration_since(now).min(EXPIRES)).await
            {
                tracing::debug!(%error, group = %self.group, "a group cannot be pulled yet");
                self.pause();
            }
            let ends = self.asked.as_ref().map(|asked| asked.ends);
            let message = tokio::select! {
                biased;
                // What was asked over the old connection may not be answered over the new one.
                _ = self.connections.changed() => {
                    (self.asked, self.broke) = (None, true);
                    return Pull::Broke;
                }
                message = next_of(&mut self.inbox) => message,
                () = sleep_until(ends.unwrap_or(now)), if ends.is_some() => continue,
            };
            match message {
                // What was published with a status (older servers keep it) has a reply all the same: it is a delivery.
                Some(message) if message.status.is_some() && message.reply.is_none() => self.ended(&message),
                Some(message) => {
                    if let Some(asked) = &mut self.asked {
                        asked.left = asked.left.saturating_sub(1);
                        if asked.left == 0 {
                            self.asked = None;
                        }
                    }
                    if let Some(pulled) = self.accept(message) {
                        return Pull::Came(pulled);
                    }
                }
                None => (self.inbox, self.asked) = (None, None),
            }
        }
    }

    /// Takes nothing more, and returns what was on its way.
    pub async fn close(mut self) -> Vec<Pulled> {
        let Some(mut inbox) = self.inbox.take() else { return Vec::new() };
        let mut last = Vec::new();
        let rest = async {
            if inbox.messages.drain().await.is_err() {
                return;
            }
            while let Some(message) = inbox.messages.next().await {
                last.extend(self.accept(message));
            }
        };
        if timeout(CLOSE_MAX, rest).await.is_err() {
            tracing::debug!(group = %self.group, "what was on its way did not come; it comes again");
        }
        drop(inbox);
        // What is given back after this goes over another connection, and would return to us if it overtook the end of the inbox:
        // whoever is answered on this one knows that the server has heard of that.
        let inner = &self.log.inner;
        let info = format!("$JS.API.CONSUMER.INFO.{}.{}", inner.names.events_stream(), self.group.consumer(&self.log));
        if timeout(CLOSE_MAX, inner.reading.client().request(info, Bytes::new())).await.is_err() {
            tracing::debug!(group = %self.group, "what is given back may return here, and come again after the hold time");
        }
        last
    }

    async fn ask(&mut self, expires: Duration) -> Result<(), LogError> {
        self.log.require_connection()?;
        let inner = &self.log.inner;
        if self.broke {
            // It goes on from one call to the next: each may be too short for it.
            let (log, consumer, mut looked) = (self.log.clone(), self.group.consumer(&self.log), self.looked);
            let putting = self.putting_aside.get_or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(async move {
                    let done = log.put_aside(&consumer, &mut looked).await;
                    (looked, done)
                }))
            });
            let put = putting.await;
            self.putting_aside = None;
            let (looked, done) = put.map_err(LogError::unavailable)?;
            self.looked = looked;
            done?;
            self.broke = false;
        }
        let client = inner.reading.client();
        if self.inbox.is_none() {
            let subject = Subject::from(client.new_inbox());
            let messages = client.subscribe(subject.clone()).await.map_err(LogError::unavailable)?;
            self.inbox = Some(Inbox { subject, messages });
        }
        let Some(inbox) = &self.inbox else { return Ok(()) };
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", inner.names.events_stream(), self.group.consumer(&self.log));
        let request = json!({ "batch": BATCH, "expires": u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX) });
        let asked = client.publish_with_reply(next, inbox.subject.clone(), Bytes::from(request.to_string()));
        asked.await.map_err(LogError::unavailable)?;
        self.asked = Some(Asked { left: BATCH, ends: Instant::now() + expires + LATE_MAX });
        Ok(())
    }

    /// The server says that a request is over.
    fn ended(&mut self, message: &Message) {
        match message.status {
            Some(StatusCode::IDLE_HEARTBEAT) => {}
            // It ran out.
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => self.asked = None,
            status => {
                tracing::debug!(?status, reason = message.description, group = %self.group, "a pull broke and is made again");
                self.pause();
            }
        }
    }

    fn pause(&mut self) {
        self.asked = Some(Asked { left: BATCH, ends: Instant::now() + RETRY_PAUSE });
    }

    fn accept(&self, message: Message) -> Option<Pulled> {
        let message = jetstream::Message { message, context: self.log.jetstream() };
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
}

/// Never, without an inbox.
async fn next_of(inbox: &mut Option<Inbox>) -> Option<Message> {
    match inbox {
        Some(inbox) => inbox.messages.next().await,
        None => std::future::pending().await,
    }
}

impl Hold {
    /// It is done with. Returns when the server has confirmed it.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.log.require_connection()?;
        let confirmed = self.log.client().request(self.subject.clone(), answer(AckKind::Ack)).await;
        confirmed.map(drop).map_err(LogError::unavailable)
    }

    /// It is of no interest. If that is lost, it comes again.
    pub async fn skip(&self) -> Result<(), LogError> {
        self.send(AckKind::Ack).await
    }

    /// It is still held: the server's patience starts anew.
    pub async fn keep(&self) -> Result<(), LogError> {
        self.send(AckKind::Progress).await
    }

    /// Somebody else shall have it, at once.
    pub async fn give_back(&self) -> Result<(), LogError> {
        self.send(AckKind::Nak(None)).await
    }

    /// Nobody confirms it. An error says that the server takes nothing at the moment.
    async fn send(&self, kind: AckKind) -> Result<(), LogError> {
        link::say(&self.log.client(), self.subject.clone(), answer(kind)).await
    }
}

fn answer(kind: AckKind) -> Bytes {
    kind.into()
}
