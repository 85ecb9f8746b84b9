//! OpenAI's chat completions, as OpenAI and the many servers that imitate it speak them.
//!
//! The request says only what all of them understand. The reply is read for what is there, not for what the reference says:
//! ids that are missing or late, calls without an index, reasoning under either of two names, content as a list of parts, no
//! `[DONE]`, an error in the middle, JSON where a stream was asked for.

use causeway_event::payload::Usage;
use serde_json::{Map, Value, json};

use super::answer::{Draft, Limits, Progress, Reply, as_object, plain_name};
use super::config::ModelConfig;
use super::failure::Complaint;
use super::wire::Wire;
use super::{Generated, Message, ModelError, Prompt, Sink, Thought, ToolRequest, ToolSpec, sse};

/// A thought's mark that tells under which name the server shows its reasoning, as it wants it back.
const FIELD_MARK: &str = "field:";
/// The names under which servers show reasoning.
const REASONING_FIELDS: [&str; 2] = ["reasoning_content", "reasoning"];

/// A server that speaks OpenAI's chat completions.
#[derive(Debug)]
pub struct OpenAi {
    wire: Wire,
    model: String,
    max_tokens: Option<u32>,
    /// What the server calls that limit.
    max_tokens_field: &'static str,
    temperature: Option<f64>,
}

impl OpenAi {
    pub(crate) fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        let authorization = config.key().map(|key| ("authorization", format!("Bearer {key}")));
        // OpenAI's reasoning models refuse the old name, most imitations know no other.
        let own = config.url()?.host_str().is_some_and(|host| host.ends_with("openai.com"));
        Ok(Self {
            wire: Wire::new(config, "/chat/completions", authorization.as_slice())?,
            model: config.model.trim().to_owned(),
            max_tokens: config.max_tokens,
            max_tokens_field: if own { "max_completion_tokens" } else { "max_tokens" },
            temperature: config.temperature,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.model
    }

    pub(crate) async fn generate(&self, prompt: &Prompt, sink: &mut Sink<'_>) -> Result<Generated, ModelError> {
        self.wire.exchange(&self.body(prompt), Answer::new(&self.model, self.wire.limits), sink).await
    }

    fn body(&self, prompt: &Prompt) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": messages(prompt),
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if !prompt.tools.is_empty() {
            body["tools"] = prompt.tools.iter().map(tool).collect();
        }
        if let Some(tokens) = self.max_tokens {
            body[self.max_tokens_field] = json!(tokens);
        }
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        body
    }
}

fn tool(spec: &ToolSpec) -> Value {
    json!({
        "type": "function",
        "function": { "name": spec.name, "description": spec.description, "parameters": spec.schema },
    })
}

fn messages(prompt: &Prompt) -> Vec<Value> {
    let mut messages = Vec::new();
    if !prompt.system.is_empty() {
        messages.push(json!({ "role": "system", "content": prompt.system }));
    }
    // Reasoning is handed back only within the turn that it belongs to: some servers insist on that, others on the contrary
    // for older turns.
    let turn_start = prompt.messages.iter().rposition(|message| matches!(message, Message::User { .. })).unwrap_or(0);
    for (at, message) in prompt.messages.iter().enumerate() {
        match message {
            Message::User { text } => messages.push(json!({ "role": "user", "content": text })),
            Message::Assistant { text, tool_calls, .. } if text.is_empty() && tool_calls.is_empty() => {}
            Message::Assistant { thinking, text, tool_calls } => {
                let mut said = assistant(text, tool_calls);
                if turn_start < at && !tool_calls.is_empty() {
                    said.extend(reasoning(thinking));
                }
                messages.push(Value::Object(said));
            }
            Message::ToolResults(results) => messages.extend(results.iter().map(|result| {
                // This wire has no mark for an error but the words.
                let content = if result.is_error { format!("Error: {}", result.content) } else { result.content.clone() };
                json!({ "role": "tool", "tool_call_id": result.call_id, "content": content })
            })),
        }
    }
    messages
}

fn assistant(text: &str, calls: &[ToolRequest]) -> Map<String, Value> {
    let mut said = Map::new();
    said.insert("role".to_owned(), json!("assistant"));
    said.insert("content".to_owned(), if text.is_empty() { Value::Null } else { json!(text) });
    if !calls.is_empty() {
        let calls = calls.iter().map(|call| {
            let function = json!({ "name": plain_name(&call.tool), "arguments": as_object(&call.arguments).to_string() });
            json!({ "id": call.call_id, "type": "function", "function": function })
        });
        said.insert("tool_calls".to_owned(), calls.collect());
    }
    said
}

