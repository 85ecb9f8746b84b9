//! The fold: which event changes what.

use std::collections::HashSet;

use causeway_event::payload::{
    Input, MessageGenerated, ProcessingCompleted, ProcessingFailed, ProcessingStarted, Thinking, ToolCalled, ToolCompleted,
    ToolFailed, Usage,
};
use causeway_event::{Data, Event, Payload};
use serde::Deserialize;

use super::{Conversation, Failure, Message, Role, Thought, ToolCall, ToolStatus, Turn, TurnStatus};
use crate::Time;
use crate::usage::{minus, plus};

/// The conversation after `event`. Events up to `conversation.position` are known already and change nothing; a type that
/// does not concern a conversation only moves the position.
#[must_use]
pub fn fold(mut conversation: Conversation, event: &Event) -> Conversation {
    if event.position <= conversation.position {
        return conversation;
    }
    conversation.build_index();
    conversation.position = event.position;
    conversation.updated_at = Some(event.timestamp.into());
    match event.payload() {
        Payload::TriggerReceived(input) | Payload::MessageReceived(input) => conversation.hear(event, input),
        Payload::AIProcessingStarted(claim) => conversation.claim(event, claim),
        Payload::ThinkingGenerated(thinking) => conversation.think(event, thinking),
        Payload::ToolCalled(call) => conversation.call(event, call),
        Payload::ToolCompleted(outcome) => conversation.complete_call(event, outcome),
        Payload::ToolFailed(outcome) => conversation.fail_call(event, outcome, ToolStatus::Failed),
        Payload::ToolOutcomeUnknown(outcome) => conversation.fail_call(event, outcome, ToolStatus::Unknown),
        Payload::MessageGenerated(message) => conversation.say(event, message),
        Payload::AIProcessingCompleted(end) => conversation.complete(event, &end),
        Payload::AIProcessingFailed(end) => conversation.fail(event, end),
        _ => {}
    }
    conversation
}

/// Parts of `data` that are shown byte for byte: a parsed number would not always be written as it was read.
#[derive(Default, Deserialize)]
struct InputParts {
    #[serde(default)]
    channel: Option<Data>,
    #[serde(default)]
    attachments: Vec<Data>,
}

#[derive(Default, Deserialize)]
struct CallParts {
    #[serde(default)]
    arguments: Option<Data>,
}

#[derive(Default, Deserialize)]
struct OutcomeParts {
    #[serde(default)]
    result: Option<Data>,
}

impl Conversation {
    fn hear(&mut self, event: &Event, input: Input) {
        let parts = match input.channel.is_some() || !input.attachments.is_empty() {
            true => event.data.parse().unwrap_or_default(),
            false => InputParts::default(),
        };
        self.index.inputs.insert(event.id, self.messages.len());
        self.messages.push(Message {
            user_id: Some(input.user_id.unwrap_or_else(|| event.aggregate_id.to_string())),
            channel: parts.channel,
            attachments: parts.attachments,
            ..message(event, Role::User, input.content)
        });
    }

    fn say(&mut self, event: &Event, said: MessageGenerated) {
        let parts = said.channel.is_some().then(|| event.data.parse::<InputParts>().unwrap_or_default());
        let turn = known(said.turn);
        if let Some(id) = &turn {
            let at = self.turn(id, event);
            // The model call that said it may have told its usage on its thinking already.
            if !told_usage(&self.turns[at]) {
                self.spend(at, said.usage);
            }
        } else {
            self.usage = plus(self.usage, said.usage);
        }
        self.messages.push(Message {
            turn,
            channel: parts.and_then(|parts| parts.channel),
            model: known(said.model),
            finish_reason: known(said.finish_reason),
            ..message(event, Role::Assistant, said.content)
        });
    }

    fn claim(&mut self, event: &Event, claim: ProcessingStarted) {
        let at = self.turn(&claim.turn, event);
        for input in &claim.inputs {
            if let Some(message) = self.index.inputs.get(input).and_then(|at| self.messages.get_mut(*at)) {
                message.turn = Some(claim.turn.clone());
            }
        }
        let turn = &mut self.turns[at];
        let mut seen: HashSet<_> = turn.inputs.iter().copied().collect();
        turn.inputs.extend(claim.inputs.into_iter().filter(|input| seen.insert(*input)));
        // A turn that was given up goes on when somebody claims it once more; one that is done stays done.
        if turn.status == TurnStatus::Failed && claim.attempt > turn.attempts {
            turn.status = TurnStatus::Running;
            (turn.failure, turn.ended_at, turn.duration_ms) = (None, None, None);
        }
        turn.attempts = turn.attempts.max(claim.attempt);
        (turn.owner, turn.agent, turn.model) = (known(claim.owner), known(claim.agent), known(claim.model));
    }

    fn think(&mut self, event: &Event, thinking: Thinking) {
        let at = self.turn(&thinking.turn, event);
        self.spend(at, thinking.usage.unwrap_or_default());
        let turn = &mut self.turns[at];
        turn.steps = turn.steps.max(thinking.step);
        turn.thinking.push(Thought {
            step: thinking.step,
            kind: thinking.kind,
            text: thinking.text,
            event_id: event.id,
            position: event.position,
            timestamp: event.timestamp.into(),
            usage: thinking.usage,
        });
    }

    fn call(&mut self, event: &Event, called: ToolCalled) {
        let at = self.turn(&called.turn, event);
        let parts: CallParts = event.data.parse().unwrap_or_default();
        let call = self.turns[at].tool_call(called.step, called.call_id, event);
        // The same call told twice is one call. An effect is known only of a call that was told.
        if call.effect.is_some() {
            return;
        }
        call.tool = called.tool;
        call.arguments = parts.arguments;
        call.effect = Some(called.effect);
        call.usage = called.usage;
        (call.event_id, call.position, call.timestamp) = (event.id, event.position, event.timestamp.into());
        self.spend(at, called.usage.unwrap_or_default());
    }

