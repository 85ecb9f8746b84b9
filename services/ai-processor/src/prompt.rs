//! What the model is told: the session as the log has it.
//!
//! Pure. Every tool call is told together with exactly one result, whatever the log holds: a provider refuses a conversation
//! with an unpaired call, and would refuse it for ever.

use causeway_event::payload::ThinkingKind;
use serde_json::Value;

use crate::model::{Message, Prompt, Thought, ToolRequest, ToolResult, ToolSpec};
use crate::turn::{Call, Exchange, Outcome, Session, Step, Turn};

/// The prompt for the next model call of `turn`.
pub(crate) fn prompt(system: &str, session: &Session, turn: &Turn, history_turns: usize, tools: Vec<ToolSpec>) -> Prompt {
    let mut messages = Vec::new();
    let skip = session.history.len().saturating_sub(history_turns);
    for exchange in session.history.iter().skip(skip) {
        past(exchange, &mut messages);
    }
    messages.push(Message::User { text: turn.input.text.clone() });
    turn.steps.iter().for_each(|step| told(step, &mut messages));
    Prompt { system: system.to_owned(), messages, tools }
}

fn past(exchange: &Exchange, messages: &mut Vec<Message>) {
    messages.push(Message::User { text: exchange.said.clone() });
    exchange.steps.iter().for_each(|step| told(step, messages));
    let text = exchange.answer.clone().unwrap_or_else(|| "(There was no answer: the turn failed.)".into());
    messages.push(Message::Assistant { thinking: Vec::new(), text, tool_calls: Vec::new() });
}

/// A model call that asked for tools, and what they gave. One without calls led to the message, which is told by itself.
fn told(step: &Step, messages: &mut Vec<Message>) {
    if step.calls.is_empty() {
        return;
    }
    let of_kind = |kind: ThinkingKind| step.thoughts.iter().filter(move |thought| thought.kind == kind);
    messages.push(Message::Assistant {
        thinking: of_kind(ThinkingKind::Reasoning)
            .map(|thought| Thought { text: thought.text.clone(), signature: thought.signature.clone() })
            .collect(),
        text: of_kind(ThinkingKind::Commentary).map(|thought| thought.text.as_str()).collect::<Vec<_>>().join("\n"),
        tool_calls: step.calls.iter().map(request).collect(),
    });
    messages.push(Message::ToolResults(step.calls.iter().map(result).collect()));
}

fn request(call: &Call) -> ToolRequest {
    ToolRequest { call_id: call.called.call_id.clone(), tool: call.called.tool.clone(), arguments: call.called.arguments.clone() }
}

fn result(call: &Call) -> ToolResult {
    let (content, is_error) = match &call.outcome {
        Some(Outcome::Result(Value::String(text))) => (text.clone(), false),
        Some(Outcome::Result(value)) => (value.to_string(), false),
        Some(Outcome::Error(error)) => (error.clone(), true),
        None => ("The turn ended before this tool answered.".into(), true),
    };
    ToolResult { call_id: call.called.call_id.clone(), tool: call.called.tool.clone(), content, is_error }
}
