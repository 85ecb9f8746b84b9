//! A subscription: what the read side sends, and live deltas between. What gRPC and SSE both write down.

use std::sync::Arc;

use causeway_event::{AggregateId, Delta, Position};
use causeway_proto::{Kind, Problem};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::problem;
use crate::read_model::Filter;
use crate::store::{Subscription, Update};

/// What to follow.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    pub(crate) deltas: Deltas,
    /// Data in the version in which it was appended.
    pub(crate) raw: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// With the first event of the log.
    Beginning,
    /// Behind this place, which came in the named field.
    Behind(Cursor, &'static str),
    /// With what is appended from now on.
    Now,
}

impl Start {
    /// The place behind which it is, and where the log ends. The read model is as fresh as the log was when this was called.
    pub(crate) async fn resolve(self, gateway: &Gateway) -> Result<(Position, Position), Problem> {
        let last = gateway.store.fresh().await?;
        match self {
            Self::Beginning => Ok((Position::START, last)),
            Self::Now => Ok((last, last)),
            Self::Behind(cursor, field) => match cursor.resolve(&gateway.store, field).await? {
                // Waiting for the log to grow up to there would skip, without a word, what it gets till then.
                position if position > last => Err(Problem::invalid(field, format!("the log ends at position {last}"))),
                position => Ok((position, last)),
            },
        }
    }
}

/// Whether to send what a model is saying while it says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deltas {
    No,
    Of(AggregateId),
}

/// What a subscriber hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Update(Update),
    Delta(Delta),
}

/// Opens a subscription. It ends when the gateway stops, or the log loses its end, and otherwise never by itself.
pub(crate) async fn subscribe(
    gateway: &Arc<Gateway>,
    request: Request,
) -> Result<impl Stream<Item = Result<Heard, Problem>> + Send + 'static, Problem> {
    let place = gateway.open_stream()?;
    let Request { filter, start, deltas, raw } = request;
    // Listening begins before the place is looked up: nothing that is said after the answer is missed.
    let mut deltas: BoxStream<'static, Delta> = match deltas {
        Deltas::No => stream::pending().boxed(),
        Deltas::Of(aggregate) => gateway.log.deltas(&aggregate).await.map_err(problem::of_log)?.boxed(),
    };
    let losses = gateway.store.losses();
    let (after, head) = start.resolve(gateway).await?;
    let subscription = Subscription { filter, after, head, losses, heartbeat: gateway.config.heartbeat };
    let mut updates = gateway.store.subscribe(subscription).boxed();
    let (gateway, stop) = (gateway.clone(), gateway.stop.clone());
    Ok(async_stream::stream! {
        let _place: OwnedSemaphorePermit = place;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    yield Err(Problem::new(Kind::Unavailable, "the gateway is shutting down"));
                    return;
                }
                // Deltas first: the event that ends a message comes after its last delta.
                Some(delta) = deltas.next() => yield Ok(Heard::Delta(delta)),
                update = updates.next() => match update {
                    Some(Ok(Update::Event(event))) if !raw => yield Ok(Heard::Update(Update::Event(gateway.types.show(&event)))),
                    Some(Ok(update)) => yield Ok(Heard::Update(update)),
                    Some(Err(error)) => {
                        yield Err(error.into());
                        return;
                    }
                    None => return,
                },
            }
        }
    })
}
