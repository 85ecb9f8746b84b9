//! `ListTypes` and `RegisterType`.

use causeway_proto::{Problem, v1};
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::{Grpc, traceparent};
use crate::problem::into_status;
use crate::types::{self, Registration, TypeInfo};

pub(super) async fn list(
    grpc: &Grpc,
    _request: Request<v1::ListTypesRequest>,
) -> Result<Response<v1::ListTypesResponse>, Status> {
    let types = grpc.0.within(grpc.0.types.list(&grpc.0)).await.map_err(into_status)?;
    let types = types.into_iter().map(event_type).collect();
    Ok(Response::new(v1::ListTypesResponse { types }))
}

pub(super) async fn register(
    grpc: &Grpc,
    request: Request<v1::RegisterTypeRequest>,
) -> Result<Response<v1::RegisterTypeResponse>, Status> {
    let traceparent = traceparent(request.metadata());
    let request = registration(request.into_inner()).map_err(into_status)?;
    let registered = grpc.0.types.register(&grpc.0.log, request, traceparent).await.map_err(into_status)?;
    let response = v1::RegisterTypeResponse { r#type: Some(event_type(registered.info)), duplicate: registered.duplicate };
    Ok(Response::new(response))
}

fn registration(request: v1::RegisterTypeRequest) -> Result<Registration, Problem> {
    let schema = json("/schema", &request.schema)?;
    let upcast = if request.upcast.is_empty() { vec![] } else { json("/upcast", &request.upcast)? };
    // In protobuf a number that was not given is 0.
    let version = Some(request.version).filter(|version| *version > 0);
    types::registration(&request.name, schema, upcast, version, request.description)
}

fn json<T: DeserializeOwned>(field: &str, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::invalid(field, format!("is not what it must be: {error}")))
}

fn event_type(info: TypeInfo) -> v1::EventType {
    let versions = info.versions.into_iter().map(|version| v1::TypeVersion {
        version: version.version,
        schema: version.schema.to_string().into_bytes(),
        upcast: if version.upcast.is_empty() { vec![] } else { serde_json::Value::from(version.upcast).to_string().into_bytes() },
        registered_by: version.registered_by.map(String::from).unwrap_or_default(),
    });
    v1::EventType {
        name: info.name,
        category: info.category.to_string(),
        description: info.description,
        versions: versions.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_in_a_registration_is_named() {
        let good = || v1::RegisterTypeRequest { name: "OrderPlaced".into(), schema: b"{}".to_vec(), ..Default::default() };
        let field = |request| registration(request).map(drop).unwrap_err().field.unwrap();
        assert_eq!(registration(good()).unwrap().version, None);
        assert_eq!(field(v1::RegisterTypeRequest { name: "order".into(), ..good() }), "/name");
        assert_eq!(field(v1::RegisterTypeRequest { schema: vec![], ..good() }), "/schema");
        assert_eq!(field(v1::RegisterTypeRequest { upcast: b"{}".to_vec(), ..good() }), "/upcast");
    }
}
