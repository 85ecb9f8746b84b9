//! The read model against the plain list of events that it was made of.

mod costs;
mod damage;
mod filters;

use std::fs;
use std::sync::Arc;

use causeway_event::{AggregateId, Data, Event, Position};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::generate;
use super::query::TypePattern;
use super::*;

const CHECK_ALWAYS: u64 = u64::MAX;

/// A read model in a folder of its own.
struct Model {
    folder: TempDir,
    events: Vec<Arrived>,
}

impl Model {
    /// Written in batches of `batch` events.
    fn of(events: Vec<Arrived>, batch: usize) -> Self {
        let model = Self { folder: tempfile::tempdir().unwrap(), events };
        let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
        writer.index(&CancellationToken::new(), |_| {}).unwrap();
        for arrived in model.events.chunks(batch) {
            let end = arrived.last().unwrap().event.position;
            writer.apply(&Batch { arrived: arrived.to_vec(), end }).unwrap();
        }
        writer.close().unwrap();
        model
    }

    /// Written at once, as a new model of a long log is.
    fn indexed_last(events: Vec<Arrived>) -> Self {
        let model = Self { folder: tempfile::tempdir().unwrap(), events };
        let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
        writer.apply(&Batch { arrived: model.events.clone(), end: model.last() }).unwrap();
        writer.index(&CancellationToken::new(), |_| {}).unwrap();
        writer.close().unwrap();
        model
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.sqlite")
    }

