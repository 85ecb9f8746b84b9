//! Language models at the wire: one prompt in, one whole answer out, its pieces shown while they come.
//!
//! Knows no event, no log and no turn, and repeats nothing: whether a failed call is made again is the shell's decision, for
//! which [`ModelError`] says what kind of failure it was. An answer is whole or it is an error; a stream that was cut is never
//! taken for an answer.
//!
//! ```text
//! Prompt ─ openai::body | anthropic::body ─ wire::Wire ─ bytes ─ sse::Decoder ─ openai::Reply | anthropic::Reply ─ Generated
//! ```
//!
//! Everything right of the bytes is synchronous and does not care where the network cut them.

mod answer;
mod anthropic;
mod config;
mod demo;
mod failure;

mod openai;
#[cfg(test)]
mod served;
mod sse;
mod wire;

use std::collections::HashSet;
use std::time::Duration;

use causeway_event::DeltaKind;
use causeway_event::payload::Usage;
use serde::Serialize;
use serde_json::Value;

pub use config::{ModelConfig, Provider, ThinkingMode};

/// What a model is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Prompt {
    /// Who it is and how it should behave.
    pub system: String,
    /// What was said and done so far, oldest first. Each tool call of an [`Message::Assistant`] must have its result in the
    /// [`Message::ToolResults`] right behind it: the providers refuse anything else.
    pub messages: Vec<Message>,
    /// What it may call.
    pub tools: Vec<ToolSpec>,
}

/// One message of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Somebody said something to the assistant.
    User {
        /// What.
        text: String,
    },
    /// The assistant answered, or asked for tools.
    Assistant {
        /// What it thought before.
        thinking: Vec<Thought>,
        /// What it said; may be empty beside tool calls.
        text: String,
        /// The tools that it asked for.
        tool_calls: Vec<ToolRequest>,
    },
    /// What the tools gave, in the order of the calls.
    ToolResults(Vec<ToolResult>),
}

/// A model's reasoning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thought {
    /// In words; may be empty where the provider shows only the signature.
    pub text: String,
    /// The provider's mark on it. Opaque: keep it and hand it back with the text.
    pub signature: Option<String>,
}

/// A tool call that a model asks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolRequest {
    /// Names the call; no other call of the prompt it answers, or of the same answer, has it.
    pub call_id: String,
    /// The tool's name as the model wrote it; there may be no such tool.
    pub tool: String,
    /// What the model gave it: JSON, or a string with the raw text where that was not (sensible) JSON.
    pub arguments: Value,
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolResult {
    /// The call.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// Its result, or the error in words.
    pub content: String,
    /// Which of the two.
    pub is_error: bool,
}

/// A tool as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolSpec {
    /// What to call it by.
    pub name: String,
    /// What it does and when to use it.
    pub description: String,
    /// JSON Schema of its arguments, an object.
    pub schema: Value,
}

