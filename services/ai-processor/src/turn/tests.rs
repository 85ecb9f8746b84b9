use causeway_event::payload::{MessageGenerated, ProcessingCompleted, ProcessingFailed, ThinkingKind, ToolCompleted, ToolFailed};
use causeway_event::{Category, Data, Metadata};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;

const LIMITS: Limits = Limits { steps_max: 3, attempts_max: 2 };

#[test]
fn an_input_is_claimed() {
    given([said(1)]).woken_by(1, "a").does(claim(1, 1));
}

#[test]
fn nothing_is_due_in_an_empty_session() {
    given([]).woken_by(1, "a").does(Action::Done);
}

#[test]
fn a_claimed_turn_begins_with_the_model() {
    given([said(1), started(1, "a", 1)]).woken_by(1, "a").does(Action::CallModel { step: 1 });
}

#[test]
fn anothers_turn_is_left_alone_by_every_other_event() {
    given([said(1), started(1, "a", 1), said(2)]).woken_by(2, "b").does(Action::Done);
}

#[test]
fn a_turn_whose_delivery_comes_to_somebody_else_is_taken_over() {
    given([said(1), started(1, "a", 1)]).woken_by(1, "b").does(claim(1, 2));
}

#[test]
fn a_later_turn_is_taken_over_by_the_delivery_that_its_owner_held() {
    let second = given([said(1), said(2), started(1, "a", 1), message(1), completed(1), started_on(2, 1, "a", 1)]);
    second.woken_by(2, "b").does(Action::Done);
    second.woken_by(1, "b").does(claim(2, 2));
}

#[test]
fn a_turn_that_kills_its_owners_is_given_up_before_any_work() {
    let given = given([said(1), started(1, "a", 1), started(1, "b", 2)]);
    assert!(matches!(given.woken_by(1, "c").action(), Action::Fail { reason: "attempts_exhausted", .. }));
}

#[test]
fn the_former_owner_yields_after_a_takeover() {
    let taken = given([said(1), started(1, "a", 1), started(1, "b", 2)]);
    taken.woken_at(2, 1, "a").does(Action::Yield);
    taken.woken_at(3, 1, "a").does(Action::Yield);
}

