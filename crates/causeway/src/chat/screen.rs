//! What stands where on the screen: updates of a conversation in, pieces of text out. Pure.
//!
//! An answer comes twice: as it is generated, in deltas that may be lost or late, and whole, as an event. So what was
//! streamed is remembered for each model call, the event adds what is missing, and deltas behind their event are dropped. So are those
//! of a turn that had begun before: the event has them all.
//!
//! ```text
//! delta, delta, delta ──> ThinkingGenerated | ToolCalled .. | MessageGenerated   closes the call
//! ```

use std::collections::{HashMap, HashSet, VecDeque};

use causeway_client::Update;
use causeway_event::payload::{MessageGenerated, ProcessingCompleted, Thinking, ThinkingKind, ToolCalled};
use causeway_event::{Delta, DeltaKind, Event, EventId, Payload};
use serde_json::Value;

use crate::output::{Look, clean};

/// Deltas that are kept for a turn whose beginning may be on its way: it takes another way than they do.
const EARLY_MAX: usize = 64;

/// What stands before the words of the person who types.
pub(super) const PROMPT: &str = "you> ";

type Pieces = Vec<(Look, String)>;

/// What is on the screen so far.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// Our own messages: the person has seen them while typing.
    own: HashSet<EventId>,
    /// What was streamed, by turn and model call.
    streamed: HashMap<(String, u32), Streamed>,
    /// Turns that have begun here and whose answer is not complete.
    turns: HashSet<String>,
    /// The newest deltas of other turns.
    early: VecDeque<Delta>,
    cursor: Cursor,
    /// The call printed last: its result needs no name.
    last_call: Option<String>,
    model: String,
}

#[derive(Debug, Default)]
struct Streamed {
    thinking: String,
    text: String,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Block {
    Thinking,
    Text,
}

/// Where the cursor stands.
#[derive(Debug, Default, PartialEq)]
enum Cursor {
    /// At the beginning of a line.
    #[default]
    Start,
    Prompt,
    In(Block),
}

impl Screen {
    /// What asks the person to type, on a line of its own.
    pub(super) fn prompt(&mut self) -> Pieces {
        let mut pieces = Pieces::new();
        self.line(&mut pieces);
        self.cursor = Cursor::Prompt;
        pieces.push((Look::Strong, PROMPT.to_owned()));
        pieces
    }

    /// Notes that the person has ended the line.
    pub(super) fn typed(&mut self) {
        self.cursor = Cursor::Start;
    }

    /// Notes that this message was typed here.
    pub(super) fn said(&mut self, id: EventId) {
        self.own.insert(id);
    }

    /// What an update adds to the screen.
    pub(super) fn update(&mut self, update: &Update) -> Pieces {
        let mut pieces = Pieces::new();
        match update {
            Update::Delta(_, delta) if self.turns.contains(&delta.turn) => self.delta(delta, &mut pieces),
            Update::Delta(_, delta) => {
                if self.early.len() == EARLY_MAX {
                    self.early.pop_front();
                }
                self.early.push_back(delta.clone());
            }
            Update::Event(event) => self.event(event, &mut pieces),
            Update::CaughtUp { .. } | Update::Checkpoint(_) | Update::Heartbeat { .. } => {}
        }
        pieces
    }

    fn delta(&mut self, delta: &Delta, pieces: &mut Pieces) {
        let call = self.streamed.entry((delta.turn.clone(), delta.step)).or_default();
        if call.closed {
            return;
        }
        let block = match delta.kind {
            DeltaKind::Thinking => Block::Thinking,
            DeltaKind::Text => Block::Text,
            DeltaKind::Reset => {
                *call = Streamed::default();
                self.line(pieces);
                pieces.push((Look::Dim, "(the model broke off; asking again)\n".to_owned()));
                return;
            }
        };
        match block {
            Block::Thinking => call.thinking.push_str(&delta.text),
            Block::Text => call.text.push_str(&delta.text),
        }
        self.write(block, &delta.text, pieces);
    }

