//! A fold whose state's type is nobody's business.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_event::Event;
use causeway_proto::Problem;
use causeway_view::{Part, Prices, View};
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
    /// Remembers the state as it is, and from here on which parts of it are touched.
    fn mark(&mut self);
    /// What changed since the mark, all at once.
    fn changed(&mut self) -> Result<Patch, Problem>;
}

pub(super) struct Folding<V> {
    state: V,
    prices: Arc<Prices>,
    mark: Option<Mark<V>>,
}

/// A state as it was, and what was touched since.
struct Mark<V> {
    before: V,
    /// In the order in which they were touched first: there a part stands where its pointer says.
    touched: Vec<Part>,
    names: HashSet<String>,
}

impl<V: View> Folding<V> {
    pub(super) fn start(prices: Arc<Prices>) -> Box<dyn Fold> {
        Box::new(Self { state: V::default(), prices, mark: None })
    }

    fn values(&self, state: &V, parts: &[Part]) -> Result<Vec<Option<Value>>, Problem> {
        let value = |part: &Part| {
            let json = state.part(&part.name, &self.prices).map_err(internal)?;
            Ok(json.map(|json| patch::value(&json)))
        };
        parts.iter().map(value).collect()
    }
}

impl<V: View> Fold for Folding<V> {
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        serde_json::from_slice(snapshot).map(|state| self.state = state).is_ok()
    }

    fn snapshot(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(&self.state).map_err(internal)
    }

    fn shows_snapshot(&self) -> bool {
        matches!(V::default().shown(&self.prices), Ok(None))
    }

    fn shown(&self) -> Result<Vec<u8>, Problem> {
        match self.state.shown(&self.prices).map_err(internal)? {
            Some(json) => Ok(json.into_bytes()),
            None => self.snapshot(),
        }
    }

    fn step(&mut self, event: &Event) {
        if let Some(mark) = &mut self.mark {
            mark.touch(&self.state.parts(event));
        }
        self.state = std::mem::take(&mut self.state).with(event);
    }

    fn change(&mut self, event: &Event) -> Result<Patch, Problem> {
        let parts = self.state.parts(event);
        if let Some(mark) = &mut self.mark {
            mark.touch(&parts);
        }
        let before = self.values(&self.state, &parts)?;
        self.state = std::mem::take(&mut self.state).with(event);
        let after = self.values(&self.state, &parts)?;
        Ok(patch::of_parts(&parts, &before, &after))
    }

    fn mark(&mut self) {
        self.mark = Some(Mark { before: self.state.clone(), touched: Vec::new(), names: HashSet::new() });
    }

    fn changed(&mut self) -> Result<Patch, Problem> {
        let Some(Mark { before, mut touched, names }) = self.mark.take() else { return Ok(Patch::default()) };
        touched.retain(|part| !is_within(&part.name, &names));
        Ok(patch::of_parts(&touched, &self.values(&before, &touched)?, &self.values(&self.state, &touched)?))
    }
}

impl<V> Mark<V> {
    fn touch(&mut self, parts: &[Part]) {
        for part in parts {
            if !self.names.contains(&part.name) {
                self.names.insert(part.name.clone());
                self.touched.push(part.clone());
            }
        }
    }
}

/// Whether it is a part of one of these.
fn is_within(name: &str, names: &HashSet<String>) -> bool {
    name.match_indices('/').any(|(end, _)| names.contains(&name[..end]))
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

    /// Applies each change to what readers have, and all since the mark at once, and compares it with what they would get anew.
    fn follows<V: View>(history: &[Event], mark: usize) {
        let mut fold = Folding::<V>::start(Arc::default());
        let shown = |fold: &dyn Fold| patch::value(&String::from_utf8(fold.shown().unwrap()).unwrap());
        let mut read = shown(fold.as_ref());
        let mut marked = read.clone();
        for (at, event) in history.iter().enumerate() {
            if at == mark {
                fold.mark();
                marked = read.clone();
            }
            let change = fold.change(event).unwrap();
            json_patch::patch(&mut read, &change).unwrap();
            assert_eq!(read, shown(fold.as_ref()), "{} after {event:?}: {change}", V::NAME);
            assert_eq!(fold.change(event).unwrap(), Patch::default(), "the same event twice changes nothing");
        }
        let mut stepped = Folding::<V>::start(Arc::default());
        history.iter().for_each(|event| stepped.step(event));
        assert_eq!(stepped.shown().unwrap(), fold.shown().unwrap());
        if mark < history.len() {
            let leap = fold.changed().unwrap();
            json_patch::patch(&mut marked, &leap).unwrap_or_else(|error| panic!("{error}: {leap}"));
            assert_eq!(marked, read, "{}: {leap}", V::NAME);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn patches_in_order_lead_to_the_state(
            kinds in prop::collection::vec((0..10_usize, 0..3_u32, 1..20_u64), 0..30), mark in 0..30_usize,
        ) {
            let history: Vec<_> =
                kinds.iter().zip(1..).map(|((kind, turn, cause), position)| event(position, *kind, *turn, *cause)).collect();
            follows::<Chain>(&history, mark);
            follows::<Conversation>(&history, mark);
            follows::<State>(&history, mark);
        }
    }
}
