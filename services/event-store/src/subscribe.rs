//! A subscription: what the read side sends, and live deltas between. What gRPC and SSE both write down.

use std::sync::Arc;

use causeway_event::{AggregateId, Delta, Event, Position};
use causeway_proto::{Kind, Problem};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;

use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::problem;
use crate::read_model::Filter;
use crate::store::Update;

/// What to follow.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    pub(crate) deltas: Deltas,
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

/// Whether to send what a model is saying while it says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deltas {
    No,
    Of(AggregateId),
}

/// What a subscriber hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Event(Arc<Event>),
    CaughtUp(Position),
    Heartbeat(Position),
    Delta(Delta),
}

/// Opens a subscription. It ends when the gateway stops, and otherwise never by itself.
pub(crate) async fn subscribe(
    gateway: &Gateway,
    request: Request,
) -> Result<impl Stream<Item = Result<Heard, Problem>> + Send + 'static, Problem> {
    let place = gateway.open_stream()?;
    let Request { filter, start, deltas } = request;
    // Listening begins before the place is looked up: nothing that is said after the answer is missed.
    let mut deltas: BoxStream<'static, Delta> = match deltas {
        Deltas::No => stream::pending().boxed(),
        Deltas::Of(aggregate) => {
            let deltas = gateway.log.deltas(&aggregate).await.map_err(problem::of_log)?;
            // A connection that ends takes its deltas with it; the events go on.
            deltas.chain(stream::pending()).boxed()
        }
    };
    let last = gateway.store.fresh().await?;
    let after = match start {
        Start::Beginning => Position::START,
        Start::Now => last,
        Start::Behind(cursor, field) => match cursor.resolve(&gateway.store, field).await? {
            // Waiting for the log to grow up to there would skip, without a word, what it gets till then.
            position if position > last => {
                return Err(Problem::invalid(field, format!("the log ends at position {last}")));
            }
            position => position,
        },
    };
    let mut updates = gateway.store.subscribe(filter, after, gateway.config.heartbeat).boxed();
    let stop = gateway.stop.clone();
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
                    Some(Ok(Update::Event(event))) => yield Ok(Heard::Event(event)),
                    Some(Ok(Update::CaughtUp(position))) => yield Ok(Heard::CaughtUp(position)),
                    Some(Ok(Update::Heartbeat(position))) => yield Ok(Heard::Heartbeat(position)),
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
