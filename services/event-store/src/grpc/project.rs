//! `Project`, `Diff`, `Watch` and `ListViews`.

use causeway_event::Position;
use causeway_proto::v1;
use futures::StreamExt as _;
use tonic::{Request, Response, Status};
use v1::watch_response::Update;

use super::{Answers, Grpc, parse, parse_given};
use crate::problem::into_status;
use crate::project::{self, Change, Told, VIEWS};

pub(super) async fn project(grpc: &Grpc, request: Request<v1::ProjectRequest>) -> Result<Response<v1::ProjectResponse>, Status> {
    let request = request.into_inner();
    let project = async {
        let request = project::Request {
            as_of: parse_given("/as_of", &request.as_of)?,
            min_position: min_position(request.min_position),
            view: request.view,
            id: request.id,
        };
        project::project(&grpc.0, request).await
    };
    let projection = grpc.0.within(project).await.map_err(into_status)?;
    Ok(Response::new(v1::ProjectResponse {
        view: projection.view.to_owned(),
        id: projection.id,
        position: projection.position.get(),
        state: projection.state.into(),
    }))
}

pub(super) async fn diff(grpc: &Grpc, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffResponse>, Status> {
    let request = request.into_inner();
    let diff = async {
        let request = project::DiffRequest {
            from: parse("/from", &request.from)?,
            to: parse_given("/to", &request.to)?,
            view: request.view,
            id: request.id,
        };
        project::diff(&grpc.0, request).await
    };
    let diff = grpc.0.within(diff).await.map_err(into_status)?;
    Ok(Response::new(v1::DiffResponse {
        view: diff.view.to_owned(),
        id: diff.id,
        from_position: diff.from.get(),
        to_position: diff.to.get(),
        patch: diff.patch.into(),
        changes: diff.changes.iter().map(change).collect(),
        more: diff.more,
    }))
}

pub(super) async fn watch(
    grpc: &Grpc,
    request: Request<v1::WatchRequest>,
) -> Result<Response<Answers<v1::WatchResponse>>, Status> {
    let request = request.into_inner();
    let request = project::WatchRequest {
        min_position: min_position(request.min_position),
        view: request.view,
        id: request.id,
        states: request.states,
    };
    let told = grpc.0.within(project::watch(grpc.0.clone(), request)).await.map_err(into_status)?;
    Ok(Response::new(told.map(|told| told.map(response).map_err(into_status)).boxed()))
}

pub(super) async fn list_views(
    _grpc: &Grpc,
    _request: Request<v1::ListViewsRequest>,
) -> Result<Response<v1::ListViewsResponse>, Status> {
    let view = |view: &project::View| v1::View {
        name: view.name.to_owned(),
        version: view.version,
        description: view.description.to_owned(),
        id_kind: view.id.as_str().to_owned(),
    };
    Ok(Response::new(v1::ListViewsResponse { views: VIEWS.iter().map(view).collect() }))
}

fn response(told: Told) -> v1::WatchResponse {
    let (position, update) = match told {
        Told::State { position, json } => (position, Update::State(json.into())),
        Told::Change(told) => (told.event.position, Update::Change(change(&told))),
        Told::Heartbeat { position, lag } => (position, Update::Heartbeat(v1::Heartbeat { position: position.get(), lag })),
    };
    v1::WatchResponse { position: position.get(), update: Some(update) }
}

fn change(change: &Change) -> v1::Change {
    v1::Change { event: Some(change.event.as_ref().into()), patch: change.patch.to_vec() }
}

/// In protobuf 0 is a number that was not given.
fn min_position(position: u64) -> Option<Position> {
    Some(Position::new(position)).filter(|position| *position > Position::START)
}
