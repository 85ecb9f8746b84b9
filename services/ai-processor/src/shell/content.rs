//! What is said, as spans may hold it: the message shape of OpenTelemetry's conventions for generative AI. Pure.

use serde_json::{Value, json};

use crate::model::{Generated, Message, Prompt, ToolRequest};

/// `gen_ai.input.messages`
pub(super) fn input(prompt: &Prompt) -> Value {
    let system = json!({ "role": "system", "parts": [text(&prompt.system)] });
    let told = prompt.messages.iter().map(|message| match message {
        Message::User { text: said } => json!({ "role": "user", "parts": [text(said)] }),
        Message::Assistant { text: said, tool_calls, .. } => json!({ "role": "assistant", "parts": parts(said, tool_calls) }),
        Message::ToolResults(results) => {
            let result = |id: &str, response: &str| json!({ "type": "tool_call_response", "id": id, "response": response });
            let parts: Vec<Value> = results.iter().map(|one| result(&one.call_id, &one.content)).collect();
            json!({ "role": "tool", "parts": parts })
        }
    });
    std::iter::once(system).chain(told).collect()
}

/// `gen_ai.output.messages`
pub(super) fn output(generated: &Generated) -> Value {
    let parts = parts(&generated.text, &generated.tool_calls);
    json!([{ "role": "assistant", "parts": parts, "finish_reason": generated.finish_reason }])
}

fn parts(said: &str, calls: &[ToolRequest]) -> Vec<Value> {
    let said = (!said.is_empty()).then(|| text(said));
    let call =
        |call: &ToolRequest| json!({ "type": "tool_call", "id": call.call_id, "name": call.tool, "arguments": call.arguments });
    said.into_iter().chain(calls.iter().map(call)).collect()
}

fn text(content: &str) -> Value {
    json!({ "type": "text", "content": content })
}
