//! An answer while it comes in: what both providers' streams add up to, within its limits.

use causeway_event::DeltaKind;
use causeway_event::payload::Usage;
use serde_json::Value;

use super::{Generated, ModelError, Sink, Thought, ToolRequest, sse};

/// The deepest nesting of a tool call's arguments that is taken as JSON: they must fit into an event with room around them.
const ARGUMENTS_DEPTH_MAX: usize = 32;
/// The longest name or id that is kept of a tool call.
const NAME_BYTES_MAX: usize = 128;

/// One provider's way to say an answer.
pub(crate) trait Reply {
    /// Takes the next event of the stream.
    fn take(&mut self, event: &sse::Event, sink: &mut Sink<'_>) -> Result<Progress, ModelError>;
    /// Takes the answer of a server that does not stream.
    fn take_whole(&mut self, body: &Value, sink: &mut Sink<'_>) -> Result<(), ModelError>;
    /// The answer, if it is whole.
    fn finish(self) -> Result<Generated, ModelError>;
}

/// Whether the answer goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    More,
    Complete,
}

/// How much an answer may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) answer_bytes_max: usize,
    pub(crate) tool_calls_max: usize,
}

/// What has come so far.
#[derive(Debug)]
pub(crate) struct Draft {
    limits: Limits,
    bytes: usize,
    pub(crate) thinking: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) usage: Usage,
    pub(crate) model: String,
    /// Set by the provider's word that the answer is whole.
    pub(crate) finish_reason: Option<String>,
}

/// A tool call so far.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) tool: String,
    /// JSON text, or a part of one.
    pub(crate) arguments: String,
}

impl Draft {
    pub(crate) fn new(model: &str, limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            thinking: String::new(),
            text: String::new(),
            calls: Vec::new(),
            usage: Usage::default(),
            model: model.to_owned(),
            finish_reason: None,
        }
    }

    pub(crate) fn say(&mut self, piece: &str, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        if !piece.is_empty() {
            self.grow(piece.len())?;
            self.text.push_str(piece);
            sink(DeltaKind::Text, piece);
        }
        Ok(())
    }

    pub(crate) fn think(&mut self, piece: &str, sink: &mut Sink<'_>) -> Result<(), ModelError> {
        if !piece.is_empty() {
            self.grow(piece.len())?;
            self.thinking.push_str(piece);
            sink(DeltaKind::Thinking, piece);
        }
        Ok(())
    }

    /// Makes room for another call, and says which one it is.
    pub(crate) fn open_call(&mut self) -> Result<usize, ModelError> {
        if self.calls.len() == self.limits.tool_calls_max {
            let most = self.limits.tool_calls_max;
            return Err(ModelError::permanent(format!(
                "the model asked for more than {most} tools at once (model.tool_calls_max)"
            )));
        }
        self.calls.push(Call::default());
        Ok(self.calls.len() - 1)
    }

    pub(crate) fn extend_arguments(&mut self, call: usize, piece: &str) -> Result<(), ModelError> {
        self.grow(piece.len())?;
        self.calls[call].arguments.push_str(piece);
        Ok(())
    }

    /// Counts bytes that are kept beside text and arguments too, so that nothing grows without end.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.bytes += bytes;
        if self.limits.answer_bytes_max < self.bytes {
            let most = causeway_runtime::config::bytes::format(self.limits.answer_bytes_max as u64);
            return Err(ModelError::permanent(format!("the model's answer is longer than {most} (model.answer_bytes_max)")));
        }
        Ok(())
    }

    /// The whole answer, or the error that it was cut.
    pub(crate) fn finish(self, signature: Option<String>) -> Result<Generated, ModelError> {
        let Some(reason) = self.finish_reason else {
            return Err(ModelError::retryable("the answer was cut: its stream ended without saying that it is whole"));
        };
        let finish_reason = match (reason.as_str(), self.calls.is_empty()) {
            // Servers exist that say one while doing the other.
            ("stop", false) => "tool_calls".to_owned(),
            ("tool_calls", true) => "stop".to_owned(),
            _ => reason,
        };
        let thought = !self.thinking.is_empty() || signature.is_some();
        let tool_calls = self.calls.into_iter().map(Call::into_request).collect();
        Ok(Generated {
            thinking: thought.then_some(Thought { text: self.thinking, signature }),
            text: self.text,
            tool_calls,
            finish_reason,
            usage: self.usage,
            model: self.model,
        })
    }
}

impl Call {
    fn into_request(self) -> ToolRequest {
        ToolRequest { call_id: clip(self.id), tool: clip(self.tool), arguments: arguments(self.arguments) }
    }
}

/// The arguments as JSON; as the text they came as if they are none, so that the model can be told.
fn arguments(raw: String) -> Value {
    let empty = || Value::Object(serde_json::Map::new());
    if raw.trim().is_empty() {
        return empty();
    }
    match serde_json::from_str::<Value>(&raw) {
        Ok(Value::Null) => empty(),
        // Some models write the JSON of a string that holds the JSON.
        Ok(Value::String(inner)) => match serde_json::from_str::<Value>(&inner) {
            Ok(object @ Value::Object(_)) if depth(&object) <= ARGUMENTS_DEPTH_MAX => object,
            _ => Value::String(raw),
        },
        Ok(value) if depth(&value) <= ARGUMENTS_DEPTH_MAX => value,
        _ => Value::String(raw),
    }
}

/// Safe to recurse: serde_json refused whatever nests deeper than 128.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn clip(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

/// A name or id as the providers take it: they refuse a whole conversation for one odd letter in its history, and models
/// do make up tools with odd names.
pub(crate) fn plain_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).take(64).collect();
    if plain.is_empty() { "unnamed".to_owned() } else { plain }
}

/// The arguments as the object that the providers want in a history.
pub(crate) fn as_object(arguments: &Value) -> Value {
    match arguments {
        Value::Object(_) => arguments.clone(),
        other => serde_json::json!({ "not_an_object": other }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_json_or_the_text_that_was_not() {
        let of = |raw: &str| arguments(raw.to_owned());
        assert_eq!(of(r#"{"a": 1}"#), json!({"a": 1}));
        assert_eq!(of(""), json!({}));
        assert_eq!(of("null"), json!({}));
        assert_eq!(of(r#""{\"a\":1}""#), json!({"a": 1}));
        assert_eq!(of(r#"{"a": "#), json!(r#"{"a": "#));
        assert_eq!(of("[1]"), json!([1]));
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert_eq!(of(&deep), json!(deep));
    }

    #[test]
    fn a_name_becomes_one_that_providers_take() {
        assert_eq!(plain_name("functions.calc:0"), "functions_calc_0");
        assert_eq!(plain_name(""), "unnamed");
        assert_eq!(plain_name(&"é".repeat(100)), "_".repeat(64));
    }
}
