//! One connection, for appends alone, from its beginning to its first break. It is never restored, only replaced.
//!
//! The client library keeps what waits in its queue over a break and sends it once it is connected again, however late: an append
//! that was answered as unknown could then be stored beside its own repetition. So the library may try each server once, and then
//! gives its queue up. What was in the queue at the break is sent within those few connection timeouts or never; of what was
//! already written to the socket nobody can say more than that the server has it or not.
//!
//! Acknowledgements come to one inbox, and are told apart by the last token of their subject.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::answer::{Answer, parse};
use crate::LogError;

/// How to connect.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) servers: Vec<String>,
    pub(crate) options: ConnectOptions,
    /// How long connecting, handing over and waiting for an answer may each take.
    pub(crate) request_timeout: Duration,
}

pub(super) struct Line {
    client: Client,
    inbox: String,
    request_timeout: Duration,
    tokens: AtomicU64,
    /// Those who wait for an answer; none once the connection broke.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<async_nats::Message>>>>,
}

/// What comes back on a line.
pub(super) struct Answers {
    subscriber: Subscriber,
    broken: Arc<Notify>,
}

/// An answer that is waited for, until it is dropped.
pub(super) struct Reply {
    line: Arc<Line>,
    token: u64,
    answer: oneshot::Receiver<async_nats::Message>,
    deadline: Instant,
}

impl Line {
    pub(super) async fn open(way: &Way) -> Result<(Arc<Self>, Answers), LogError> {
        let broken = Arc::new(Notify::new());
        let tell = broken.clone();
        let options = way.options.clone().max_reconnects(way.servers.len()).event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                tell.notify_one();
            }
            async {}
        });
        let open = async {
            let client = options.connect(&way.servers).await.map_err(|error| error.to_string())?;
            let inbox = client.new_inbox();
            let subscriber = client.subscribe(format!("{inbox}.*")).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((client, inbox, subscriber))
        };
        let opened = tokio::time::timeout(way.request_timeout, open).await.unwrap_or_else(|_| Err("no answer in time".into()));
        let (client, inbox, subscriber) = opened.map_err(|error| LogError::unavailable(format!("to append: {error}")))?;
        let waiting = Mutex::new(Some(HashMap::new()));
        let line = Self { client, inbox, request_timeout: way.request_timeout, tokens: AtomicU64::new(0), waiting };
        Ok((Arc::new(line), Answers { subscriber, broken }))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Hands a message to the connection, behind all that were handed to it before. Fails if it was not, with why; dropping the
    /// future takes it back.
    pub(super) async fn ask(self: &Arc<Self>, subject: String, headers: HeaderMap, payload: Bytes) -> Result<Reply, Answer> {
        let mut reply = self.reply()?;
        let inbox = format!("{}.{}", self.inbox, reply.token);
        let sent = self.client.publish_with_reply_and_headers(subject, inbox, headers, payload);
        tokio::select! {
            biased;
            sent = tokio::time::timeout(self.request_timeout, sent) => handed_over(sent)?,
            // The line broke; nobody can have answered yet.
            _ = &mut reply.answer => return Err(not_connected()),
        }
        reply.deadline = Instant::now() + self.request_timeout;
        Ok(reply)
    }

    /// Hands over a message that the server does not answer.
    pub(super) async fn tell(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), Answer> {
        if !self.is_connected() {
            return Err(not_connected());
        }
        let sent = self.client.publish_with_headers(subject, headers, payload);
        handed_over(tokio::time::timeout(self.request_timeout, sent).await)
    }

    fn reply(self: &Arc<Self>) -> Result<Reply, Answer> {
        if !self.is_connected() {
            return Err(not_connected());
        }
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting().as_mut().ok_or_else(not_connected)?.insert(token, sender);
        Ok(Reply { line: self.clone(), token, answer, deadline: Instant::now() + self.request_timeout })
    }

    /// Hands out answers until the connection breaks; whoever waits then waits for nothing.
    pub(super) async fn hand_out(&self, mut answers: Answers) {
        loop {
            tokio::select! {
                biased;
                answer = answers.subscriber.next() => match answer {
                    Some(answer) => self.hand(answer),
                    None => break,
                },
                () = answers.broken.notified() => break,
            }
        }
        // What came before the break is still good.
        while let Some(Some(answer)) = answers.subscriber.next().now_or_never() {
            self.hand(answer);
        }
        self.waiting().take();
    }

    fn hand(&self, answer: async_nats::Message) {
        let token = answer.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let sender = token.and_then(|token: u64| self.waiting().as_mut()?.remove(&token));
        if let Some(sender) = sender {
            // Whoever has stopped waiting does not want it.
            let _ = sender.send(answer);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<async_nats::Message>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    /// The server's answer, or silence: the connection broke, or it has taken too long.
    pub(super) async fn answer(mut self) -> Answer {
        match tokio::time::timeout_at(self.deadline, &mut self.answer).await {
            Ok(Ok(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                Answer::Unavailable("the stream has no leader".into())
            }
            Ok(Ok(message)) => parse(&message.payload),
            Ok(Err(_)) | Err(_) => Answer::Silence,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(waiting) = self.line.waiting().as_mut() {
            waiting.remove(&self.token);
        }
    }
}

/// What the client library's answer to a publish means; it has sent nothing if it is an error.
fn handed_over(sent: Result<Result<(), PublishError>, tokio::time::error::Elapsed>) -> Result<(), Answer> {
    let Ok(sent) = sent else { return Err(Answer::Unavailable("NATS takes nothing at the moment".into())) };
    sent.map_err(|error| match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => {
            Answer::Refused { code: 10054, reason: "the message is larger than the server takes".into() }
        }
        PublishErrorKind::InvalidSubject => Answer::Refused { code: 0, reason: "the subject is invalid".into() },
        PublishErrorKind::Send => not_connected(),
    })
}

pub(super) fn not_connected() -> Answer {
    Answer::Unavailable("not connected to NATS".into())
}
