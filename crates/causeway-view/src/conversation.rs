//! A conversation: what was said, and how each answer came about.
//!
//! One aggregate's events folded into the page that a person reads (messages in the order of the log) and what an operator
//! asks about it (turns: attempts, thinking, tool calls, usage, failures). It knows one conversation only: no user, no other
//! aggregate. It decides nothing; the AI processor has its own fold for that.
//!
//! ```text
//! MessageReceived, TriggerReceived ──> messages[] (user)          <── inputs ── turns[]
//! AIProcessingStarted ──> turns[] running, attempts                  (again: attempts + 1)
//! ThinkingGenerated ──> thinking[]    ToolCalled ──> tool_calls[] running
//! ToolCompleted, ToolFailed, ToolOutcomeUnknown ──> that call's status   (the first one counts)
//! MessageGenerated ──> messages[] (assistant) ── turn ──> turns[]
//! AIProcessingCompleted, AIProcessingFailed ──> that turn's status       (the first one counts)
//! ```
//!
//! The JSON of [`Conversation`] is public and only ever gains fields. A field whose value is not known is absent. What tools
//! were given and what they gave back stands there byte for byte as the event has it.

mod fold;
mod index;
#[cfg(test)]
mod laws;
mod parts;
#[cfg(test)]
mod tests;

use causeway_event::payload::{Effect, ThinkingKind, Usage};
use causeway_event::{Data, EventId, Position, Source};
use serde::{Deserialize, Serialize};

pub use fold::fold;

use crate::Time;
use index::Index;

/// A conversation up to and including the event at `position`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The last event folded, of whatever type; 0 before the first. Events up to here change nothing more.
    pub position: Position,
    /// When that event was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Time>,
    /// What all turns together took so far.
    pub usage: Usage,
    /// What was said, in the order of the log.
    pub messages: Vec<Message>,
    /// How the assistant worked on it, in the order in which the turns began.
    pub turns: Vec<Turn>,
    #[serde(skip)]
    index: Index,
}

/// Something said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say.
    pub text: String,
    /// When the log stored it.
    pub timestamp: Time,
    /// Who appended it: `telegram`, `web`, `ai-processor`.
    pub source: Source,
    /// The event it stands in.
    pub event_id: EventId,
    /// That event's position.
    pub position: Position,
    /// Of a user's message the newest turn that took it as input (none has yet where absent); of the assistant's the turn
    /// that says it. Always the `id` of one of the `turns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    /// Which user said it: the aggregate's id where the event names nobody. The assistant has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// How to answer it, or how it is delivered: `{"kind": "telegram", ..}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Data>,
    /// What came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Data>,
    /// The model that said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why the model stopped: `stop`, `length`, or the provider's own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A person, or a program that triggers the assistant.
    User,
    /// The assistant.
    Assistant,
}

/// One piece of the assistant's work, from the claim of some inputs to the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Its id, the same in each of its attempts.
    pub id: String,
    /// How it stands.
    pub status: TurnStatus,
    /// The highest attempt that claimed it; 0 where no claim is on the log. More than 1: somebody took it over.
    pub attempts: u32,
    /// The events that it answers.
    pub inputs: Vec<EventId>,
    /// Who claimed it last: one run of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The agent's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The model that the last claim asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When its first event was stored.
    pub started_at: Time,
    /// When its end was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// From the first claim to the end, as the end says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The model calls known of.
    pub steps: u32,
    /// What they took: added up while it runs, what its end says afterwards.
    pub usage: Usage,
    /// What the model thought and said beside the answer, in the order of the log.
    pub thinking: Vec<Thought>,
    /// The tools it asked for, in the order of the log. By `position` they sort in between the thinking.
    pub tool_calls: Vec<ToolCall>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// Its end is not on the log.
    Running,
    /// It is done.
    Completed,
    /// It was given up.
    Failed,
}

/// Why a turn was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// A word for programs: `model_error`, `attempts_exhausted`, `steps_exhausted`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// What the model thought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thought {
    /// The model call it came of, from 1.
    pub step: u32,
    /// The model's reasoning, or what it said before it called a tool.
    pub kind: ThinkingKind,
    /// The text.
    pub text: String,
    /// The event it stands in.
    pub event_id: EventId,
    /// That event's position.
    pub position: Position,
    /// When the log stored it.
    pub timestamp: Time,
    /// What the model call took, on the first event that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A tool that the model asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model call that asked for it, from 1. Together with `call_id` it names the call within its turn.
    pub step: u32,
    /// The provider's id of the call.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// How it stands.
    pub status: ToolStatus,
    /// What the model gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Data>,
    /// What happens when it runs twice; absent where only the outcome is on the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Data>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took, as its outcome says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The event that asked for it; its outcome where nothing did.
    pub event_id: EventId,
    /// That event's position.
    pub position: Position,
    /// When that event was stored.
    pub timestamp: Time,
    /// The event that holds its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_id: Option<EventId>,
    /// When its outcome was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// What the model call took, on the first event that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// How a tool call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStatus {
    /// Its outcome is not on the log.
    Running,
    /// It gave a result.
    Completed,
    /// It gave an error.
    Failed,
    /// Nobody can know whether it ran.
    Unknown,
}
