//! The event store as it would be if nothing could ever go wrong: a list of events, and the keys that were used. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use causeway_e2e::{Append, Conflict, Fence, Outcome, Receipt};
use serde_json::{Map, Value, json};

use super::ops::TYPES;

/// All that was appended.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// As HTTP shows them, in the order of the log.
    pub(super) events: Vec<Value>,
    /// What was appended under a key, which belongs to an aggregate.
    pub(super) keys: BTreeMap<(String, String), (Append, Vec<Receipt>)>,
}

/// A read with everything named.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    pub(super) types: Vec<&'static str>,
    pub(super) category: Option<&'static str>,
    pub(super) aggregate: Option<&'static str>,
    pub(super) source: Option<&'static str>,
    pub(super) chain: Option<String>,
    pub(super) caused_by: Option<String>,
    pub(super) descendants_of: Option<String>,
    pub(super) after: Option<At>,
    pub(super) before: Option<At>,
    pub(super) from: Option<String>,
    pub(super) until: Option<String>,
    pub(super) backwards: bool,
}

/// A moment as a client names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum At {
    Position(u64),
    Id(String),
    Time(String),
}

impl At {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Position(position) => position.to_string(),
            Self::Id(text) | Self::Time(text) => text.clone(),
        }
    }
}

pub(super) fn position(event: &Value) -> u64 {
    event["position"].as_u64().unwrap_or_default()
}

fn category(event_type: &str) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == event_type).map_or("custom", |(_, category)| category)
}

impl Memory {
    /// What must come of this append.
    pub(super) fn check(&self, append: &Append, outcome: &Outcome) -> Result<()> {
        if let Some((first, receipts)) = self.remembered(append) {
            let shape = |append: &Append| {
                append.events.iter().map(|event| (event.aggregate_id.clone(), event.event_type.clone())).collect::<Vec<_>>()
            };
            let right = if shape(first) == shape(append) {
                *outcome == Outcome::Appended { receipts: receipts.clone(), duplicate: true }
            } else {
                outcome.is_refused("invalid")
            };
            ensure!(right, "the key was used for {first:?} with {receipts:?}, and now {outcome:?}");
            return Ok(());
        }
        let holds = |fence: &&Fence| self.head(&fence.aggregate_id, &fence.category) == fence.position;
        let broken: Vec<&Fence> = append.expected.iter().filter(|fence| !holds(fence)).collect();
        match outcome {
            Outcome::Appended { duplicate: false, .. } if broken.is_empty() => Ok(()),
            Outcome::Conflict(conflict) if broken.contains(&&conflict.fence) => self.check_conflict(conflict),
            outcome => bail!("{outcome:?}, while these fences do not hold: {broken:?}"),
        }
    }

    fn check_conflict(&self, conflict: &Conflict) -> Result<()> {
        let fence = &conflict.fence;
        let actual = self.head(&fence.aggregate_id, &fence.category);
        ensure!(conflict.actual == actual, "{conflict:?} instead of {actual}");
        let behind = self.subject(&fence.aggregate_id, &fence.category).filter(|event| fence.position < position(event));
        let behind: Vec<Value> = behind.cloned().collect();
        let told = conflict.events.as_ref().with_context(|| format!("{conflict:?} tells no events"))?;
        // Nothing is down, so there is something to decide by, if there is anything.
        ensure!(behind.is_empty() || !told.is_empty(), "{conflict:?} tells none of {behind:#?}");
        let whole = if conflict.more { behind.starts_with(told) && told.len() < behind.len() } else { *told == behind };
        ensure!(whole, "{conflict:?} instead of the events {behind:#?}");
        Ok(())
    }

    fn remembered(&self, append: &Append) -> Option<&(Append, Vec<Receipt>)> {
        self.keys.get(&(append.events[0].aggregate_id.clone(), append.key.clone()?))
    }

    /// Takes what came of appends that were made at the same time, with whatever happened meanwhile.
    pub(super) fn accept_all(&mut self, settled: &[(Append, Outcome)]) -> Result<()> {
        let mut stored = Vec::new();
        let mut conflicts = Vec::new();
        for (append, outcome) in settled {
            match outcome {
                Outcome::Appended { receipts, .. } => stored.push((append, receipts)),
                Outcome::Conflict(conflict) => conflicts.push((append, conflict, vec![self.head_of(&conflict.fence)])),
                other => bail!("{append:?} -> {other:?}"),
            }
        }
        stored.sort_unstable_by_key(|(_, receipts)| receipts[0].position);
        for (append, receipts) in stored {
            let broken = append.expected.iter().find(|fence| self.head_of(fence) != fence.position);
            ensure!(broken.is_none(), "{append:?} stands at {receipts:?}, where {broken:?} does not hold");
            self.accept(append, receipts)?;
            conflicts.iter_mut().for_each(|(_, conflict, heads)| heads.push(self.head_of(&conflict.fence)));
        }
        for (append, conflict, heads) in conflicts {
            let fence = &conflict.fence;
            let right = append.expected.contains(fence) && conflict.actual != fence.position && heads.contains(&conflict.actual);
            ensure!(right, "{append:?} -> {conflict:?}, while the subject went over {heads:?}");
            let known = |told: &Value| self.subject(&fence.aggregate_id, &fence.category).any(|event| event == told);
            let told = conflict.events.as_deref().unwrap_or_default();
            ensure!(
                told.iter().all(|told| known(told) && fence.position < position(told)),
                "{conflict:?} tells what is not there"
            );
        }
        Ok(())
    }

