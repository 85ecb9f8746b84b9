//! A log that lost its end, another one in its place, and one that does not say where it ends.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_is_believed() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    let store = &running.store;
    let nobody = Filter { aggregate_id: Some("nobody".parse().unwrap()), ..Filter::default() };
    // At the end that is lost, before it, waiting and with events at hand.
    let mut subscribed = Vec::new();
    for (filter, after) in [(Filter::default(), 300), (Filter::default(), 290), (Filter::default(), 10), (nobody, 0)] {
        let mut updates = subscribe(store, filter, after, HEARTBEAT).await;
        assert!(updates.next().await.unwrap().is_ok());
        subscribed.push(tokio::spawn(async move {
            let ended = updates.by_ref().filter_map(async |update| update.err());
            let ended: Vec<_> = ended.collect().await;
            ended
        }));
    }
    let mut paused = subscribe(store, Filter::default(), 100, HEARTBEAT).await;
    assert!(matches!(paused.next().await.unwrap().unwrap(), Update::Event(_)));
    log.records.send_modify(|records| _ = records.split_off(&201));
    wait_until("the model to be made again", LIMIT, async || (store.position() == Position::new(200)).then_some(())).await;
    log.append(event(201, "Zebra", "elsewhere"));
    store.fresh().await.unwrap();
    assert_eq!(all(store).await, (1..=201).collect::<Vec<_>>());
    assert_eq!(store.by_position(Position::new(201)).await.unwrap().unwrap().aggregate_id.as_str(), "elsewhere");
    for subscribed in subscribed {
        let ended = tokio::time::timeout(LIMIT, subscribed).await.unwrap().unwrap();
        assert!(matches!(ended.as_slice(), [StoreError::LostItsEnd]), "{ended:?}");
    }
    assert!(matches!(paused.next().await.unwrap(), Err(StoreError::LostItsEnd)), "nothing that it held is given out");
    let mut updates = subscribe(store, Filter::default(), 200, HEARTBEAT).await;
    assert!(matches!(updates.next().await.unwrap().unwrap(), Update::Event(event) if event.position == Position::new(201)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_in_the_place_of_the_one_that_was_read_is_read_from_its_beginning() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    let store = &running.store;
    // More often than a disk may fail.
    for round in 1..=5 {
        store.fresh().await.unwrap();
        let mut updates = subscribe(store, Filter::default(), 290, HEARTBEAT).await;
        assert!(updates.next().await.unwrap().is_ok());
        // Never shorter than what was read.
        log.replace((1..=300 + round).map(|position| event(position, "Zebra", &format!("log-{round}"))));
        let ended: Vec<_> = tokio::time::timeout(LIMIT, updates.filter_map(async |update| update.err()).collect()).await.unwrap();
        assert!(matches!(ended.as_slice(), [StoreError::LostItsEnd]), "{ended:?}");
        assert_eq!(all(store).await, (1..=300 + round).collect::<Vec<_>>());
        let first = store.by_position(Position::new(1)).await.unwrap().unwrap();
        assert_eq!((first.aggregate_id.as_str(), store.identity()), (&*format!("log-{round}"), format!("log@{}", round + 1)));
    }
    running.stop().await;
    assert!(fs::read_dir(folder.path()).unwrap().all(|file| !file.unwrap().path().to_string_lossy().contains("corrupt")));
    let found = Files::lock(&path(&folder)).unwrap().load(u64::MAX).unwrap().unwrap();
    assert_eq!((found.meta.identity.as_str(), found.meta.position), ("log@6", Position::new(305)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_is_noticed_while_it_does_not_say_where_it_ends() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    running.store.fresh().await.unwrap();
    falls_silent(&log).await;
    log.replace((1..=301).map(|position| event(position, "Zebra", "another")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    log.answers.send_replace(true);
    wait_until("the other log to be read", LIMIT, async || (running.store.fresh().await.ok()?.get() == 301).then_some(())).await;
    assert_eq!(all(&running.store).await.len(), 301);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_is_noticed_though_the_model_was_damaged_at_the_same_time() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.fill(300);
    let running = Running::start(&log, &folder, 64).await;
    let store = &running.store;
    store.fresh().await.unwrap();
    let mut updates = subscribe(store, Filter::default(), 290, HEARTBEAT).await;
    assert!(updates.next().await.unwrap().is_ok());
    log.answers.send_replace(false);
    // It has less than was read, and the file is given up before anybody hears of that.
    store.shared.give_up(store.epoch(), "a test");
    log.replace((1..=200).map(|position| event(position, "Zebra", "another")));
    log.answers.send_replace(true);
    let ended: Vec<_> = tokio::time::timeout(LIMIT, updates.filter_map(async |update| update.err()).collect()).await.unwrap();
    assert!(matches!(ended.as_slice(), [StoreError::LostItsEnd]), "{ended:?}");
    wait_until("the other log to be read", LIMIT, async || (store.fresh().await.ok()?.get() == 200).then_some(())).await;
    assert_eq!((all(store).await.len(), store.identity()), (200, "log@2".to_owned()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_does_not_say_where_it_ends_is_read_all_the_same() {
    let (log, folder) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&log, &folder, 64).await;
    running.store.fresh().await.unwrap();
    falls_silent(&log).await;
    log.fill(300);
    running.store.wait_for(log.last()).await.unwrap();
    running.stop().await;
}

/// From now on the log does not say where it ends, though the feed has asked it.
async fn falls_silent(log: &MemoryLog) {
    // Counted first: after one that hangs the feed asks no more.
    let before = log.lookups.load(Ordering::SeqCst);
    log.answers.send_replace(false);
    let hangs = async || (log.lookups.load(Ordering::SeqCst) > before).then_some(());
    wait_until("the feed to ask where the log ends", LIMIT, hangs).await;
}
