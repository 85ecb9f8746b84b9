//! The models' wires, against servers that behave and servers that do not.

mod anthropic;
mod demo;
mod failures;
mod openai;
mod server;

use crate::model::{Generated, ToolSpec};
use crate::model::{Message, Model, ModelConfig, ModelError, Prompt, Provider, Thought, ToolRequest, ToolResult};
use causeway_event::DeltaKind;
use serde_json::{Value, json};

/// A key that must turn up in the right header and nowhere else.
const KEY: &str = "sk-test-0123456789";

fn config(provider: Provider, base_url: &str) -> ModelConfig {
    ModelConfig {
        provider,
        base_url: Some(base_url.to_owned()),
        api_key: Some(KEY.into()),
        model: "small".to_owned(),
        ..ModelConfig::default()
    }
}

fn user(text: &str) -> Message {
    Message::User { text: text.to_owned() }
}

/// What every test asks first.
fn question() -> Prompt {
    let schema = json!({"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]});
    Prompt {
        system: "Be brief.".to_owned(),
        messages: vec![user("What is 6 * 7, and what time is it?")],
        tools: vec![
            ToolSpec { name: "calculate".into(), description: "Calculates.".into(), schema },
            ToolSpec { name: "now".into(), description: "The time.".into(), schema: json!({"type": "object", "properties": {}}) },
        ],
    }
}

/// The prompt that follows an answer with two calls, of which the second failed.
fn next_prompt(mut prompt: Prompt, answer: &Generated) -> Prompt {
    prompt.messages.push(Message::Assistant {
        thinking: answer.thinking.clone().into_iter().collect(),
        text: answer.text.clone(),
        tool_calls: answer.tool_calls.clone(),
    });
    let result = |call: &ToolRequest, content: &str, is_error| ToolResult {
        call_id: call.call_id.clone(),
        tool: call.tool.clone(),
        content: content.to_owned(),
        is_error,
    };
    prompt.messages.push(Message::ToolResults(vec![
        result(&answer.tool_calls[0], "42", false),
        result(&answer.tool_calls[1], "the clock is broken", true),
    ]));
    prompt
}

fn call(call_id: &str, tool: &str, arguments: Value) -> ToolRequest {
    ToolRequest { call_id: call_id.to_owned(), tool: tool.to_owned(), arguments }
}

/// The answer, and all its pieces put together again: what was thought, what was said.
async fn ask(model: &Model, prompt: &Prompt) -> (Result<Generated, ModelError>, [String; 2]) {
    let mut seen = [String::new(), String::new()];
    let answer = model
        .generate(prompt, &mut |kind, piece| match kind {
            DeltaKind::Thinking => seen[0].push_str(piece),
            DeltaKind::Reset => unreachable!("a model says nothing twice"),
            DeltaKind::Text => seen[1].push_str(piece),
        })
        .await;
    (answer, seen)
}

/// The answer of a model that answers; its pieces must have been the answer.
async fn answered(model: &Model, prompt: &Prompt) -> Generated {
    let (answer, [thought, said]) = ask(model, prompt).await;
    let answer = answer.unwrap();
    let thinking = |Thought { text, .. }: Thought| text;
    assert_eq!(answer.thinking.clone().map_or(String::new(), thinking), thought);
    assert_eq!(answer.text, said);
    answer
}
