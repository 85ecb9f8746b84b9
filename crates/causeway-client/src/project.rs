//! Views: folds of the log that the gateway makes, now, as of a moment, between two moments, and as they change; and chains
//! of cause and effect.

use std::collections::VecDeque;

use backon::ExponentialBackoff;
use causeway_event::{Event, Position};
use causeway_proto::v1;
use causeway_proto::v1::watch_response::Update as Wire;
use futures::{Stream, StreamExt as _};
use tonic::Streaming;
use tracing::warn;

use crate::client::{Effect, event};
use crate::{Client, ClientError, Json};

/// What to look at.
#[derive(Clone, Debug)]
pub struct Project {
    /// The view's name: `conversation`.
    pub view: String,
    /// Its id: an aggregate, or of a chain its correlation id.
    pub id: String,
    /// The moment: a position, an event id or an RFC 3339 time. Now where absent.
    pub as_of: Option<String>,
    /// Wait until this position is folded: read your own writes.
    pub min_position: Option<Position>,
}

/// A view of one id.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// The view's name.
    pub view: String,
    /// Its id.
    pub id: String,
    /// The last event of the log that it takes account of.
    pub position: Position,
    /// The state.
    pub state: Json,
}

/// Which view of what, between when and when.
#[derive(Clone, Debug)]
pub struct Diff {
    /// The view's name.
    pub view: String,
    /// Its id.
    pub id: String,
    /// The earlier moment: a position, an event id or an RFC 3339 time.
    pub from: String,
    /// The later moment. Now where absent.
    pub to: Option<String>,
}

/// What changed in a view between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Diffed {
    /// The earlier moment.
    pub from: Position,
    /// The later moment.
    pub to: Position,
    /// From the one state to the other: JSON Patch (RFC 6902).
    pub patch: Json,
    /// The same, event by event.
    pub changes: Vec<Change>,
    /// Whether there are more changes than one answer takes: ask again from the last one's position.
    pub more: bool,
}

/// What one event changed in a view.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The event.
    pub event: Event,
    /// What it changed: JSON Patch (RFC 6902).
    pub patch: Json,
}

/// Which view of what to watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The view's name.
    pub view: String,
    /// Its id.
    pub id: String,
    /// Wait until this position is folded before the first state.
    pub min_position: Option<Position>,
    /// The whole state with every change, instead of a patch.
    pub states: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// The whole state. Comes first, and again whenever the changes since the last word are not to be had: after a lost
    /// connection, or for a reader that was too slow for them.
    State {
        /// The last event of the log that it takes account of.
        position: Position,
        /// The state.
        state: Json,
    },
    /// What one event changed in the state told before.
    Change(Box<Change>),
    /// Nothing has changed for a while; the watch lives.
    Heartbeat {
        /// Everything up to here has been taken account of.
        position: Position,
        /// How many positions of the log have not.
        lag: u64,
    },
}

/// A view that the gateway has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The version of its fold.
    pub version: u32,
    /// What it shows.
    pub description: String,
    /// What its ids are: `aggregate` or `correlation`.
    pub id_kind: String,
}

/// What to trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// A correlation id, or the id or position of an event.
    pub id: String,
    /// What of it.
    pub scope: Scope,
    /// The moment: a position, an event id or an RFC 3339 time. Now where absent.
    pub as_of: Option<String>,
}

/// Which part of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of it; of an event the chain that it belongs to.
    #[default]
    Chain,
    /// Why an event happened: its causes up to the root.
    Ancestors,
    /// What an event led to.
    Descendants,
}

/// A causation tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The tree: the shape of `GET /chains/{id}`.
    pub tree: Json,
    /// Where to see the trace in the tracing tool, if one is configured.
    pub url: Option<String>,
    /// Whether there are more events than one tree takes: nothing in it takes account of those.
    pub more: bool,
}

impl Client {
    /// A view of one id, now or as of a moment.
    pub async fn project(&self, project: Project) -> Result<Projection, ClientError> {
        let request = v1::ProjectRequest {
            view: project.view,
            id: project.id,
            as_of: project.as_of.unwrap_or_default(),
            min_position: project.min_position.map(Position::get).unwrap_or_default(),
        };
        let response = self.ask(request, |mut grpc, request| async move { grpc.project(request).await }).await?;
        let v1::ProjectResponse { view, id, position, state } = response;
        Ok(Projection { view, id, position: Position::new(position), state: state.into() })
    }

