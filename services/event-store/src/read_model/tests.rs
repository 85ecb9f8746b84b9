//! The read model against the plain list of events that it was made of.

mod costs;
mod filters;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use causeway_event::{AggregateId, Data, Event, Position};
use proptest::prelude::*;
use proptest::sample::Index;
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

    /// As a fault of our own would.
    fn alter(&self, sql: &str) {
        let conn = causeway_pages::open(&self.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        conn.execute_batch(sql).unwrap();
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

    /// Every answer is right, or is an error that says damage.
    fn is_right_or_damaged(&self, queries: &[Query]) -> Result<(), TestCaseError> {
        let files = self.files();
        let loaded = match files.load(CHECK_ALWAYS) {
            Ok(Some(loaded)) => loaded,
            Ok(None) | Err(ModelError::Corrupt(_)) => return Ok(()),
            Err(error) => panic!("neither sound nor damaged: {error}"),
        };
        let position = loaded.meta.position;
        prop_assert!(position <= self.last());
        let mut reader = self.reader();
        for one in self.events.iter().filter(|one| one.event.position <= position) {
            match reader.by_id(one.event.id) {
                Ok(found) => prop_assert_eq!(found.as_ref(), Some(&one.event)),
                Err(ModelError::Corrupt(_)) => {}
                Err(error) => panic!("neither right nor damaged: {error}"),
            }
        }
        for query in queries {
            let mut expected = self.expected_at(query, position);
            match reader.page(query, position, LATER) {
                Ok(page) => {
                    prop_assert_eq!(page.next.is_some(), page.events.len() < expected.len());
                    expected.truncate(query.limit);
                    prop_assert_eq!(page.events, expected);
                }
                Err(ModelError::Corrupt(_)) => {}
                Err(error) => panic!("neither right nor damaged: {error}"),
            }
        }
        Ok(())
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

    #[test]
    fn a_truncated_file_is_never_an_answer(place: Index, queries in prop::collection::vec(generate::query(), 5)) {
        let model = Model::of(hundred(), 30);
        let file = OpenOptions::new().write(true).open(model.path()).unwrap();
        file.set_len(place.index(file.metadata().unwrap().len() as usize) as u64).unwrap();
        model.is_right_or_damaged(&queries)?;
    }

    #[test]
    fn what_a_crash_leaves_is_a_beginning_of_the_log(
        cut: Index, batch in 1..40_usize, queries in prop::collection::vec(generate::query(), 5),
    ) {
        let mut model = Model::of(vec![], 1);
        model.events = hundred();
        let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
        writer.index(&CancellationToken::new(), |_| {}).unwrap();
        let left = Model { folder: tempfile::tempdir().unwrap(), events: hundred() };
        for arrived in model.events.chunks(batch) {
            let end = arrived.last().unwrap().event.position;
            writer.apply(&Batch { arrived: arrived.to_vec(), end }).unwrap();
        }
        // The journal breaks off anywhere: what was being written when the machine went down.
        for suffix in ["", "-wal"] {
            let name = format!("model.sqlite{suffix}");
            fs::copy(model.folder.path().join(&name), left.folder.path().join(&name)).unwrap();
        }
        let journal = OpenOptions::new().write(true).open(left.folder.path().join("model.sqlite-wal")).unwrap();
        journal.set_len(cut.index(journal.metadata().unwrap().len() as usize) as u64).unwrap();
        left.is_right_or_damaged(&queries)?;
        // It goes on from there: a crash is not damage.
        let files = left.files();
        let loaded = files.load(CHECK_ALWAYS).unwrap();
        let (loaded, position) = match loaded {
            Some(loaded) => { let position = loaded.meta.position; (loaded, position) }
            None => (files.create("log@1").unwrap(), Position::START),
        };
        let mut writer = Writer::new(loaded).unwrap();
        writer.index(&CancellationToken::new(), |_| {}).unwrap();
        let arrived = left.events.iter().filter(|one| position < one.event.position).cloned().collect();
        writer.apply(&Batch { arrived, end: left.last() }).unwrap();
        writer.close().unwrap();
        prop_assert_eq!(files.load(CHECK_ALWAYS).unwrap().unwrap().meta.position, left.last());
        drop(files);
        left.is_right_or_damaged(&queries)?;
    }
}

#[test]
fn a_flipped_byte_is_never_an_answer() {
    let mut events = hundred();
    events.truncate(30);
    let model = Model::of(events, 30);
    let (user, tool): (AggregateId, TypePattern) = ("user_1".parse().unwrap(), "Tool*".parse().unwrap());
    let time = |index: usize| Some(model.events[index].event.timestamp);
    let filters = [
        Filter::default(),
        Filter { aggregate_id: Some(user.clone()), ..Filter::default() },
        Filter { types: vec![tool.clone()], ..Filter::default() },
        Filter { types: vec![tool.clone()], aggregate_id: Some(user), ..Filter::default() },
        Filter { types: vec![tool, "Zebra".parse().unwrap()], ..Filter::default() },
        Filter { correlation_id: Some(model.events[0].event.metadata.correlation_id.clone()), ..Filter::default() },
        Filter { from: time(10), until: time(20), ..Filter::default() },
    ];
    let queries = filters.map(|filter| Query { filter, limit: 50, ..Query::default() });
    let sound = fs::read(model.path()).unwrap();
    // Empty space is left alone: there is a lot of it, and nothing in it.
    let places = sound.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(place, _)| place);
    for (place, bit) in places.step_by(7).zip((0..8).cycle()) {
        let mut flipped = sound.clone();
        flipped[place] ^= 1 << bit;
        fs::write(model.path(), flipped).unwrap();
        model.is_right_or_damaged(&queries).unwrap_or_else(|wrong| panic!("bit {bit} of byte {place}: {wrong}"));
    }
}

/// Pages of indexes among them, which a count reads alone.
#[test]
fn a_flipped_byte_of_the_journal_of_an_open_model_is_never_an_answer() {
    let model = Model { folder: tempfile::tempdir().unwrap(), events: hundred() };
    let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
    writer.index(&CancellationToken::new(), |_| {}).unwrap();
    writer.apply(&Batch { arrived: model.events.clone(), end: model.last() }).unwrap();
    let filters = [
        Filter { aggregate_id: Some("user_1".parse().unwrap()), ..Filter::default() },
        Filter { types: vec!["Tool*".parse().unwrap()], ..Filter::default() },
        Filter { source: Some("http".parse().unwrap()), ..Filter::default() },
    ];
    let counts = filters.map(|filter| Query { filter, limit: 1000, ..Query::default() });
    let counts = counts.map(|query| (model.expected(&query).len() as u64, query));
    let journal = PathBuf::from(format!("{}-wal", model.path().display()));
    let sound = fs::read(&journal).unwrap();
    let file = OpenOptions::new().write(true).open(&journal).unwrap();
    let places = sound.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(place, _)| place);
    let mut noticed = 0;
    for (place, bit) in places.step_by(23).zip((0..8).cycle()) {
        file.write_all_at(&[sound[place] ^ 1 << bit], place as u64).unwrap();
        for (expected, query) in &counts {
            match Reader::open(&model.path()).and_then(|mut reader| reader.count(query, model.last())) {
                Ok(count) => assert_eq!(count, *expected, "bit {bit} of byte {place}: {query:?}"),
                Err(ModelError::Corrupt(_)) => noticed += 1,
                Err(error) => panic!("neither right nor damaged: {error}"),
            }
        }
        file.write_all_at(&sound[place..=place], place as u64).unwrap();
    }
    assert!(noticed > 0);
}

