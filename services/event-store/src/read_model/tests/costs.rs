//! What a read may cost: nothing for whom nobody waits, and nothing for what is far from its answer.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

type Read<'r> = &'r dyn Fn(&mut Reader) -> Result<(), ModelError>;

#[test]
fn every_read_breaks_off_when_nobody_waits_for_it() {
    // Types and sources take turns: no leap of a join finds anything, and no filter passes.
    let arrived = |n: u64| {
        let mut event = generate::event(n, ["Zebra", "ToolCalled"][n as usize % 2], "user_1");
        event.metadata.source = ["http", "test"][n as usize % 2].parse().unwrap();
        event.metadata.causation_id = (n > 1).then(|| generate::id_at(1));
        Arrived { event: event.into(), key: None }
    };
    let model = Model::indexed_last((1..=20_000).map(arrived).collect());
    let zebras = Filter { types: vec!["Zebra".parse().unwrap()], ..Filter::default() };
    let joined = Filter { source: Some("test".parse().unwrap()), ..zebras.clone() };
    let chain = model.events[0].event.metadata.correlation_id.clone();
    let looked_at = Filter { aggregate_id: Some("nobody".parse().unwrap()), correlation_id: Some(chain), ..Filter::default() };
    let query = |filter: &Filter| Query { filter: filter.clone(), limit: 10, ..Query::default() };
    let reads: [(&str, Read<'_>); 7] = [
        ("page, joined", &|reader| reader.page(&query(&joined), model.last(), LATER).map(drop)),
        ("page, looked at", &|reader| reader.page(&query(&looked_at), model.last(), LATER).map(drop)),
        ("count, joined", &|reader| reader.count(&query(&joined), model.last()).map(drop)),
        ("count, looked at", &|reader| reader.count(&query(&looked_at), model.last()).map(drop)),
        ("count, of an index", &|reader| reader.count(&query(&zebras), model.last()).map(drop)),
        ("check", &|reader| reader.check()),
        ("copy", &|reader| reader.copy_into(&model.folder.path().join("copy")).map(drop)),
    ];
    for (name, read) in reads {
        let mut reader = model.reader();
        assert!(read(&mut reader).is_ok(), "{name}");
        let _ = fs::remove_file(model.folder.path().join("copy"));
        reader.watch(pool::Until::over()).unwrap();
        assert!(matches!(read(&mut reader), Err(ModelError::Interrupted)), "{name}");
    }
}

#[test]
fn indexes_are_not_made_against_the_end_and_the_next_start_makes_those_that_are_missing() {
    let arrived = |n| Arrived { event: generate::event(n, "Zebra", "a").into(), key: None };
    let model = Model { folder: tempfile::tempdir().unwrap(), events: (1..=20_000).map(arrived).collect() };
    let mut writer = Writer::new(model.files().create("log@1").unwrap()).unwrap();
    writer.apply(&Batch { arrived: model.events.clone(), end: model.last() }).unwrap();
    let (stop, mut begun) = (CancellationToken::new(), 0);
    let made = writer.index(&stop, |made| {
        begun = made + 1;
        if begun == 3 {
            stop.cancel();
        }
    });
    assert!(matches!(made, Err(ModelError::Interrupted)) && !writer.is_indexed(), "{made:?}");
    assert_eq!(begun, 3);
    writer.close().unwrap();
    let loaded = model.files().load(CHECK_ALWAYS).unwrap().unwrap();
    assert!(!loaded.indexed);
    let mut writer = Writer::new(loaded).unwrap();
    writer.index(&CancellationToken::new(), |_| {}).unwrap();
    writer.close().unwrap();
    assert!(model.files().load(CHECK_ALWAYS).unwrap().unwrap().indexed);
}

#[test]
fn wrong_times_cost_the_blocks_in_which_they_stand() {
    const EVENTS: u64 = 50_000;
    const SECOND: i64 = 1_000_000;
    let start = 1_795_000_000 * SECOND;
    let at = |micros| jiff::Timestamp::from_microsecond(micros).unwrap();
    // An event a second, and: an hour a day ahead, one of another millennium, one of the past.
    let arrived = |n: u64| {
        let wrong = match n {
            2000..5600 => 86_400 * SECOND,
            10_000 => at(start).duration_until(jiff::Timestamp::MAX).as_micros() as i64 - EVENTS as i64 * SECOND,
            20_000 => -start,
            _ => 0,
        };
        let mut event = generate::event(n, ["Zebra", "ToolCalled"][n as usize % 2], "user_1");
        event.timestamp = at(start + n as i64 * SECOND + wrong);
        Arrived { event: event.into(), key: None }
    };
    let model = Model::indexed_last((1..=EVENTS).map(arrived).collect());
    let steps = Arc::new(AtomicU64::new(0));
    let mut reader = model.reader();
    let counted = steps.clone();
    let step = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    reader.conn.progress_handler(1, Some(step)).unwrap();
    let zebras = vec!["Zebra".parse().unwrap()];
    for second in [1, 1990, 3000, 7000, 9999, 15_000, 25_000, 40_000, 49_990, 86_400 + 3000, 300_000] {
        let (from, until) = (at(start + second * SECOND), at(start + (second + 100) * SECOND));
        let within = Filter { from: Some(from), until: Some(until), types: zebras.clone(), ..Filter::default() };
        let since = Filter { from: Some(from), ..Filter::default() };
        let before = Filter { until: Some(until), ..Filter::default() };
        for (filter, order) in
            [(&within, Order::Forwards), (&within, Order::Backwards), (&since, Order::Forwards), (&before, Order::Backwards)]
        {
            let query = Query { filter: filter.clone(), order, limit: 20, ..Query::default() };
            let page = reader.page(&query, model.last(), LATER).unwrap();
            let mut expected = model.expected(&query);
            expected.truncate(20);
            assert_eq!(page.events, expected, "{query:?}");
        }
        let query = Query { filter: within, ..Query::default() };
        assert_eq!(reader.count(&query, model.last()).unwrap(), model.expected(&query).len() as u64);
        let expected = model.events.iter().rev().find(|one| one.event.timestamp <= from).unwrap().event.position;
        assert_eq!(reader.position_at(from, model.last()).unwrap(), expected);
        // Twenty or so for each row that is read: less than a thousand rows for six questions.
        let steps = steps.swap(0, Ordering::Relaxed);
        assert!(steps < 60_000, "{steps} steps of SQLite at second {second}");
    }
}
