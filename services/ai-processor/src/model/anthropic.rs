//! Anthropic's messages.
//!
//! Thinking blocks must go back to the provider exactly as they came, in the turn that they belong to. A [`Thought`] of this
//! wire therefore carries the provider's signature; where one answer had several blocks, or a hidden one, the signature holds
//! all of them as JSON.

use causeway_event::payload::Usage;
use serde_json::{Value, json};

use super::answer::{Draft, Limits, Progress, Reply, as_object, plain_name};
use super::config::{ModelConfig, ThinkingMode};
use super::failure::Complaint;
use super::wire::Wire;
use super::{Generated, Message, ModelError, Prompt, Sink, Thought, ToolRequest, ToolSpec, sse};

/// The version of the wire that this module speaks.
const VERSION: &str = "2023-06-01";
/// How a signature starts that holds whole thinking blocks.
const BLOCKS_MARK: &str = "blocks:";

/// A server that speaks Anthropic's messages.
#[derive(Debug)]
pub struct Anthropic {
    wire: Wire,
    model: String,
    max_tokens: u32,
    temperature: Option<f64>,
    thinking: ThinkingMode,
}

impl Anthropic {
    pub(crate) fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        let mut headers = vec![("anthropic-version", VERSION.to_owned())];
        headers.extend(config.key().map(|key| ("x-api-key", key.to_owned())));
        Ok(Self {
            wire: Wire::new(config, "/v1/messages", &headers)?,
            model: config.model.trim().to_owned(),
            max_tokens: config.anthropic_max_tokens(),
            temperature: config.temperature,
            thinking: config.thinking,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.model
    }

    pub(crate) async fn generate(&self, prompt: &Prompt, sink: &mut Sink<'_>) -> Result<Generated, ModelError> {
        self.wire.exchange(&self.body(prompt), Answer::new(&self.model, self.wire.limits), sink).await
    }

    fn body(&self, prompt: &Prompt) -> Value {
        let mut messages = messages(prompt);
        // All up to the last message comes again with the next step: have the provider keep it.
        if let Some(Value::Array(blocks)) = messages.last_mut().map(|message| &mut message["content"])
            && let Some(block) = blocks.last_mut()
        {
            block["cache_control"] = json!({ "type": "ephemeral" });
        }
        let mut body = json!({
            "model": self.model,
            "max_tokens": self.max_tokens,
            "messages": messages,
            "stream": true,
        });
        if !prompt.system.trim().is_empty() {
            body["system"] = json!([{ "type": "text", "text": prompt.system, "cache_control": { "type": "ephemeral" } }]);
        }
        if !prompt.tools.is_empty() {
            body["tools"] = prompt.tools.iter().map(tool).collect();
        }
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        match self.thinking {
            ThinkingMode::Off => {}
            // Newer models hide their thoughts unless asked for them.
            ThinkingMode::Adaptive => body["thinking"] = json!({ "type": "adaptive", "display": "summarized" }),
            ThinkingMode::Budget(tokens) => body["thinking"] = json!({ "type": "enabled", "budget_tokens": tokens }),
        }
        body
    }
}

fn tool(spec: &ToolSpec) -> Value {
    json!({ "name": spec.name, "description": spec.description, "input_schema": spec.schema })
}

/// The conversation with roles that alternate, as the wire wants them: what one side says in a row becomes one message.
fn messages(prompt: &Prompt) -> Vec<Value> {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in &prompt.messages {
        let (role, blocks) = match message {
            Message::User { text } => {
                ("user", vec![text_block(text).unwrap_or_else(|| json!({ "type": "text", "text": "(no text)" }))])
            }
            Message::Assistant { thinking, text, tool_calls } => ("assistant", assistant(thinking, text, tool_calls)),
            Message::ToolResults(results) => ("user", results.iter().map(tool_result).collect()),
        };
        match messages.last_mut() {
            Some((last, earlier)) if *last == role => earlier.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => messages.push((role, blocks)),
        }
    }
    messages.into_iter().map(|(role, content)| json!({ "role": role, "content": content })).collect()
}

/// None for what the provider does not take as text.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({ "type": "text", "text": text }))
}

fn assistant(thinking: &[Thought], text: &str, calls: &[ToolRequest]) -> Vec<Value> {
    let said = text_block(text);
    if said.is_none() && calls.is_empty() {
        // A message of thoughts alone is refused.
        return Vec::new();
    }
    let calls = calls.iter().map(|call| {
        json!({
            "type": "tool_use",
            "id": plain_name(&call.call_id),
            "name": plain_name(&call.tool),
            "input": as_object(&call.arguments),
        })
    });
    thinking.iter().flat_map(thinking_blocks).chain(said).chain(calls).collect()
}