/// The thoughts of this wire, under the name under which they came.
fn reasoning(thoughts: &[Thought]) -> Option<(String, Value)> {
    let field =
        |thought: &Thought| thought.signature.as_deref().and_then(|mark| mark.strip_prefix(FIELD_MARK)).map(ToOwned::to_owned);
    let name = thoughts.iter().find_map(field)?;
    let texts: Vec<&str> =
        thoughts.iter().filter(|thought| field(thought).as_ref() == Some(&name)).map(|thought| thought.text.as_str()).collect();
    REASONING_FIELDS.contains(&name.as_str()).then(|| (name, json!(texts.join("\n"))))
}

/// The answer so far.
pub(crate) struct Answer {
    draft: Draft,
    /// The index that the server gave each call of the draft, if it gave one.
    indices: Vec<Option<u64>>,
    /// The name under which reasoning comes.
    reasoning_field: Option<&'static str>,
}

impl Answer {
    pub(crate) fn new(model: &str, limits: Limits) -> Self {
        Self { draft: Draft::new(model, limits), indices: Vec::new(), reasoning_field: None }
    }

    /// Takes a chunk's delta, or the message of an answer in one piece: they differ in nothing that matters.
    fn take_delta(&mut self, delta: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        // Some servers say the same reasoning under both names, so only one is heard.
        for field in REASONING_FIELDS {
            let heard = self.reasoning_field.is_none_or(|known| known == field);
            if let (true, Some(text)) = (heard, delta[field].as_str().filter(|text| !text.is_empty())) {
                self.reasoning_field = Some(field);
                self.draft.think(text, sink)?;
            }
        }
        match &delta["content"] {
            Value::String(text) => self.draft.say(text, sink)?,
            Value::Array(parts) => parts.iter().try_for_each(|part| self.take_part(part, sink))?,
            _ => {}
        }
        if let Some(text) = delta["refusal"].as_str() {
            self.draft.say(text, sink)?;
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.take_call(call)?;
        }
        Ok(())
    }

    /// Takes one part of a content that is a list: text, or a list of thoughts.
    fn take_part(&mut self, part: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        if let Some(text) = part["text"].as_str() {
            return self.draft.say(text, sink);
        }
        let thoughts = part["thinking"].as_array().into_iter().flatten();
        let mut texts = thoughts.filter_map(|thought| thought["text"].as_str()).chain(part["thinking"].as_str());
        texts.try_for_each(|text| self.draft.think(text, sink))
    }

    fn take_call(&mut self, call: &Value) -> Result<(), ModelError> {
        let id = call["id"].as_str().unwrap_or_default();
        let name = call["function"]["name"].as_str().unwrap_or_default();
        let at = match self.known_call(call["index"].as_u64(), id, name) {
            Some(at) => at,
            None => {
                self.indices.push(call["index"].as_u64());
                self.draft.open_call()?
            }
        };
        let known = &mut self.draft.calls[at];
        let mut kept = 0;
        // The name comes whole: with the first piece, or again with each.
        for (field, piece) in [(&mut known.id, id), (&mut known.tool, name)] {
            if field.is_empty() {
                kept += piece.len();
                piece.clone_into(field);
            }
        }
        self.draft.grow(kept)?;
        match &call["function"]["arguments"] {
            Value::String(piece) => self.draft.extend_arguments(at, piece),
            object @ Value::Object(_) => self.draft.extend_arguments(at, &object.to_string()),
            _ => Ok(()),
        }
    }

    /// Which call a piece belongs to: by index; but another id under the same index is another call, and without an index a
    /// piece without name and id goes on with the last one.
    fn known_call(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let calls = &self.draft.calls;
        let same_id = |at: usize| id.is_empty() || calls[at].id.is_empty() || calls[at].id == id;
        match index {
            Some(_) => (0..calls.len()).rev().find(|&at| self.indices[at] == index && same_id(at)),
            None if !id.is_empty() => (0..calls.len()).rev().find(|&at| calls[at].id == id),
            None if !name.is_empty() => None,
            None => calls.len().checked_sub(1),
        }
    }

    fn take_choice(&mut self, choice: &Value, content: &str, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        self.take_delta(&choice[content], sink)?;
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            let reason = match reason {
                "tool_calls" | "function_call" => "tool_calls",
                "stop" | "eos" | "end_turn" => "stop",
                "length" | "max_tokens" => "length",
                other => other,
            };
            self.draft.finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }

