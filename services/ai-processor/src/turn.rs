//! A turn: from an input to its answer, as the log says it went.
//!
//! Pure: no I/O, no clock, no randomness. `shell.rs` carries out the actions named here.
//!
//! ```text
//! input ─ AIProcessingStarted ─┬─ ThinkingGenerated, ToolCalled.. ─ ToolCompleted|ToolFailed|ToolOutcomeUnknown.. ─┐
//!         (claim; again, with  │        (one model call's answer)              (one for each call)                 │
//!          attempt + 1, after  └──────────────────────────── next step ◄───────────────────────────────────────────┘
//!          the owner is gone)  └─ MessageGenerated ─ AIProcessingCompleted            (or AIProcessingFailed, at any point)
//! ```
//!
//! One turn is open at a time; inputs that arrive meanwhile wait in the order of the log, each for a turn of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use causeway_event::payload::{Channel, Effect, Input as Said, ProcessingStarted, Thinking, ToolCalled, Usage};
use causeway_event::{CorrelationId, Event, EventId, Payload, Position, TraceParent};
use causeway_processor::Held;
use jiff::Timestamp;

/// How many finished turns are remembered for the prompts of later ones.
pub(crate) const HISTORY_TURNS_MAX: usize = 50;

/// What the log says about one session. Only [`fold`] makes new values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Session {
    /// The newest event that has been folded; none is folded twice.
    pub(crate) position: Position,
    /// Inputs that no turn has taken.
    pub(crate) waiting: VecDeque<Arc<Input>>,
    /// The turn that is under way.
    pub(crate) turn: Option<Turn>,
    /// Finished turns, oldest first.
    pub(crate) history: VecDeque<Arc<Exchange>>,
}

/// Something that was said to the assistant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) id: EventId,
    pub(crate) position: Position,
    pub(crate) text: String,
    pub(crate) channel: Option<Channel>,
    pub(crate) correlation: CorrelationId,
    pub(crate) traceparent: Option<TraceParent>,
}

/// A turn under way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) input: Arc<Input>,
    pub(crate) claim: Claim,
    pub(crate) started_at: Timestamp,
    /// The newest event of the turn that made the next one possible: its direct cause.
    pub(crate) enabled_by: EventId,
    /// When that was.
    pub(crate) enabled_at: Timestamp,
    /// What each model call so far answered, but for the last one, which is the message.
    pub(crate) steps: Vec<Step>,
    pub(crate) usage: Usage,
    /// The message is on the log; only the turn's completion is not.
    pub(crate) answer: Option<String>,
}

/// Who works on a turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claim {
    pub(crate) owner: String,
    /// The event whose delivery the owner holds: its return says that the owner is gone.
    pub(crate) delivery: EventId,
    /// Where the claim stands.
    pub(crate) position: Position,
    pub(crate) attempt: u32,
}

/// One model call's answer that asked for tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Step {
    pub(crate) number: u32,
    pub(crate) thoughts: Vec<Thinking>,
    pub(crate) calls: Vec<Call>,
}

/// A tool call and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// The `ToolCalled` event: the intent.
    pub(crate) event: EventId,
    /// The attempt that asked for it: in a later one nobody knows whether it ran.
    pub(crate) attempt: u32,
    pub(crate) called: ToolCalled,
    pub(crate) outcome: Option<Outcome>,
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Result(serde_json::Value),
    Error(String),
}

/// A finished turn, as later prompts tell it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exchange {
    pub(crate) said: String,
    pub(crate) steps: Vec<Step>,
    /// None if the turn failed.
    pub(crate) answer: Option<String>,
}

/// What woke the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint<'h> {
    /// The deliveries that the run holds.
    pub(crate) held: &'h [Held],
    /// The run that asks.
    pub(crate) owner: &'h str,
}

/// Limits on a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most model calls.
    pub(crate) steps_max: u32,
    /// The most claims, against an input that kills whoever works on it.
    pub(crate) attempts_max: u32,
}