#[test]
fn called_tools_are_run_and_their_results_told_to_the_model() {
    let history = [said(1), started(1, "a", 1), called(1, 1, "x", Effect::Pure), called(1, 1, "y", Effect::Pure)];
    let Action::RunTools { calls } = given(history.clone()).woken_by(1, "a").action() else { panic!("no tools") };
    assert_eq!(calls.iter().map(|call| call.called.call_id.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    let one_done = given(history).and(completed_tool(1, 1, "y"));
    let Action::RunTools { calls } = one_done.clone().woken_by(1, "a").action() else { panic!("no tools") };
    assert_eq!(calls.len(), 1, "what has an outcome is not run again");
    one_done.and(failed_tool(1, 1, "x")).woken_by(1, "a").does(Action::CallModel { step: 2 });
}

#[test]
fn after_a_takeover_what_may_be_repeated_is_repeated_and_what_may_not_is_unknown() {
    let history = [said(1), started(1, "a", 1), called(1, 1, "x", Effect::Idempotent), called(1, 1, "y", Effect::Once)];
    let taken = given(history).and(started(1, "b", 2));
    let Action::RecordUnknown { call } = taken.clone().woken_by(1, "b").action() else { panic!("not unknown") };
    assert_eq!(call.called.call_id, "y");
    let known = taken.and(unknown_tool(1, 1, "y"));
    let Action::RunTools { calls } = known.woken_by(1, "b").action() else { panic!("no tools") };
    assert_eq!(calls[0].called.call_id, "x");
}

#[test]
fn the_first_outcome_of_a_call_counts() {
    let given = given([said(1), started(1, "a", 1), called(1, 1, "x", Effect::Once)])
        .and(unknown_tool(1, 1, "x"))
        .and(completed_tool(1, 1, "x"));
    let turn = given.session.turn.as_ref().unwrap();
    assert!(matches!(turn.steps[0].calls[0].outcome, Some(Outcome::Error(_))));
}

#[test]
fn an_answered_turn_is_completed_and_not_asked_again() {
    let answered = given([said(1), started(1, "a", 1), message(1)]);
    answered.clone().woken_by(1, "a").does(Action::Complete);
    answered.woken_by(1, "b").does(Action::Complete);
    answered.and(started(1, "b", 2)).woken_by(1, "c").does(Action::Complete);
}

#[test]
fn a_model_that_never_comes_to_an_end_is_stopped() {
    let mut given = given([said(1), started(1, "a", 1)]);
    for step in 1..=3 {
        given = given.and(called(1, step, "x", Effect::Pure)).and(completed_tool(1, step, "x"));
    }
    assert!(matches!(given.woken_by(1, "a").action(), Action::Fail { reason: "steps_exhausted", .. }));
}

#[test]
fn inputs_wait_their_turn_in_order() {
    let given = given([said(1), said(2), started(1, "a", 1), said(3), message(1), completed(1)]);
    given.clone().woken_by(1, "a").does(claim(2, 1));
    given.and(started(2, "a", 1)).and(failed(2)).woken_by(1, "a").does(claim(3, 1));
}

#[test]
fn usage_is_that_of_every_model_call() {
    let given = given([
        said(1),
        started(1, "a", 1),
        thought(1, 1),
        called(1, 1, "x", Effect::Pure),
        completed_tool(1, 1, "x"),
        message(1),
    ]);
    let turn = given.session.turn.unwrap();
    assert_eq!(turn.usage, Usage { input_tokens: 20, output_tokens: 4 });
    assert_eq!(turn.steps_total(), 2);
}

#[derive(Clone)]
struct Given {
    session: Session,
    next: u64,
}

struct Woken<'g> {
    given: &'g Given,
    held: [Held; 1],
    owner: &'g str,
}

/// What happens, without its place in the log: `fold` gives it one.
type Happening = (EventId, Payload);

fn given<const N: usize>(history: [Happening; N]) -> Given {
    history.into_iter().fold(Given { session: Session::default(), next: 1 }, Given::and)
}

impl Given {
    fn and(mut self, (id, payload): Happening) -> Self {
        self.session = fold(self.session, &event(id, self.next, &payload));
        self.next += 1;
        self
    }

    /// By a delivery that came when all of this had happened.
    fn woken_by<'g>(&'g self, input: u128, owner: &'g str) -> Woken<'g> {
        self.woken_at(self.next, input, owner)
    }

    /// By a delivery that came when only what stands before `next` had happened.
    fn woken_at<'g>(&'g self, next: u64, input: u128, owner: &'g str) -> Woken<'g> {
        Woken { given: self, held: [Held { event: id(input), since: Position::new(next - 1) }], owner }
    }
}

impl Woken<'_> {
    fn action(&self) -> Action {
        decide(&self.given.session, Hint { held: &self.held, owner: self.owner }, LIMITS)
    }

    #[track_caller]
    fn does(&self, expected: Action) {
        let actual = match self.action() {
            // The input itself is compared by its id.
            Action::Claim { turn, attempt, input } => (turn, attempt, Some(input.id), None),
            other => (String::new(), 0, None, Some(other)),
        };
        let expected = match expected {
            Action::Claim { turn, attempt, input } => (turn, attempt, Some(input.id), None),
            other => (String::new(), 0, None, Some(other)),
        };
        assert_eq!(actual, expected, "from {:?}", self.given.session);
    }
}

fn id(number: u128) -> EventId {
    EventId::from_uuid(Uuid::from_u128(number))
}

fn fresh(salt: u128, turn: u128) -> EventId {
    id(salt << 64 | turn)
}