    /// Takes what a chunk and a whole answer have in common.
    fn take_frame(&mut self, frame: &Value, content: &str, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        if frame.get("error").is_some_and(|error| !error.is_null()) {
            return Err(Complaint::from_json(frame, None).judge());
        }
        if let Some(model) = frame["model"].as_str().filter(|model| !model.is_empty()) {
            model.clone_into(&mut self.draft.model);
        }
        if let Some(usage) = usage(&frame["usage"]) {
            self.draft.usage = usage;
        }
        for choice in frame["choices"].as_array().into_iter().flatten() {
            // Nobody asks for more than one; a server that gives more gets heard once.
            if choice["index"].as_u64().unwrap_or(0) == 0 {
                self.take_choice(choice, content, sink)?;
            }
        }
        Ok(())
    }
}

fn usage(usage: &Value) -> Option<Usage> {
    let tokens = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_u64());
    usage.is_object().then(|| Usage {
        input_tokens: tokens(["prompt_tokens", "input_tokens"]).unwrap_or(0),
        output_tokens: tokens(["completion_tokens", "output_tokens"]).unwrap_or(0),
    })
}

impl Reply for Answer {
    fn take(&mut self, event: &sse::Event, sink: &mut Sink<'_>) -> Result<Progress, ModelError> {
        let data = event.data.trim();
        match data {
            "" => return Ok(Progress::More),
            "[DONE]" => {
                self.draft.finish_reason.get_or_insert_with(|| "stop".to_owned());
                return Ok(Progress::Complete);
            }
            _ => {}
        }
        let frame: Value = serde_json::from_str(data)
            .map_err(|error| ModelError::retryable(format!("the model server sent a piece that is not JSON: {error}")))?;
        self.take_frame(&frame, "delta", sink)?;
        Ok(Progress::More)
    }

    fn take_whole(&mut self, body: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        self.take_frame(body, "message", sink)?;
        match body["choices"].as_array() {
            Some(choices) if !choices.is_empty() => {
                self.draft.finish_reason.get_or_insert_with(|| "stop".to_owned());
                Ok(())
            }
            _ => Err(ModelError::permanent("the server's answer has no choices; does it speak chat completions?")),
        }
    }

    fn finish(self) -> Result<Generated, ModelError> {
        let mark = self.reasoning_field.map(|field| format!("{FIELD_MARK}{field}"));
        self.draft.finish(mark)
    }
}

#[cfg(test)]
mod tests {
    use causeway_event::DeltaKind;
    use proptest::prelude::*;

    use super::*;
    use crate::model::wire::replay;

    const LIMITS: Limits = Limits { answer_bytes_max: 1000, tool_calls_max: 4 };

    fn stream(frames: &[Value]) -> String {
        frames.iter().map(|frame| format!("data: {frame}\n\n")).collect::<String>() + "data: [DONE]\n\n"
    }

    fn read(bytes: &str) -> Result<Generated, ModelError> {
        replay([bytes.as_bytes()], Answer::new("asked", LIMITS), &mut |_, _| {})
    }

    fn deltas(deltas: &[Value]) -> Result<Generated, ModelError> {
        let frames: Vec<Value> = deltas.iter().map(|delta| json!({ "choices": [{ "index": 0, "delta": delta }] })).collect();
        read(&stream(&frames))
    }

    fn calls(pieces: &[Value]) -> Vec<(String, String, Value)> {
        let pieces: Vec<Value> = pieces.iter().map(|piece| json!({ "tool_calls": [piece] })).collect();
        let generated = deltas(&pieces).unwrap();
        assert_eq!(generated.finish_reason, "tool_calls");
        generated.tool_calls.into_iter().map(|call| (call.call_id, call.tool, call.arguments)).collect()
    }

    fn two_calls() -> Vec<(String, String, Value)> {
        vec![("a".into(), "now".into(), json!({})), ("b".into(), "calculate".into(), json!({ "expression": "1+1" }))]
    }

    #[test]
    fn calls_are_told_apart_by_index() {
        let pieces = [
            json!({"index": 0, "id": "a", "type": "function", "function": {"name": "now", "arguments": ""}}),
            json!({"index": 1, "id": "b", "function": {"name": "calculate", "arguments": "{\"expr"}}),
            json!({"index": 0, "function": {"arguments": "{}"}}),
            json!({"index": 1, "function": {"arguments": "ession\":\"1+1\"}"}}),
        ];
        assert_eq!(calls(&pieces), two_calls());
    }

    #[test]
    fn calls_without_an_index_or_all_under_zero_are_told_apart_by_id() {
        let with = |index: Value| {
            [
                json!({"index": index, "id": "a", "function": {"name": "now", "arguments": "{}"}}),
                json!({"index": index, "id": "b", "function": {"name": "calculate", "arguments": {"expression": "1+1"}}}),
            ]
        };
        assert_eq!(calls(&with(json!(0))), two_calls());
        assert_eq!(calls(&with(Value::Null)), two_calls());
    }

