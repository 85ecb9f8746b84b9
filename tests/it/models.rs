//! Turns with models that are not ours: a third party's mock of the OpenAI and the Anthropic API, streaming.

use causeway_e2e::{Aimock, Setup, Turn, check_causation, data, of_type, types};
use causeway_testkit::{FakeModel, Reply, tool_results};
use serde_json::{Value, json};

/// Text first, then two tools in one answer, then the final words.
fn two_tools_in_parallel() -> Value {
    json!({"fixtures": [
        {"match": {"userMessage": "six by seven", "hasToolResult": false},
         "response": {"content": "Let me see. ", "toolCalls": [
            {"id": "call_a", "name": "calculate", "arguments": "{\"expression\":\"6 * 7\"}"},
            {"id": "call_b", "name": "now", "arguments": "{}"}]}},
        {"match": {"userMessage": "six by seven", "hasToolResult": true}, "response": {"content": "It is 42."}}
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_asks_for_two_tools_at_once() {
    let mock = Aimock::start(&two_tools_in_parallel()).await.unwrap();
    let setup = Setup::up().openai(&format!("{}/v1", mock.base()));
    a_turn_with_two_tools(setup, &mock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_asks_for_two_tools_at_once() {
    let mock = Aimock::start(&two_tools_in_parallel()).await.unwrap();
    let setup = Setup::up().anthropic(mock.base());
    a_turn_with_two_tools(setup, &mock).await;
}

async fn a_turn_with_two_tools(setup: Setup, mock: &Aimock) {
    let causeway = setup.start().await.unwrap();
    let api = causeway.api();
    api.say("s", "What is six by seven?").await.unwrap();
    let events = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    Turn(&events).check_once(2);
    check_causation(&events);
    assert_eq!(data(&events, "ToolCalled", "call_id"), ["call_a", "call_b"], "{:?}", types(&events));
    let result = of_type(&events, "ToolCompleted").into_iter().find(|event| event["data"]["call_id"] == "call_a");
    assert!(result.unwrap()["data"]["result"].to_string().contains("42"), "{result:?}");
    assert_eq!(data(&events, "MessageGenerated", "content"), ["It is 42."]);

    let journal = mock.journal().await.unwrap();
    assert_eq!(journal.len(), 2, "{journal:?}");
    assert!(journal.iter().all(|entry| entry["body"]["stream"] == true), "both were streamed");
    let second = journal[1]["body"]["messages"].to_string();
    assert!(second.contains("call_a") && second.contains("call_b"), "both results were given back: {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_told_to_the_model() {
    let model = FakeModel::start(|request| match tool_results(request) {
        0 => Reply::tools([("calculate", json!({"nonsense": 1})), ("no_such_tool", json!({}))]),
        _ => Reply::text("I shall do better."),
    });
    let model = model.await.unwrap();
    let causeway = Setup::up().fake_model(&model).start().await.unwrap();
    let api = causeway.api();
    api.say("s", "Calculate").await.unwrap();
    let events = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    Turn(&events).check_once(2);
    assert_eq!(of_type(&events, "ToolFailed").len(), 2, "{:?}", types(&events));
    assert_eq!(data(&events, "MessageGenerated", "content"), ["I shall do better."]);
    let second = &model.requests()[1];
    assert_eq!(tool_results(second), 2, "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_down_for_a_while_is_asked_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let failures = AtomicUsize::new(0);
    let model = FakeModel::start(move |_| match failures.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::error(503),
        _ => Reply::text("Here I am."),
    });
    let model = model.await.unwrap();
    let causeway = Setup::up().fake_model(&model).start().await.unwrap();
    let api = causeway.api();
    api.say("s", "Are you there?").await.unwrap();
    let events = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    Turn(&events).check_once(0);
    assert_eq!(data(&events, "MessageGenerated", "content"), ["Here I am."]);
    assert_eq!(model.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_refuses_ends_the_turn_with_a_reason() {
    let model = FakeModel::start(|_| Reply::error(401)).await.unwrap();
    let causeway = Setup::up().fake_model(&model).start().await.unwrap();
    let api = causeway.api();
    api.say("s", "Hello").await.unwrap();
    let events = api.wait_for("s", "AIProcessingFailed").await.unwrap();
    assert_eq!(types(&events).last(), Some(&"AIProcessingFailed"));
    assert!(!data(&events, "AIProcessingFailed", "reason")[0].is_empty());
    assert_eq!(model.calls(), 1, "a permanent refusal is not repeated");
    // The session goes on with the next message.
    api.say("s", "Still there?").await.unwrap();
    model.called(2).await;
}