    fn event(&mut self, event: &Event, pieces: &mut Pieces) {
        match event.payload() {
            Payload::MessageReceived(input) | Payload::TriggerReceived(input) if !self.own.contains(&event.id) => {
                self.line(pieces);
                let who = format!("{}> {}\n", event.metadata.source, input.content);
                pieces.push((Look::Dim, clean(&who).into_owned()));
            }
            Payload::AIProcessingStarted(claim) => {
                self.model = claim.model;
                let early = std::mem::take(&mut self.early);
                if claim.attempt > 1 {
                    self.line(pieces);
                    pieces.push((Look::Dim, format!("(interrupted; taken up again, attempt {})\n", claim.attempt)));
                    // A model call without result is made anew, and streams anew.
                    self.streamed.retain(|(turn, _), call| *turn != claim.turn || call.closed);
                } else {
                    early.iter().filter(|delta| delta.turn == claim.turn).for_each(|delta| self.delta(delta, pieces));
                }
                self.turns.insert(claim.turn);
            }
            Payload::ThinkingGenerated(thinking) => self.thinking(thinking, pieces),
            Payload::ToolCalled(call) => self.tool_called(call, pieces),
            Payload::ToolCompleted(done) => {
                let result = one_value(&done.result);
                self.outcome(&done.tool, &done.call_id, (Look::Good, result), Some(done.duration_ms), pieces);
            }
            Payload::ToolFailed(failed) => {
                let error = format!("failed: {}", failed.error);
                self.outcome(&failed.tool, &failed.call_id, (Look::Bad, error), Some(failed.duration_ms), pieces);
            }
            Payload::ToolOutcomeUnknown(lost) => {
                let error = format!("outcome unknown: {}", lost.error);
                self.outcome(&lost.tool, &lost.call_id, (Look::Bad, error), None, pieces);
            }
            Payload::MessageGenerated(message) => self.message(&message, pieces),
            Payload::AIProcessingCompleted(end) => {
                self.close(&end.turn);
                self.line(pieces);
                pieces.push((Look::Dim, format!("{}\n\n", self.summary(&end))));
            }
            Payload::AIProcessingFailed(end) => {
                self.close(&end.turn);
                self.line(pieces);
                let message = if end.message.is_empty() { end.reason } else { end.message };
                pieces.push((Look::Bad, "no answer: ".to_owned()));
                pieces.push((Look::Plain, format!("{}\n\n", clean(&message))));
            }
            _ => {}
        }
    }

    fn thinking(&mut self, thinking: Thinking, pieces: &mut Pieces) {
        let call = self.streamed.entry((thinking.turn, thinking.step)).or_default();
        let (block, streamed) = match thinking.kind {
            ThinkingKind::Reasoning => (Block::Thinking, std::mem::take(&mut call.thinking)),
            ThinkingKind::Commentary => (Block::Text, std::mem::take(&mut call.text)),
        };
        // The answer's text may still be on its way, its thinking is not: keep the text that was streamed.
        match block {
            Block::Thinking => call.thinking.clone_from(&thinking.text),
            Block::Text => call.text.clone_from(&thinking.text),
        }
        self.rest(block, &streamed, &thinking.text, pieces);
        self.line(pieces);
    }

    fn tool_called(&mut self, call: ToolCalled, pieces: &mut Pieces) {
        self.streamed.entry((call.turn, call.step)).or_default().closed = true;
        self.line(pieces);
        pieces.push((Look::Accent, format!("  → {}", clean(&call.tool))));
        pieces.push((Look::Dim, format!(" {}\n", one_value(&call.arguments))));
        self.last_call = Some(call.call_id);
    }

    fn outcome(&mut self, tool: &str, call_id: &str, what: (Look, String), took_ms: Option<u64>, pieces: &mut Pieces) {
        self.line(pieces);
        pieces.push((Look::Dim, "  ← ".to_owned()));
        if self.last_call.as_deref() != Some(call_id) {
            pieces.push((Look::Dim, format!("{}: ", clean(tool))));
        }
        pieces.push((what.0, clean(&what.1).into_owned()));
        let took = took_ms.map_or(String::new(), |ms| format!("  {}", duration(ms)));
        pieces.push((Look::Dim, format!("{took}\n")));
    }

    fn message(&mut self, message: &MessageGenerated, pieces: &mut Pieces) {
        // The event does not say which model call it came of: the turn's last.
        let last = self.streamed.iter().filter(|((turn, _), call)| *turn == message.turn && !call.closed);
        let streamed = last.max_by_key(|((_, step), _)| *step).map(|(_, call)| call.text.clone()).unwrap_or_default();
        if !message.turn.is_empty() {
            self.close(&message.turn);
        }
        self.rest(Block::Text, &streamed, &message.content, pieces);
        self.line(pieces);
    }

    fn close(&mut self, turn: &str) {
        self.streamed.retain(|(of, _), _| of != turn);
        self.turns.remove(turn);
    }

    /// What of `whole` was not streamed. If pieces were lost on the way, all of it again.
    fn rest(&mut self, block: Block, streamed: &str, whole: &str, pieces: &mut Pieces) {
        match whole.strip_prefix(streamed) {
            Some(rest) => self.write(block, rest, pieces),
            None => {
                self.line(pieces);
                self.write(block, whole, pieces);
            }
        }
    }

