//! A view as it changes: the whole state, then each change, without a gap between. What gRPC and SSE both write down.

use std::sync::Arc;

use axum::body::Bytes;
use causeway_event::Position;
use causeway_proto::{Kind, Problem};
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::held::{self, Key, Watching};
use super::{Change, Subject};
use crate::gateway::Gateway;
use crate::store::{Subscription, Update};

/// Which view of what.
#[derive(Clone, Debug)]
pub(crate) struct WatchRequest {
    pub(crate) view: String,
    pub(crate) id: String,
    pub(crate) min_position: Option<Position>,
    /// The whole state with every change, instead of a patch.
    pub(crate) states: bool,
}

/// What a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The whole state, and how far it takes account of the log. Comes first; and again, instead of changes, for a watcher that
    /// is too slow for them, and when the state is no longer what its last event made of it (a type got a new version).
    State { position: Position, json: Bytes },
    /// What one event changed.
    Change(Arc<Change>),
    /// Nothing was told for a while.
    Heartbeat { position: Position, lag: u64 },
}

/// Opens a watch. It ends when the gateway stops, and otherwise never by itself.
pub(crate) async fn watch(
    gateway: Arc<Gateway>,
    request: WatchRequest,
) -> Result<impl Stream<Item = Result<Told, Problem>> + Send + 'static, Problem> {
    let subject = Subject::of(&request.view, &request.id)?;
    let place = gateway.open_stream()?;
    if let Some(position) = request.min_position {
        gateway.store.wait_for(position).await?;
    }
    let losses = gateway.store.losses();
    let last = gateway.fresh().await?;
    let (mut watched, position, json) = Watched::open(&gateway, subject.clone(), last).await?;
    let (filter, heartbeat) = (subject.filter.clone(), gateway.config.heartbeat);
    let subscription = Subscription { filter, after: position, head: last, losses, heartbeat };
    let mut updates = gateway.store.subscribe(subscription).boxed();
    Ok(async_stream::stream! {
        let _place = place;
        let (mut seen, mut reached) = (position, position);
        yield Ok(Told::State { position, json });
        // By a clock of its own: much of what the subscription says is nothing to a watcher.
        let mut beat_at = Instant::now() + heartbeat;
        loop {
            let update = tokio::select! {
                biased;
                () = gateway.stop.cancelled() => Err(Problem::new(Kind::Unavailable, "the gateway is shutting down")),
                () = sleep_until(beat_at) => Ok(None),
                update = updates.next() => match update {
                    Some(update) => update.map(Some).map_err(Problem::from),
                    None => return,
                },
            };
            let told = match update {
                Ok(None) => {
                    let lag = gateway.store.fed().get().saturating_sub(reached.get());
                    Ok(Some(Told::Heartbeat { position: reached, lag }))
                }
                Ok(Some(update)) => {
                    reached = reached.max(self::position(&update));
                    watched.tell(&gateway, update, &mut seen, request.states).await
                }
                Err(problem) => Err(problem),
            };
            reached = reached.max(seen);
            match told {
                Ok(Some(told)) => {
                    yield Ok(told);
                    beat_at = Instant::now() + heartbeat;
                }
                Ok(None) => {}
                Err(problem) => {
                    yield Err(problem);
                    return;
                }
            }
        }
    })
}

/// The state that a watcher looks at.
struct Watched {
    subject: Subject,
    key: Key,
    watching: Watching,
}

impl Watched {
    async fn open(gateway: &Gateway, subject: Subject, last: Position) -> Result<(Self, Position, Bytes), Problem> {
        let key = subject.key(gateway);
        let watching = held::newest(gateway, &subject, last).await?.watch()?;
        let (position, json) = watching.state()?;
        Ok((Self { subject, key, watching }, position, json))
    }

    /// What there is to tell of an update. `seen` is how far the watcher has been told.
    async fn tell(
        &mut self,
        gateway: &Gateway,
        update: Update,
        seen: &mut Position,
        states: bool,
    ) -> Result<Option<Told>, Problem> {
        if !self.watching.stands(gateway, &self.subject, &self.key) {
            self.watching.leave();
            // Subscribers hear of events before they are readable.
            let wanted = position(&update).max(*seen);
            gateway.within(gateway.store.wait_for(wanted)).await?;
            let (watched, position, json) = gateway.within(Self::open(gateway, self.subject.clone(), wanted)).await?;
            *self = watched;
            *seen = position;
            return Ok(Some(Told::State { position, json }));
        }
        let Update::Event(event) = update else { return Ok(None) };
        if event.position <= *seen {
            return Ok(None);
        }
        let revision = gateway.types.revision();
        match self.watching.change(&gateway.types.show(&event), revision)? {
            Some(change) if change.patch.as_ref() == b"[]" => {
                *seen = event.position;
                Ok(None)
            }
            Some(change) if !states => {
                *seen = event.position;
                Ok(Some(Told::Change(change)))
            }
            _ => {
                let (position, json) = self.watching.state()?;
                *seen = position;
                Ok(Some(Told::State { position, json }))
            }
        }
    }
}

fn position(update: &Update) -> Position {
    match update {
        Update::Event(event) => event.position,
        Update::CaughtUp { position, .. } | Update::Checkpoint(position) | Update::Heartbeat { position, .. } => *position,
    }
}
