use std::collections::BTreeSet;
use std::time::Duration;

use causeway_event::Position;
use causeway_log::{Append, Config, GroupCommit, Log, LogError};
use causeway_proof::Entry;
use causeway_testkit::NatsCluster;
use futures::future::join_all;

use crate::support::{fenced, keyed, note, single, texts, until_settled};

/// Three servers, the stream's leader killed in the middle of races: one winner each time, nothing lost, nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn races_have_one_winner_while_leaders_die() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let config = Config { url: cluster.url().into(), replicas: 3, append_timeout: Duration::from_secs(60), ..Config::default() };
    let log = Log::connect(&config).await.unwrap();
    let mut tip = 0;
    for round in 0..120 {
        let race = |who: &str| {
            let append = keyed(fenced(note("a", &format!("{round}")), tip), &format!("{who}:{round}"));
            let log = log.clone();
            tokio::spawn(async move { until_settled(log, append).await })
        };
        let (a, b) = (race("a"), race("b"));
        if round == 40 || round == 80 {
            let leader = cluster.leader_of("causeway_EVENTS").await;
            cluster.node(leader).kill();
            let results = [a.await.unwrap(), b.await.unwrap()];
            tip = winner(&results);
            cluster.node(leader).restart().await.unwrap();
            continue;
        }
        tip = winner(&[a.await.unwrap(), b.await.unwrap()]);
    }
    until_settled(log.clone(), single(note("b", "end"))).await.unwrap();
    let expected: Vec<String> = (0..120).map(|round| round.to_string()).chain(["end".into()]).collect();
    assert_eq!(texts(&log).await, expected);
}

/// A log is opened while its cluster has no majority: whoever opens it waits for the election instead of giving up.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_opened_as_soon_as_its_cluster_has_a_leader() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let config = Config { url: cluster.url().into(), replicas: 3, request_timeout: Duration::from_secs(3), ..Config::default() };
    Log::connect(&config).await.unwrap();
    let survivor = cluster.leader_of("causeway_EVENTS").await;
    let others: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    others.iter().for_each(|node| cluster.node(*node).kill());
    // It leads, and answers, until it has missed the others for a while.
    cluster.no_leader_of("causeway_EVENTS").await;
    let opened = tokio::spawn(async move { Log::connect(&config).await.map(drop) });
    // Longer than a request may take: giving up with the first refusal would show.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.node(others[0]).restart().await.unwrap();
    opened.await.unwrap().unwrap();
}

/// Appends that share a write to the disk, while the leader dies in the middle of them: each stands there once.
#[tokio::test(flavor = "multi_thread")]
async fn groups_lose_nothing_and_repeat_nothing_while_leaders_die() {
    const WAVES: usize = 30;
    const TOGETHER: usize = 40;
    let mut cluster = NatsCluster::start().await.unwrap();
    let config = Config {
        url: cluster.url().into(),
        replicas: 3,
        append_timeout: Duration::from_secs(60),
        group_commit: GroupCommit::Always,
        ..Config::default()
    };
    let log = Log::connect(&config).await.unwrap();
    let mut positions = BTreeSet::new();
    for wave in 0..WAVES {
        let appends = (0..TOGETHER).map(|n| {
            let name = format!("{wave}:{n}");
            tokio::spawn(until_settled(log.clone(), keyed(single(note(&format!("a{n}"), &name)), &name)))
        });
        let under_way = join_all(appends.collect::<Vec<_>>());
        let killed = (wave == 10 || wave == 20).then_some(cluster.leader_of("causeway_EVENTS").await);
        if let Some(leader) = killed {
            cluster.node(leader).kill();
        }
        for appended in under_way.await {
            let receipt = appended.unwrap().unwrap().receipts.remove(0);
            assert!(positions.insert(receipt.position.get()), "{receipt:?} is somebody else's too");
        }
        if let Some(leader) = killed {
            cluster.node(leader).restart().await.unwrap();
        }
    }
    let there = texts(&log).await;
    let expected: BTreeSet<String> = (0..WAVES).flat_map(|wave| (0..TOGETHER).map(move |n| format!("{wave}:{n}"))).collect();
    assert_eq!(there.len(), expected.len(), "each once");
    assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// A log is walked, and put onto another one, while the leader of either dies: what breaks off goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_copied_while_leaders_die() {
    const EVENTS: usize = 6000;
    let mut cluster = NatsCluster::start().await.unwrap();
    let config = Config { url: cluster.url().into(), replicas: 3, request_timeout: Duration::from_secs(3), ..Config::default() };
    let log = Log::connect(&config).await.unwrap();
    for hundred in 0..EVENTS / 100 {
        let events = (0..100).map(|n| note(&format!("a{n}"), &format!("{}", hundred * 100 + n))).collect();
        let append = keyed(Append { events, ..Append::default() }, &hundred.to_string());
        until_settled(log.clone(), append).await.unwrap();
    }
    let copy = Log::connect(&Config { namespace: "copy".into(), ..config }).await.unwrap();

    let mut killed = None;
    let mut walk = log.walk(Position::START, Position::new(EVENTS as u64));
    let mut entries: Vec<Entry> = Vec::new();
    while entries.len() < EVENTS {
        match walk.page().await {
            Ok(page) => entries.extend(page),
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
        if killed.is_none() && entries.len() >= EVENTS / 2 {
            killed = Some(cluster.kill_leader("causeway_EVENTS").await);
        }
    }
    assert!(entries.iter().map(|entry| entry.position.get()).eq(1..=EVENTS as u64), "no gap and no repeat");
    cluster.node(killed.unwrap()).restart().await.unwrap();

    let mut killed = None;
    let copied = loop {
        let Ok(mut import) = copy.import().await else { continue };
        let from = usize::try_from(import.position().get()).unwrap();
        let put = async {
            for entry in &entries[from..] {
                if killed.is_none() && entry.position.get() == EVENTS as u64 / 2 {
                    killed = Some(cluster.kill_leader("copy_EVENTS").await);
                }
                import.put(entry).await?;
            }
            import.finish().await
        };
        match put.await {
            Ok(last) => break last,
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(copied.get(), EVENTS as u64);
    let mut walk = copy.walk(Position::START, copied);
    let mut there = Vec::new();
    while there.len() < EVENTS {
        there.extend(walk.page().await.unwrap());
    }
    assert_eq!(there, entries);
}

#[track_caller]
fn winner(results: &[Result<causeway_log::Appended, LogError>; 2]) -> u64 {
    let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    won[0].receipts[0].position.get()
}

/// It answers for ten seconds more as the leader that it was, and after that as one that has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_the_others_does_not_say_how_far_the_log_is() {
    let mut cluster = NatsCluster::start().await.unwrap();
    let config = Config { url: cluster.url().into(), replicas: 3, ..Config::default() };
    Log::connect(&config).await.unwrap();
    let survivor = cluster.leader_of("causeway_EVENTS").await;
    let log = Log::open(&Config { url: cluster.node(survivor).url().as_str().into(), ..config }).await.unwrap();
    until_settled(log.clone(), single(note("a", "1"))).await.unwrap();
    assert_eq!(log.last_position().await.unwrap(), Position::new(1));
    let others: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    others.iter().for_each(|node| cluster.node(*node).kill());
    let lost = std::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    while lost.elapsed() < Duration::from_secs(25) {
        let answer = log.last_position().await;
        assert!(matches!(answer, Err(LogError::Unavailable { .. })), "{answer:?} after {:?}", lost.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.node(others[0]).restart().await.unwrap();
    causeway_testkit::wait_until("the log to have a leader", Duration::from_secs(60), async || log.last_position().await.ok())
        .await;
}