fn tool_result(result: &super::ToolResult) -> Value {
    let mut block = json!({ "type": "tool_result", "tool_use_id": plain_name(&result.call_id), "content": result.content });
    if result.is_error {
        block["is_error"] = json!(true);
    }
    block
}

/// The blocks as they came. A thought without this wire's signature was another model's, and would be refused.
fn thinking_blocks(thought: &Thought) -> Vec<Value> {
    match &thought.signature {
        None => Vec::new(),
        Some(signature) => match signature.strip_prefix(BLOCKS_MARK) {
            Some(blocks) => serde_json::from_str(blocks).unwrap_or_default(),
            None if signature.contains(':') => Vec::new(),
            None => vec![json!({ "type": "thinking", "thinking": thought.text, "signature": signature })],
        },
    }
}

/// What a block of the stream is, by its index.
#[derive(Debug)]
enum Block {
    Thinking {
        text: String,
        signature: String,
    },
    Hidden {
        data: String,
    },
    /// The draft's call, and the input that came with the block's start, for servers that send it whole.
    Call {
        at: usize,
        given: Value,
    },
    /// Text, and whatever we did not ask for.
    Other,
}

/// The answer so far.
pub(crate) struct Answer {
    draft: Draft,
    blocks: Vec<(u64, Block)>,
}

impl Answer {
    pub(crate) fn new(model: &str, limits: Limits) -> Self {
        Self { draft: Draft::new(model, limits), blocks: Vec::new() }
    }

    fn start_block(&mut self, index: u64, content: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        let word = |name: &str| content[name].as_str().unwrap_or_default().to_owned();
        let block = match content["type"].as_str() {
            Some("text") => {
                self.draft.say(&word("text"), sink)?;
                Block::Other
            }
            Some("thinking") => {
                self.draft.think(&word("thinking"), sink)?;
                Block::Thinking { text: word("thinking"), signature: word("signature") }
            }
            Some("redacted_thinking") => Block::Hidden { data: word("data") },
            Some("tool_use") => {
                let at = self.draft.open_call()?;
                self.draft.calls[at].id = word("id");
                self.draft.calls[at].tool = word("name");
                Block::Call { at, given: content["input"].clone() }
            }
            _ => Block::Other,
        };
        // The text was counted; what is kept besides, and a block for its own sake, counts too.
        let kept = match &block {
            Block::Hidden { data } => data.len(),
            Block::Call { given, .. } => given.to_string().len(),
            Block::Thinking { signature, .. } => signature.len(),
            Block::Other => 1,
        };
        self.draft.grow(kept)?;
        self.blocks.push((index, block));
        Ok(())
    }

    fn take_delta(&mut self, index: u64, delta: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        let word = |name: &str| delta[name].as_str().unwrap_or_default();
        let block = self.blocks.iter_mut().rev().find(|(at, _)| *at == index).map(|(_, block)| block);
        match (delta["type"].as_str(), block) {
            (Some("text_delta"), _) => self.draft.say(word("text"), sink),
            (Some("thinking_delta"), Some(Block::Thinking { text, .. })) => {
                text.push_str(word("thinking"));
                self.draft.think(word("thinking"), sink)
            }
            (Some("signature_delta"), Some(Block::Thinking { signature, .. })) => {
                signature.push_str(word("signature"));
                self.draft.grow(word("signature").len())
            }
            (Some("input_json_delta"), Some(Block::Call { at, .. })) => self.draft.extend_arguments(*at, word("partial_json")),
            _ => Ok(()),
        }
    }

    fn take_usage(&mut self, usage: &Value) {
        let tokens = |name: &str| usage[name].as_u64();
        let input = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"].map(tokens);
        // Each report is the whole so far; one without input does not take it back.
        if input.iter().flatten().any(|&count| 0 < count) {
            self.draft.usage.input_tokens = input.iter().flatten().sum();
        }
        if let Some(count) = tokens("output_tokens") {
            self.draft.usage = Usage { output_tokens: count, ..self.draft.usage };
        }
    }

    fn take_stop(&mut self, reason: &Value) {
        if let Some(reason) = reason.as_str() {
            let reason = match reason {
                "end_turn" | "stop_sequence" => "stop",
                "max_tokens" | "model_context_window_exceeded" => "length",
                "tool_use" => "tool_calls",
                "refusal" => "content_filter",
                other => other,
            };
            self.draft.finish_reason = Some(reason.to_owned());
        }
    }

