//! OpenAI's chat completions.

use crate::model::{Model, ModelConfig, Provider};
use causeway_event::payload::Usage;
use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

fn stream(frames: &[Value]) -> ResponseTemplate {
    let body: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    ResponseTemplate::new(200).set_body_raw(format!("{body}data: [DONE]\n\n"), "text/event-stream; charset=utf-8")
}

fn chunk(delta: &Value, finish_reason: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small-2026-01-01",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}], "usage": null,
    })
}

fn usage(prompt: u64, completion: u64) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "small-2026-01-01", "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    })
}

fn two_tools() -> ResponseTemplate {
    let piece = |index: u64, piece: Value| chunk(&json!({"tool_calls": [{"index": index, "function": piece}]}), &Value::Null);
    let open = |index: u64, id: &str, name: &str| {
        let call = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
        chunk(&json!({"tool_calls": [call]}), &Value::Null)
    };
    stream(&[
        chunk(&json!({"role": "assistant", "content": "", "refusal": null}), &Value::Null),
        chunk(&json!({"reasoning_content": "Two things"}), &Value::Null),
        chunk(&json!({"reasoning_content": " at once."}), &Value::Null),
        chunk(&json!({"content": "Let me "}), &Value::Null),
        chunk(&json!({"content": "look."}), &Value::Null),
        open(0, "call_a", "calculate"),
        piece(0, json!({"arguments": "{\"expres"})),
        open(1, "call_b", "now"),
        piece(0, json!({"arguments": "sion\":\"6 * 7\"}"})),
        piece(1, json!({"arguments": "{}"})),
        chunk(&json!({}), &json!("tool_calls")),
        usage(50, 20),
    ])
}

#[tokio::test]
async fn a_turn_with_two_tools_at_once() {
    let server = MockServer::start().await;
    let post =
        || Mock::given(method("POST")).and(path("/v1/chat/completions")).and(header("authorization", format!("Bearer {KEY}")));
    post().respond_with(two_tools()).up_to_n_times(1).expect(1).mount(&server).await;
    let last = [chunk(&json!({"content": "It is 42 o'clock."}), &json!("stop")), usage(90, 6)];
    post().respond_with(stream(&last)).expect(1).mount(&server).await;

    let url = format!("{}/v1/", server.uri());
    let config = ModelConfig { max_tokens: Some(500), temperature: Some(0.5), ..config(Provider::OpenAi, &url) };
    let model = Model::from_config(&config).unwrap();
    assert_eq!((model.name(), model.provider()), ("small", "openai"));

    let first = answered(&model, &question()).await;
    let expected = Generated {
        thinking: Some(Thought { text: "Two things at once.".into(), signature: Some("field:reasoning_content".into()) }),
        text: "Let me look.".into(),
        tool_calls: vec![call("call_a", "calculate", json!({"expression": "6 * 7"})), call("call_b", "now", json!({}))],
        finish_reason: "tool_calls".into(),
        usage: Usage { input_tokens: 50, output_tokens: 20 },
        model: "small-2026-01-01".into(),
    };
    assert_eq!(first, expected);

    let second = answered(&model, &next_prompt(question(), &first)).await;
    assert_eq!((second.text.as_str(), second.finish_reason.as_str()), ("It is 42 o'clock.", "stop"));
    assert_eq!(second.thinking, None);

    let requests = server.received_requests().await.unwrap();
    let bodies: Vec<Value> = requests.iter().map(|request| request.body_json().unwrap()).collect();
    insta::assert_json_snapshot!(bodies);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_heard() {
    let server = MockServer::start().await;
    let message = json!({
        "role": "assistant", "content": "Let me look.", "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "calculate", "arguments": "{\"expression\":\"6 * 7\"}"}},
            {"id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    });
    let body = json!({
        "model": "small", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    });
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200).set_body_json(body)).mount(&server).await;
    let model = Model::from_config(&config(Provider::OpenAi, &server.uri())).unwrap();
    let answer = answered(&model, &question()).await;
    assert_eq!(answer.text, "Let me look.");
    assert_eq!(
        answer.tool_calls,
        [call("call_a", "calculate", json!({"expression": "6 * 7"})), call("call_b", "now", json!({}))]
    );
    assert_eq!(answer.usage, Usage { input_tokens: 5, output_tokens: 2 });
}

#[tokio::test]
async fn what_a_model_made_up_goes_back_in_a_form_that_servers_take() {
    let server = MockServer::start().await;
    let open = json!({"index": 0, "function": {"name": "look up!", "arguments": "{\"q\": "}});
    let made_up = [chunk(&json!({"tool_calls": [open]}), &Value::Null), chunk(&json!({}), &json!("length"))];
    Mock::given(method("POST")).respond_with(stream(&made_up)).mount(&server).await;
    let model = Model::from_config(&config(Provider::OpenAi, &server.uri())).unwrap();
    let answer = answered(&model, &question()).await;
    assert_eq!(answer.tool_calls, [call("call_1", "look up!", json!("{\"q\": "))]);
    assert_eq!(answer.finish_reason, "length");

    let mut prompt = question();
    prompt.messages.push(Message::Assistant { thinking: vec![], text: String::new(), tool_calls: answer.tool_calls });
    answered(&model, &prompt).await;
    let requests = server.received_requests().await.unwrap();
    let body: Value = requests[1].body_json().unwrap();
    let function = json!({"name": "look_up_", "arguments": "{\"not_an_object\":\"{\\\"q\\\": \"}"});
    let calls = json!([{"id": "call_1", "type": "function", "function": function}]);
    assert_eq!(body["messages"][2], json!({"role": "assistant", "content": null, "tool_calls": calls}));
}