/// The one thing that is due.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Nothing, or nothing of ours.
    Done,
    /// Leave off: somebody got our delivery after us and has claimed its turn.
    Yield,
    /// Take the waiting input, or take over its turn.
    Claim { turn: String, input: Arc<Input>, attempt: u32 },
    /// Ask the model.
    CallModel { step: u32 },
    /// Run these calls of the last step, at the same time.
    RunTools { calls: Vec<Call> },
    /// Say that nobody can know whether this call ran.
    RecordUnknown { call: Call },
    /// The answer is there: say that the turn is done.
    Complete,
    /// End the turn without an answer.
    Fail { reason: &'static str, message: String },
}

/// Takes account of one event.
pub(crate) fn fold(mut session: Session, event: &Event) -> Session {
    if event.position <= session.position {
        return session;
    }
    session.position = event.position;
    match event.payload() {
        Payload::TriggerReceived(said) | Payload::MessageReceived(said) => session.take_input(event, said),
        Payload::AIProcessingStarted(started) => session.take_claim(event, started),
        Payload::ThinkingGenerated(thinking) => session.in_turn(&thinking.turn, |turn| {
            turn.usage += thinking.usage.unwrap_or_default();
            turn.step(thinking.step).thoughts.push(thinking.clone());
        }),
        Payload::ToolCalled(called) => session.in_turn(&called.turn, |turn| turn.take_call(event.id, called.clone())),
        Payload::ToolCompleted(done) => session.in_turn(&done.turn, |turn| {
            turn.settle(event, done.step, &done.call_id, &Outcome::Result(done.result.clone()));
        }),
        Payload::ToolFailed(failed) | Payload::ToolOutcomeUnknown(failed) => session.in_turn(&failed.turn, |turn| {
            turn.settle(event, failed.step, &failed.call_id, &Outcome::Error(failed.error.clone()));
        }),
        Payload::MessageGenerated(message) => session.in_turn(&message.turn, |turn| {
            if turn.answer.is_none() {
                turn.usage += message.usage;
                turn.answer = Some(message.content.clone());
                turn.enabled(event);
            }
        }),
        Payload::AIProcessingCompleted(completed) => session.end(&completed.turn),
        Payload::AIProcessingFailed(failed) => session.end(&failed.turn),
        _ => {}
    }
    session
}

/// What is due, as seen by the run that `hint` names.
pub(crate) fn decide(session: &Session, hint: Hint<'_>, limits: Limits) -> Action {
    let Some(turn) = &session.turn else {
        return match session.waiting.front() {
            Some(input) => Action::Claim { turn: turn_id(input.id), input: Arc::clone(input), attempt: 1 },
            None => Action::Done,
        };
    };
    if turn.claim.owner != hint.owner {
        return match hint.held.iter().find(|held| held.event == turn.claim.delivery) {
            // Its owner would have kept this very delivery from us: it is gone.
            Some(held) if turn.claim.position <= held.since => take_over(turn, limits),
            // And whoever claims on it after it came to us has been told that *we* are gone.
            Some(_) => Action::Yield,
            // Its owner lives, folds the log again before it lets go, and will find whatever this hint is about.
            None => Action::Done,
        };
    }
    if turn.answer.is_some() {
        return Action::Complete;
    }
    let open: Vec<&Call> = turn.steps.iter().flat_map(|step| &step.calls).filter(|call| call.outcome.is_none()).collect();
    // Asked for by an owner that is gone: it may have run.
    if let Some(call) = open.iter().find(|call| call.called.effect == Effect::Once && call.attempt < turn.claim.attempt) {
        return Action::RecordUnknown { call: (*call).clone() };
    }
    if !open.is_empty() {
        return Action::RunTools { calls: open.into_iter().cloned().collect() };
    }
    match turn.steps_done() + 1 {
        step if step > limits.steps_max => Action::Fail {
            reason: "steps_exhausted",
            message: format!(
                "The assistant asked the model {} times and still had no answer; it stopped there.",
                limits.steps_max
            ),
        },
        step => Action::CallModel { step },
    }
}

