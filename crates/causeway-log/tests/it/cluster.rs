use std::time::Duration;

use causeway_log::{Config, Log, LogError};
use causeway_testkit::NatsCluster;

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

#[track_caller]
fn winner(results: &[Result<causeway_log::Appended, LogError>; 2]) -> u64 {
    let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    won[0].receipts[0].position.get()
}