/// A model's whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// What it thought, where the provider shows that.
    pub thinking: Option<Thought>,
    /// What it says; may be empty beside tool calls.
    pub text: String,
    /// The tools that it asks for.
    pub tool_calls: Vec<ToolRequest>,
    /// Why it stopped: `stop`, `length`, `tool_calls`, `content_filter`, or the provider's own word.
    pub finish_reason: String,
    /// What it took. Cached input tokens count as input.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The same call may succeed later.
    #[error("{reason}")]
    Retryable {
        /// What happened, in words.
        reason: String,
        /// How long the provider wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The prompt does not fit into the model; a shorter one may.
    #[error("the prompt is too long for the model: {reason}")]
    ContextTooLong {
        /// The provider's words.
        reason: String,
    },
    /// The same call will fail again.
    #[error("{reason}")]
    Permanent {
        /// What happened, in words.
        reason: String,
    },
    /// The configuration names no usable model. Only [`Model::from_config`] says this.
    #[error("{key} {reason}")]
    Config {
        /// The key within the model's configuration.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl ModelError {
    pub(crate) fn retryable(reason: impl Into<String>) -> Self {
        Self::Retryable { reason: reason.into(), retry_after: None }
    }

    pub(crate) fn permanent(reason: impl Into<String>) -> Self {
        Self::Permanent { reason: reason.into() }
    }

    pub(crate) fn config(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { key, reason: reason.into() }
    }
}

/// Where the pieces of an answer go while it is generated.
pub type Sink<'s> = dyn FnMut(DeltaKind, &str) + Send + 's;

/// A model that can be asked. Keep one: it holds the connections.
#[derive(Debug)]
pub enum Model {
    /// A server that speaks OpenAI's chat completions.
    OpenAi(OpenAi),
    /// A server that speaks Anthropic's messages.
    Anthropic(Anthropic),
    /// The built-in one.
    Demo(Demo),
}

pub use anthropic::Anthropic;
pub use demo::Demo;
pub use openai::OpenAi;

impl Model {
    /// Checks the configuration and makes ready to ask. Does not touch the network.
    pub fn from_config(config: &ModelConfig) -> Result<Self, ModelError> {
        config.check()?;
        Ok(match config.provider {
            Provider::Demo => Self::Demo(Demo::new(config)),
            Provider::OpenAi => Self::OpenAi(OpenAi::new(config)?),
            Provider::Anthropic => Self::Anthropic(Anthropic::new(config)?),
        })
    }

    /// The model's name as configured.
    pub fn name(&self) -> &str {
        match self {
            Self::OpenAi(openai) => openai.name(),
            Self::Anthropic(anthropic) => anthropic.name(),
            Self::Demo(demo) => demo.name(),
        }
    }

    /// Who serves it, by the names of OpenTelemetry's `gen_ai.provider.name`.
    pub fn provider(&self) -> &'static str {
        match self {
            Self::OpenAi(_) => "openai",
            Self::Anthropic(_) => "anthropic",
            Self::Demo(_) => "demo",
        }
    }

    /// Asks once. `on_delta` gets the answer's pieces as they come; after an error they are void.
    ///
    /// Dropping the future closes the connection, so that the provider stops generating.
    pub async fn generate(&self, prompt: &Prompt, on_delta: &mut Sink<'_>) -> Result<Generated, ModelError> {
        let mut generated = match self {
            Self::OpenAi(openai) => openai.generate(prompt, on_delta).await?,
            Self::Anthropic(anthropic) => anthropic.generate(prompt, on_delta).await?,
            Self::Demo(demo) => demo.generate(prompt, on_delta).await,
        };
        make_ids_unique(prompt, &mut generated.tool_calls);
        Ok(generated)
    }
}

/// Servers exist that number the calls of each answer from zero, and some that give no id at all; but an id must name one
/// call of the whole conversation, or a later answer's result is taken for that of an earlier call.
fn make_ids_unique(prompt: &Prompt, calls: &mut [ToolRequest]) {
    let earlier = prompt.messages.iter().flat_map(|message| match message {
        Message::Assistant { tool_calls, .. } => tool_calls.as_slice(),
        Message::User { .. } | Message::ToolResults(_) => &[],
    });
    let mut taken: HashSet<String> = earlier.map(|call| call.call_id.clone()).collect();
    for call in calls {
        let wanted = if call.call_id.is_empty() { "call" } else { &call.call_id };
        let mut id = wanted.to_owned();
        let mut ordinal = 1;
        while id == "call" || taken.contains(&id) {
            id = format!("{wanted}_{ordinal}");
            ordinal += 1;
        }
        taken.insert(id.clone());
        call.call_id = id;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(id: &str) -> ToolRequest {
        ToolRequest { call_id: id.into(), tool: "now".into(), arguments: json!({}) }
    }

    #[test]
    fn each_call_of_a_conversation_has_an_id_of_its_own() {
        let earlier =
            Message::Assistant { thinking: vec![], text: String::new(), tool_calls: vec![call("call_0"), call("call_1")] };
        let prompt = Prompt { messages: vec![earlier], ..Prompt::default() };
        let mut calls = [call("call_0"), call(""), call(""), call("fresh"), call("fresh")];
        make_ids_unique(&prompt, &mut calls);
        let ids: Vec<_> = calls.iter().map(|call| call.call_id.as_str()).collect();
        assert_eq!(ids, ["call_0_1", "call_2", "call_3", "fresh", "fresh_1"]);
    }
}