fn event(id: EventId, position: u64, payload: &Payload) -> Event {
    let new = causeway_event::NewEvent::of(
        payload,
        "s".parse().unwrap(),
        "t".parse().unwrap(),
        causeway_event::Lineage::Root { correlation: None },
    )
    .unwrap();
    assert!(matches!(new.category(), Category::Input | Category::Ai));
    Event {
        id,
        position: Position::new(position),
        timestamp: Timestamp::from_millisecond(i64::try_from(position).unwrap() * 10).unwrap(),
        event_type: new.event_type,
        aggregate_id: new.aggregate_id,
        data: Data::from_json(new.data.as_bytes()).unwrap(),
        metadata: Metadata {
            source: new.source,
            causation_id: None,
            correlation_id: "c".parse().unwrap(),
            labels: causeway_event::Labels::new(),
            schema_version: None,
            traceparent: None,
        },
    }
}

fn input(number: u128) -> Arc<Input> {
    let (correlation, text) = ("c".parse().unwrap(), "hello".into());
    Arc::new(Input { id: id(number), position: Position::START, text, channel: None, correlation, traceparent: None })
}

fn claim(number: u128, attempt: u32) -> Action {
    Action::Claim { turn: turn_id(id(number)), input: input(number), attempt }
}

fn said(number: u128) -> Happening {
    (id(number), Payload::MessageReceived(Said { content: "hello".into(), ..Said::default() }))
}

fn started(number: u128, owner: &str, attempt: u32) -> Happening {
    started_on(number, number, owner, attempt)
}

fn started_on(number: u128, delivery: u128, owner: &str, attempt: u32) -> Happening {
    let started = ProcessingStarted {
        turn: turn_id(id(number)),
        inputs: vec![id(number)],
        owner: owner.into(),
        delivery: Some(id(delivery)),
        attempt,
        agent: "a".into(),
        model: "m".into(),
        config_hash: String::new(),
    };
    (fresh(u128::from(attempt), number), Payload::AIProcessingStarted(started))
}

const TOOK: Option<Usage> = Some(Usage { input_tokens: 10, output_tokens: 2 });

fn thought(number: u128, step: u32) -> Happening {
    let turn = turn_id(id(number));
    let thinking = Thinking { turn, step, text: "hm".into(), kind: ThinkingKind::Reasoning, signature: None, usage: TOOK };
    (fresh(20, number), Payload::ThinkingGenerated(thinking))
}

fn called(number: u128, step: u32, call_id: &str, effect: Effect) -> Happening {
    let (turn, tool) = (turn_id(id(number)), "now".to_owned());
    let called = ToolCalled { turn, step, call_id: call_id.into(), tool, arguments: json!({}), effect, usage: None };
    (fresh(30 + u128::from(step), number), Payload::ToolCalled(called))
}

fn completed_tool(number: u128, step: u32, call_id: &str) -> Happening {
    let (turn, tool) = (turn_id(id(number)), "now".to_owned());
    let done = ToolCompleted { turn, step, call_id: call_id.into(), tool, result: json!(1), duration_ms: 1 };
    (fresh(40, number), Payload::ToolCompleted(done))
}

fn failure(number: u128, step: u32, call_id: &str) -> ToolFailed {
    let (turn, tool) = (turn_id(id(number)), "now".to_owned());
    ToolFailed { turn, step, call_id: call_id.into(), tool, error: "no".into(), duration_ms: 1 }
}

fn failed_tool(number: u128, step: u32, call_id: &str) -> Happening {
    (fresh(50, number), Payload::ToolFailed(failure(number, step, call_id)))
}

fn unknown_tool(number: u128, step: u32, call_id: &str) -> Happening {
    (fresh(60, number), Payload::ToolOutcomeUnknown(failure(number, step, call_id)))
}

