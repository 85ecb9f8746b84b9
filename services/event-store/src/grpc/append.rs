//! `Append` and `AppendStream`.

use causeway_event::TraceParent;
use causeway_proto::v1::append_stream_response::Result as Said;
use causeway_proto::{Draft, Expected, Problem, v1};
use futures::StreamExt as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Grpc, parse, parse_given, traceparent};
use crate::append::{self, stream};
use crate::problem::{self, into_status};

pub(super) async fn append(grpc: &Grpc, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
    let traceparent = traceparent(request.metadata());
    let request = request.into_inner();
    let answer_conflict = request.answer_conflict;
    let request = append_request(request, traceparent).map_err(into_status)?;
    match append::append(&grpc.0, request).await {
        Ok(appended) => Ok(Response::new(appended.into())),
        Err(Problem { conflict: Some(conflict), .. }) if answer_conflict => {
            Ok(Response::new(v1::AppendResponse { conflict: Some((*conflict).into()), ..v1::AppendResponse::default() }))
        }
        Err(problem) => Err(into_status(problem)),
    }
}

pub(super) async fn stream(
    grpc: &Grpc,
    request: Request<Streaming<v1::AppendStreamRequest>>,
) -> Result<Response<Answers<v1::AppendStreamResponse>>, Status> {
    let gateway = grpc.0.clone();
    let place = gateway.open_stream().map_err(into_status)?;
    let traceparent = traceparent(request.metadata());
    let requests = request.into_inner().map(move |request| numbered(request, traceparent));
    let (answers, told) = mpsc::channel(stream::ANSWERS_MAX);
    // What is under way goes on while the client does not read; it ends with the client.
    let running = AbortOnDropHandle::new(tokio::spawn(stream::run(gateway, requests, answers)));
    let responses = ReceiverStream::new(told).map(move |answer| {
        let _held = (&place, &running);
        answer.map(response).map_err(into_status)
    });
    Ok(Response::new(responses.boxed()))
}

fn numbered(
    request: Result<v1::AppendStreamRequest, Status>,
    traceparent: Option<TraceParent>,
) -> Result<stream::Numbered, Problem> {
    let request = request.map_err(Problem::from)?;
    let bytes = request.encoded_len();
    let v1::AppendStreamRequest { request_id, append } = request;
    let request = match append {
        Some(append) => append_request(append, traceparent),
        None => Err(Problem::invalid("/append", "is missing")),
    };
    Ok(stream::Numbered { request_id, request, bytes })
}

fn response(answer: stream::Answer) -> v1::AppendStreamResponse {
    let stream::Answer { request_id, result, .. } = answer;
    let said = match result {
        Ok(appended) => Said::Appended(appended.into()),
        Err(problem) => {
            problem::log(&problem);
            Said::Problem(problem.into())
        }
    };
    v1::AppendStreamResponse { request_id, result: Some(said) }
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
}
