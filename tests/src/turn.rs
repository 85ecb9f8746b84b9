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

/// Asserts that every event but the first was caused by an earlier one of them, that all share one chain, and that the
/// causes are the right ones.
#[track_caller]
pub fn check_causation(events: &[Value]) {
    let root = &events[0];
    assert!(root["metadata"]["causation_id"].is_null(), "a root has no cause: {root}");
    for (at, event) in events.iter().enumerate().skip(1) {
        assert_eq!(event["metadata"]["correlation_id"], root["metadata"]["correlation_id"], "{event} left the chain");
        assert_eq!(event["metadata"]["source"], "ai-processor", "{event}");
        let cause = &event["metadata"]["causation_id"];
        let cause = events[..at].iter().find(|earlier| earlier["id"] == *cause);
        let cause = cause.unwrap_or_else(|| panic!("no earlier event caused {event}"));
        let (kind, by) = (event["type"].as_str().unwrap_or("?"), cause["type"].as_str().unwrap_or("?"));
        let right = match kind {
            "AIProcessingStarted" => matches!(by, "MessageReceived" | "TriggerReceived" | "AIProcessingStarted"),
            "ToolCompleted" | "ToolFailed" => by == "ToolCalled" && cause["data"]["call_id"] == event["data"]["call_id"],
            "ThinkingGenerated" | "ToolCalled" | "MessageGenerated" => {
                matches!(by, "AIProcessingStarted" | "ThinkingGenerated" | "ToolCompleted" | "ToolFailed" | "ToolCalled")
            }
            "AIProcessingCompleted" => by == "MessageGenerated" || by == "AIProcessingStarted",
            _ => true,
        };
        assert!(right, "{by} cannot have caused {kind}: {event}");
    }
}

/// The events of one turn and what must hold for them after any crash.
#[derive(Debug)]
pub struct Turn<'a>(pub &'a [Value]);

impl Turn<'_> {
    /// Asserts that each step stands on the log once: every call has one outcome, there is one message, one completion, and
    /// only the claims may be several.
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
            let outcomes = ["ToolCompleted", "ToolFailed"].map(|outcome| data(events, outcome, "call_id"));
            let outcomes = outcomes.concat().into_iter().filter(|of| *of == call).count();
            assert_eq!(outcomes, 1, "{call} must have one outcome: {seen:?}");
        }
        let turns: Vec<&Value> = events[1..].iter().map(|event| &event["data"]["turn"]).collect();
        assert!(turns.iter().all(|turn| *turn == turns[0]), "one turn: {turns:?}");
        assert_eq!(seen.last(), Some(&"AIProcessingCompleted"), "{seen:?}");
    }
}
