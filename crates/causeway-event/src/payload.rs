//! The known types and the fields of `data` that services rely on.
//!
//! Every struct is open: fields it does not name stay in the event's bytes. A new known type is one line in `known_types!`
//! and, if its data has fields that somebody relies on, a struct.

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Category, Data, EventId, EventType, Invalid};

macro_rules! known_types {
    ($($variant:ident($data:ty), $category:ident;)*) => {
        /// An event's data, typed.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Payload {
            $(
                #[doc = concat!("`", stringify!($variant), "`")]
                $variant($data),
            )*
            /// A type that is not known, or data that does not fit its type.
            Other,
        }

        /// The category of a known type.
        pub(crate) fn known(event_type: &str) -> Option<Category> {
            match event_type {
                $(stringify!($variant) => Some(Category::$category),)*
                _ => None,
            }
        }

        /// Every known type with its category and the JSON Schema of its data.
        pub fn schemas() -> Vec<(&'static str, Category, Schema)> {
            vec![$((stringify!($variant), Category::$category, schema_for!($data)),)*]
        }

        impl Payload {
            pub(crate) fn read(event_type: &EventType, data: &Data) -> Self {
                match event_type.as_str() {
                    $(stringify!($variant) => data.parse_object().map_or(Self::Other, Self::$variant),)*
                    _ => Self::Other,
                }
            }

            pub(crate) fn check(event_type: &EventType, data: &Data) -> Result<(), Invalid> {
                match event_type.as_str() {
                    $(stringify!($variant) => data.parse_object::<$data>().map(drop),)*
                    _ => Ok(()),
                }
            }

            /// Its type and its JSON.
            pub(crate) fn write(&self) -> Result<(EventType, Data), Invalid> {
                match self {
                    $(Self::$variant(data) => Ok((stringify!($variant).parse()?, Data::of(data)?)),)*
                    Self::Other => Err(Invalid::new("", "only a known payload can be written")),
                }
            }
        }
    };
}

known_types! {
    TriggerReceived(Input), Input;
    MessageReceived(Input), Input;
    WebhookReceived(WebhookReceived), Input;
    ApprovalGranted(Open), Input;
    ApprovalDenied(Open), Input;
    CancelRequested(Open), Input;
    AIProcessingStarted(ProcessingStarted), Ai;
    ThinkingGenerated(Thinking), Ai;
    ToolCalled(ToolCalled), Ai;
    ToolCompleted(ToolCompleted), Ai;
    ToolFailed(ToolFailed), Ai;
    ToolOutcomeUnknown(ToolFailed), Ai;
    ApprovalRequested(Open), Ai;
    ApprovalExpired(Open), Ai;
    ContextCompacted(Open), Ai;
    MessageGenerated(MessageGenerated), Ai;
    AIProcessingCompleted(ProcessingCompleted), Ai;
    AIProcessingFailed(ProcessingFailed), Ai;
    TelegramMessageSent(Open), Output;
    EmailSent(Open), Output;
    SlackMessageSent(Open), Output;
    WebhookSent(Open), Output;
    ArtifactCreated(Open), Output;
    NotificationRequested(Open), Output;
    NotificationFailed(Open), Output;
    NotificationOutcomeUnknown(Open), Output;
    MemoryStored(Open), Memory;
    MemoryRecalled(Open), Memory;
    FastMemoryUpdated(Open), Memory;
    MemorySuperseded(Open), Memory;
    MemoryForgotten(Open), Memory;
    TypeRegistered(TypeRegistered), System;
    LogCheckpointed(LogCheckpointed), System;
}

/// A JSON object of which no service relies on any field yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Open(pub Map<String, Value>);

/// Something a person or a program said to the assistant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// What was said.
    pub content: String,
    /// Who said it; the aggregate's id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// How to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// What came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
}

/// A way to reach somebody: `{kind: "telegram", chat_id, ..}`, `{kind: "chat"}`, `{kind: "email", to}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Channel {
    /// Which one.
    pub kind: String,
    /// The address, in that channel's own words.
    #[serde(flatten)]
    pub address: Map<String, Value>,
}

/// A webhook as it came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookReceived {
    /// The sender's id of this delivery.
    pub delivery_id: String,
    /// The headers worth keeping.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// The body, as JSON or as a string.
    #[serde(default)]
    pub body: Value,
}

/// Tokens that a model call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens read.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub output_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        // The numbers come from outside.
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
    }
}

/// A processor took a turn: the claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessingStarted {
    /// The turn's id, the same in each of its attempts.
    pub turn: String,
    /// The inputs that it answers.
    #[schemars(with = "Vec<String>")]
    pub inputs: Vec<EventId>,
    /// Who took it: one run of one process.
    pub owner: String,
    /// The event whose delivery the owner holds unacknowledged as long as it is at work: whoever gets it next knows that the
    /// owner is gone. Absent when whoever wrote the claim holds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub delivery: Option<EventId>,
    /// 1 for the first claim, one more for each takeover.
    pub attempt: u32,
    /// The agent's name.
    pub agent: String,
    /// The model asked.
    pub model: String,
    /// Hash of the agent's configuration.
    #[serde(default)]
    pub config_hash: String,
}

/// Whether a text beside the answer is the model's reasoning or something it said while asking for tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingKind {
    /// The model's own reasoning.
    #[default]
    Reasoning,
    /// What it said before it called a tool.
    Commentary,
}

