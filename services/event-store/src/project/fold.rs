//! A fold whose state's type is nobody's business.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_event::Event;
use causeway_proto::Problem;
use causeway_view::{Part, Prices, View};

use super::internal;
use super::patch::{self, Patch};

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

    /// Their JSON.
    fn written(&self, state: &V, parts: &[Part]) -> Result<Vec<Option<String>>, Problem> {
        parts.iter().map(|part| state.part(&part.name, &self.prices).map_err(internal)).collect()
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
        let before = self.written(&self.state, &parts)?;
        self.state = std::mem::take(&mut self.state).with(event);
        let after = self.written(&self.state, &parts)?;
        patch::of_parts(&parts, &before, &after).map_err(internal)
    }

    fn mark(&mut self) {
        self.mark = Some(Mark { before: self.state.clone(), touched: Vec::new(), names: HashSet::new() });
    }

    fn changed(&mut self) -> Result<Patch, Problem> {
        let Some(Mark { before, mut touched, names }) = self.mark.take() else { return Ok(Patch::default()) };
        touched.retain(|part| !is_within(&part.name, &names));
        patch::of_parts(&touched, &self.written(&before, &touched)?, &self.written(&self.state, &touched)?).map_err(internal)
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
    use causeway_event::{Data, EventType, Position};
    use causeway_view::IdKind;
    use causeway_view::chain::Chain;
    use causeway_view::conversation::Conversation;
    use causeway_view::state::State;
    use proptest::prelude::*;
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::super::patch::tests::{documents, exact, patched};
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
        written(position, event_type, &data.to_string(), cause)
    }

    fn written(position: u64, event_type: &str, data: &str, cause: u64) -> Event {
        let id = |position: u64| format!("evt_{position:026}");
        let metadata = json!({"source": "test", "correlation_id": "c", "causation_id": id(cause)});
        let event = json!({
            "id": id(position), "position": position, "timestamp": "2026-11-23T10:00:00Z", "type": event_type, "aggregate_id": "a",
            "metadata": metadata,
        });
        let mut event: std::collections::BTreeMap<String, Box<RawValue>> = serde_json::from_value(event).unwrap();
        event.insert("data".to_owned(), serde_json::from_str(data).unwrap());
        serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap()
    }

    /// A view that says nothing of its parts.
    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Plain {
        position: Position,
        seen: Vec<Event>,
        last: std::collections::BTreeMap<EventType, Data>,
    }

    impl View for Plain {
        const NAME: &'static str = "plain";
        const VERSION: u32 = 1;
        const DESCRIPTION: &'static str = "What the trait gives of itself.";
        const ID: IdKind = IdKind::Aggregate;

        fn with(mut self, event: &Event) -> Self {
            if self.position < event.position {
                self.position = event.position;
                self.seen.push(event.clone());
                self.last.insert(event.event_type.clone(), event.data.clone());
            }
            self
        }
    }

    /// The same, shown otherwise than it is kept.
    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Shown(Plain);

    impl View for Shown {
        const NAME: &'static str = "shown";
        const VERSION: u32 = 1;
        const DESCRIPTION: &'static str = Plain::DESCRIPTION;
        const ID: IdKind = IdKind::Aggregate;

        fn with(self, event: &Event) -> Self {
            Self(self.0.with(event))
        }

        fn shown(&self, _prices: &Prices) -> serde_json::Result<Option<String>> {
            serde_json::to_string(&(&self.0.last, self.0.seen.len())).map(Some)
        }
    }

    /// Applies each change to what readers have, and all since the mark at once, and compares it with what they would get anew.
    fn follows<V: View>(history: &[Event], mark: usize) {
        let mut fold = Folding::<V>::start(Arc::default());
        let shown = |fold: &dyn Fold| exact(&String::from_utf8(fold.shown().unwrap()).unwrap());
        let mut read = shown(fold.as_ref());
        let (mut marked, mut restored) = (read.clone(), Folding::<V>::start(Arc::default()));
        for (at, event) in history.iter().enumerate() {
            if at == mark {
                fold.mark();
                marked = read.clone();
                let snapshot = fold.snapshot().unwrap();
                assert!(restored.restore(&snapshot));
                assert_eq!(restored.snapshot().unwrap(), snapshot, "{} is written again as it was read", V::NAME);
            }
            restored.step(event);
            let change = fold.change(event).unwrap();
            read = patched(read, &change);
            assert_eq!(read, shown(fold.as_ref()), "{} after {event:?}: {change:?}", V::NAME);
            assert!(fold.change(event).unwrap().is_empty(), "the same event twice changes nothing");
        }
        let mut stepped = Folding::<V>::start(Arc::default());
        history.iter().for_each(|event| stepped.step(event));
        assert_eq!(stepped.shown().unwrap(), fold.shown().unwrap());
        if mark < history.len() {
            assert_eq!(restored.snapshot().unwrap(), fold.snapshot().unwrap(), "{} goes on from a snapshot", V::NAME);
            let leap = fold.changed().unwrap();
            assert_eq!(patched(marked, &leap), read, "{}: {leap:?}", V::NAME);
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
            follows::<Plain>(&history, mark);
            follows::<Shown>(&history, mark);
        }

        #[test]
        fn what_was_sent_is_patched_as_it_was_written(sent in prop::collection::vec(documents(), 0..8), mark in 0..8_usize) {
            let history: Vec<_> = sent.iter().zip(1..).map(|(data, position)| written(position, "Sent", data, 0)).collect();
            follows::<State>(&history, mark);
            follows::<Plain>(&history, mark);
            follows::<Shown>(&history, mark);
        }
    }
}
