//! gRPC: `causeway.v1.EventStore`. Methods read the request, call one function, and map the error; they hold no rule about
//! events. A problem's field is a JSON Pointer into the request message, in the names of the `.proto`.

use std::str::FromStr;
use std::sync::Arc;

use causeway_event::{Invalid, Position, TraceParent};
use causeway_proto::v1::event_store_server::{EventStore, EventStoreServer};
use causeway_proto::v1::subscribe_response::Update;
use causeway_proto::{Draft, Expected, Kind, Problem, timestamp_from, v1};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::cursor::Cursor;
use crate::gateway::Gateway;
use crate::problem::into_status;
use crate::range::{self, Wanted};
use crate::read_model::{Filter, Order};
use crate::subscribe::{self, Deltas, Heard, Start};
use crate::{append, project};

/// The service, on its way into a router.
pub(crate) fn service(gateway: Arc<Gateway>) -> EventStoreServer<Grpc> {
    let bytes_max = gateway.config.limits.message_bytes_max;
    EventStoreServer::new(Grpc(gateway)).max_decoding_message_size(bytes_max).accept_compressed(CompressionEncoding::Gzip)
}

pub(crate) struct Grpc(Arc<Gateway>);

#[tonic::async_trait]
impl EventStore for Grpc {
    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let traceparent = traceparent(request.metadata());
        let request = append_request(request.into_inner(), traceparent).map_err(into_status)?;
        let appended = append::append(&self.0, request).await.map_err(into_status)?;
        Ok(Response::new(appended.into()))
    }

    type ReadStream = BoxStream<'static, Result<v1::ReadResponse, Status>>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let limit = Some(request.limit).filter(|limit| *limit > 0);
        let wanted = wanted(request).map_err(into_status)?;
        let (pages, _) = range::open(self.0.clone(), wanted, limit).await.map_err(into_status)?;
        let events = pages.map_ok(|events| stream::iter(events.into_iter().map(Ok))).try_flatten();
        let responses = events.map_ok(|event| v1::ReadResponse { event: Some(event.as_ref().into()) });
        Ok(Response::new(responses.map_err(into_status).boxed()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let id = request.into_inner().id;
        let find = async {
            let cursor: Cursor = parse("/id", &id)?;
            let found = range::one(&self.0, cursor).await?;
            found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no event {id}")).at("/id"))
        };
        let event = self.0.within(find).await.map_err(into_status)?;
        Ok(Response::new(v1::GetResponse { event: Some(event.as_ref().into()) }))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = subscribe_request(request.into_inner()).map_err(into_status)?;
        let aggregate = request.filter.aggregate_id.clone();
        let heard = self.0.within(subscribe::subscribe(&self.0, request)).await.map_err(into_status)?;
        let responses = heard.map(move |heard| {
            let update = match heard.map_err(into_status)? {
                Heard::Event(event) => Some(Update::Event(event.as_ref().into())),
                Heard::CaughtUp(position) => Some(Update::CaughtUp(v1::CaughtUp { position: position.get() })),
                Heard::Heartbeat(position) => Some(Update::Heartbeat(v1::Heartbeat { position: position.get() })),
                // Deltas are only ever heard of an aggregate.
                Heard::Delta(delta) => aggregate.as_ref().map(|aggregate| Update::Delta(v1::Delta::of(aggregate, delta))),
            };
            Ok(v1::SubscribeResponse { update })
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn project(&self, request: Request<v1::ProjectRequest>) -> Result<Response<v1::ProjectResponse>, Status> {
        let request = request.into_inner();
        let project = async {
            let request = project::Request {
                as_of: parse_given("/as_of", &request.as_of)?,
                min_position: Some(Position::new(request.min_position)).filter(|position| *position > Position::START),
                view: request.view,
                id: request.id,
            };
            project::project(&self.0, request).await
        };
        let projection = self.0.within(project).await.map_err(into_status)?;
        Ok(Response::new(v1::ProjectResponse {
            view: projection.view.to_owned(),
            id: projection.id,
            position: projection.position.get(),
            state: projection.state,
        }))
    }
}

fn append_request(request: v1::AppendRequest, traceparent: Option<TraceParent>) -> Result<append::Request, Problem> {
    let at = |list: &str, index: usize| format!("/{list}/{index}");
    let drafts = request
        .events
        .into_iter()
        .enumerate()
        .map(|(index, event)| Draft::try_from(event).map_err(|invalid| Problem::from(invalid.within(&at("events", index)))));
    let expected = request.expected.into_iter().enumerate().map(|(index, expected)| {
        Expected::try_from(expected).map_err(|invalid| Problem::from(invalid.within(&at("expected", index))))
    });
    Ok(append::Request {
        drafts: drafts.collect::<Result<_, _>>()?,
        expected: expected.collect::<Result<_, _>>()?,
        idempotency_key: parse_given("/idempotency_key", &request.idempotency_key)?,
        source: parse("/source", "grpc")?,
        traceparent,
    })
}

fn wanted(request: v1::ReadRequest) -> Result<Wanted, Problem> {
    let order = match v1::Order::try_from(request.order) {
        Ok(v1::Order::Unspecified | v1::Order::Forwards) => Order::Forwards,
        Ok(v1::Order::Backwards) => Order::Backwards,
        Err(_) => return Err(Problem::invalid("/order", "is not an order")),
    };
    Ok(Wanted {
        filter: filter(request.filter.unwrap_or_default())?,
        after: parse_given("/after", &request.after)?.map(|cursor| (cursor, "/after")),
        before: parse_given("/before", &request.before)?.map(|cursor| (cursor, "/before")),
        order,
    })
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
    Ok(subscribe::Request { filter, start, deltas })
}

fn filter(filter: v1::Filter) -> Result<Filter, Problem> {
    let types = filter.types.iter().enumerate().map(|(index, text)| parse(&format!("/filter/types/{index}"), text));
    Ok(Filter {
        types: types.collect::<Result<_, _>>()?,
        category: parse_given("/filter/category", &filter.category)?,
        aggregate_id: parse_given("/filter/aggregate_id", &filter.aggregate_id)?,
        correlation_id: parse_given("/filter/correlation_id", &filter.correlation_id)?,
        from: time("/filter/from_time", filter.from_time)?,
        until: time("/filter/until_time", filter.until_time)?,
    })
}

fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Problem> {
    time.map(timestamp_from).transpose().map_err(|invalid| invalid.within(field).into())
}

fn parse<T: FromStr<Err = Invalid>>(field: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|invalid: Invalid| invalid.within(field).into())
}

/// In protobuf an empty text is one that was not given.
fn parse_given<T: FromStr<Err = Invalid>>(field: &str, text: &str) -> Result<Option<T>, Problem> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// The caller's span. One that cannot be read is as good as none, as W3C Trace Context says.
fn traceparent(metadata: &MetadataMap) -> Option<TraceParent> {
    metadata.get("traceparent")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_in_an_append_is_named() {
        let good = v1::NewEvent { r#type: "A".into(), aggregate_id: "a".into(), data: b"1".to_vec(), metadata: None };
        let bad = v1::NewEvent { data: b"{".to_vec(), ..good.clone() };
        let field = |request| append_request(request, None).map(drop).unwrap_err().field.unwrap();
        let request = v1::AppendRequest { events: vec![good.clone()], ..v1::AppendRequest::default() };
        assert!(append_request(request.clone(), None).is_ok());
        assert_eq!(field(v1::AppendRequest { events: vec![good, bad], ..request.clone() }), "/events/1/data");
        let expected = v1::Expected { category: "inputs".into(), ..v1::Expected::default() };
        assert_eq!(field(v1::AppendRequest { expected: vec![expected], ..request.clone() }), "/expected/0/category");
        assert_eq!(field(v1::AppendRequest { idempotency_key: "\n".into(), ..request }), "/idempotency_key");
    }

    #[test]
    fn whatever_is_wrong_in_a_read_is_named() {
        let filtered = |filter: v1::Filter| v1::ReadRequest { filter: Some(filter), ..v1::ReadRequest::default() };
        let field = |request| wanted(request).map(drop).unwrap_err().field.unwrap();
        let none = v1::Filter::default;
        assert!(wanted(v1::ReadRequest::default()).is_ok());
        assert_eq!(field(filtered(v1::Filter { types: vec!["A".into(), "b".into()], ..none() })), "/filter/types/1");
        assert_eq!(field(filtered(v1::Filter { category: "x".into(), ..none() })), "/filter/category");
        assert_eq!(field(filtered(v1::Filter { aggregate_id: "\0".into(), ..none() })), "/filter/aggregate_id");
        let time = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(field(filtered(v1::Filter { until_time: Some(time), ..none() })), "/filter/until_time");
        assert_eq!(field(v1::ReadRequest { after: "-1".into(), ..v1::ReadRequest::default() }), "/after");
        assert_eq!(field(v1::ReadRequest { order: 9, ..v1::ReadRequest::default() }), "/order");
    }

    #[test]
    fn a_subscription_must_make_sense() {
        let field = |request| subscribe_request(request).map(drop).unwrap_err().field.unwrap();
        let request = v1::SubscribeRequest::default();
        assert_eq!(field(v1::SubscribeRequest { deltas: true, ..request.clone() }), "/deltas");
        assert_eq!(field(v1::SubscribeRequest { after: "3".into(), from_now: true, ..request }), "/from_now");
    }
}
