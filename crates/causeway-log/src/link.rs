//! A connection over which things come that anybody may have written, with headers that anybody may have chosen.
//!
//! The client library ends the connection at headers that it cannot read, and its task panics at some. The library heals a break; a
//! client whose task is gone is replaced here. Who reads the log and who talks have such connections of their own, so that a break is
//! theirs alone; whoever read must then get past what broke it by another way (`raw.rs`).

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::subject::ToSubject;
use async_nats::{Client, Event, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt as _, future};
use tokio::sync::watch;

use crate::LogError;
use crate::append::Way;

/// How long something may wait to be sent that nobody confirms.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause before it is tried again to replace a client.
const REPLACE_PAUSE: Duration = Duration::from_millis(200);

/// The connection. It ends with its last holder.
#[derive(Clone)]
pub(crate) struct Link {
    client: watch::Receiver<(Client, Context)>,
    /// Grows with each (re)connection: readers start their pulls again at once instead of waiting for a missed heartbeat.
    pub(crate) connections: watch::Receiver<u64>,
    /// Grows with each break.
    breaks: watch::Receiver<u64>,
}

impl Link {
    /// Connects; `name` is for the program's own log.
    pub(crate) async fn connect(way: Way, name: &'static str) -> Result<Self, LogError> {
        let (connected, mut connections) = watch::channel(0);
        let (broken, breaks) = watch::channel(0);
        let told = Told { connected, broken };
        let (client, life) = connect(&way, name, &told).await?;
        // The library tells of the first connection a little later; whoever asked meanwhile would take it for a second one.
        if tokio::time::timeout(way.request_timeout, connections.wait_for(|count| *count > 0)).await.is_err() {
            tracing::debug!("the client library did not tell that it is connected");
        }
        let (clients, client) = watch::channel(client);
        tokio::spawn(keep(way, name, clients, told, life));
        Ok(Self { client, connections, breaks })
    }

    /// What is asked over this connection. It fails when that breaks: the library waits its whole time for an answer that cannot come.
    pub(crate) async fn unbroken<T>(&self, asked: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        let mut breaks = self.breaks.clone();
        breaks.mark_unchanged();
        let broken = async {
            if breaks.changed().await.is_err() {
                future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            () = broken => Err(LogError::unavailable("the connection to NATS broke")),
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.borrow().0.clone()
    }

    pub(crate) fn jetstream(&self) -> Context {
        self.client.borrow().1.clone()
    }

    /// What is published on these subjects from now on, without an end. What is said while the connection is away is missed.
    pub(crate) async fn listen(&self, subjects: Vec<String>) -> Result<BoxStream<'static, Message>, LogError> {
        let mut client = self.client.clone();
        let first = client.borrow_and_update().0.clone();
        let messages = subscribe(&first, &subjects).await.map_err(LogError::unavailable)?;
        let listening = stream::unfold((client, subjects, messages), |(mut client, subjects, mut messages)| async move {
            loop {
                if let Some(message) = messages.next().await {
                    return Some((message, (client, subjects, messages)));
                }
                // They ended with their client.
                if client.changed().await.is_err() {
                    future::pending::<()>().await;
                }
                let next = client.borrow_and_update().0.clone();
                messages = subscribe(&next, &subjects).await.unwrap_or_default();
            }
        });
        Ok(listening.boxed())
    }
}

/// What the library tells of its connection.
#[derive(Clone)]
struct Told {
    connected: watch::Sender<u64>,
    broken: watch::Sender<u64>,
}

/// Publishes what may be lost. The client's queue is full when the server has stopped reading: nothing of that kind is worth waiting
/// for it.
pub(crate) async fn say(client: &Client, subject: impl ToSubject, payload: Bytes) -> Result<(), LogError> {
    match tokio::time::timeout(SEND_TIMEOUT, client.publish(subject, payload)).await {
        Ok(sent) => sent.map_err(LogError::unavailable),
        Err(_) => Err(LogError::unavailable("the server takes nothing at the moment")),
    }
}

async fn subscribe(client: &Client, subjects: &[String]) -> Result<SelectAll<Subscriber>, SubscribeError> {
    let mut messages = SelectAll::new();
    for subject in subjects {
        messages.push(client.subscribe(subject.clone()).await?);
    }
    Ok(messages)
}

/// One client after the other. Ends when nobody wants one any more.
async fn keep(
    way: Way,
    name: &'static str,
    clients: watch::Sender<(Client, Context)>,
    told: Told,
    mut life: watch::Receiver<()>,
) {
    loop {
        tokio::select! {
            _ = life.changed() => tracing::warn!(connection = name, "the client of NATS ended and is replaced"),
            () = clients.closed() => return,
        }
        life = loop {
            tokio::select! {
                replaced = connect(&way, name, &told) => match replaced {
                    Ok((client, life)) => {
                        clients.send_replace(client);
                        break life;
                    }
                    Err(error) => tracing::debug!(%error, "not connected"),
                },
                () = clients.closed() => return,
            }
            tokio::time::sleep(REPLACE_PAUSE).await;
        };
        // Told once more, now that the new client can be asked.
        told.connected.send_modify(|count| *count += 1);
    }
}

/// A client, and what ends with it.
async fn connect(way: &Way, name: &'static str, told: &Told) -> Result<((Client, Context), watch::Receiver<()>), LogError> {
    let (alive, life) = watch::channel(());
    let Told { connected, broken } = told.clone();
    let options = way.options.clone().event_callback(move |event| {
        // The library drops this when its task ends, however that does.
        let _alive = &alive;
        match event {
            Event::Connected => connected.send_modify(|count| *count += 1),
            Event::Disconnected => {
                broken.send_modify(|count| *count += 1);
                tracing::warn!(connection = name, "the connection to NATS is lost");
            }
            ref other => tracing::debug!(connection = name, event = %other, "NATS connection event"),
        }
        async {}
    });
    let client = tokio::time::timeout(way.request_timeout, options.connect(&way.servers))
        .await
        .map_err(|_| LogError::unavailable(format!("no answer within {:?}", way.request_timeout)))?
        .map_err(LogError::unavailable)?;
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(way.request_timeout);
    Ok(((client, jetstream), life))
}