    fn take_head(&mut self, message: &Value) {
        if let Some(model) = message["model"].as_str().filter(|model| !model.is_empty()) {
            model.clone_into(&mut self.draft.model);
        }
        self.take_usage(&message["usage"]);
        self.take_stop(&message["stop_reason"]);
    }
}

impl Reply for Answer {
    fn take(&mut self, event: &sse::Event, sink: &mut Sink<'_>) -> Result<Progress, ModelError> {
        if event.data.trim().is_empty() {
            return Ok(Progress::More);
        }
        let frame: Value = serde_json::from_str(&event.data)
            .map_err(|error| ModelError::retryable(format!("the model server sent a piece that is not JSON: {error}")))?;
        let index = frame["index"].as_u64().unwrap_or(0);
        match frame["type"].as_str().unwrap_or(&event.name) {
            "message_start" => self.take_head(&frame["message"]),
            "content_block_start" => self.start_block(index, &frame["content_block"], sink)?,
            "content_block_delta" => self.take_delta(index, &frame["delta"], sink)?,
            "message_delta" => {
                self.take_usage(&frame["usage"]);
                self.take_stop(&frame["delta"]["stop_reason"]);
            }
            "message_stop" => {
                self.draft.finish_reason.get_or_insert_with(|| "stop".to_owned());
                return Ok(Progress::Complete);
            }
            "error" => return Err(Complaint::from_json(&frame, None).judge()),
            // A ping, the end of a block, or something that a later version of the wire says.
            _ => {}
        }
        Ok(Progress::More)
    }

    fn take_whole(&mut self, body: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        if body["type"] == "error" {
            return Err(Complaint::from_json(body, None).judge());
        }
        let Some(content) = body["content"].as_array() else {
            return Err(ModelError::permanent("the server's answer has no content; does it speak Anthropic's messages?"));
        };
        for (index, block) in (0..).zip(content) {
            self.start_block(index, block, sink)?;
        }
        self.take_head(body);
        self.draft.finish_reason.get_or_insert_with(|| "stop".to_owned());
        Ok(())
    }

    fn finish(mut self) -> Result<Generated, ModelError> {
        let mut thoughts = Vec::new();
        for (_, block) in self.blocks {
            match block {
                Block::Call { at, given } if self.draft.calls[at].arguments.is_empty() => {
                    self.draft.calls[at].arguments = given.to_string();
                }
                // Without a signature it cannot go back.
                Block::Thinking { signature, .. } if signature.is_empty() => {}
                block @ (Block::Thinking { .. } | Block::Hidden { .. }) => thoughts.push(block),
                Block::Call { .. } | Block::Other => {}
            }
        }
        self.draft.finish(signature(thoughts))
    }
}

