//! Which parts of a conversation an event can change: a long one is watched at the cost of what changes.

use causeway_event::{Event, Payload};
use serde::Serialize;

use super::{Conversation, fold};
use crate::Prices;
use crate::view::{IdKind, Part, View};

/// What every event changes.
const HEAD: [&str; 3] = ["/position", "/updated_at", "/usage"];

impl View for Conversation {
    const NAME: &'static str = "conversation";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str =
        "A conversation: its messages, and each turn with its thinking, tool calls, status and usage.";
    const ID: IdKind = IdKind::Aggregate;

    fn with(self, event: &Event) -> Self {
        fold(self, event)
    }

    fn parts(&mut self, event: &Event) -> Vec<Part> {
        self.build_index();
        let mut parts: Vec<String> = HEAD.map(str::to_owned).into();
        let next_message = format!("/messages/{}", self.messages.len());
        let turn = match event.payload() {
            Payload::TriggerReceived(_) | Payload::MessageReceived(_) => {
                parts.push(next_message);
                None
            }
            Payload::AIProcessingStarted(claim) => {
                let claimed = claim.inputs.iter().filter_map(|input| self.index.inputs.get(input));
                parts.extend(claimed.map(|at| format!("/messages/{at}")));
                Some(claim.turn)
            }
            Payload::MessageGenerated(said) => {
                parts.push(next_message);
                Some(said.turn).filter(|turn| !turn.is_empty())
            }
            Payload::ThinkingGenerated(thinking) => Some(thinking.turn),
            Payload::ToolCalled(call) => Some(call.turn),
            Payload::ToolCompleted(outcome) => Some(outcome.turn),
            Payload::ToolFailed(outcome) | Payload::ToolOutcomeUnknown(outcome) => Some(outcome.turn),
            Payload::AIProcessingCompleted(end) => Some(end.turn),
            Payload::AIProcessingFailed(end) => Some(end.turn),
            _ => None,
        };
        // A turn of which nothing is known begins with this event.
        let turn = turn.map(|turn| self.index.turns.get(&turn).copied().unwrap_or(self.turns.len()));
        parts.extend(turn.map(|at| format!("/turns/{at}")));
        parts.sort_unstable();
        parts.dedup();
        parts.into_iter().map(Part::at).collect()
    }

    fn part(&self, pointer: &str, _prices: &Prices) -> serde_json::Result<Option<String>> {
        let at = |at: &str| at.parse::<usize>().ok();
        match pointer.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, ""))) {
            Some(("position", "")) => json(Some(&self.position)),
            Some(("updated_at", "")) => json(self.updated_at.as_ref()),
            Some(("usage", "")) => json(Some(&self.usage)),
            Some(("messages", place)) => json(at(place).and_then(|at| self.messages.get(at))),
            Some(("turns", place)) => json(at(place).and_then(|at| self.turns.get(at))),
            _ => Ok(None),
        }
    }
}

fn json<T: Serialize>(part: Option<&T>) -> serde_json::Result<Option<String>> {
    part.map(serde_json::to_string).transpose()
}
