//! A model's answer as the events that record it. Pure.

use causeway_event::Payload;
use causeway_event::payload::{Effect, MessageGenerated, Thinking, ThinkingKind, ToolCalled, Usage};

use crate::model::Generated;
use crate::turn::Turn;

/// The events of one model call, to be appended all or none. The first of them, or the message, carries the call's usage.
pub(super) fn payloads(turn: &Turn, step: u32, generated: Generated, effect: impl Fn(&str) -> Option<Effect>) -> Vec<Payload> {
    let Generated { thinking, text, tool_calls, finish_reason, usage, model } = generated;
    let is_message = tool_calls.is_empty();
    let mut unclaimed = (!is_message).then_some(usage);
    let mut payloads = Vec::new();
    let mut thought = |text: String, kind: ThinkingKind, signature: Option<String>, usage: Option<Usage>| {
        payloads.push(Payload::ThinkingGenerated(Thinking { turn: turn.id.clone(), step, text, kind, signature, usage }));
    };
    if let Some(reasoning) = thinking {
        thought(reasoning.text, ThinkingKind::Reasoning, reasoning.signature, unclaimed.take());
    }
    if !is_message && !text.trim().is_empty() {
        thought(text.clone(), ThinkingKind::Commentary, None, unclaimed.take());
    }
    for request in tool_calls {
        payloads.push(Payload::ToolCalled(ToolCalled {
            turn: turn.id.clone(),
            step,
            call_id: request.call_id,
            // A tool that does not exist has no effect: it is answered with an error.
            effect: effect(&request.tool).unwrap_or(Effect::Pure),
            tool: request.tool,
            arguments: request.arguments,
            usage: unclaimed.take(),
        }));
    }
    if is_message {
        let channel = turn.input.channel.clone();
        payloads.push(Payload::MessageGenerated(MessageGenerated {
            turn: turn.id.clone(),
            content: text,
            model,
            finish_reason,
            usage,
            channel,
        }));
    }
    payloads
}