/// The model thought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Thinking {
    /// The turn.
    pub turn: String,
    /// The model call within the turn, from 1.
    pub step: u32,
    /// What it thought.
    pub text: String,
    /// Which kind of text.
    #[serde(default)]
    pub kind: ThinkingKind,
    /// The provider's signature over it, to be handed back with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// What the model call took, on the first event that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What happens when a tool runs twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It changes nothing outside.
    Pure,
    /// It may be repeated under the same key.
    Idempotent,
    /// It must not be repeated.
    Once,
}

/// The model asked for a tool: the intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCalled {
    /// The turn.
    pub turn: String,
    /// The model call that asked for it.
    pub step: u32,
    /// The provider's id of the call.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// What the model gave it: an object, or the text as it came if that was not JSON.
    #[serde(default)]
    pub arguments: Value,
    /// What happens when it runs twice.
    pub effect: Effect,
    /// What the model call took, on the first event that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A tool gave its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCompleted {
    /// The turn.
    pub turn: String,
    /// The step of its call.
    pub step: u32,
    /// The call it answers.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// What it gave.
    #[serde(default)]
    pub result: Value,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
}

/// A tool failed, or nobody can know whether it ran (`ToolOutcomeUnknown`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolFailed {
    /// The turn.
    pub turn: String,
    /// The step of its call.
    pub step: u32,
    /// The call it answers.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// What went wrong, in words for the model.
    pub error: String,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub duration_ms: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageGenerated {
    /// The turn; absent when somebody other than a turn says it.
    #[serde(default)]
    pub turn: String,
    /// What the assistant says.
    pub content: String,
    /// The model that said it.
    #[serde(default)]
    pub model: String,
    /// Why it stopped: `stop`, `length`, or the provider's own word.
    #[serde(default)]
    pub finish_reason: String,
    /// What the last model call took.
    #[serde(default)]
    pub usage: Usage,
    /// How to deliver it: the channel of the newest input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
}

/// The turn is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessingCompleted {
    /// The turn.
    pub turn: String,
    /// How many model calls gave a result.
    #[serde(default)]
    pub steps: u32,
    /// What all of them took.
    #[serde(default)]
    pub usage: Usage,
    /// From the first claim to the answer, in milliseconds, by the log's clock.
    #[serde(default)]
    pub duration_ms: u64,
}

/// The turn was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessingFailed {
    /// The turn.
    pub turn: String,
    /// A word for programs: `model_error`, `attempts_exhausted`, `steps_exhausted`.
    pub reason: String,
    /// A sentence for people.
    #[serde(default)]
    pub message: String,
    /// How many model calls gave a result.
    #[serde(default)]
    pub steps: u32,
    /// What all of them took.
    #[serde(default)]
    pub usage: Usage,
    /// From the first claim, in milliseconds, by the log's clock.
    #[serde(default)]
    pub duration_ms: u64,
}

/// A version of a type of the users' own was registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TypeRegistered {
    /// The type.
    pub name: String,
    /// From 1, without gaps.
    pub version: u32,
    /// The JSON Schema (draft 2020-12) of its data.
    pub schema: Value,
    /// How data of the version before becomes data of this one: JSON Patch (RFC 6902).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upcast: Vec<Value>,
    /// What it says, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Whoever holds the signing key vouches for the log up to a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogCheckpointed {
    /// Which log it is: the hash of what stands first on it, SHA-256 as hex digits.
    pub log: String,
    /// The last position that the hash takes account of.
    pub position: u64,
    /// How many events stand up to there.
    pub events: u64,
    /// The hash chain over them, SHA-256 as hex digits.
    pub hash: String,
    /// Which key signed: the first 16 hex digits of the SHA-256 of the public key.
    pub key_id: String,
    /// Ed25519 over the statement that the proof crate makes of the fields above, as hex digits.
    pub signature: String,
    /// What tells which entry was altered: the first two bytes of the leaves of the last entries up to `position`, in a row, as
    /// base64. Not signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub marks: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event_type: &str, data: &str) -> Result<(), Invalid> {
        Payload::check(&event_type.parse().unwrap(), &Data::from_json(data.as_bytes()).unwrap())
    }

    #[test]
    fn bad_data_of_a_known_type_is_named_by_its_pointer() {
        assert_eq!(check("MessageReceived", r#"{"content": 7}"#).unwrap_err().field, "/content");
        assert_eq!(check("MessageReceived", r#"{"content": "x", "channel": {"kind": []}}"#).unwrap_err().field, "/channel/kind");
        assert_eq!(check("MessageReceived", "{}").unwrap_err().field, "/content");
        for no_object in ["\"hello\"", "[\"hello\"]", "null"] {
            assert!(check("MessageReceived", no_object).is_err(), "{no_object}");
        }
        assert!(check("Anything", "null").is_ok());
    }

    #[test]
    fn a_payload_reads_back_what_it_wrote() {
        let payload = Payload::MessageReceived(Input { content: "hi".into(), ..Input::default() });
        let (event_type, data) = payload.write().unwrap();
        assert_eq!(data.as_str(), r#"{"content":"hi"}"#);
        assert_eq!(Payload::read(&event_type, &data), payload);
        assert!(Payload::Other.write().is_err());
    }
}