    #[test]
    fn an_id_may_come_late_and_a_name_again() {
        let pieces = [
            json!({"index": 0, "function": {"name": "now"}}),
            json!({"index": 0, "id": "a", "function": {"name": "now", "arguments": "{}"}}),
            json!({"index": 1, "id": "b", "function": {"name": "calculate", "arguments": "{\"expression\":"}}),
            json!({"index": 1, "id": "", "function": {"name": "calculate", "arguments": "\"1+1\"}"}}),
        ];
        assert_eq!(calls(&pieces), two_calls());
    }

    #[test]
    fn reasoning_is_heard_once_under_whichever_name() {
        for delta in [
            json!({"reasoning_content": "hm", "reasoning": "hm"}),
            json!({"reasoning": "hm"}),
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        ] {
            let generated = deltas(&[delta, json!({"content": "yes"})]).unwrap();
            assert_eq!(generated.thinking.unwrap().text, "hm");
            assert_eq!(generated.text, "yes");
        }
    }

    #[test]
    fn a_finish_reason_will_do_for_an_end_but_nothing_will_not() {
        let frame = json!({"choices": [{"delta": {"content": "yes"}, "finish_reason": "length"}]});
        assert_eq!(read(&format!("data: {frame}\n\n")).unwrap().finish_reason, "length");
        let frame = json!({"choices": [{"delta": {"content": "ye"}, "finish_reason": null}]});
        assert!(matches!(read(&format!("data: {frame}\n\n")), Err(ModelError::Retryable { .. })));
        assert!(matches!(read(""), Err(ModelError::Retryable { .. })));
    }

    #[test]
    fn what_is_not_json_or_tells_of_an_error_is_no_answer() {
        assert!(matches!(read("data: {\"choices\": [\n\n"), Err(ModelError::Retryable { .. })));
        let error = json!({"error": {"message": "slow down", "type": "rate_limit_exceeded"}});
        assert!(matches!(read(&stream(&[error])), Err(ModelError::Retryable { reason, .. }) if reason.contains("slow down")));
    }

    #[test]
    fn an_answer_has_limits() {
        let long = json!({"content": "x".repeat(600)});
        assert!(
            matches!(deltas(&[long.clone(), long]), Err(ModelError::Permanent { reason }) if reason.contains("longer than 1kB"))
        );
        let many: Vec<Value> = (0..5).map(|at| json!({"tool_calls": [{"index": at, "function": {"name": "now"}}]})).collect();
        assert!(matches!(deltas(&many), Err(ModelError::Permanent { reason }) if reason.contains("more than 4 tools")));
    }

    #[test]
    fn reasoning_goes_back_within_its_turn_only() {
        let thought = || Thought { text: "hm".into(), signature: Some("field:reasoning".into()) };
        let asked = || Message::Assistant {
            thinking: vec![thought()],
            text: String::new(),
            tool_calls: vec![ToolRequest { call_id: "a".into(), tool: "now".into(), arguments: json!({}) }],
        };
        let said = |text: &str| Message::User { text: text.into() };
        let prompt = Prompt { messages: vec![said("1"), asked(), said("2"), asked()], ..Prompt::default() };
        let messages = messages(&prompt);
        assert!(messages[1].get("reasoning").is_none());
        assert_eq!(messages[3]["reasoning"], "hm");
    }

    proptest! {
        #[test]
        fn the_network_may_cut_a_stream_anywhere(cuts in proptest::collection::vec(1usize..40, 1..60)) {
            let text = stream(&[
                json!({"model": "answered", "choices": [{"delta": {"role": "assistant", "reasoning_content": "dvě 🐎"}}]}),
                json!({"choices": [{"delta": {"content": "příliš "}}]}),
                json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "now", "arguments": "{\"zo"}}]}}]}),
                json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "ne\":\"ž\"}"}}]}}]}),
                json!({"choices": [{"delta": {"content": "žluťoučký"}, "finish_reason": "tool_calls"}]}),
                json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
            ]);
            let whole = read(&text).unwrap();
            let mut rest = text.as_bytes();
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            let mut seen = String::new();
            let generated = replay(chunks, Answer::new("asked", LIMITS), &mut |kind, piece| if kind == DeltaKind::Text { seen += piece });
            prop_assert_eq!(&seen, &whole.text);
            prop_assert_eq!(generated.unwrap(), whole);
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..300), data in ".{0,80}") {
            let _ = replay([bytes.as_slice()], Answer::new("asked", LIMITS), &mut |_, _| {});
            let _ = read(&format!("data: {data}\n\n"));
        }
    }
}
