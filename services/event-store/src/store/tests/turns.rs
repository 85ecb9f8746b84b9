//! Who gets a reader, for how long, and what whoever waits is told.

use super::*;
use crate::follow::Doing;
use crate::read_model::{Reader, Turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_ends_when_nobody_waits_for_it() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(100);
    let running = Running::start(&log, &folder, 10).await;
    running.store.fresh().await.unwrap();
    // Every reader is given a question that has no end.
    let readers = running.store.shared.config.readers;
    let (begun, mut have_begun) = tokio::sync::mpsc::unbounded_channel();
    let endless = (0..readers).map(|_| {
        let (store, begun) = (running.store.clone(), begun.clone());
        tokio::spawn(async move {
            let ask = move |reader: &mut Reader, _| {
                begun.send(()).unwrap();
                reader.count_for_ever()
            };
            store.read(ask).await
        })
    });
    let endless: Vec<_> = endless.collect();
    for _ in 0..readers {
        have_begun.recv().await.unwrap();
    }
    endless.iter().for_each(JoinHandle::abort);
    for _ in 0..10 {
        let query = Query { limit: 10, ..Query::default() };
        let page = tokio::time::timeout(LIMIT, running.store.page(query)).await.unwrap().unwrap();
        assert_eq!(page.events.len(), 10);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_what_reads_all_of_the_file_take_no_reader_from_others_and_end_like_them() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(100);
    let running = Running::start(&log, &folder, 10).await;
    let store = &running.store;
    store.fresh().await.unwrap();
    let turns = [Turn::Long].into_iter().chain(vec![Turn::Count; store.shared.config.readers]);
    let mut endless: Vec<_> = turns.map(|turn| Box::pin(store.read_as(turn, |reader, _| reader.count_for_ever()))).collect();
    for endless in &mut endless {
        let _ = futures::poll!(endless.as_mut());
    }
    assert_eq!(all(store).await.len(), 100);
    let permits = (0..store.shared.config.readers).map(|_| store.shared.pool.permit(Turn::Short, LIMIT));
    assert!(join_all(permits).await.iter().all(Option::is_some));
    drop(endless);
    let count = tokio::time::timeout(LIMIT, store.count(Query::default())).await.unwrap();
    assert_eq!(count.unwrap(), 100);
    // Something of an attempt that broke off.
    fs::write(folder.path().join("copy"), "SQLite format 3").unwrap();
    let copied = tokio::time::timeout(LIMIT, store.copy_into(folder.path().join("copy"))).await.unwrap();
    assert_eq!(copied.unwrap().position, Position::new(100));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_what_the_model_does_instead() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(100);
    let running = Running::start(&log, &folder, 10).await;
    running.store.fresh().await.unwrap();
    running.stop().await;
    wait_until("the file to be free", LIMIT, async || Files::lock(&path(&folder)).ok()).await;
    // As after a kill, and too large to be checked at once.
    fs::remove_file(folder.path().join("model.sqlite.closed")).unwrap();
    let read_timeout = Duration::from_millis(50);
    let config = ReadModelConfig { path: path(&folder), check_bytes_max: 0, read_timeout, ..ReadModelConfig::default() };
    let (files, loaded) = super::super::load(&config).unwrap();
    let shutdown = CancellationToken::new();
    let started = Store::start(&config, log.source(), ("log@1".into(), log.last()), (files, loaded), shutdown.clone());
    let (store, feed) = started.await.unwrap();
    let held = store.shared.pool.permit(Turn::Long, LIMIT).await.unwrap();
    let feed = tokio::spawn(feed);
    let refused = store.fresh().await.unwrap_err();
    assert!(refused.to_string().ends_with("its file was not left in order and is being checked in full"), "{refused}");
    drop(held);
    wait_until("the check to end", LIMIT, async || store.fresh().await.ok()).await;
    assert_eq!(store.doing(), None);
    Running { store, shutdown, feed }.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_that_the_model_cannot_be_written() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(10);
    let running = Running::start(&log, &folder, 10).await;
    let store = &running.store;
    store.fresh().await.unwrap();
    // Somebody else writes, and does not end: as good as a disk that is full.
    let other = causeway_pages::open(&path(&folder), rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.fill(1);
    let told = store.fresh().await.unwrap_err().to_string();
    assert!(told.contains("it cannot be written, which is tried again: ") && told.contains("database is locked"), "{told}");
    other.execute_batch("ROLLBACK").unwrap();
    wait_until("what is missing to be written", LIMIT, async || store.fresh().await.ok()).await;
    // It is readable a moment before the writer says so.
    wait_until("nothing to be told", LIMIT, async || store.doing().is_none().then_some(())).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_which_index_is_being_made() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(40_000);
    let running = Running::start(&log, &folder, 1000).await;
    let mut told = Vec::new();
    // Looked at as often as can be: an index does not take long.
    let watch = async {
        while running.store.position() != log.last() {
            told.extend(running.store.doing());
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, watch).await.expect("the model to be there");
    told.dedup();
    assert!(!told.is_empty() && told.is_sorted_by_key(made), "{told:?}");
    let last = told.last().unwrap().to_string();
    assert!(last.starts_with("its indexes are being made, ") && last.ends_with("are there"), "{last}");
    assert_eq!(running.store.doing(), None);
    running.stop().await;
}

fn made(doing: &Doing) -> usize {
    match doing {
        Doing::Indexing(made) => *made,
        Doing::Checking | Doing::Failing(_) => unreachable!("a new file needs no check, and can be written"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_descendants_gets_nothing_before_they_are_known() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(100);
    let read_timeout = Duration::from_millis(50);
    let config = ReadModelConfig { path: path(&folder), read_timeout, ..ReadModelConfig::default() };
    let (files, loaded) = super::super::load(&config).unwrap();
    let shutdown = CancellationToken::new();
    let started = Store::start(&config, log.source(), ("log@1".into(), log.last()), (files, loaded), shutdown.clone());
    let (store, feed) = started.await.unwrap();
    let running = Running { store, shutdown, feed: tokio::spawn(feed) };
    let store = &running.store;
    wait_until("the model to be there", LIMIT, async || store.fresh().await.ok()).await;
    let readers = join_all((0..config.readers).map(|_| store.shared.pool.permit(Turn::Short, LIMIT))).await;
    let filter = Filter { descendants_of: Some(plain(1).id), ..Filter::default() };
    let mut updates = subscribe(store, filter, 0, Duration::from_secs(1)).await;
    let mut next = async || tokio::time::timeout(LIMIT, updates.next()).await.unwrap().unwrap().unwrap();
    let update = next().await;
    assert!(matches!(update, Update::Heartbeat { position: Position::START, .. }), "{update:?}");
    drop(readers);
    assert_eq!(next().await, Update::CaughtUp { position: log.last(), head: log.last() });
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_how_far_it_is_while_nothing_passes() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(25_000);
    let running = Running::start(&log, &folder, 10).await;
    running.store.fresh().await.unwrap();
    // All are of this chain, so all of them are looked at.
    let filter = Filter {
        correlation_id: Some(plain(1).metadata.correlation_id),
        aggregate_id: Some("nobody".parse().unwrap()),
        ..Filter::default()
    };
    let mut updates = subscribe(&running.store, filter, 0, HEARTBEAT).await;
    let mut told = Vec::new();
    loop {
        match tokio::time::timeout(LIMIT, updates.next()).await.unwrap().unwrap().unwrap() {
            Update::Checkpoint(position) => told.push(position.get()),
            Update::CaughtUp { position, .. } => break assert_eq!(position.get(), 25_000),
            other => panic!("{other:?}"),
        }
    }
    assert!(told.iter().any(|told| *told < 20_000), "it could not have gone on from the middle: {told:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_nobody_waits_for_keep_no_reader_from_others() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(100);
    let running = Running::start(&log, &folder, 10).await;
    running.store.fresh().await.unwrap();
    let query = Query { limit: 10, ..Query::default() };
    let mut asked: Vec<_> = (0..100).map(|_| Box::pin(running.store.page(query.clone()))).collect();
    for question in &mut asked {
        let _ = futures::poll!(question.as_mut());
    }
    for _ in 0..10 {
        let page = tokio::time::timeout(LIMIT, running.store.page(query.clone())).await.unwrap().unwrap();
        assert_eq!(page.events.len(), 10);
    }
    drop(asked);
    running.stop().await;
}
