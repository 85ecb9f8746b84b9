//! A fold whose state's type is nobody's business.

use std::sync::Arc;

use causeway_event::Event;
use causeway_proto::Problem;
use causeway_view::{Prices, View};
use json_patch::Patch;
use serde_json::Value;

use super::{internal, patch};

/// A state, and what can be done with it.
pub(crate) trait Fold: Send {
    /// Goes on from a snapshot. False if it cannot be read: the state is as before.
    fn restore(&mut self, snapshot: &[u8]) -> bool;
    /// What [`Self::restore`] reads.
    fn snapshot(&self) -> Result<Vec<u8>, Problem>;
    /// Whether the snapshot is what readers get.
    fn shows_snapshot(&self) -> bool;
    /// The JSON that readers get.
    fn shown(&self) -> Result<Vec<u8>, Problem>;
    /// Takes an event in.
    fn step(&mut self, event: &Event);
    /// The same, and what it changed in what readers get.
    fn change(&mut self, event: &Event) -> Result<Patch, Problem>;
    /// Drops what was kept for the next change.
    fn rest(&mut self);
}

pub(super) struct Folding<V> {
    state: V,
    prices: Arc<Prices>,
    /// What readers get now, of a view that cannot say what an event changes. Only kept from one change to the next.
    value: Option<Value>,
}

impl<V: View> Folding<V> {
    pub(super) fn start(prices: Arc<Prices>) -> Box<dyn Fold> {
        Box::new(Self { state: V::default(), prices, value: None })
    }

    fn json(&self) -> Result<String, Problem> {
        match self.state.shown(&self.prices).map_err(internal)? {
            Some(json) => Ok(json),
            None => serde_json::to_string(&self.state).map_err(internal),
        }
    }

    fn parts(&self, pointers: &[String]) -> Result<Vec<Option<Value>>, Problem> {
        let part = |pointer: &String| Ok(self.state.part(pointer).map_err(internal)?.map(|json| patch::value(&json)));
        pointers.iter().map(part).collect()
    }
}

impl<V: View> Fold for Folding<V> {
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        self.value = None;
        serde_json::from_slice(snapshot).map(|state| self.state = state).is_ok()
    }

    fn snapshot(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(&self.state).map_err(internal)
    }

    fn shows_snapshot(&self) -> bool {
        matches!(V::default().shown(&self.prices), Ok(None))
    }

    fn shown(&self) -> Result<Vec<u8>, Problem> {
        self.json().map(String::into_bytes)
    }

    fn step(&mut self, event: &Event) {
        self.value = None;
        self.state = std::mem::take(&mut self.state).with(event);
    }

    fn change(&mut self, event: &Event) -> Result<Patch, Problem> {
        if let Some(pointers) = self.state.parts(event) {
            let before = self.parts(&pointers)?;
            self.step(event);
            let after = self.parts(&pointers)?;
            return Ok(patch::of_parts(&pointers, &before, &after));
        }
        let before = match self.value.take() {
            Some(value) => value,
            None => patch::value(&self.json()?),
        };
        self.step(event);
        let after = patch::value(&self.json()?);
        let patch = patch::diff(&before, &after);
        self.value = Some(after);
        Ok(patch)
    }

    fn rest(&mut self) {
        self.value = None;
    }
}

#[cfg(test)]
mod tests {
    use causeway_view::chain::Chain;
    use causeway_view::conversation::Conversation;
    use causeway_view::state::State;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(position: u64, kind: usize, turn: u32, cause: u64) -> Event {
        let id = |position: u64| format!("evt_{position:026}");
        let step = json!({"turn": turn.to_string(), "step": turn, "call_id": "c", "tool": "t", "effect": "pure",
            "text": "hm", "result": position, "usage": {"input_tokens": position}});
        let claim =
            json!({"turn": turn.to_string(), "inputs": [id(cause)], "owner": "o", "attempt": turn, "agent": "a", "model": "m"});
        let said = json!({"turn": turn.to_string(), "content": "It is.", "usage": {"output_tokens": 3}});
        let (event_type, data) = match kind {
            0 => ("MessageReceived", json!({"content": "What?"})),
            1 => ("AIProcessingStarted", claim),
            2 => ("ThinkingGenerated", step),
            3 => ("ToolCalled", step),
            4 => ("ToolCompleted", step),
            5 => ("MessageGenerated", said),
            6 => ("AIProcessingCompleted", said),
            7 => ("OrderPlaced", json!({"total": position, "items": {turn.to_string(): [position, null]}, "note": "soon"})),
            8 => ("OrderChanged", json!({"items": {turn.to_string(): null}, "note": null})),
            _ => ("OrderLost", json!(turn)),
        };
        let event = json!({
            "id": id(position), "position": position, "timestamp": "2026-11-23T10:00:00Z", "type": event_type, "aggregate_id": "a",
            "data": data, "metadata": {"source": "test", "correlation_id": "c", "causation_id": id(cause)},
        });
        serde_json::from_value(event).unwrap()
    }

    /// Applies each change to what readers have, and compares it with what they would get anew.
    fn follows<V: View>(history: &[Event]) {
        let mut fold = Folding::<V>::start(Arc::default());
        let shown = |fold: &dyn Fold| patch::value(&String::from_utf8(fold.shown().unwrap()).unwrap());
        let first = shown(fold.as_ref());
        let mut read = first.clone();
        for event in history {
            let change = fold.change(event).unwrap();
            json_patch::patch(&mut read, &change).unwrap();
            assert_eq!(read, shown(fold.as_ref()), "{} after {event:?}: {change}", V::NAME);
            assert_eq!(fold.change(event).unwrap(), Patch::default(), "the same event twice changes nothing");
        }
        let mut stepped = Folding::<V>::start(Arc::default());
        history.iter().for_each(|event| stepped.step(event));
        assert_eq!(stepped.shown().unwrap(), fold.shown().unwrap());
        let mut leapt = first.clone();
        json_patch::patch(&mut leapt, &patch::diff(&first, &read)).unwrap();
        assert_eq!(leapt, read);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn patches_in_order_lead_to_the_state(kinds in prop::collection::vec((0..10_usize, 0..3_u32, 1..20_u64), 0..30)) {
            let history: Vec<_> =
                kinds.iter().zip(1..).map(|((kind, turn, cause), position)| event(position, *kind, *turn, *cause)).collect();
            follows::<Chain>(&history);
            follows::<Conversation>(&history);
            follows::<State>(&history);
        }
    }
}
