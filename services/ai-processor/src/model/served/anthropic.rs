//! Anthropic's messages.

use crate::model::{Model, ModelConfig, Provider, ThinkingMode};
use causeway_event::payload::Usage;
use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

fn stream(frames: &[Value]) -> ResponseTemplate {
    let name = |frame: &Value| frame["type"].as_str().unwrap().to_owned();
    let body: String = frames.iter().map(|frame| format!("event: {}\ndata: {frame}\n\n", name(frame))).collect();
    ResponseTemplate::new(200).set_body_raw(body, "text/event-stream; charset=utf-8")
}

fn start(index: u64, block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn stop(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn head(input_tokens: u64) -> Value {
    let usage = json!({
        "input_tokens": input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1000, "output_tokens": 1,
    });
    json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "small-2026-01-01", "content": [], "stop_reason": null,
        "stop_sequence": null, "usage": usage,
    }})
}

fn tail(reason: &str, output_tokens: u64) -> [Value; 2] {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    [json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}}), json!({"type": "message_stop"})]
}

fn two_tools() -> ResponseTemplate {
    let mut frames = vec![
        head(50),
        start(0, &json!({"type": "thinking", "thinking": "", "signature": ""})),
        json!({"type": "ping"}),
        delta(0, &json!({"type": "thinking_delta", "thinking": "Two things"})),
        delta(0, &json!({"type": "thinking_delta", "thinking": " at once."})),
        delta(0, &json!({"type": "signature_delta", "signature": "EqQBCgIYAg=="})),
        stop(0),
        start(1, &json!({"type": "text", "text": ""})),
        delta(1, &json!({"type": "text_delta", "text": "Let me "})),
        delta(1, &json!({"type": "text_delta", "text": "look."})),
        stop(1),
        start(2, &json!({"type": "tool_use", "id": "toolu_a", "name": "calculate", "input": {}})),
        delta(2, &json!({"type": "input_json_delta", "partial_json": ""})),
        delta(2, &json!({"type": "input_json_delta", "partial_json": "{\"expression\": \"6"})),
        delta(2, &json!({"type": "input_json_delta", "partial_json": " * 7\"}"})),
        stop(2),
        start(3, &json!({"type": "tool_use", "id": "toolu_b", "name": "now", "input": {}})),
        stop(3),
    ];
    frames.extend(tail("tool_use", 20));
    stream(&frames)
}

#[tokio::test]
async fn a_turn_with_two_tools_at_once() {
    let server = MockServer::start().await;
    let post = || {
        Mock::given(method("POST"))
            .and(path("/v1/messages"))
            .and(header("x-api-key", KEY))
            .and(header("anthropic-version", "2023-06-01"))
    };
    post().respond_with(two_tools()).up_to_n_times(1).expect(1).mount(&server).await;
    let mut last = vec![head(90), start(0, &json!({"type": "text", "text": "It is 42 o'clock."}))];
    last.extend(tail("end_turn", 6));
    post().respond_with(stream(&last)).expect(1).mount(&server).await;

    let config = ModelConfig { thinking: ThinkingMode::Budget(2048), ..config(Provider::Anthropic, &server.uri()) };
    let model = Model::from_config(&config).unwrap();
    assert_eq!((model.name(), model.provider()), ("small", "anthropic"));

    let first = answered(&model, &question()).await;
    let expected = Generated {
        thinking: Some(Thought { text: "Two things at once.".into(), signature: Some("EqQBCgIYAg==".into()) }),
        text: "Let me look.".into(),
        tool_calls: vec![call("toolu_a", "calculate", json!({"expression": "6 * 7"})), call("toolu_b", "now", json!({}))],
        finish_reason: "tool_calls".into(),
        usage: Usage { input_tokens: 1050, output_tokens: 20 },
        model: "small-2026-01-01".into(),
    };
    assert_eq!(first, expected);

    let second = answered(&model, &next_prompt(question(), &first)).await;
    assert_eq!((second.text.as_str(), second.finish_reason.as_str()), ("It is 42 o'clock.", "stop"));

    let requests = server.received_requests().await.unwrap();
    let bodies: Vec<Value> = requests.iter().map(|request| request.body_json().unwrap()).collect();
    insta::assert_json_snapshot!(bodies);
}

#[tokio::test]
async fn newer_models_are_asked_to_show_their_thoughts() {
    let server = MockServer::start().await;
    let mut frames = vec![head(1), start(0, &json!({"type": "text", "text": "yes"}))];
    frames.extend(tail("end_turn", 1));
    Mock::given(method("POST")).respond_with(stream(&frames)).mount(&server).await;
    let config = ModelConfig { thinking: ThinkingMode::Adaptive, ..config(Provider::Anthropic, &server.uri()) };
    answered(&Model::from_config(&config).unwrap(), &question()).await;
    let body: Value = server.received_requests().await.unwrap()[0].body_json().unwrap();
    assert_eq!(body["thinking"], json!({"type": "adaptive", "display": "summarized"}));
    assert_eq!(body["max_tokens"], 8192);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_heard() {
    let server = MockServer::start().await;
    let content = json!([
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_a", "name": "calculate", "input": {"expression": "6 * 7"}},
    ]);
    let body = json!({
        "type": "message", "role": "assistant", "model": "small", "content": content, "stop_reason": "tool_use",
        "usage": {"input_tokens": 5, "output_tokens": 2},
    });
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200).set_body_json(body)).mount(&server).await;
    let model = Model::from_config(&config(Provider::Anthropic, &server.uri())).unwrap();
    let answer = answered(&model, &question()).await;
    assert_eq!(answer.text, "Let me look.");
    assert_eq!(answer.tool_calls, [call("toolu_a", "calculate", json!({"expression": "6 * 7"}))]);
    assert_eq!(answer.usage, Usage { input_tokens: 5, output_tokens: 2 });
}