    fn head_of(&self, fence: &Fence) -> u64 {
        self.head(&fence.aggregate_id, &fence.category)
    }

    /// Takes an append that was acknowledged for the first time.
    pub(super) fn accept(&mut self, append: &Append, receipts: &[Receipt]) -> Result<()> {
        ensure!(receipts.len() == append.events.len(), "{receipts:?} for {append:?}");
        for (draft, receipt) in append.events.iter().zip(receipts) {
            let last = self.events.last().map_or(0, position);
            ensure!(last < receipt.position, "{receipt:?} does not stand behind {last}");
            ensure!(self.by_id(&receipt.id).is_none(), "{receipt:?}: an id twice");
            let mut metadata = json!({"source": draft.source, "correlation_id": receipt.correlation_id});
            if let Some(cause) = &draft.causation_id {
                let chain = &self.by_id(cause).context("a cause is on the log")?["metadata"]["correlation_id"];
                ensure!(*chain == receipt.correlation_id.as_str(), "{receipt:?} left the chain {chain} of its cause");
                metadata["causation_id"] = cause.as_str().into();
            }
            self.events.push(json!({
                "id": receipt.id, "position": receipt.position, "timestamp": receipt.timestamp, "type": draft.event_type,
                "aggregate_id": draft.aggregate_id, "data": draft.data, "metadata": metadata,
            }));
        }
        if let Some(key) = &append.key {
            let key = (append.events[0].aggregate_id.clone(), key.clone());
            self.keys.insert(key, (append.clone(), receipts.to_vec()));
        }
        Ok(())
    }

    /// An event by a number that was drawn, if there is any.
    pub(super) fn nth(&self, n: usize) -> Option<&Value> {
        self.events.get(n % self.events.len().max(1))
    }

    pub(super) fn id(&self, n: usize) -> Option<String> {
        self.nth(n)?["id"].as_str().map(str::to_owned)
    }

