//! What a conversation shows, as given, when, then.

use causeway_event::payload::Usage;
use serde_json::{Value, json};

use super::*;
use crate::sample::{event, id};

struct Given(Conversation);

/// Events at the positions 1, 2, 3, ..
fn given<const N: usize>(history: [(&str, Value); N]) -> Given {
    history.into_iter().fold(Given(Conversation::default()), Given::when)
}

impl Given {
    fn when(self, (event_type, data): (&str, Value)) -> Self {
        let next = self.0.position.get() + 1;
        Self(fold(self.0, &event(next, event_type, &data)))
    }

    fn then(self, check: impl FnOnce(&Conversation)) -> Self {
        check(&self.0);
        self
    }

    fn then_turn(self, check: impl FnOnce(&Turn)) -> Self {
        assert_eq!(self.0.turns.len(), 1, "{:#?}", self.0.turns);
        check(&self.0.turns[0]);
        self
    }

    fn then_call(self, check: impl FnOnce(&ToolCall)) -> Self {
        self.then_turn(|turn| {
            assert_eq!(turn.tool_calls.len(), 1, "{:#?}", turn.tool_calls);
            check(&turn.tool_calls[0]);
        })
    }
}

fn received() -> (&'static str, Value) {
    ("MessageReceived", json!({"content": "What is 6 * 7?", "channel": {"kind": "chat"}}))
}

fn started(attempt: u32) -> (&'static str, Value) {
    let data = json!({"turn": "t", "inputs": [id(1)], "owner": format!("run-{attempt}"), "attempt": attempt, "agent": "default",
        "model": "demo", "config_hash": "c0ffee"});
    ("AIProcessingStarted", data)
}

fn thought(usage: &Value) -> (&'static str, Value) {
    ("ThinkingGenerated", json!({"turn": "t", "step": 1, "text": "Better calculate it.", "usage": usage}))
}

fn called() -> (&'static str, Value) {
    let data = json!({"turn": "t", "step": 1, "call_id": "call-1", "tool": "calculate", "effect": "pure",
        "arguments": {"expression": "6 * 7"}});
    ("ToolCalled", data)
}

fn outcome(event_type: &'static str) -> (&'static str, Value) {
    let data = json!({"turn": "t", "step": 1, "call_id": "call-1", "tool": "calculate", "result": {"value": 42},
        "error": "no such thing", "duration_ms": 3});
    (event_type, data)
}

fn generated(usage: &Value) -> (&'static str, Value) {
    let data = json!({"turn": "t", "content": "It is 42.", "model": "demo-1", "finish_reason": "stop", "usage": usage,
        "channel": {"kind": "chat"}});
    ("MessageGenerated", data)
}

fn completed(usage: &Value) -> (&'static str, Value) {
    ("AIProcessingCompleted", json!({"turn": "t", "steps": 2, "usage": usage, "duration_ms": 3000}))
}

fn failed() -> (&'static str, Value) {
    let data = json!({"turn": "t", "reason": "attempts_exhausted", "message": "The model did not answer three times.",
        "duration_ms": 9});
    ("AIProcessingFailed", data)
}

fn tokens(input_tokens: u64, output_tokens: u64) -> Value {
    json!({"input_tokens": input_tokens, "output_tokens": output_tokens})
}

#[test]
fn a_whole_documented_turn_has_this_json() {
    let Given(conversation) = given([
        received(),
        started(1),
        thought(&tokens(100, 20)),
        called(),
        outcome("ToolCompleted"),
        generated(&tokens(150, 10)),
        completed(&tokens(250, 30)),
    ]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&conversation).unwrap());
}

#[test]
fn nothing_folded_is_an_empty_conversation() {
    let json = serde_json::to_value(Conversation::default()).unwrap();
    assert_eq!(json, json!({"position": 0, "usage": tokens(0, 0), "messages": [], "turns": []}));
}

#[test]
fn a_message_waits_until_a_turn_takes_it() {
    given([received()])
        .then(|c| assert_eq!((c.messages[0].role, c.messages[0].turn.as_deref()), (Role::User, None)))
        .when(started(1))
        .then(|c| assert_eq!(c.messages[0].turn.as_deref(), Some("t")))
        .then_turn(|turn| assert_eq!((turn.status, &turn.inputs[..]), (TurnStatus::Running, &[id(1)][..])));
}

