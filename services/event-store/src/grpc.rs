//! gRPC: `causeway.v1.EventStore`. Methods read the request, call one function, and map the error; they hold no rule about
//! events. A problem's field is a JSON Pointer into the request message, in the names of the `.proto`.

mod append;
mod consume;
mod project;
mod read;
mod subscribe;
mod trace;
mod types;

use std::str::FromStr;
use std::sync::Arc;

use causeway_event::{Invalid, TraceParent};
use causeway_proto::v1::event_store_server::{EventStore, EventStoreServer};
use causeway_proto::{Problem, timestamp_from, v1};
use futures::stream::BoxStream;
use jiff::Timestamp;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::gateway::Gateway;
use crate::read_model::Filter;

/// The service, on its way into a router.
pub(crate) fn service(gateway: Arc<Gateway>) -> EventStoreServer<Grpc> {
    let bytes_max = gateway.config.limits.message_bytes_max;
    EventStoreServer::new(Grpc(gateway)).max_decoding_message_size(bytes_max).accept_compressed(CompressionEncoding::Gzip)
}

pub(crate) struct Grpc(Arc<Gateway>);

/// What a method answers that streams.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl EventStore for Grpc {
    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        append::append(self, request).await
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        read::count(self, request).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        read::get(self, request).await
    }

    async fn list_groups(&self, request: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        consume::list_groups(self, request).await
    }

    async fn delete_group(&self, request: Request<v1::DeleteGroupRequest>) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        consume::delete_group(self, request).await
    }

    async fn list_parked(&self, request: Request<v1::ListParkedRequest>) -> Result<Response<v1::ListParkedResponse>, Status> {
        consume::list_parked(self, request).await
    }

    async fn replay_parked(
        &self,
        request: Request<v1::ReplayParkedRequest>,
    ) -> Result<Response<v1::ReplayParkedResponse>, Status> {
        consume::replay_parked(self, request).await
    }

    async fn discard_parked(
        &self,
        request: Request<v1::DiscardParkedRequest>,
    ) -> Result<Response<v1::DiscardParkedResponse>, Status> {
        consume::discard_parked(self, request).await
    }

    async fn project(&self, request: Request<v1::ProjectRequest>) -> Result<Response<v1::ProjectResponse>, Status> {
        project::project(self, request).await
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffResponse>, Status> {
        project::diff(self, request).await
    }

    async fn list_views(&self, request: Request<v1::ListViewsRequest>) -> Result<Response<v1::ListViewsResponse>, Status> {
        project::list_views(self, request).await
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceResponse>, Status> {
        trace::trace(self, request).await
    }

    async fn list_aggregates(
        &self,
        request: Request<v1::ListAggregatesRequest>,
    ) -> Result<Response<v1::ListAggregatesResponse>, Status> {
        read::list_aggregates(self, request).await
    }

    async fn list_types(&self, request: Request<v1::ListTypesRequest>) -> Result<Response<v1::ListTypesResponse>, Status> {
        types::list(self, request).await
    }

    async fn register_type(
        &self,
        request: Request<v1::RegisterTypeRequest>,
    ) -> Result<Response<v1::RegisterTypeResponse>, Status> {
        types::register(self, request).await
    }

    type ReadStream = Answers<v1::ReadResponse>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        read::read(self, request).await
    }

    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        subscribe::subscribe(self, request).await
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        project::watch(self, request).await
    }

    type AppendStreamStream = Answers<v1::AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        append::stream(self, request).await
    }

    type ConsumeStream = Answers<v1::ConsumeResponse>;

    async fn consume(&self, request: Request<Streaming<v1::ConsumeRequest>>) -> Result<Response<Self::ConsumeStream>, Status> {
        consume::consume(self, request).await
    }
}

fn filter(filter: v1::Filter) -> Result<Filter, Problem> {
    Filter::check_types(filter.types.len()).map_err(|invalid| invalid.within("/filter/types"))?;
    let types = filter.types.iter().enumerate().map(|(index, text)| parse(&format!("/filter/types/{index}"), text));
    Ok(Filter {
        types: types.collect::<Result<_, _>>()?,
        category: parse_given("/filter/category", &filter.category)?,
        aggregate_id: parse_given("/filter/aggregate_id", &filter.aggregate_id)?,
        correlation_id: parse_given("/filter/correlation_id", &filter.correlation_id)?,
        from: time("/filter/from_time", filter.from_time)?,
        until: time("/filter/until_time", filter.until_time)?,
        source: parse_given("/filter/source", &filter.source)?,
        caused_by: parse_given("/filter/caused_by", &filter.caused_by)?,
        descendants_of: parse_given("/filter/descendants_of", &filter.descendants_of)?,
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
