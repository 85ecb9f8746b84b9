//! What a turn must look like on the log, however it came about.

use serde_json::Value;

/// The types of some events, in order.
pub fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap_or("?")).collect()
}

/// The events of one type.
pub fn of_type<'a>(events: &'a [Value], event_type: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == event_type).collect()
}

/// How many events of one type there are.
pub fn count(events: &[Value], event_type: &str) -> usize {
    of_type(events, event_type).len()
}

/// One field of the data of all events of a type, as text.
pub fn data<'a>(events: &'a [Value], event_type: &str, field: &str) -> Vec<&'a str> {
    of_type(events, event_type).iter().map(|event| event["data"][field].as_str().unwrap_or("?")).collect()
}

/// Asserts of the events of one turn that each names its exact cause, that all share one chain, and that the processor's own
/// are the processor's.
#[track_caller]
pub fn check_causation(events: &[Value]) {
    let root = &events[0];
    assert!(matches!(kind(root), "MessageReceived" | "TriggerReceived"), "a turn begins with its input: {root}");
    assert!(root["metadata"]["causation_id"].is_null(), "a root has no cause: {root}");
    let mut causes = Causes::of(root);
    for event in &events[1..] {
        assert_eq!(event["metadata"]["correlation_id"], root["metadata"]["correlation_id"], "{event} left the chain");
        assert_eq!(event["metadata"]["source"], "ai-processor", "{event}");
        let cause = causes.of_next(event);
        assert_eq!(event["metadata"]["causation_id"].as_str(), Some(cause), "the cause of {event} among {events:#?}");
    }
}

fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap_or("?")
}

fn id(event: &Value) -> &str {
    event["id"].as_str().unwrap_or("?")
}

fn call_id(event: &Value) -> &str {
    event["data"]["call_id"].as_str().unwrap_or("?")
}

/// What may cause the next event of a turn.
struct Causes<'e> {
    input: &'e str,
    /// The claim, or the first outcome of a call that came last: what made the next step possible.
    enabling: Option<&'e str>,
    attempt: u64,
    message: Option<&'e str>,
    /// Calls with their events, and whether they have an outcome.
    calls: Vec<(&'e str, &'e str, bool)>,
}

impl<'e> Causes<'e> {
    fn of(input: &'e Value) -> Self {
        Self { input: id(input), enabling: None, attempt: 0, message: None, calls: Vec::new() }
    }

    /// The id of the event that must have caused this one, which is taken account of.
    #[track_caller]
    fn of_next(&mut self, event: &'e Value) -> &'e str {
        let enabling = || self.enabling.unwrap_or_else(|| panic!("nothing enabled {event}"));
        match kind(event) {
            "AIProcessingStarted" => {
                let attempt = event["data"]["attempt"].as_u64().unwrap_or_default();
                assert_eq!(attempt, self.attempt + 1, "claims are counted: {event}");
                (self.attempt, self.enabling) = (attempt, Some(id(event)));
                self.input
            }
            "ThinkingGenerated" => enabling(),
            "ToolCalled" => {
                self.calls.push((call_id(event), id(event), false));
                enabling()
            }
            "MessageGenerated" => {
                self.message = Some(id(event));
                enabling()
            }
            "ToolCompleted" | "ToolFailed" | "ToolOutcomeUnknown" => {
                let called = self.calls.iter_mut().find(|(call, ..)| *call == call_id(event));
                let (_, called, settled) = called.unwrap_or_else(|| panic!("nobody called for {event}"));
                if !std::mem::replace(settled, true) {
                    self.enabling = Some(id(event));
                }
                called
            }
            "AIProcessingCompleted" => self.message.unwrap_or_else(|| panic!("no message before {event}")),
            "AIProcessingFailed" => self.message.or(self.enabling).unwrap_or_else(|| panic!("nothing enabled {event}")),
            _ => panic!("{event} is no event of a turn"),
        }
    }
}

/// The events of one turn and what must hold for them after any crash.
#[derive(Debug)]
pub struct Turn<'a>(pub &'a [Value]);

impl Turn<'_> {
    /// Asserts that each step stands on the log once: every call has one outcome, every step one thought of a
    /// kind, there is one message, one completion, and only the claims may be several.
    #[track_caller]
    pub fn check_once(&self, calls: usize) {
        let events = self.0;
        let seen = types(events);
        assert_eq!(count(events, "MessageReceived") + count(events, "TriggerReceived"), 1, "{seen:?}");
        assert_eq!(count(events, "ToolCalled"), calls, "{seen:?}");
        assert_eq!(count(events, "MessageGenerated"), 1, "{seen:?}");
        assert_eq!(count(events, "AIProcessingCompleted"), 1, "{seen:?}");
        assert_eq!(count(events, "AIProcessingFailed"), 0, "{seen:?}");
        assert!(1 <= count(events, "AIProcessingStarted"), "{seen:?}");
        for call in data(events, "ToolCalled", "call_id") {
            let outcomes = ["ToolCompleted", "ToolFailed", "ToolOutcomeUnknown"].map(|outcome| data(events, outcome, "call_id"));
            let outcomes = outcomes.concat().into_iter().filter(|of| *of == call).count();
            assert_eq!(outcomes, 1, "{call} must have one outcome: {seen:?}");
        }
        let thoughts = of_type(events, "ThinkingGenerated").into_iter().map(|event| &event["data"]);
        let mut thoughts: Vec<(u64, &str)> =
            thoughts.map(|data| (data["step"].as_u64().unwrap_or(0), data["kind"].as_str().unwrap_or("?"))).collect();
        thoughts.sort_unstable();
        assert!(thoughts.is_sorted_by(|a, b| a != b), "a step is thought about once in each kind: {thoughts:?} in {seen:?}");
        let turns: Vec<&Value> = events[1..].iter().map(|event| &event["data"]["turn"]).collect();
        assert!(turns.iter().all(|turn| *turn == turns[0]), "one turn: {turns:?}");
        assert_eq!(seen.last(), Some(&"AIProcessingCompleted"), "{seen:?}");
    }
}
