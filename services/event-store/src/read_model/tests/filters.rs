//! A log of a hundred thousand events, read through random filters, beside a scan that knows nothing of indexes.

use std::collections::HashMap;

use causeway_event::{EventId, Labels};

use super::*;

const EVENTS: usize = 100_000;
const QUERIES: usize = 150;
/// Events of one answer that are compared: the rest is counted.
const COMPARED: usize = 300;
const TYPES: [&str; 9] = [
    "MessageReceived",
    "MessageGenerated",
    "ToolCalled",
    "ToolCompleted",
    "MemoryStored",
    "EmailSent",
    "OrderPlaced",
    "OrderPaid",
    "Zebra",
];
const SOURCES: [&str; 4] = ["http", "telegram", "ai-processor", "webhook:github"];

/// Random numbers that are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Chains of some fifty events whose effects follow their causes, some rare types and sources, and times that now and then go back.
fn log(dice: &mut Dice) -> Vec<Arrived> {
    let (mut position, mut time, mut chains) = (0, 1_795_000_000_000_000_i64, Vec::<Vec<EventId>>::new());
    let mut arrived = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        position += if dice.one_in(20) { 3 } else { 1 };
        time += if dice.one_in(500) { -(dice.below(300) as i64) } else { dice.below(3) as i64 };
        let event_type = if dice.one_in(2000) { "Zebra" } else { TYPES[dice.below(TYPES.len() - 1)] };
        let mut event = generate::event(position, event_type, &format!("session:{}", dice.below(1000)));
        event.timestamp = jiff::Timestamp::from_microsecond(time).unwrap();
        event.metadata.source = SOURCES[if dice.one_in(1000) { 3 } else { dice.below(3) }].parse().unwrap();
        event.metadata.labels = Labels::new();
        let chain = match dice.below(EVENTS / 50) {
            number if number < chains.len() => number,
            _ => {
                chains.push(Vec::new());
                chains.len() - 1
            }
        };
        event.metadata.correlation_id = format!("chain-{chain}").parse().unwrap();
        if !chains[chain].is_empty() && !dice.one_in(5) {
            event.metadata.causation_id = Some(chains[chain][dice.below(chains[chain].len())]);
        }
        chains[chain].push(event.id);
        arrived.push(Arrived { event: event.into(), key: None });
    }
    arrived
}

/// What a filter names stands in the log, mostly together.
fn query(dice: &mut Dice, events: &[Arrived]) -> Query {
    let (some, other) = (&events[dice.below(EVENTS)].event, &events[dice.below(EVENTS)].event);
    let of = |dice: &mut Dice| if dice.one_in(4) { other.clone() } else { some.clone() };
    let mut filter = Filter::default();
    if dice.one_in(3) {
        filter.types.push(TypePattern::Exact(of(dice).event_type.clone()));
        if dice.one_in(2) {
            filter.types.push(["Message*", "Order*", "T*", "Nothing*"][dice.below(4)].parse().unwrap());
        }
    }
    filter.category = dice.one_in(5).then(|| of(dice).category());
    filter.aggregate_id = dice.one_in(4).then(|| of(dice).aggregate_id.clone());
    filter.source = dice.one_in(3).then(|| of(dice).metadata.source.clone());
    filter.correlation_id = dice.one_in(6).then(|| of(dice).metadata.correlation_id.clone());
    filter.caused_by = dice.one_in(8).then(|| of(dice).metadata.causation_id).flatten();
    filter.descendants_of = dice.one_in(6).then(|| of(dice).metadata.causation_id).flatten();
    let (early, late) = (some.timestamp.min(other.timestamp), some.timestamp.max(other.timestamp));
    filter.from = dice.one_in(4).then_some(early);
    filter.until = dice.one_in(4).then_some(late);
    let (first, last) = (some.position.min(other.position), some.position.max(other.position));
    Query {
        filter,
        after: dice.one_in(3).then_some(first),
        before: dice.one_in(3).then_some(last),
        order: if dice.one_in(2) { Order::Forwards } else { Order::Backwards },
        limit: 1 + dice.below(COMPARED),
        ..Query::default()
    }
}

/// Whether an event passes, by the words of the interface alone.
fn passes(query: &Query, event: &Event, causes: &HashMap<EventId, EventId>) -> bool {
    let Query { filter, after, before, .. } = query;
    let named = |pattern: &TypePattern| match pattern {
        TypePattern::Exact(exact) => exact.as_str() == event.event_type.as_str(),
        TypePattern::Prefix(prefix) => event.event_type.as_str().starts_with(prefix),
    };
    let descends_from = |of: EventId| {
        let mut cause = event.metadata.causation_id;
        while let Some(above) = cause
            && above != of
        {
            cause = causes.get(&above).copied();
        }
        cause.is_some()
    };
    after.is_none_or(|after| event.position > after)
        && before.is_none_or(|before| event.position < before)
        && (filter.types.is_empty() || filter.types.iter().any(named))
        && filter.category.is_none_or(|category| event.category() == category)
        && filter.aggregate_id.as_ref().is_none_or(|id| event.aggregate_id == *id)
        && filter.source.as_ref().is_none_or(|source| event.metadata.source == *source)
        && filter.correlation_id.as_ref().is_none_or(|id| event.metadata.correlation_id == *id)
        && filter.caused_by.is_none_or(|cause| event.metadata.causation_id == Some(cause))
        && filter.from.is_none_or(|from| event.timestamp >= from)
        && filter.until.is_none_or(|until| event.timestamp < until)
        && filter.descendants_of.is_none_or(descends_from)
}

#[test]
fn a_hundred_thousand_events_through_every_filter_equal_a_scan() {
    let mut dice = Dice(4);
    let model = Model::indexed_last(log(&mut dice));
    let mut reader = model.reader();
    let caused = model.events.iter().filter_map(|one| Some((one.event.id, one.event.metadata.causation_id?)));
    let causes: HashMap<_, _> = caused.collect();
    let mut some = 0;
    for _ in 0..QUERIES {
        let mut query = query(&mut dice, &model.events);
        let mut expected: Vec<_> =
            model.events.iter().map(|one| &one.event).filter(|event| passes(&query, event, &causes)).collect();
        if query.order == Order::Backwards {
            expected.reverse();
        }
        some += usize::from(!expected.is_empty());
        assert_eq!(reader.count(&query, model.last()).unwrap(), expected.len() as u64, "{query:?}");
        let mut expected = expected.as_slice();
        for _ in 0..3 {
            let page = reader.page(&query, model.last(), LATER).unwrap();
            let (here, rest) = expected.split_at(query.limit.min(expected.len()));
            assert!(page.events.iter().eq(here.iter().copied()), "{query:?}");
            assert_eq!(page.next.is_some(), !rest.is_empty(), "{query:?}");
            let Some(next) = page.next else { break };
            go_on(&mut query, next);
            expected = rest;
        }
    }
    assert!(some > QUERIES / 3, "only {some} of {QUERIES} filters let anything pass");
}