    fn files(&self) -> Files {
        Files::lock(&self.path()).unwrap()
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    fn last(&self) -> Position {
        self.events.last().map_or(Position::START, |last| last.event.position)
    }

    /// What a query has to answer, without its limit.
    fn expected(&self, query: &Query) -> Vec<Arc<Event>> {
        self.expected_at(query, self.last())
    }

    /// As of a position.
    fn expected_at(&self, query: &Query, last: Position) -> Vec<Arc<Event>> {
        let events = || self.events.iter().map(|one| &one.event).filter(|event| event.position <= last);
        let mut descendants = query.filter.descendants_of.map(Descendants::new);
        let descends = events().map(|event| descendants.as_mut().is_none_or(|those| those.see(event).unwrap()));
        let descends: Vec<bool> = descends.collect();
        let mut events: Vec<_> = events()
            .zip(descends)
            .filter(|(event, descends)| *descends && query.filter.matches(event))
            .map(|(event, _)| event.clone())
            .filter(|event| query.after.is_none_or(|after| after < event.position))
            .filter(|event| query.before.is_none_or(|before| event.position < before))
            .collect();
        if query.order == Order::Backwards {
            events.reverse();
        }
        events
    }
}

/// A time that is never over.
const LATER: Duration = Duration::MAX;

fn go_on(query: &mut Query, next: Position) {
    match query.order {
        Order::Forwards => query.after = Some(next),
        Order::Backwards => query.before = Some(next),
    }
}

fn hundred() -> Vec<Arrived> {
    (1..=100)
        .map(|n| {
            let event_type = ["MessageReceived", "ToolCalled", "Zebra"][n as usize % 3];
            let aggregate = ["user_1", "user_2"][n as usize % 2];
            Arrived { event: generate::event(n, event_type, aggregate).into(), key: None }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_event_comes_back_to_the_byte(event in generate::any_event(), key in proptest::option::of("[^\\p{Cc}]{1,40}")) {
        let arrived = Arrived { event: event.into(), key: key.map(|key| key.parse().unwrap()) };
        let model = Model::of(vec![arrived.clone()], 1);
        let mut reader = model.reader();
        let (event, last) = (arrived.event, model.last());
        let found = reader.by_position(event.position).unwrap().unwrap();
        prop_assert_eq!(serde_json::to_string(&*found).unwrap(), serde_json::to_string(&*event).unwrap());
        prop_assert_eq!(&found, &event);
        prop_assert_eq!(reader.by_id(event.id).unwrap(), Some(event.clone()));
        if let Some(key) = arrived.key {
            prop_assert_eq!(reader.by_key(&event.aggregate_id, &key, 1, last).unwrap(), Some(vec![event.clone()]));
        }
        let filter = Filter { correlation_id: Some(event.metadata.correlation_id.clone()), ..Filter::default() };
        prop_assert_eq!(reader.page(&Query { filter, limit: 1, ..Query::default() }, last, LATER).unwrap().events, vec![event]);
    }

    #[test]
    fn every_page_equals_a_brute_force_filter(
        events in generate::log(0..250), batch in 1..50_usize, queries in prop::collection::vec(generate::query(), 1..40),
    ) {
        let model = Model::of(events, batch);
        let mut reader = model.reader();
        for mut query in queries {
            let mut expected = model.expected(&query);
            prop_assert_eq!(reader.count(&query, model.last()).unwrap(), expected.len() as u64, "{:?}", &query);
            // All pages, one after the other.
            loop {
                let page = reader.page(&query, model.last(), LATER).unwrap();
                prop_assert_eq!(page.next.is_some(), query.limit < expected.len(), "{:?}", &query);
                let rest = expected.split_off(query.limit.min(expected.len()));
                prop_assert_eq!(&page.events, &expected, "{:?}", &query);
                let (true, Some(next)) = (query.limit > 0, page.next) else { break };
                go_on(&mut query, next);
                expected = rest;
            }
        }
    }

    #[test]
    fn pages_that_are_cut_wherever_nothing_passes_come_to_the_same(
        events in generate::log(0..250), queries in prop::collection::vec(generate::query(), 1..40),
    ) {
        let model = Model::of(events, 50);
        let mut reader = model.reader();
        for mut query in queries {
            let expected = model.expected(&query);
            query.limit += 1;
            let (mut seen, mut pages) = (Vec::new(), 0);
            loop {
                let page = reader.page(&query, model.last(), Duration::ZERO).unwrap();
                seen.extend(page.events);
                let Some(next) = page.next else { break };
                go_on(&mut query, next);
                pages += 1;
                prop_assert!(pages <= model.events.len(), "{:?} goes round in circles", &query);
            }
            prop_assert_eq!(&seen, &expected, "{:?}", &query);
        }
    }

    #[test]
    fn a_page_answers_for_the_position_it_was_asked_at(
        events in generate::log(1..60), query in generate::query(), at in 0..100_u64,
    ) {
        let model = Model::of(events, 10);
        let at = Position::new(at).min(model.last());
        let mut expected = model.expected_at(&query, at);
        let mut reader = model.reader();
        prop_assert_eq!(reader.count(&query, at).unwrap(), expected.len() as u64);
        expected.truncate(query.limit);
        prop_assert_eq!(reader.page(&query, at, LATER).unwrap().events, expected);
    }

    #[test]
    fn a_time_names_the_last_event_stored_by_then(
        events in generate::log(0..60), times in prop::collection::vec(generate::time(), 20),
    ) {
        let model = Model::of(events, 7);
        for time in times {
            let expected = model.events.iter().rev().find(|one| one.event.timestamp <= time);
            let expected = expected.map_or(Position::START, |one| one.event.position);
            prop_assert_eq!(model.reader().position_at(time, model.last()).unwrap(), expected);
        }
    }
}

#[test]
fn a_page_of_large_events_ends_early_and_goes_on() {
    let mut events = hundred();
    for one in &mut events {
        let mut event = Event::clone(&one.event);
        event.data = Data::of(&"x".repeat(100_000)).unwrap();
        one.event = event.into();
    }
    let model = Model::of(events, 100);
    let mut query = Query { limit: 1000, bytes_max: PIECE_BYTES_MAX, ..Query::default() };
    let mut seen = Vec::new();
    loop {
        let page = model.reader().page(&query, model.last(), Duration::ZERO).unwrap();
        assert!(page.events.len() <= 2, "{}", page.events.len());
        seen.extend(page.events);
        match page.next {
            None => break,
            next => query.after = next,
        }
    }
    assert_eq!(seen, model.expected(&Query::default()));
}

#[test]
fn an_append_larger_than_a_page_is_found_whole() {
    let mut events = hundred();
    for one in &mut events {
        let mut event = Event::clone(&one.event);
        event.data = Data::of(&"x".repeat(100_000)).unwrap();
        one.event = event.into();
    }
    events[9].key = Some("import".parse().unwrap());
    let model = Model::of(events, 100);
    let aggregate = model.events[9].event.aggregate_id.clone();
    let found = model.reader().by_key(&aggregate, &"import".parse().unwrap(), 80, model.last()).unwrap().unwrap();
    assert!(found.iter().map(|event| event.position.get()).eq(10..90));
}

#[test]
fn an_append_is_found_by_its_key_as_long_as_it_is_in_one_piece() {
    let mut events = hundred();
    events[9].key = Some("turn-1".parse().unwrap());
    events[19].key = Some("turn-1".parse().unwrap());
    let model = Model::of(events, 100);
    let (mut reader, key) = (model.reader(), "turn-1".parse().unwrap());
    let mut positions = |aggregate: &str, count| {
        let found = reader.by_key(&aggregate.parse().unwrap(), &key, count, model.last()).unwrap();
        found.map(|events| events.iter().map(|event| event.position.get()).collect::<Vec<_>>())
    };
    assert_eq!(positions("user_1", 3), Some(vec![10, 11, 12]), "the first append under the key");
    assert_eq!(positions("user_2", 1), None, "keys are per aggregate");
    assert_eq!(positions("nobody", 1), None);
}

#[test]
fn snapshots_are_found_by_position_and_thinned_out() {
    let model = Model::of(hundred(), 100);
    let files = model.files();
    let mut writer = Writer::new(files.load(0).unwrap().unwrap()).unwrap();
    let mut keep = |version, position: u64| {
        let state = position.to_string().into_bytes();
        let snapshot =
            Snapshot { view: "v".into(), version, id: "user_1".into(), position: Position::new(position), state: state.into() };
        writer.keep(&snapshot).unwrap();
    };
    keep(1, 5);
    let found = |version, at_most| model.reader().snapshot("v", version, "user_1", Position::new(at_most)).unwrap();
    assert_eq!(found(1, 7), Some((Position::new(5), b"5".to_vec())));
    assert_eq!(found(1, 4), None);
    assert_eq!(found(2, 7), None, "another version is another view");
    let outdated = |version, after| model.reader().outdated("v", version, after, 10).unwrap();
    assert_eq!((outdated(2, ""), outdated(1, ""), outdated(2, "user_1")), (vec!["user_1".to_owned()], vec![], vec![]));
    (1..=101).for_each(|position| keep(2, position));
    assert_eq!(found(2, 101).map(|(position, _)| position.get()), Some(100), "what is ahead of the events is left out");
    assert_eq!(outdated(2, ""), [""; 0], "the old went when the new stood");
    assert_eq!(found(1, 7), None, "older versions go");
    assert_eq!(found(2, 100), Some((Position::new(100), b"100".to_vec())));
    let kept: Vec<_> = (1..=100).filter(|at| found(2, *at).is_some_and(|(position, _)| position.get() == *at)).collect();
    assert!((8..=16).contains(&kept.len()), "{kept:?}");
    assert!(kept.iter().any(|at| *at < 60), "some of the past stays near: {kept:?}");
}

#[test]
fn too_many_descendants_are_refused_and_no_more_than_the_limit_are_looked_for() {
    let mut events: Vec<Arrived> = Vec::new();
    for position in 1..=2002 {
        let mut event = generate::event(position, "Zebra", "a");
        event.metadata.causation_id = (position > 1).then(|| generate::id_at(1));
        events.push(Arrived { event: event.into(), key: None });
    }
    let model = Model::of(events, 1000);
    let query =
        Query { filter: Filter { descendants_of: Some(generate::id_at(1)), ..Filter::default() }, limit: 10, ..Query::default() };
    let mut reader = model.reader();
    assert_eq!(reader.count(&query, Position::new(2001)).unwrap(), 2000);
    assert!(matches!(reader.page(&query, model.last(), LATER), Err(ModelError::TooMany(_))));
    assert!(matches!(reader.count(&query, model.last()), Err(ModelError::TooMany(_))));
}

#[test]
fn the_first_descendants_are_those_that_stand_first() {
    let mut events: Vec<Arrived> = Vec::new();
    for position in 1..=900_u64 {
        let mut event = generate::event(position, "Zebra", "a");
        // Each causes some that stand far behind it, and every seventh was caused by nothing.
        let cause = Some(position / 3 + position % 2).filter(|cause| (1..position).contains(cause) && position % 7 != 0);
        event.metadata.causation_id = cause.map(generate::id_at);
        events.push(Arrived { event: event.into(), key: None });
    }
    let model = Model::of(events, 1000);
    let reader = model.reader();
    let all = reader.descendants(generate::id_at(2), model.last()).unwrap();
    assert!(all.positions().len() > 200, "{}", all.positions().len());
    for max in [1, 2, 10, 150, all.positions().len(), 900] {
        let (some, more) = reader.first_descendants(generate::id_at(2), model.last(), max).unwrap();
        let first = &all.positions()[..max.min(all.positions().len())];
        assert_eq!((some.positions(), more), (first, max < all.positions().len()));
        assert_eq!(some.reached(), if more { *first.last().unwrap() } else { model.last() });
    }
}

#[test]
fn aggregates_are_listed_in_the_order_of_their_bytes_as_of_a_position() {
    let names = ["b", "a", "user:2", "user:10", "useé", "user", "a", "B"];
    let arrived = |(position, name): (u64, &&str)| Arrived { event: generate::event(position, "Zebra", name).into(), key: None };
    let model = Model::of((1..).zip(&names).map(arrived).collect(), 3);
    let mut reader = model.reader();
    let mut list = |prefix: &str, after: Option<&str>, limit, last| {
        let after = after.map(|id| id.parse().unwrap());
        let page = reader.aggregates(prefix, after.as_ref(), limit, Position::new(last)).unwrap();
        let ids: Vec<_> = page.aggregates.iter().map(|one| (one.id.to_string(), one.first.get(), one.last.get())).collect();
        (ids, page.next().map(ToString::to_string))
    };
    let entry = |id: &str, first, last| (id.to_owned(), first, last);
    assert_eq!(list("", None, 3, 8), (vec![entry("B", 8, 8), entry("a", 2, 7), entry("b", 1, 1)], Some("b".into())));
    assert_eq!(list("", Some("b"), 9, 8).0.iter().map(|one| &*one.0).collect::<Vec<_>>(), ["user", "user:10", "user:2", "useé"]);
    assert_eq!(list("user", Some("a"), 2, 8), (vec![entry("user", 6, 6), entry("user:10", 4, 4)], Some("user:10".into())));
    assert_eq!(list("user:", Some("user:10"), 2, 8), (vec![entry("user:2", 3, 3)], None));
    assert_eq!(list("", None, 9, 3).0, [entry("a", 2, 2), entry("b", 1, 1), entry("user:2", 3, 3)], "as of then");
    assert_eq!(list("x", None, 9, 8), (vec![], None));
}