#[test]
fn whoever_is_not_named_is_the_aggregate() {
    given([received(), ("TriggerReceived", json!({"content": "Wake up", "user_id": "user_7", "attachments": [{"n": 1.0}]}))])
        .then(|c| assert_eq!(c.messages[0].user_id.as_deref(), Some("web:ada")))
        .then(|c| assert_eq!(c.messages[1].user_id.as_deref(), Some("user_7")))
        .then(|c| assert_eq!(c.messages[1].attachments[0].as_str(), r#"{"n":1.0}"#));
}

#[test]
fn a_takeover_goes_on_with_the_same_turn() {
    given([received(), started(1), called()])
        .when(started(2))
        .then_call(|call| assert_eq!(call.status, ToolStatus::Running))
        .then_turn(|turn| {
            assert_eq!((turn.attempts, turn.owner.as_deref(), turn.status), (2, Some("run-2"), TurnStatus::Running));
            assert_eq!(turn.inputs, [id(1)]);
            assert_eq!(turn.started_at, event(2, "Any", &Value::Null).timestamp.into());
        });
}

#[test]
fn a_turn_given_up_says_why() {
    given([received(), started(1)]).when(failed()).then_turn(|turn| {
        assert_eq!(turn.status, TurnStatus::Failed);
        assert_eq!(turn.failure.as_ref().map(|failure| failure.reason.as_str()), Some("attempts_exhausted"));
        assert_eq!(turn.duration_ms, Some(9));
    });
}

#[test]
fn a_turn_given_up_goes_on_when_it_is_claimed_once_more() {
    given([received(), started(1), failed()])
        .when(started(1))
        .then_turn(|turn| assert_eq!(turn.status, TurnStatus::Failed))
        .when(started(2))
        .then_turn(|turn| assert_eq!((turn.status, &turn.failure, turn.ended_at), (TurnStatus::Running, &None, None)));
}

#[test]
fn the_first_end_of_a_turn_counts() {
    given([received(), started(1), completed(&tokens(1, 1))])
        .when(failed())
        .when(started(2))
        .then_turn(|turn| assert_eq!((turn.status, turn.attempts, &turn.failure), (TurnStatus::Completed, 2, &None)));
}

#[test]
fn each_outcome_of_a_tool_call_is_shown() {
    let call = || given([received(), started(1), called()]);
    call().then_call(|call| assert_eq!((call.status, call.outcome_id), (ToolStatus::Running, None)));
    call().when(outcome("ToolCompleted")).then_call(|call| {
        assert_eq!((call.status, call.duration_ms, call.outcome_id), (ToolStatus::Completed, Some(3), Some(id(4))));
        assert_eq!(call.result.as_ref().map(Data::as_str), Some(r#"{"value":42}"#));
    });
    call()
        .when(outcome("ToolFailed"))
        .then_call(|call| assert_eq!((call.status, call.error.as_deref()), (ToolStatus::Failed, Some("no such thing"))));
    call().when(outcome("ToolOutcomeUnknown")).then_call(|call| assert_eq!(call.status, ToolStatus::Unknown));
}

#[test]
fn the_first_outcome_of_a_tool_call_counts() {
    given([received(), started(1), called(), outcome("ToolOutcomeUnknown")])
        .when(outcome("ToolCompleted"))
        .when(outcome("ToolFailed"))
        .when(called())
        .then_call(|call| assert_eq!((call.status, call.outcome_id), (ToolStatus::Unknown, Some(id(4)))))
        .then_call(|call| assert_eq!((call.event_id, call.result.is_some()), (id(3), false)));
}

#[test]
fn calls_of_different_steps_may_share_an_id() {
    let (event_type, mut data) = called();
    data["step"] = json!(2);
    given([received(), started(1), called(), outcome("ToolCompleted")]).when((event_type, data)).then_turn(|turn| {
        assert_eq!(
            turn.tool_calls.iter().map(|call| call.status).collect::<Vec<_>>(),
            [ToolStatus::Completed, ToolStatus::Running]
        );
        assert_eq!(turn.steps, 2);
    });
}

#[test]
fn an_outcome_without_its_call_is_shown_and_the_call_completes_it() {
    given([outcome("ToolCompleted")])
        .then_call(|call| assert_eq!((call.tool.as_str(), call.effect, call.event_id), ("calculate", None, id(1))))
        .then_turn(|turn| assert_eq!((turn.attempts, turn.status), (0, TurnStatus::Running)))
        .when(called())
        .then_call(|call| assert_eq!((call.status, call.event_id, call.outcome_id), (ToolStatus::Completed, id(2), Some(id(1)))))
        .then_call(|call| assert!(call.arguments.is_some()));
}

#[test]
fn an_answer_of_an_unknown_turn_or_of_none_is_shown() {
    given([generated(&tokens(1, 2))]).then(|c| {
        assert_eq!((c.messages[0].role, c.messages[0].turn.as_deref()), (Role::Assistant, Some("t")));
        assert_eq!(c.turns[0].id, "t");
    });
    given([("MessageGenerated", json!({"content": "By the way", "usage": tokens(1, 2)}))]).then(|c| {
        assert_eq!((c.messages[0].turn.as_deref(), c.turns.len()), (None, 0));
        assert_eq!(c.usage, Usage { input_tokens: 1, output_tokens: 2 });
    });
}

#[test]
fn usage_grows_with_each_model_call_and_its_end_has_the_last_word() {
    let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens };
    given([received(), started(1)])
        .when(thought(&tokens(100, 20)))
        .then_turn(|turn| assert_eq!(turn.usage, usage(100, 20)))
        .when(called())
        .when(outcome("ToolCompleted"))
        .when(generated(&tokens(150, 10)))
        .then_turn(|turn| assert_eq!(turn.usage, usage(250, 30)))
        .when(completed(&tokens(260, 30)))
        .then_turn(|turn| assert_eq!(turn.usage, usage(260, 30)))
        .then(|c| assert_eq!(c.usage, usage(260, 30)));
}

#[test]
fn the_usage_of_an_answer_that_was_thought_about_counts_once() {
    given([received(), started(1), thought(&tokens(100, 20))])
        .when(generated(&tokens(100, 20)))
        .then(|c| assert_eq!(c.usage, Usage { input_tokens: 100, output_tokens: 20 }));
}

#[test]
fn what_does_not_concern_a_conversation_moves_only_its_position() {
    let before = given([received()]).0;
    for (event_type, data) in [
        ("OrderShipped", json!({"content": "nothing for us"})),
        ("MemoryStored", json!({"text": "likes tea"})),
        ("MessageReceived", json!({"content": 7})),
        ("ToolCalled", json!(null)),
    ] {
        let after = Given(before.clone()).when((event_type, data)).0;
        assert_eq!(after.position.get(), 2, "{event_type}");
        assert_eq!((after.messages, after.turns), (before.messages.clone(), before.turns.clone()), "{event_type}");
    }
}