    fn complete_call(&mut self, event: &Event, outcome: ToolCompleted) {
        let at = self.turn(&outcome.turn, event);
        let call = self.turns[at].tool_call(outcome.step, outcome.call_id, event);
        if call.end(event, ToolStatus::Completed, outcome.tool, outcome.duration_ms) {
            let parts: OutcomeParts = event.data.parse().unwrap_or_default();
            call.result = parts.result;
        }
    }

    fn fail_call(&mut self, event: &Event, outcome: ToolFailed, status: ToolStatus) {
        let at = self.turn(&outcome.turn, event);
        let call = self.turns[at].tool_call(outcome.step, outcome.call_id, event);
        if call.end(event, status, outcome.tool, outcome.duration_ms) {
            call.error = Some(outcome.error);
        }
    }

    fn complete(&mut self, event: &Event, end: &ProcessingCompleted) {
        let at = self.turn(&end.turn, event);
        if self.turns[at].end(event, TurnStatus::Completed, end.steps, end.duration_ms) {
            self.settle(at, end.usage);
        }
    }

    fn fail(&mut self, event: &Event, end: ProcessingFailed) {
        let at = self.turn(&end.turn, event);
        if self.turns[at].end(event, TurnStatus::Failed, end.steps, end.duration_ms) {
            self.turns[at].failure = Some(Failure { reason: end.reason, message: end.message });
            self.settle(at, end.usage);
        }
    }

    /// Where the turn stands. One of which nothing is known begins here: what belongs to it must not be lost.
    fn turn(&mut self, id: &str, event: &Event) -> usize {
        if let Some(at) = self.index.turns.get(id).filter(|at| **at < self.turns.len()) {
            return *at;
        }
        self.index.turns.insert(id.to_owned(), self.turns.len());
        self.turns.push(Turn {
            id: id.to_owned(),
            status: TurnStatus::Running,
            attempts: 0,
            inputs: Vec::new(),
            owner: None,
            agent: None,
            model: None,
            started_at: event.timestamp.into(),
            ended_at: None,
            duration_ms: None,
            steps: 0,
            usage: Usage::default(),
            thinking: Vec::new(),
            tool_calls: Vec::new(),
            failure: None,
        });
        self.turns.len() - 1
    }

    /// Adds what one model call took.
    fn spend(&mut self, at: usize, usage: Usage) {
        self.turns[at].usage = plus(self.turns[at].usage, usage);
        self.usage = plus(self.usage, usage);
    }

    /// Takes the word of the turn's end for what all its model calls took, unless it says nothing.
    fn settle(&mut self, at: usize, usage: Usage) {
        if usage != Usage::default() {
            let counted = std::mem::replace(&mut self.turns[at].usage, usage);
            self.usage = plus(minus(self.usage, counted), usage);
        }
    }
}

impl Turn {
    /// The call of this name, made where nothing is known of it. Searched from the end: outcomes follow their calls closely.
    fn tool_call(&mut self, step: u32, call_id: String, event: &Event) -> &mut ToolCall {
        self.steps = self.steps.max(step);
        let known = self.tool_calls.iter().rposition(|call| call.step == step && call.call_id == call_id);
        let at = known.unwrap_or_else(|| {
            self.tool_calls.push(ToolCall {
                step,
                call_id,
                tool: String::new(),
                status: ToolStatus::Running,
                arguments: None,
                effect: None,
                result: None,
                error: None,
                duration_ms: None,
                event_id: event.id,
                position: event.position,
                timestamp: event.timestamp.into(),
                outcome_id: None,
                ended_at: None,
                usage: None,
            });
            self.tool_calls.len() - 1
        });
        &mut self.tool_calls[at]
    }

    /// Whether this end counts: the first one does.
    fn end(&mut self, event: &Event, status: TurnStatus, steps: u32, duration_ms: u64) -> bool {
        let first = self.status == TurnStatus::Running;
        if first {
            self.status = status;
            self.ended_at = Some(event.timestamp.into());
            self.duration_ms = Some(duration_ms);
            self.steps = self.steps.max(steps);
        }
        first
    }
}

impl ToolCall {
    /// Whether this outcome counts: the first one does.
    fn end(&mut self, event: &Event, status: ToolStatus, tool: String, duration_ms: u64) -> bool {
        let first = self.outcome_id.is_none();
        if first {
            self.status = status;
            self.outcome_id = Some(event.id);
            self.ended_at = Some(Time::from(event.timestamp));
            self.duration_ms = Some(duration_ms);
            if self.effect.is_none() {
                self.tool = tool;
            }
        }
        first
    }
}

fn message(event: &Event, role: Role, text: String) -> Message {
    Message {
        role,
        text,
        timestamp: event.timestamp.into(),
        source: event.metadata.source.clone(),
        event_id: event.id,
        position: event.position,
        turn: None,
        user_id: None,
        channel: None,
        attachments: Vec::new(),
        model: None,
        finish_reason: None,
    }
}

/// Whether the turn's last model call thought, told its usage with that, and asked for no tool: an answer is of that call.
fn told_usage(turn: &Turn) -> bool {
    let asked = turn.tool_calls.last().is_some_and(|call| call.step == turn.steps);
    !asked && turn.thinking.iter().rev().take_while(|thought| thought.step == turn.steps).any(|thought| thought.usage.is_some())
}

fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
