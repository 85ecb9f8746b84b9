//! Servers that refuse, stop, dawdle or talk nonsense: each kind of failure is told apart, and none is taken for an answer.

use std::time::Duration;

use crate::model::{Model, ModelConfig, Provider};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::server::{Server, Then};
use super::*;

const SSE: &str = "text/event-stream";
const HALF: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half an \"}}]}\n\n";

async fn refused(provider: Provider, response: ResponseTemplate) -> ModelError {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(response).expect(1).mount(&server).await;
    let model = Model::from_config(&config(provider, &server.uri())).unwrap();
    ask(&model, &question()).await.0.unwrap_err()
}

async fn failed(server: &Server) -> ModelError {
    ask(&server.model(Provider::OpenAi), &question()).await.0.unwrap_err()
}

#[track_caller]
fn retryable(error: &ModelError, words: &str) {
    assert!(matches!(error, ModelError::Retryable { reason, .. } if reason.contains(words)), "{error:?}");
}

#[track_caller]
fn permanent(error: &ModelError, words: &str) {
    assert!(matches!(error, ModelError::Permanent { reason } if reason.contains(words)), "{error:?}");
}

#[tokio::test]
async fn a_limit_of_rate_says_how_long_to_wait() {
    let openai = json!({"error": {"message": "Rate limited", "type": "rate_limit_error", "param": null, "code": null}});
    let anthropic = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "Rate limited"}});
    for (provider, body) in [(Provider::OpenAi, openai), (Provider::Anthropic, anthropic)] {
        let response = ResponseTemplate::new(429).insert_header("retry-after", "2").set_body_json(body);
        let expected = ModelError::Retryable {
            reason: "the model server answered 429 rate_limit_error: Rate limited".into(),
            retry_after: Some(Duration::from_secs(2)),
        };
        assert_eq!(refused(provider, response).await, expected);
    }
}

#[tokio::test]
async fn trouble_on_the_other_side_passes_and_ours_does_not() {
    for status in [500, 502, 503, 529] {
        retryable(&refused(Provider::Anthropic, ResponseTemplate::new(status)).await, &status.to_string());
    }
    for status in [400, 401, 403, 404, 422] {
        permanent(&refused(Provider::OpenAi, ResponseTemplate::new(status)).await, &status.to_string());
    }
    let body = json!({"error": {"message": "too much", "type": "invalid_request_error", "code": "context_length_exceeded"}});
    let error = refused(Provider::OpenAi, ResponseTemplate::new(400).set_body_json(body)).await;
    assert_eq!(error, ModelError::ContextTooLong { reason: "too much".into() });
}

#[tokio::test]
async fn a_key_that_the_server_quotes_is_masked() {
    let body = json!({"error": {"message": format!("Incorrect API key provided: {KEY}")}});
    let error = refused(Provider::OpenAi, ResponseTemplate::new(401).set_body_json(body)).await;
    permanent(&error, "Incorrect API key provided: ***");
    assert!(!format!("{error:?}").contains(KEY));
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    let response = ResponseTemplate::new(307).insert_header("location", "https://elsewhere.example/v1");
    permanent(&refused(Provider::OpenAi, response).await, "https://elsewhere.example/v1");
}

#[tokio::test]
async fn a_page_for_people_is_no_answer() {
    let response = ResponseTemplate::new(200).set_body_raw("<html>Welcome</html>", "text/html");
    permanent(&refused(Provider::OpenAi, response).await, "model.base_url");
    let response = ResponseTemplate::new(200).set_body_json(json!({"hello": "world"}));
    permanent(&refused(Provider::OpenAi, response.clone()).await, "chat completions");
    permanent(&refused(Provider::Anthropic, response).await, "Anthropic's messages");
}

