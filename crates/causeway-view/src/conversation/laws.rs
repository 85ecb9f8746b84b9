//! What holds for every history, also for one that no processor would write.

use std::collections::BTreeMap;

use causeway_event::payload::{
    Effect, Input, MessageGenerated, ProcessingCompleted, ProcessingFailed, ProcessingStarted, Thinking, ThinkingKind,
    ToolCalled, ToolCompleted, ToolFailed, Usage,
};
use causeway_event::{Data, Event, EventId, Payload, Position};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chain::Chain;
use crate::sample::{id, typed};
use crate::{Prices, View as _};

fn turn() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "c"]).prop_map(str::to_owned)
}

fn call_id() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "1", "2"]).prop_map(str::to_owned)
}

fn usage() -> impl Strategy<Value = Usage> {
    let tokens = || prop_oneof![0..100_u64, any::<u64>()];
    (tokens(), tokens()).prop_map(|(input_tokens, output_tokens)| Usage { input_tokens, output_tokens })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), any::<f64>().prop_map(|number| json!(number)), ".{0,8}".prop_map(|text| json!({"text": text}))]
}

fn input() -> impl Strategy<Value = Input> {
    (".{0,8}", prop::option::of(".{0,4}"), prop::collection::vec(value(), 0..2))
        .prop_map(|(content, user_id, attachments)| Input { content, user_id, channel: None, attachments })
}

fn started() -> impl Strategy<Value = Payload> {
    (turn(), prop::collection::vec((1..30_u64).prop_map(id), 0..3), 0..4_u32).prop_map(|(turn, inputs, attempt)| {
        let (owner, agent, model) = (format!("run-{attempt}"), "agent".into(), "model".into());
        Payload::AIProcessingStarted(ProcessingStarted {
            turn,
            inputs,
            owner,
            delivery: None,
            attempt,
            agent,
            model,
            config_hash: String::new(),
        })
    })
}

fn told_by_the_model() -> impl Strategy<Value = Payload> {
    let effect = prop::sample::select(vec![Effect::Pure, Effect::Idempotent, Effect::Once]);
    prop_oneof![
        (turn(), 0..3_u32, prop::option::of(usage())).prop_map(|(turn, step, usage)| {
            let (kind, text) = (ThinkingKind::Commentary, "hm".into());
            Payload::ThinkingGenerated(Thinking { turn, step, text, kind, signature: None, usage })
        }),
        (turn(), 0..3_u32, call_id(), value(), effect, prop::option::of(usage())).prop_map(
            |(turn, step, call_id, arguments, effect, usage)| {
                Payload::ToolCalled(ToolCalled { turn, step, call_id, tool: "tool".into(), arguments, effect, usage })
            }
        ),
        (turn(), usage()).prop_map(|(turn, usage)| {
            let (content, model, finish_reason) = ("said".into(), String::new(), "stop".into());
            Payload::MessageGenerated(MessageGenerated { turn, content, model, finish_reason, usage, channel: None })
        }),
    ]
}

fn outcome() -> impl Strategy<Value = Payload> {
    (turn(), 0..3_u32, call_id(), any::<u64>(), value(), 0..3).prop_map(|(turn, step, call_id, duration_ms, result, which)| {
        let (tool, error) = ("tool".to_owned(), "error".to_owned());
        match which {
            0 => Payload::ToolCompleted(ToolCompleted { turn, step, call_id, tool, result, duration_ms }),
            1 => Payload::ToolFailed(ToolFailed { turn, step, call_id, tool, error, duration_ms }),
            _ => Payload::ToolOutcomeUnknown(ToolFailed { turn, step, call_id, tool, error, duration_ms }),
        }
    })
}

