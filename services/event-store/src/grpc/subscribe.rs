//! `Subscribe`.

use causeway_proto::v1::subscribe_response::Update;
use causeway_proto::{Problem, v1};
use futures::StreamExt as _;
use tonic::{Request, Response, Status};

use super::{Answers, Grpc, filter, parse_given};
use crate::problem::into_status;
use crate::store;
use crate::subscribe::{self, Deltas, Heard, Start};

pub(super) async fn subscribe(
    grpc: &Grpc,
    request: Request<v1::SubscribeRequest>,
) -> Result<Response<Answers<v1::SubscribeResponse>>, Status> {
    let request = subscribe_request(request.into_inner()).map_err(into_status)?;
    let aggregate = request.filter.aggregate_id.clone();
    let heard = grpc.0.within(subscribe::subscribe(&grpc.0, request)).await.map_err(into_status)?;
    let responses = heard.map(move |heard| {
        let update = match heard.map_err(into_status)? {
            Heard::Update(store::Update::Event(event)) => Some(Update::Event(event.as_ref().into())),
            Heard::Update(store::Update::CaughtUp { position, head }) => {
                Some(Update::CaughtUp(v1::CaughtUp { position: position.get(), head: head.get() }))
            }
            Heard::Update(store::Update::Checkpoint(position)) => {
                Some(Update::Checkpoint(v1::Checkpoint { position: position.get() }))
            }
            Heard::Update(store::Update::Heartbeat { position, lag }) => {
                Some(Update::Heartbeat(v1::Heartbeat { position: position.get(), lag }))
            }
            // Deltas are only ever heard of an aggregate.
            Heard::Delta(delta) => aggregate.as_ref().map(|aggregate| Update::Delta(v1::Delta::of(aggregate, delta))),
        };
        Ok(v1::SubscribeResponse { update })
    });
    Ok(Response::new(responses.boxed()))
}

fn subscribe_request(request: v1::SubscribeRequest) -> Result<subscribe::Request, Problem> {
    let filter = filter(request.filter.unwrap_or_default())?;
    let after = parse_given("/after", &request.after)?;
    let start = match (after, request.from_now) {
        (Some(_), true) => return Err(Problem::invalid("/from_now", "cannot be given together with after")),
        (Some(cursor), false) => Start::Behind(cursor, "/after"),
        (None, true) => Start::Now,
        (None, false) => Start::Beginning,
    };
    let deltas = match (request.deltas, &filter.aggregate_id) {
        (false, _) => Deltas::No,
        (true, Some(aggregate)) => Deltas::Of(aggregate.clone()),
        (true, None) => return Err(Problem::invalid("/deltas", "needs an aggregate_id in the filter")),
    };
    Ok(subscribe::Request { filter, start, deltas, raw: request.raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_must_make_sense() {
        let field = |request| subscribe_request(request).map(drop).unwrap_err().field.unwrap();
        let request = v1::SubscribeRequest::default();
        assert_eq!(field(v1::SubscribeRequest { deltas: true, ..request.clone() }), "/deltas");
        assert_eq!(field(v1::SubscribeRequest { after: "3".into(), from_now: true, ..request }), "/from_now");
    }
}