#[tokio::test]
async fn nobody_there_may_pass() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let model = Model::from_config(&config(Provider::OpenAi, &url)).unwrap();
    retryable(&ask(&model, &question()).await.0.unwrap_err(), "cannot connect");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_an_error_however_it_is_cut() {
    let cut = Server::says(SSE, &[HALF, "data: {\"choi"], Then::Cut).await;
    let (answer, [_, said]) = ask(&cut.model(Provider::OpenAi), &question()).await;
    retryable(&answer.unwrap_err(), "the answer was cut");
    assert_eq!(said, "half an ", "the pieces before the cut were shown");
    // The same with a connection that ends in order.
    retryable(&failed(&Server::says(SSE, &[HALF], Then::End).await).await, "the answer was cut");
    // Before the first byte of an answer.
    retryable(&failed(&Server::sends(vec![], Then::Cut).await).await, "cannot ask");
}

#[tokio::test]
async fn a_silent_server_is_left() {
    for pieces in [&[][..], &[HALF]] {
        let server = Server::says(SSE, pieces, Then::Hang).await;
        let config = ModelConfig { idle_timeout: Duration::from_millis(100), ..server.config(Provider::OpenAi) };
        let error = ask(&Model::from_config(&config).unwrap(), &question()).await.0.unwrap_err();
        retryable(&error, "silent for 100ms");
    }
    let server = Server::sends(vec![], Then::Hang).await;
    let config = ModelConfig { idle_timeout: Duration::from_millis(100), ..server.config(Provider::Anthropic) };
    let error = ask(&Model::from_config(&config).unwrap(), &question()).await.0.unwrap_err();
    retryable(&error, "silent for 100ms");
}

#[tokio::test]
async fn a_server_that_only_keeps_alive_is_left_too() {
    let server = Server::says(SSE, &[": still here\n\n"; 500], Then::Hang).await;
    let config = ModelConfig { request_timeout: Duration::from_millis(150), ..server.config(Provider::OpenAi) };
    let error = ask(&Model::from_config(&config).unwrap(), &question()).await.0.unwrap_err();
    retryable(&error, "not whole after 150ms");
}

#[tokio::test]
async fn nonsense_in_a_stream_is_an_error() {
    retryable(&failed(&Server::says(SSE, &[HALF, "data: {nonsense}\n\n"], Then::End).await).await, "not JSON");
    let error = "data: {\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\"}}\n\n";
    retryable(&failed(&Server::says(SSE, &[HALF, error], Then::End).await).await, "The server had an error");
    let server = Server::says(
        SSE,
        &["event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"],
        Then::Hang,
    );
    let error = ask(&server.await.model(Provider::Anthropic), &question()).await.0.unwrap_err();
    retryable(&error, "Overloaded");
}

#[tokio::test]
async fn an_endless_answer_is_refused() {
    let piece = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(500));
    let server = Server::says(SSE, &[piece.as_str(); 20], Then::Hang).await;
    let config = ModelConfig { answer_bytes_max: 2048, ..server.config(Provider::OpenAi) };
    let error = ask(&Model::from_config(&config).unwrap(), &question()).await.0.unwrap_err();
    permanent(&error, "longer than 2KiB (model.answer_bytes_max)");
}

#[tokio::test]
async fn an_endless_error_is_read_in_part() {
    let head = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    let mut pieces = vec![head];
    pieces.resize(20, vec![b'x'; 4096]);
    let server = Server::sends(pieces, Then::Hang).await;
    let error = failed(&server).await;
    retryable(&error, "500: xxx");
    assert!(error.to_string().len() < 400);
}

#[tokio::test]
async fn whoever_stops_listening_stops_the_server_too() {
    let Server { address, request } = Server::says(SSE, &[HALF], Then::Hang).await;
    let model = Model::from_config(&config(Provider::OpenAi, &address)).unwrap();
    let (heard, mut hearing) = tokio::sync::mpsc::channel(1);
    let asking = tokio::spawn(async move {
        let _ = model.generate(&question(), &mut |_, piece| heard.try_send(piece.to_owned()).unwrap()).await;
    });
    assert_eq!(hearing.recv().await.unwrap(), "half an ");
    asking.abort();
    // The server's side ends only when the connection is closed.
    let request =
        tokio::time::timeout(Duration::from_millis(500), request).await.expect("the connection was closed at once").unwrap();
    assert!(request.starts_with("POST /chat/completions"), "{request}");
}