fn end() -> impl Strategy<Value = Payload> {
    (turn(), any::<u32>(), usage(), any::<u64>(), any::<bool>()).prop_map(|(turn, steps, usage, duration_ms, done)| match done {
        true => Payload::AIProcessingCompleted(ProcessingCompleted { turn, steps, usage, duration_ms }),
        false => {
            let (reason, message) = ("model_error".into(), String::new());
            Payload::AIProcessingFailed(ProcessingFailed { turn, reason, message, steps, usage, duration_ms })
        }
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![input().prop_map(Payload::MessageReceived), started(), told_by_the_model(), outcome(), end()]
}

/// Known types in any order, of any turn.
fn history() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(payload(), 0..40)
        .prop_map(|payloads| payloads.iter().zip(1..).map(|(payload, position)| typed(position, payload)).collect())
}

fn json(conversation: &Conversation) -> String {
    serde_json::to_string(conversation).unwrap()
}

/// The same with so few tokens that no sum stops at the largest.
fn bounded(event: &Event) -> Event {
    let mut data: Value = event.data.parse().unwrap();
    let tokens = data.get_mut("usage").and_then(Value::as_object_mut);
    tokens.into_iter().flat_map(|usage| usage.values_mut()).for_each(|tokens| *tokens = json!(tokens.as_u64().unwrap() % 100));
    Event { data: Data::of(&data).unwrap(), ..event.clone() }
}

/// Of each tool call the events that tell its outcome, in the order of the log.
fn outcomes(history: &[Event]) -> BTreeMap<(String, u32, String), Vec<EventId>> {
    let mut calls = BTreeMap::<_, Vec<EventId>>::new();
    for event in history {
        match event.payload() {
            Payload::ToolCalled(call) => {
                calls.entry((call.turn, call.step, call.call_id)).or_default();
            }
            Payload::ToolCompleted(done) => calls.entry((done.turn, done.step, done.call_id)).or_default().push(event.id),
            Payload::ToolFailed(failed) | Payload::ToolOutcomeUnknown(failed) => {
                calls.entry((failed.turn, failed.step, failed.call_id)).or_default().push(event.id);
            }
            _ => {}
        }
    }
    calls
}

proptest! {
    #[test]
    fn an_event_folded_twice_in_a_row_changes_nothing_more(history in history()) {
        let mut conversation = Conversation::default();
        for event in &history {
            conversation = fold(conversation, event);
            prop_assert_eq!(&fold(conversation.clone(), event), &conversation);
        }
    }

    #[test]
    fn any_prefix_can_be_written_read_back_and_resumed(history in history(), cut in any::<prop::sample::Index>()) {
        let (first, rest) = history.split_at(cut.index(history.len() + 1));
        let before = first.iter().fold(Conversation::default(), fold);
        let resumed: Conversation = serde_json::from_str(&json(&before)).unwrap();
        prop_assert_eq!(&resumed, &before);
        let (whole, resumed) = (rest.iter().fold(before, fold), rest.iter().fold(resumed, fold));
        prop_assert_eq!(json(&resumed), json(&whole));
        prop_assert_eq!(resumed, whole);
    }

    #[test]
    fn an_event_changes_only_the_parts_that_it_was_said_to_change(history in history()) {
        let mut conversation = Conversation::default();
        for event in &history {
            let parts = conversation.parts(event);
            let after = fold(conversation.clone(), event);
            let mut patched = serde_json::to_value(&conversation).unwrap();
            for part in &parts {
                let Some(json) = after.part(&part.name, &Prices::default()).unwrap() else { continue };
                let value: Value = serde_json::from_str(&json).unwrap();
                let (list, at) = part.pointer.rsplit_once('/').unwrap();
                match patched.pointer_mut(list).unwrap() {
                    Value::Array(list) if at.parse() == Ok(list.len()) => list.push(value),
                    Value::Array(list) => list[at.parse::<usize>().unwrap()] = value,
                    object => object[at] = value,
                }
            }
            prop_assert_eq!(patched, serde_json::to_value(&after).unwrap());
            conversation = after;
        }
    }

    #[test]
    fn a_chain_tells_the_same_usage_at_every_position(history in history()) {
        let (mut conversation, mut chain) = (Conversation::default(), Chain::default());
        for event in history.iter().map(bounded) {
            (conversation, chain) = (fold(conversation, &event), chain.with(&event));
            prop_assert_eq!(chain.tree(&Prices::default()).usage, conversation.usage, "{} at {}", event.event_type, event.position);
        }
    }

    #[test]
    fn every_tool_call_stands_there_once_with_its_first_outcome(history in history()) {
        let conversation = history.iter().fold(Conversation::default(), fold);
        let shown = conversation.turns.iter().flat_map(|turn| turn.tool_calls.iter().map(move |call| (turn, call)));
        let shown: Vec<_> = shown.map(|(turn, call)| ((turn.id.clone(), call.step, call.call_id.clone()), call)).collect();
        let told = outcomes(&history);
        prop_assert_eq!(shown.len(), told.len());
        for (key, call) in shown {
            prop_assert_eq!(call.outcome_id, told[&key].first().copied());
            prop_assert_eq!(call.outcome_id.is_none(), call.status == ToolStatus::Running);
            prop_assert!(call.result.is_none() || call.error.is_none());
        }
    }

    #[test]
    fn messages_stand_in_the_order_of_the_log_and_refer_to_turns_that_are_there(history in history()) {
        let conversation = history.iter().fold(Conversation::default(), fold);
        prop_assert!(conversation.messages.is_sorted_by(|a, b| a.position < b.position));
        for turn in conversation.messages.iter().filter_map(|message| message.turn.as_ref()) {
            prop_assert_eq!(conversation.turns.iter().filter(|known| known.id == *turn).count(), 1);
        }
    }

    #[test]
    fn no_event_panics_wherever_it_stands_and_whatever_its_data(
        history in history(), positions in prop::collection::vec(any::<u64>(), 40), data in prop::collection::vec(value(), 40),
    ) {
        let mut conversation = Conversation::default();
        for ((event, position), data) in history.into_iter().zip(positions).zip(data) {
            let elsewhere = Event { position: Position::new(position % 50), ..event };
            let strange = Event { data: Data::of(&data).unwrap(), position: elsewhere.position.next(), ..elsewhere.clone() };
            conversation = fold(fold(conversation, &elsewhere), &strange);
        }
    }
}