    fn write(&mut self, block: Block, text: &str, pieces: &mut Pieces) {
        if text.is_empty() {
            return;
        }
        if self.cursor != Cursor::In(block) {
            self.line(pieces);
        }
        let (look, mark) = match block {
            Block::Thinking => (Look::Dim, "  · "),
            Block::Text => (Look::Plain, ""),
        };
        if self.cursor == Cursor::Start {
            pieces.push((look, mark.to_owned()));
        }
        pieces.push((look, clean(text).into_owned()));
        self.cursor = Cursor::In(block);
    }

    /// Goes to the beginning of a line.
    fn line(&mut self, pieces: &mut Pieces) {
        if std::mem::take(&mut self.cursor) != Cursor::Start {
            pieces.push((Look::Plain, "\n".to_owned()));
        }
    }

    fn summary(&self, end: &ProcessingCompleted) -> String {
        let calls = if end.steps == 1 { "1 model call".to_owned() } else { format!("{} model calls", end.steps) };
        // Of a turn that had begun before it is not known.
        let model = if self.model.is_empty() { String::new() } else { format!("{}, ", clean(&self.model)) };
        let mut text = format!("{model}{calls}, {}", duration(end.duration_ms));
        if end.usage != Default::default() {
            text.push_str(&format!(", {} tokens in, {} out", end.usage.input_tokens, end.usage.output_tokens));
        }
        text
    }
}

/// A JSON value in one line; a string as its text.
fn one_value(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    crate::output::one_line(&text, Some(VALUE_COLUMNS_MAX))
}

/// More of a tool's arguments or result than this is for `view` and `events read`.
const VALUE_COLUMNS_MAX: usize = 400;

fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(event_type: &str, data: &Value) -> Update {
        let event = json!({
            "id": "evt_01k9x3m5v8e7rs2q4n6p8t0w1y", "position": 42, "timestamp": "2026-11-23T10:00:00.123456Z",
            "type": event_type, "aggregate_id": "cli:1", "data": data,
            "metadata": { "source": "telegram", "correlation_id": "c" },
        });
        Update::Event(Box::new(serde_json::from_str(&event.to_string()).unwrap()))
    }

    fn delta(step: u32, kind: DeltaKind, text: &str) -> Update {
        Update::Delta("cli:1".parse().unwrap(), Delta { turn: "t".into(), step, kind, text: text.into() })
    }

    /// What a person sees, each look in its own brackets.
    fn shown(updates: impl IntoIterator<Item = Update>) -> String {
        let mut screen = Screen::default();
        let mut text = String::new();
        for update in updates {
            for (look, piece) in screen.update(&update) {
                match look {
                    Look::Plain => text.push_str(&piece),
                    look => text.push_str(&format!("<{look:?}|{piece}>")),
                }
            }
        }
        text
    }

    fn started(attempt: u32) -> Update {
        let data = json!({ "turn": "t", "inputs": [], "owner": "o", "attempt": attempt, "agent": "a", "model": "demo" });
        event("AIProcessingStarted", &data)
    }

    fn whole_turn() -> Vec<Update> {
        let call = |call_id: &str, arguments: Value| {
            let data = json!({ "turn": "t", "step": 1, "call_id": call_id, "tool": "calculate", "arguments": arguments, "effect": "pure" });
            event("ToolCalled", &data)
        };
        let done = |call_id: &str, result: &str| {
            let data =
                json!({ "turn": "t", "step": 1, "call_id": call_id, "tool": "calculate", "result": result, "duration_ms": 3 });
            event("ToolCompleted", &data)
        };
        let failed =
            json!({ "turn": "t", "step": 1, "call_id": "c2", "tool": "calculate", "error": "no such unit", "duration_ms": 1200 });
        vec![
            started(1),
            event("ThinkingGenerated", &json!({ "turn": "t", "step": 1, "text": "I need a calculator." })),
            call("c1", json!({ "expression": "6 * 7" })),
            call("c2", json!("broken")),
            event("ToolFailed", &failed),
            done("c1", "42"),
            event("MessageGenerated", &json!({ "turn": "t", "content": "It is 42.\nSure." })),
            event(
                "AIProcessingCompleted",
                &json!({ "turn": "t", "steps": 2, "duration_ms": 41, "usage": { "input_tokens": 90, "output_tokens": 12 } }),
            ),
        ]
    }

    #[test]
    fn a_turn_is_shown_as_it_happens() {
        insta::assert_snapshot!(shown(whole_turn()));
    }