    /// What changed in a view between two moments, and by which events.
    pub async fn diff(&self, diff: Diff) -> Result<Diffed, ClientError> {
        let Diff { view, id, from, to } = diff;
        let request = v1::DiffRequest { view, id, from, to: to.unwrap_or_default() };
        let response = self.ask(request, |mut grpc, request| async move { grpc.diff(request).await }).await?;
        Ok(Diffed {
            from: Position::new(response.from_position),
            to: Position::new(response.to_position),
            patch: response.patch.into(),
            changes: response.changes.into_iter().map(change).collect::<Result<_, _>>()?,
            more: response.more,
        })
    }

    /// A view as it changes: the whole state, then each change. Fails if the gateway cannot be reached, after the usual retries;
    /// later outages are bridged, and what comes after one is the whole state. It ends only with an error that another attempt
    /// would meet again.
    pub async fn watch(
        &self,
        watch: Watch,
    ) -> Result<impl Stream<Item = Result<Watched, ClientError>> + Send + Unpin + use<>, ClientError> {
        let request = v1::WatchRequest {
            view: watch.view,
            id: watch.id,
            min_position: watch.min_position.map(Position::get).unwrap_or_default(),
            states: watch.states,
        };
        let begin = || async {
            let (client, waits) = (self.clone(), self.endless_waits());
            let mut watcher = Watcher { client, request: request.clone(), stream: None, waits, ready: VecDeque::new() };
            watcher.connect().await?;
            // The first word says that the server took the request: a bad one is an error here, not later.
            let first = watcher.receive().await?;
            watcher.ready.extend(first);
            Ok(watcher)
        };
        let watcher = self.retried(begin, ClientError::may_read_again).await?;
        let told = futures::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(told) => Some((Ok(told), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(told.boxed())
    }

    /// The views that there are.
    pub async fn views(&self) -> Result<Vec<View>, ClientError> {
        let request = v1::ListViewsRequest {};
        let response = self.ask(request, |mut grpc, request| async move { grpc.list_views(request).await }).await?;
        let view = |view: v1::View| View {
            name: view.name,
            version: view.version,
            description: view.description,
            id_kind: view.id_kind,
        };
        Ok(response.views.into_iter().map(view).collect())
    }

    /// A chain of cause and effect as a tree; or of one event why it happened, or what it led to.
    pub async fn trace(&self, trace: Trace) -> Result<Traced, ClientError> {
        let scope = match trace.scope {
            Scope::Chain => v1::TraceScope::Chain,
            Scope::Ancestors => v1::TraceScope::Ancestors,
            Scope::Descendants => v1::TraceScope::Descendants,
        };
        let request = v1::TraceRequest { id: trace.id, scope: scope.into(), as_of: trace.as_of.unwrap_or_default() };
        let response = self.ask(request, |mut grpc, request| async move { grpc.trace(request).await }).await?;
        let v1::TraceResponse { tree, url, more } = response;
        Ok(Traced { tree: tree.into(), url: Some(url).filter(|url| !url.is_empty()), more })
    }
}

/// A watch through as many connections as it takes.
struct Watcher {
    client: Client,
    request: v1::WatchRequest,
    stream: Option<Streaming<v1::WatchResponse>>,
    /// Until something came over a connection.
    waits: ExponentialBackoff,
    ready: VecDeque<Watched>,
}

impl Watcher {
    async fn next(&mut self) -> Result<Watched, ClientError> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Ok(told);
            }
            let received = match self.stream {
                Some(_) => self.receive().await,
                None => match self.connect().await {
                    Ok(()) => self.receive().await,
                    Err(error) => Err(error),
                },
            };
            match received {
                Ok(told) => {
                    self.waits = self.client.endless_waits();
                    self.ready.extend(told);
                }
                Err(error) if error.is_interruption() => {
                    if self.stream.take().is_some() {
                        warn!(%error, "watch interrupted, connecting again");
                    }
                    let wait = self.client.wait(&mut self.waits, &error);
                    tokio::time::sleep(wait.unwrap_or(self.client.options.retry_wait_max)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let client = &self.client;
        let request = client.request(self.request.clone());
        self.stream = Some(client.answer(client.grpc.clone().watch(request), Effect::Read).await?);
        Ok(())
    }

    /// One message of the server. `None` is one that this version does not know.
    async fn receive(&mut self) -> Result<Option<Watched>, ClientError> {
        let client = &self.client;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let message = client.message(stream).await?;
        let position = Position::new(message.position);
        Ok(match message.update {
            Some(Wire::State(state)) => Some(Watched::State { position, state: state.into() }),
            Some(Wire::Change(wire)) => Some(Watched::Change(Box::new(change(wire)?))),
            Some(Wire::Heartbeat(beat)) => Some(Watched::Heartbeat { position, lag: beat.lag }),
            None => None,
        })
    }
}

fn change(change: v1::Change) -> Result<Change, ClientError> {
    Ok(Change { event: event(change.event)?, patch: change.patch.into() })
}
