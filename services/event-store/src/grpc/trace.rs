//! `Trace`.

use causeway_proto::{Kind, Problem, v1};
use tonic::{Request, Response, Status};

use super::{Grpc, parse_given};
use crate::chains::{self, Scope};
use crate::problem::into_status;

pub(super) async fn trace(grpc: &Grpc, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceResponse>, Status> {
    let request = request.into_inner();
    let trace = async {
        let scope = match v1::TraceScope::try_from(request.scope) {
            Ok(v1::TraceScope::Unspecified | v1::TraceScope::Chain) => Scope::Chain,
            Ok(v1::TraceScope::Ancestors) => Scope::Ancestors,
            Ok(v1::TraceScope::Descendants) => Scope::Descendants,
            Err(_) => return Err(Problem::invalid("/scope", "is not a part of a chain")),
        };
        let as_of = parse_given("/as_of", &request.as_of)?;
        chains::trace(&grpc.0, chains::Request { id: request.id, scope, as_of }).await
    };
    let trace = grpc.0.within(trace).await.map_err(into_status)?;
    let tree = serde_json::to_vec(&trace)
        .map_err(|error| into_status(Problem::new(Kind::Internal, format!("the tree cannot be written: {error}"))))?;
    Ok(Response::new(v1::TraceResponse { tree, more: trace.tree.more, url: trace.url.unwrap_or_default() }))
}
