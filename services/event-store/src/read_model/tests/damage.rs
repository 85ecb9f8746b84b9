//! What is wrong with the files is noticed, and never an answer: cut, flipped, altered, exchanged, or left by a crash.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use causeway_event::Data;
use proptest::sample::Index;

use super::*;

impl Model {
    /// As a fault of our own would.
    fn alter(&self, sql: &str) {
        let conn = causeway_pages::open(&self.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        conn.execute_batch(sql).unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
