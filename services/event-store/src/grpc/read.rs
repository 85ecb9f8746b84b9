//! `Read`, `Count`, `Get` and `ListAggregates`.

use causeway_proto::{Kind, Problem, timestamp, v1};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::{Answers, Grpc, filter, parse, parse_given};
use crate::aggregates::{self, Prefix};
use crate::cursor::Cursor;
use crate::problem::into_status;
use crate::range::{self, Named, Wanted};
use crate::read_model::Order;

pub(super) async fn read(grpc: &Grpc, request: Request<v1::ReadRequest>) -> Result<Response<Answers<v1::ReadResponse>>, Status> {
    let request = request.into_inner();
    let limit = Some(request.limit).filter(|limit| *limit > 0);
    let wanted = wanted(request).map_err(into_status)?;
    let (pages, _) = range::open(grpc.0.clone(), wanted, limit).await.map_err(of_read)?;
    let events = pages.map_ok(|events| stream::iter(events.into_iter().map(Ok))).try_flatten();
    let responses = events.map_ok(|event| v1::ReadResponse { event: Some(event.as_ref().into()) });
    Ok(Response::new(responses.map_err(into_status).boxed()))
}

pub(super) async fn count(grpc: &Grpc, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
    let v1::CountRequest { filter: wanted_filter, after, before, from, until } = request.into_inner();
    let count = async {
        let filter = filter(wanted_filter.unwrap_or_default())?;
        let wanted = Wanted {
            filter,
            after: moment("/after", &after)?,
            before: moment("/before", &before)?,
            from: moment("/from", &from)?,
            until: moment("/until", &until)?,
            ..Wanted::default()
        };
        range::count(&grpc.0, wanted).await
    };
    let (count, last) = count.await.map_err(of_read)?;
    Ok(Response::new(v1::CountResponse { count, last_position: last.get() }))
}

pub(super) async fn get(grpc: &Grpc, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
    let v1::GetRequest { id, raw } = request.into_inner();
    let find = async {
        let cursor: Cursor = parse("/id", &id)?;
        let found = range::one(&grpc.0, cursor, raw).await?;
        found.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no event {id}")).at("/id"))
    };
    let event = grpc.0.within(find).await.map_err(into_status)?;
    Ok(Response::new(v1::GetResponse { event: Some(event.as_ref().into()) }))
}

pub(super) async fn list_aggregates(
    grpc: &Grpc,
    request: Request<v1::ListAggregatesRequest>,
) -> Result<Response<v1::ListAggregatesResponse>, Status> {
    let v1::ListAggregatesRequest { prefix, after, limit } = request.into_inner();
    let list = async {
        let limit = match limit {
            0 => aggregates::LIMIT,
            limit if limit <= aggregates::LIMIT_MAX => limit,
            _ => return Err(Problem::invalid("/limit", format!("is more than {}", aggregates::LIMIT_MAX))),
        };
        let prefix: Prefix = parse("/prefix", &prefix)?;
        aggregates::list(&grpc.0, prefix, parse_given("/after", &after)?, limit).await
    };
    let page = list.await.map_err(into_status)?;
    let next = page.next().map(ToString::to_string).unwrap_or_default();
    let aggregates = page.aggregates.into_iter().map(|aggregate| v1::Aggregate {
        aggregate_id: aggregate.id.to_string(),
        first_position: aggregate.first.get(),
        last_position: aggregate.last.get(),
        last_timestamp: Some(timestamp(aggregate.last_timestamp)),
    });
    Ok(Response::new(v1::ListAggregatesResponse { aggregates: aggregates.collect(), next }))
}

/// The field of a filter that only the read itself could refuse.
fn of_read(problem: Problem) -> Status {
    let field = problem.field.clone().map(|field| match field.as_str() {
        "descendants_of" => "/filter/descendants_of".to_owned(),
        _ => field,
    });
    into_status(Problem { field, ..problem })
}

fn moment(field: &'static str, text: &str) -> Result<Option<Named>, Problem> {
    Ok(parse_given(field, text)?.map(|moment| (moment, field)))
}

fn wanted(request: v1::ReadRequest) -> Result<Wanted, Problem> {
    let order = match v1::Order::try_from(request.order) {
        Ok(v1::Order::Unspecified | v1::Order::Forwards) => Order::Forwards,
        Ok(v1::Order::Backwards) => Order::Backwards,
        Err(_) => return Err(Problem::invalid("/order", "is not an order")),
    };
    Ok(Wanted {
        filter: filter(request.filter.unwrap_or_default())?,
        after: moment("/after", &request.after)?,
        before: moment("/before", &request.before)?,
        from: moment("/from", &request.from)?,
        until: moment("/until", &request.until)?,
        order,
        raw: request.raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(field(v1::ReadRequest { from: "x".into(), ..v1::ReadRequest::default() }), "/from");
        assert_eq!(field(v1::ReadRequest { until: "x".into(), ..v1::ReadRequest::default() }), "/until");
        assert_eq!(field(v1::ReadRequest { order: 9, ..v1::ReadRequest::default() }), "/order");
    }
}