    fn by_id(&self, id: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["id"] == id)
    }

    fn subject(&self, aggregate: &str, of: &str) -> impl Iterator<Item = &Value> {
        self.events
            .iter()
            .filter(move |event| event["aggregate_id"] == aggregate && category(event["type"].as_str().unwrap_or("")) == of)
    }

    /// Where an aggregate ends in a category.
    pub(super) fn head(&self, aggregate: &str, category: &str) -> u64 {
        self.subject(aggregate, category).last().map_or(0, position)
    }

    /// Where a subject ended at some time, the beginning included.
    pub(super) fn earlier_head(&self, aggregate: &str, category: &str, at: usize) -> Option<u64> {
        let all: Vec<u64> = [0].into_iter().chain(self.subject(aggregate, category).map(position)).collect();
        let earlier = &all[..all.len() - 1];
        earlier.get(at % earlier.len().max(1)).copied()
    }

    /// Whether the event stands behind a moment (`Less`), at it, or before it.
    fn side(&self, at: &At, event: &Value) -> Result<std::cmp::Ordering> {
        Ok(match at {
            At::Position(at) => at.cmp(&position(event)),
            At::Id(id) => position(self.by_id(id).context("a moment that is there")?).cmp(&position(event)),
            At::Time(time) => time.as_str().cmp(event["timestamp"].as_str().context("a time")?),
        })
    }

    /// The events that answer a question.
    pub(super) fn select(&self, question: &Question) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        let descendants = question.descendants_of.as_deref().map(|id| self.descendants(id));
        for event in &self.events {
            let event_type = event["type"].as_str().context("a type")?;
            let (metadata, time) = (&event["metadata"], event["timestamp"].as_str().context("a time")?);
            let named =
                |filter: &&str| filter.strip_suffix('*').map_or(event_type == *filter, |start| event_type.starts_with(start));
            let right = (question.types.is_empty() || question.types.iter().any(named))
                && question.category.is_none_or(|of| category(event_type) == of)
                && question.aggregate.is_none_or(|aggregate| event["aggregate_id"] == aggregate)
                && question.source.is_none_or(|source| metadata["source"] == source)
                && question.chain.as_deref().is_none_or(|chain| metadata["correlation_id"] == chain)
                && question.caused_by.as_deref().is_none_or(|cause| metadata["causation_id"] == cause)
                && descendants.as_ref().is_none_or(|all| all.contains(event["id"].as_str().unwrap_or("")))
                && question.from.as_deref().is_none_or(|from| from <= time)
                && question.until.as_deref().is_none_or(|until| time < until);
            let behind = question.after.as_ref().map_or(Ok(true), |at| self.side(at, event).map(std::cmp::Ordering::is_lt))?;
            let before = question.before.as_ref().map_or(Ok(true), |at| self.side(at, event).map(std::cmp::Ordering::is_gt))?;
            if right && behind && before {
                found.push(event.clone());
            }
        }
        if question.backwards {
            found.reverse();
        }
        Ok(found)
    }

    fn descendants(&self, of: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        // A cause stands before its effect.
        for event in &self.events {
            let cause = event["metadata"]["causation_id"].as_str();
            if cause.is_some_and(|cause| cause == of || found.contains(cause)) {
                found.extend(event["id"].as_str());
            }
        }
        found
    }

    /// The events of an aggregate up to a moment.
    fn up_to(&self, aggregate: &str, as_of: Option<&At>) -> Result<Vec<&Value>> {
        let mut events = Vec::new();
        for event in self.events.iter().filter(|event| event["aggregate_id"] == aggregate) {
            if as_of.map_or(Ok(true), |at| self.side(at, event).map(std::cmp::Ordering::is_ge))? {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Where the events stand that an aggregate's view takes account of, behind one position and up to another.
    pub(super) fn between(&self, aggregate: &str, own_only: bool, from: u64, to: u64) -> Vec<u64> {
        let right = |event: &&Value| {
            let own = category(event["type"].as_str().unwrap_or("")) == "custom";
            event["aggregate_id"] == aggregate && (own || !own_only) && from < position(event) && position(event) <= to
        };
        self.events.iter().filter(right).map(position).collect()
    }

    /// The nodes of a chain, depth first: ids, their depth, and the ids of what they caused.
    pub(super) fn chain(&self, chain: &str, as_of: Option<&At>) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        for event in self.events.iter().filter(|event| event["metadata"]["correlation_id"] == chain) {
            if as_of.map_or(Ok(true), |at| self.side(at, event).map(std::cmp::Ordering::is_ge))? {
                events.push(event);
            }
        }
        let effects = |cause: &Value| -> Vec<&Value> {
            events.iter().copied().filter(|event| event["metadata"]["causation_id"] == *cause).collect()
        };
        let mut nodes = Vec::new();
        let mut open: Vec<(usize, &Value)> = effects(&Value::Null).into_iter().map(|root| (0, root)).collect();
        open.reverse();
        while let Some((depth, event)) = open.pop() {
            let children = effects(&event["id"]);
            let ids: Vec<&Value> = children.iter().map(|child| &child["id"]).collect();
            nodes.push(json!([event["id"], position(event), event["timestamp"], depth, ids]));
            open.extend(children.iter().rev().map(|child| (depth + 1, *child)));
        }
        Ok(nodes)
    }

    /// What the conversation view must show: its position, and of its messages what this model knows.
    pub(super) fn conversation(&self, aggregate: &str, as_of: Option<&At>) -> Result<(u64, Vec<Value>)> {
        let events = self.up_to(aggregate, as_of)?;
        let message = |event: &&Value| {
            let (role, user) = match event["type"].as_str()? {
                "MessageReceived" => ("user", Value::from(aggregate)),
                "MessageGenerated" => ("assistant", Value::Null),
                _ => return None,
            };
            Some(json!({"role": role, "text": event["data"]["content"], "timestamp": event["timestamp"], "user_id": user,
                        "source": event["metadata"]["source"], "event_id": event["id"], "position": event["position"]}))
        };
        Ok((events.last().map_or(0, |event| position(event)), events.iter().filter_map(message).collect()))
    }

    /// What the state view must show: how many of the user's own events there are, where the last stands, and what they make.
    pub(super) fn state(&self, aggregate: &str, as_of: Option<&At>) -> Result<(u64, u64, Value)> {
        let events = self.up_to(aggregate, as_of)?;
        let own: Vec<&Value> =
            events.into_iter().filter(|event| category(event["type"].as_str().unwrap_or("")) == "custom").collect();
        let mut state = json!({});
        for event in &own {
            merge(&mut state, &event["data"]);
        }
        Ok((own.len() as u64, own.last().map_or(0, |event| position(event)), state))
    }
}

/// RFC 7396, as its section 2 writes it.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