fn take_over(turn: &Turn, limits: Limits) -> Action {
    if turn.answer.is_some() {
        return Action::Complete;
    }
    if turn.claim.attempt >= limits.attempts_max {
        let message = format!("The assistant was interrupted {} times while it worked on this; it gave up.", limits.attempts_max);
        return Action::Fail { reason: "attempts_exhausted", message };
    }
    Action::Claim { turn: turn.id.clone(), input: Arc::clone(&turn.input), attempt: turn.claim.attempt + 1 }
}

/// The turn that answers this input: the same whoever claims it.
fn turn_id(input: EventId) -> String {
    input.to_string().replacen("evt_", "turn_", 1)
}

impl Session {
    fn take_input(&mut self, event: &Event, said: Said) {
        self.waiting.push_back(Arc::new(Input {
            id: event.id,
            position: event.position,
            text: said.content,
            channel: said.channel,
            correlation: event.metadata.correlation_id.clone(),
            traceparent: event.metadata.traceparent,
        }));
    }

    fn take_claim(&mut self, event: &Event, started: ProcessingStarted) {
        let Some(delivery) = started.delivery.or(started.inputs.first().copied()) else { return };
        let claim = Claim { owner: started.owner, delivery, position: event.position, attempt: started.attempt };
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.id == started.turn) {
            if claim.attempt > turn.claim.attempt {
                turn.claim = claim;
                turn.enabled(event);
            }
            return;
        }
        let Some(index) = self.waiting.iter().position(|input| started.inputs.contains(&input.id)) else { return };
        let Some(input) = self.waiting.remove(index) else { return };
        self.turn = Some(Turn {
            id: started.turn,
            input,
            claim,
            started_at: event.timestamp,
            enabled_by: event.id,
            enabled_at: event.timestamp,
            steps: Vec::new(),
            usage: Usage::default(),
            answer: None,
        });
    }

    fn in_turn(&mut self, id: &str, change: impl FnOnce(&mut Turn)) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.id == id) {
            change(turn);
        }
    }

    fn end(&mut self, id: &str) {
        let Some(turn) = self.turn.take_if(|turn| turn.id == id) else { return };
        self.history.push_back(Arc::new(Exchange { said: turn.input.text.clone(), steps: turn.steps, answer: turn.answer }));
        if self.history.len() > HISTORY_TURNS_MAX {
            self.history.pop_front();
        }
    }
}

impl Turn {
    /// How many model calls have answered, the message not counted.
    pub(crate) fn steps_done(&self) -> u32 {
        self.steps.iter().filter(|step| !step.calls.is_empty()).map(|step| step.number).max().unwrap_or(0)
    }

    /// How many model calls gave a result.
    pub(crate) fn steps_total(&self) -> u32 {
        self.steps_done() + u32::from(self.answer.is_some())
    }

    /// From the first claim to the newest event, by the log's clock.
    pub(crate) fn duration_ms(&self) -> u64 {
        u64::try_from(self.enabled_at.duration_since(self.started_at).as_millis()).unwrap_or(0)
    }

    fn step(&mut self, number: u32) -> &mut Step {
        let index = match self.steps.iter().position(|step| step.number == number) {
            Some(index) => index,
            None => {
                self.steps.push(Step { number, ..Step::default() });
                self.steps.len() - 1
            }
        };
        &mut self.steps[index]
    }

    fn take_call(&mut self, event: EventId, called: ToolCalled) {
        self.usage += called.usage.unwrap_or_default();
        let attempt = self.claim.attempt;
        let calls = &mut self.step(called.step).calls;
        if calls.iter().all(|call| call.called.call_id != called.call_id) {
            calls.push(Call { event, attempt, called, outcome: None });
        }
    }

    /// The first outcome of a call counts.
    fn settle(&mut self, event: &Event, step: u32, call_id: &str, outcome: &Outcome) {
        let calls = self.steps.iter_mut().filter(|known| known.number == step).flat_map(|step| &mut step.calls);
        for call in calls.filter(|call| call.called.call_id == call_id && call.outcome.is_none()) {
            call.outcome = Some(outcome.clone());
            self.enabled_by = event.id;
            self.enabled_at = event.timestamp;
        }
    }

    fn enabled(&mut self, event: &Event) {
        self.enabled_by = event.id;
        self.enabled_at = event.timestamp;
    }
}

#[cfg(test)]
mod tests;