fn message(number: u128) -> Happening {
    let message = MessageGenerated {
        turn: turn_id(id(number)),
        content: "hi".into(),
        model: "m".into(),
        finish_reason: "stop".into(),
        usage: TOOK.unwrap(),
        channel: None,
    };
    (fresh(70, number), Payload::MessageGenerated(message))
}

fn completed(number: u128) -> Happening {
    let completed = ProcessingCompleted { turn: turn_id(id(number)), steps: 1, usage: Usage::default(), duration_ms: 1 };
    (fresh(80, number), Payload::AIProcessingCompleted(completed))
}

fn failed(number: u128) -> Happening {
    let turn = turn_id(id(number));
    let failed =
        ProcessingFailed { turn, reason: "r".into(), message: "m".into(), steps: 0, usage: Usage::default(), duration_ms: 1 };
    (fresh(90, number), Payload::AIProcessingFailed(failed))
}

fn anything() -> impl Strategy<Value = Happening> {
    let who = prop_oneof![Just("a"), Just("b")];
    let effects = prop_oneof![Just(Effect::Pure), Just(Effect::Idempotent), Just(Effect::Once)];
    (0..10_u8, 1..4_u128, 1..3_u32, prop_oneof![Just("x"), Just("y")], who, 1..4_u32, effects).prop_map(
        |(what, number, step, call_id, owner, attempt, effect)| match what {
            0 | 1 => said(number),
            2 => started(number, owner, attempt),
            3 => thought(number, step),
            4 => called(number, step, call_id, effect),
            5 => completed_tool(number, step, call_id),
            6 => failed_tool(number, step, call_id),
            7 => unknown_tool(number, step, call_id),
            8 => message(number),
            _ => prop_oneof_end(number, attempt),
        },
    )
}

fn prop_oneof_end(number: u128, attempt: u32) -> Happening {
    if attempt == 1 { failed(number) } else { completed(number) }
}

proptest! {
    #[test]
    fn the_same_event_twice_changes_nothing_more(history in proptest::collection::vec(anything(), 0..40)) {
        let mut session = Session::default();
        for (position, (id, payload)) in (1..).zip(&history) {
            let event = event(*id, position, payload);
            let once = fold(session, &event);
            session = fold(once.clone(), &event);
            prop_assert_eq!(&session, &once);
        }
    }

    #[test]
    fn whatever_the_log_holds_every_call_is_told_with_one_result(history in proptest::collection::vec(anything(), 0..40)) {
        use crate::model::Message;
        let given = history.into_iter().fold(given([]), Given::and);
        let Some(turn) = &given.session.turn else { return Ok(()) };
        let prompt = crate::prompt::prompt("s", &given.session, turn, 10, Vec::new());
        let mut told = prompt.messages.iter().peekable();
        while let Some(message) = told.next() {
            match message {
                Message::Assistant { tool_calls, .. } if !tool_calls.is_empty() => {
                    let Some(Message::ToolResults(results)) = told.peek() else { panic!("calls without results") };
                    let called: Vec<_> = tool_calls.iter().map(|call| &call.call_id).collect();
                    prop_assert_eq!(called, results.iter().map(|result| &result.call_id).collect::<Vec<_>>());
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_decision_once_carried_out_is_not_due_again(history in proptest::collection::vec(anything(), 0..40)) {
        let given = history.into_iter().fold(given([]), Given::and);
        for hint in [1, 2] {
            let Action::Claim { input, attempt, turn } = given.woken_by(hint, "z").action() else { continue };
            let inputs = vec![input.id];
            let (agent, model, owner, config_hash) = (String::new(), String::new(), "z".to_owned(), String::new());
            let delivery = Some(id(hint));
            let claimed = Payload::AIProcessingStarted(ProcessingStarted { turn, inputs, owner, delivery, attempt, agent, model, config_hash });
            let after = given.clone().and((fresh(99, 1), claimed)).woken_by(hint, "z").action();
            prop_assert!(!matches!(after, Action::Claim { .. } | Action::Done | Action::Yield), "{:?}", after);
        }
    }
}
