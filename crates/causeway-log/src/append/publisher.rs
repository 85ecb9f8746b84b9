//! Handing messages to the connection. Knows no event: what an answer means to an append is decided elsewhere.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;
use uuid::Uuid;

use super::answer::{Answer, parse};
use super::prepare::Message;

/// A message that has its place in the connection's order; resolves with the server's answer.
pub(super) type Sent = BoxFuture<'static, Answer>;

/// The way out. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    /// Grows with each connection.
    connections: watch::Receiver<u64>,
    request_timeout: Duration,
}

impl Publisher {
    pub(crate) fn new(client: Client, connections: watch::Receiver<u64>, request_timeout: Duration) -> Self {
        Self { client, connections, request_timeout }
    }

    /// Sends one message, behind all that were sent before this call.
    pub(super) fn send(&self, message: &Message) -> Sent {
        self.send_with(message, message.headers.clone())
    }

    fn send_with(&self, message: &Message, headers: HeaderMap) -> Sent {
        let request = publish(self.clone(), message.subject.clone(), headers, message.payload.clone());
        // The first poll puts the message into the client's queue, or, when that is full, into the line before it: both are
        // first in, first out. Without a budget, which could have run out just before.
        let mut request = tokio::task::unconstrained(request).boxed();
        match request.as_mut().now_or_never() {
            Some(answer) => future::ready(answer).boxed(),
            None => request,
        }
    }

    /// Sends an atomic batch; the answer to its last message is the batch's.
    pub(super) async fn send_batch<'m>(&self, messages: impl ExactSizeIterator<Item = &'m Message>) -> Sent {
        let batch_id = Uuid::now_v7().simple().to_string();
        let count = messages.len();
        for (index, message) in messages.enumerate() {
            let mut headers = message.headers.clone();
            headers.insert("Nats-Batch-Id", batch_id.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            if index + 1 == count {
                headers.insert("Nats-Batch-Commit", "1");
                return self.send_with(message, headers);
            }
            let sent = self.client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await;
            if let Err(error) = sent {
                return future::ready(Answer::Unavailable(error.to_string())).boxed();
            }
        }
        future::ready(Answer::Incomplete).boxed()
    }
}

/// Publishes one message and waits for the answer; gives up early when the connection was replaced meanwhile, since what was in
/// flight on the old one is never answered.
async fn publish(mut publisher: Publisher, subject: String, headers: HeaderMap, payload: Bytes) -> Answer {
    publisher.connections.mark_unchanged();
    let request = Request::new().headers(headers).payload(payload).timeout(Some(publisher.request_timeout));
    let answer = tokio::select! {
        answer = publisher.client.send_request(subject, request) => answer,
        _ = publisher.connections.changed() => return Answer::Silence,
    };
    match answer {
        Ok(message) => parse(&message.payload),
        Err(error) => match error.kind() {
            RequestErrorKind::TimedOut | RequestErrorKind::Other => Answer::Silence,
            RequestErrorKind::NoResponders => Answer::Unavailable("the stream has no leader".into()),
            RequestErrorKind::MaxPayloadExceeded => {
                Answer::Refused { code: 10054, reason: "the message is larger than the server takes".into() }
            }
            RequestErrorKind::InvalidSubject => Answer::Refused { code: 0, reason: "the subject is invalid".into() },
        },
    }
}