/// What has to go back with the thinking's text.
fn signature(mut thoughts: Vec<Block>) -> Option<String> {
    if let [Block::Thinking { signature, .. }] = thoughts.as_mut_slice()
        && !signature.contains(':')
    {
        return Some(std::mem::take(signature));
    }
    let blocks: Vec<Value> = thoughts
        .into_iter()
        .filter_map(|block| match block {
            Block::Thinking { text, signature } => Some(json!({ "type": "thinking", "thinking": text, "signature": signature })),
            Block::Hidden { data } => Some(json!({ "type": "redacted_thinking", "data": data })),
            Block::Call { .. } | Block::Other => None,
        })
        .collect();
    (!blocks.is_empty()).then(|| format!("{BLOCKS_MARK}{}", Value::from(blocks)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::wire::replay;

    const LIMITS: Limits = Limits { answer_bytes_max: 1000, tool_calls_max: 4 };

    fn stream(frames: &[Value]) -> String {
        let name = |frame: &Value| frame["type"].as_str().unwrap().to_owned();
        frames.iter().map(|frame| format!("event: {}\ndata: {frame}\n\n", name(frame))).collect()
    }

    fn read(frames: &[Value]) -> Result<Generated, ModelError> {
        replay([stream(frames).as_bytes()], Answer::new("asked", LIMITS), &mut |_, _| {})
    }

    fn start(index: u64, block: &Value) -> Value {
        json!({"type": "content_block_start", "index": index, "content_block": block})
    }

    fn delta(index: u64, kind: &str, field: &str, piece: &str) -> Value {
        json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}})
    }

    fn stop(reason: &str) -> [Value; 2] {
        [
            json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}}),
            json!({"type": "message_stop"}),
        ]
    }

    fn answer() -> Vec<Value> {
        let mut frames = vec![
            json!({"type": "message_start", "message": {"model": "answered", "usage": {"input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 1}}}),
            start(0, &json!({"type": "thinking", "thinking": ""})),
            json!({"type": "ping"}),
            delta(0, "thinking_delta", "thinking", "hm, 🐎"),
            delta(0, "signature_delta", "signature", "c2ln"),
            json!({"type": "content_block_stop", "index": 0}),
            start(1, &json!({"type": "text", "text": ""})),
            delta(1, "text_delta", "text", "Let me "),
            delta(1, "text_delta", "text", "look."),
            start(2, &json!({"type": "tool_use", "id": "toolu_1", "name": "calculate", "input": {}})),
            delta(2, "input_json_delta", "partial_json", "{\"expression\": \"1"),
            delta(2, "input_json_delta", "partial_json", "+1\"}"),
            start(3, &json!({"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}})),
        ];
        frames.extend(stop("tool_use"));
        frames
    }

    #[test]
    fn an_answer_adds_up() {
        let call = |id: &str, tool: &str, arguments| ToolRequest { call_id: id.into(), tool: tool.into(), arguments };
        let expected = Generated {
            thinking: Some(Thought { text: "hm, 🐎".into(), signature: Some("c2ln".into()) }),
            text: "Let me look.".into(),
            tool_calls: vec![call("toolu_1", "calculate", json!({"expression": "1+1"})), call("toolu_2", "now", json!({}))],
            finish_reason: "tool_calls".into(),
            usage: Usage { input_tokens: 105, output_tokens: 9 },
            model: "answered".into(),
        };
        assert_eq!(read(&answer()), Ok(expected));
    }

    #[test]
    fn several_thoughts_go_back_as_they_came() {
        let mut frames = vec![
            start(0, &json!({"type": "thinking", "thinking": "a", "signature": "s1"})),
            start(1, &json!({"type": "redacted_thinking", "data": "xyz"})),
            start(2, &json!({"type": "thinking", "thinking": "b", "signature": "s2"})),
            start(3, &json!({"type": "text", "text": "yes"})),
        ];
        frames.extend(stop("end_turn"));
        let thought = read(&frames).unwrap().thinking.unwrap();
        assert_eq!(thought.text, "ab");
        let blocks = json!([
            {"type": "thinking", "thinking": "a", "signature": "s1"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "thinking", "thinking": "b", "signature": "s2"},
        ]);
        assert_eq!(json!(thinking_blocks(&thought)), blocks);
    }

    #[test]
    fn a_thought_that_is_not_shown_still_goes_back() {
        let mut frames =
            vec![start(0, &json!({"type": "thinking", "thinking": ""})), delta(0, "signature_delta", "signature", "s")];
        frames.extend(stop("end_turn"));
        let thought = read(&frames).unwrap().thinking.unwrap();
        assert_eq!(json!(thinking_blocks(&thought)), json!([{"type": "thinking", "thinking": "", "signature": "s"}]));
    }

    #[test]
    fn the_thoughts_of_another_model_do_not() {
        for signature in [None, Some("field:reasoning_content".to_owned())] {
            assert!(thinking_blocks(&Thought { text: "hm".into(), signature }).is_empty());
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_none() {
        let whole = answer();
        for end in 0..whole.len() - 2 {
            assert!(matches!(read(&whole[..end]), Err(ModelError::Retryable { .. })), "after {end} events");
        }
    }

    #[test]
    fn an_error_in_the_middle_is_an_error() {
        let mut frames = answer();
        frames.insert(8, json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
        assert!(matches!(read(&frames), Err(ModelError::Retryable { reason, .. }) if reason.contains("Overloaded")));
        frames[8] = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}});
        assert!(matches!(read(&frames), Err(ModelError::Permanent { .. })));
    }

    #[test]
    fn what_the_same_side_says_in_a_row_is_one_message() {
        let said = |text: &str| Message::User { text: text.into() };
        let nothing = Message::Assistant { thinking: vec![], text: " ".into(), tool_calls: vec![] };
        let prompt = Prompt { messages: vec![said("a"), nothing, said(""), said("b")], ..Prompt::default() };
        let text = |text: &str| json!({"type": "text", "text": text});
        assert_eq!(messages(&prompt), [json!({"role": "user", "content": [text("a"), text("(no text)"), text("b")]})]);
    }

    proptest! {
        #[test]
        fn the_network_may_cut_a_stream_anywhere(size in 1usize..200, first in 0usize..200) {
            let text = stream(&answer());
            let (head, tail) = text.as_bytes().split_at(first);
            let chunks = std::iter::once(head).chain(tail.chunks(size));
            prop_assert_eq!(replay(chunks, Answer::new("asked", LIMITS), &mut |_, _| {}), read(&answer()));
        }
    }
}
