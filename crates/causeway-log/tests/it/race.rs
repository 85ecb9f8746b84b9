use causeway_log::LogError;

use crate::support::{fenced, keyed, note, server};

/// Fenced writers of one aggregate: exactly one wins each position.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_race_and_every_round_has_one_winner() {
    let (_nats, log) = server().await;
    let mut tip = 0;
    for round in 0..1000 {
        let race = |who: &str| {
            let log = log.clone();
            let append = keyed(fenced(note("a", &format!("{round}")), tip), &format!("{who}:{round}"));
            tokio::spawn(async move { log.append(append).await })
        };
        let (a, b) = (race("a"), race("b"));
        let results = [a.await.unwrap(), b.await.unwrap()];
        let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        let lost = results
            .iter()
            .filter(|result| matches!(result, Err(LogError::Conflict { actual, .. }) if actual.get() == tip + 1))
            .count();
        assert_eq!((won.len(), lost), (1, 1), "{results:?}");
        tip = won[0].receipts[0].position.get();
    }
    assert_eq!(log.last_position().await.unwrap().get(), 1000);
}