    #[test]
    fn what_was_streamed_is_not_said_twice_and_late_deltas_are_dropped() {
        use DeltaKind::{Text, Thinking};
        let mut updates = whole_turn();
        updates.insert(1, delta(1, Thinking, "I need "));
        updates.insert(2, delta(1, Thinking, "a calculator."));
        // Late: the call is on the log already.
        updates.insert(5, delta(1, Text, "late"));
        updates.insert(9, delta(2, Text, "It is "));
        updates.push(delta(2, Text, "42."));
        assert_eq!(shown(updates).replace("<Dim|I need ><Dim|a calculator.>", "<Dim|I need a calculator.>"), shown(whole_turn()));
    }

    #[test]
    fn a_model_call_made_again_starts_its_words_anew() {
        let answer = event("MessageGenerated", &json!({ "turn": "t", "content": "Hello" }));
        let deltas = [delta(1, DeltaKind::Text, "Gre"), delta(1, DeltaKind::Reset, ""), delta(1, DeltaKind::Text, "Hello")];
        let updates = [started(1)].into_iter().chain(deltas).chain([answer]);
        assert_eq!(shown(updates), "Gre\n<Dim|(the model broke off; asking again)\n>Hello\n");
    }

    #[test]
    fn lost_pieces_bring_the_whole_text() {
        let answer = |content: &str| event("MessageGenerated", &json!({ "turn": "t", "content": content }));
        assert_eq!(
            shown([started(1), delta(1, DeltaKind::Text, "Hel"), delta(1, DeltaKind::Text, "you"), answer("Hello you")]),
            "Helyou\nHello you\n"
        );
    }

    #[test]
    fn a_takeover_starts_the_answer_anew() {
        let answer = event("MessageGenerated", &json!({ "turn": "t", "content": "Hello" }));
        let updates = [started(1), delta(1, DeltaKind::Text, "Hel"), started(2), delta(1, DeltaKind::Text, "Hel"), answer];
        assert_eq!(shown(updates), "Hel\n<Dim|(interrupted; taken up again, attempt 2)\n>Hello\n");
    }

    #[test]
    fn of_a_turn_that_had_begun_before_only_what_is_whole_is_shown() {
        let answer = event("MessageGenerated", &json!({ "turn": "t", "content": "It is 42." }));
        // The first has all of it, and so could be taken for what the event repeats.
        for streamed in ["It is 42.", "42.", "It"] {
            assert_eq!(shown([delta(2, DeltaKind::Text, streamed), answer.clone()]), "It is 42.\n", "{streamed}");
        }
        let end = event("AIProcessingCompleted", &json!({ "turn": "t", "steps": 2, "duration_ms": 41 }));
        assert_eq!(shown([end]), "<Dim|2 model calls, 41 ms\n\n>");
    }

    #[test]
    fn deltas_may_come_before_the_beginning_of_their_turn() {
        let answer = event("MessageGenerated", &json!({ "turn": "t", "content": "Hello" }));
        let updates = [delta(1, DeltaKind::Text, "Hel"), started(1), delta(1, DeltaKind::Text, "lo"), answer];
        assert_eq!(shown(updates), "Hello\n");
        // Bounded, as long as no turn begins.
        let mut screen = Screen::default();
        for _ in 0..2 * EARLY_MAX {
            screen.update(&delta(1, DeltaKind::Text, "x"));
        }
        assert_eq!(screen.early.len(), EARLY_MAX);
    }

    #[test]
    fn what_comes_while_the_person_may_type_stands_below_the_prompt() {
        let mut screen = Screen::default();
        let text = |pieces: Pieces| pieces.into_iter().map(|(_, piece)| piece).collect::<String>();
        assert_eq!(text(screen.prompt()), PROMPT);
        assert_eq!(text(screen.update(&event("MessageReceived", &json!({ "content": "hi" })))), "\ntelegram> hi\n");
        assert_eq!(text(screen.prompt()), PROMPT);
        screen.typed();
        assert_eq!(text(screen.update(&event("MessageReceived", &json!({ "content": "hi" })))), "telegram> hi\n");
    }

    #[test]
    fn a_failed_turn_says_why_and_others_are_named() {
        let data = json!({ "turn": "t", "reason": "model_error", "message": "the key was \u{1b}[31mrefused" });
        let updates = [event("MessageReceived", &json!({ "content": "hi" })), event("AIProcessingFailed", &data)];
        assert_eq!(shown(updates), "<Dim|telegram> hi\n><Bad|no answer: >the key was \u{fffd}[31mrefused\n\n");
    }
}