#[test]
fn a_journal_that_is_damaged_is_noticed_when_it_is_copied_into_the_file_and_not_copied() {
    let model = Model { folder: tempfile::tempdir().unwrap(), events: vec![] };
    let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
    let large = |position: u64| {
        let mut event = generate::event(position, "Zebra", "a");
        event.data = Data::of(&"x".repeat(1 << 20)).unwrap();
        Arrived { event: event.into(), key: None }
    };
    // Until the journal is copied.
    let written = (1..=100).try_for_each(|position| {
        let written = writer.apply(&Batch { arrived: vec![large(position)], end: Position::new(position) });
        if position == 3 {
            let journal = PathBuf::from(format!("{}-wal", model.path().display()));
            let file = OpenOptions::new().write(true).open(&journal).unwrap();
            // In the midst of the second event.
            file.write_all_at(b"y", 3 << 19).unwrap();
        }
        written
    });
    assert!(matches!(written, Err(ModelError::Corrupt(_))), "{written:?}");
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
fn what_is_no_read_model_is_damage_and_an_older_version_is_not() {
    let model = Model::of(hundred(), 100);
    fs::write(model.path(), "this is not a database, but long enough to look like one".repeat(100)).unwrap();
    assert!(matches!(model.files().load(CHECK_ALWAYS), Err(ModelError::Corrupt(_))));

    let model = Model::of(hundred(), 100);
    model.alter("PRAGMA user_version = 0");
    assert!(model.files().load(CHECK_ALWAYS).unwrap().is_none());

    // One from before pages had checksums.
    let model = Model::of(hundred(), 100);
    fs::remove_file(model.path()).unwrap();
    let older = "CREATE TABLE events (position); PRAGMA user_version = 4; PRAGMA application_id = 0x6377726d";
    rusqlite::Connection::open(model.path()).unwrap().execute_batch(older).unwrap();
    assert!(model.files().load(CHECK_ALWAYS).unwrap().is_none());

    let model = Model::of(hundred(), 100);
    fs::remove_file(model.path()).unwrap();
    assert!(model.files().load(CHECK_ALWAYS).unwrap().is_none());
}

/// By whoever copies files into a folder in use.
#[test]
fn a_file_in_the_place_of_one_that_is_open_is_neither_read_nor_believed_later() {
    let (model, other) = (Model::of(hundred(), 100), Model::of(hundred()[..50].to_vec(), 50));
    let files = model.files();
    let writer = Writer::new(files.load(0).unwrap().unwrap()).unwrap();
    files.reader().unwrap();
    fs::rename(other.path(), model.path()).unwrap();
    assert!(matches!(files.reader(), Err(ModelError::Corrupt(_))));
    writer.close().unwrap();
    files.closed().unwrap();
    assert!(files.load(0).unwrap().unwrap().doubted, "nobody says that this one was closed in order");
    // As one is that was.
    Writer::new(files.load(0).unwrap().unwrap()).unwrap().close().unwrap();
    files.closed().unwrap();
    assert!(!files.load(0).unwrap().unwrap().doubted);
}

#[test]
fn a_model_belongs_to_one_process() {
    let model = Model::of(hundred(), 100);
    let _held = model.files();
    assert!(matches!(Files::lock(&model.path()), Err(ModelError::File { what: "another process holds", .. })));
}

#[test]
fn few_damaged_files_are_kept() {
    let model = Model::of(vec![], 1);
    let files = model.files();
    for _ in 0..5 {
        files.set_aside().unwrap();
        files.create("log@1").unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(model.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_str().unwrap().contains("corrupt"));
    names.retain(|name| !name.to_str().unwrap().ends_with("-wal") && !name.to_str().unwrap().ends_with("-shm"));
    names.sort();
    assert_eq!(names, ["model.sqlite.corrupt-3", "model.sqlite.corrupt-4", "model.sqlite.corrupt-5"]);
}

#[test]
fn deleted_or_altered_rows_are_damage_and_never_an_answer() {
    for (damage, at_once) in [
        ("DELETE FROM events WHERE position % 7 = 0", true),
        ("DELETE FROM events", true),
        ("DELETE FROM aggregates WHERE name = 'user_1'", false),
        ("DELETE FROM meta", true),
        ("DELETE FROM times", true),
        ("UPDATE times SET latest = latest - 1", true),
        ("DROP TABLE snapshots", false),
        ("DROP INDEX events_by_type", false),
        ("UPDATE events SET data = '{}' WHERE position = 50", false),
        ("UPDATE events SET time = time + 1000000 WHERE position > 20", false),
        ("UPDATE events SET schema_version = 9", false),
        ("UPDATE meta SET position = 50", true),
        ("UPDATE meta SET identity = 'another'", true),
    ] {
        let model = Model::of(hundred(), 100);
        model.alter(damage);
        let refused = matches!(model.files().load(CHECK_ALWAYS), Err(ModelError::Corrupt(_)));
        assert!(refused || !at_once, "{damage}");
        if damage.starts_with("DROP INDEX") {
            assert!(!model.files().load(CHECK_ALWAYS).unwrap().unwrap().indexed, "it is made again before anything is asked");
            continue;
        }
        let everything = Query { limit: 1000, ..Query::default() };
        let user = Filter { aggregate_id: Some("user_1".parse().unwrap()), ..Filter::default() };
        let queries = [everything, Query { filter: user, limit: 1000, ..Query::default() }];
        if !refused && !damage.contains("aggregates") {
            model.is_right_or_damaged(&queries).unwrap_or_else(|wrong| panic!("{damage}: {wrong}"));
        }
    }
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
