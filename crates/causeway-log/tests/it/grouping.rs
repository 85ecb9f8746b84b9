//! Group commit: many appends share one write to a synced disk, and nobody can tell by their answers.

use std::time::Duration;

use causeway_event::Position;
use causeway_log::{Append, Appended, Begun, Config, GroupCommit, Log, LogError, Record};
use causeway_testkit::{Durability, NatsServer, wait_until};
use futures::future::join_all;

use crate::support::{config, connected, fenced, keyed, note, single, text, texts, until_settled};

async fn synced(group_commit: GroupCommit) -> (NatsServer, Log) {
    let nats = NatsServer::start_with(Durability::Synced).await.unwrap();
    let log = Log::connect(&Config { group_commit, ..config(&nats.url()) }).await.unwrap();
    (nats, log)
}

/// Begins them in this order without letting anybody else run: the first goes alone, what waits behind it is one group.
async fn begun(log: &Log, appends: impl IntoIterator<Item = Append>) -> Vec<Begun> {
    let mut sequence = log.sequence();
    let mut begun = Vec::new();
    for append in appends {
        begun.push(sequence.begin(append).await.unwrap());
    }
    begun
}

fn plain(names: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Append> {
    names.into_iter().map(|name| single(note("a", &name.to_string())))
}

fn position(appended: &Appended) -> u64 {
    appended.receipts[0].position.get()
}

/// For each event of the log, in order, whether it came in an atomic batch.
async fn in_batches(nats: &NatsServer) -> Vec<bool> {
    let jetstream = async_nats::jetstream::new(nats.client().await.unwrap());
    let stream = jetstream.get_stream("causeway_EVENTS").await.unwrap();
    let mut found = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        found.push(message.headers.get("Nats-Batch-Id").is_some());
    }
    found
}

/// Every answer names the place of what was asked for, and nobody else's.
async fn assert_places(log: &Log, answers: impl IntoIterator<Item = (String, Appended)>) {
    for (wanted, appended) in answers {
        let receipt = &appended.receipts[0];
        let stored = log.get(receipt.position).await.unwrap().unwrap();
        assert_eq!((stored.event.id, stored.event.position), (receipt.id, receipt.position));
        assert_eq!(text(&Record::Event(stored)), wanted);
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|name| name.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_at_the_same_time_each_get_their_own_place() {
    const APPENDS: usize = 300;
    for group_commit in [GroupCommit::Always, GroupCommit::Auto, GroupCommit::Never] {
        let (nats, log) = synced(group_commit).await;
        let tasks = (0..APPENDS).map(|name| {
            let log = log.clone();
            tokio::spawn(async move { (name.to_string(), log.append(single(note("a", &name.to_string()))).await.unwrap()) })
        });
        let answers: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let mut positions: Vec<u64> = answers.iter().map(|(_, appended)| position(appended)).collect();
        positions.sort_unstable();
        assert_eq!(positions, (1..=APPENDS as u64).collect::<Vec<_>>(), "{group_commit:?}");
        assert!(answers.iter().all(|(_, appended)| !appended.duplicate));
        assert_eq!(texts(&log).await.len(), APPENDS);
        assert_places(&log, answers).await;
        let grouped = in_batches(&nats).await.into_iter().filter(|grouped| *grouped).count();
        match group_commit {
            GroupCommit::Always => assert!(grouped > APPENDS / 2, "{grouped} of {APPENDS}"),
            GroupCommit::Never => assert_eq!(grouped, 0),
            // What the disk makes of it.
            GroupCommit::Auto => {}
        }
    }
}

#[tokio::test]
async fn more_than_fits_into_one_group_keeps_its_order() {
    let (nats, log) = synced(GroupCommit::Always).await;
    let answers = join_all(begun(&log, plain(0..2_500)).await).await;
    let positions: Vec<u64> = answers.into_iter().map(|answer| position(&answer.unwrap())).collect();
    assert_eq!(positions, (1..=2_500).collect::<Vec<_>>());
    assert_eq!(texts(&log).await, numbers(2_500));
    let grouped = in_batches(&nats).await;
    assert!(!grouped[0] && grouped[1..].iter().all(|grouped| *grouped), "all but the first, which found an idle log");
}

#[tokio::test]
async fn an_id_that_the_server_knows_sends_its_group_one_by_one_and_nothing_is_lost_or_repeated() {
    let (nats, log) = synced(GroupCommit::Always).await;
    let known = keyed(single(note("a", "known")), "k");
    let first = log.append(known.clone()).await.unwrap();
    let appends = plain(0..20).chain([known]).chain(plain(20..40));
    let mut answers: Vec<Appended> = join_all(begun(&log, appends).await).await.into_iter().map(Result::unwrap).collect();
    let again = answers.remove(20);
    assert!(again.duplicate);
    assert_eq!(again.receipts, first.receipts);
    assert!(answers.iter().all(|appended| !appended.duplicate), "one that is known makes nobody else so");
    let wanted: Vec<String> = ["known".to_owned()].into_iter().chain(numbers(40)).collect();
    assert_eq!(texts(&log).await, wanted, "in the order in which they began");
    assert_places(&log, numbers(40).into_iter().zip(answers)).await;
    assert_eq!(in_batches(&nats).await, [false; 41]);
}

#[tokio::test]
async fn the_same_key_twice_at_once_is_appended_once() {
    let (_nats, log) = synced(GroupCommit::Always).await;
    for round in 0..5 {
        let same = || keyed(single(note("a", "same")), &format!("k{round}"));
        let appends = plain([0]).chain([same()]).chain(plain([1])).chain([same()]).chain(plain([2]));
        let answers: Vec<Appended> = join_all(begun(&log, appends).await).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers[1].receipts, answers[3].receipts);
        assert_eq!((answers[1].duplicate, answers[3].duplicate), (false, true));
    }
    let once = ["0", "same", "1", "2"];
    assert_eq!(texts(&log).await, once.repeat(5));
}

#[tokio::test]
async fn a_group_whose_answer_comes_too_late_is_on_the_log_once() {
    let (nats, log) = synced(GroupCommit::Always).await;
    let impatient = Config { request_timeout: Duration::from_millis(300), ..config(&nats.url()) };
    let impatient = Log::connect(&Config { group_commit: GroupCommit::Always, ..impatient }).await.unwrap();
    nats.pause().unwrap();
    let begun = begun(&impatient, plain(0..30)).await;
    let answers = tokio::spawn(join_all(begun));
    // The group has gone unanswered, and each of it was sent again, before the server reads any of that.
    tokio::time::sleep(Duration::from_millis(800)).await;
    nats.resume().unwrap();
    let answers: Vec<Appended> = answers.await.unwrap().into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|appended| !appended.duplicate), "it is their own event that they find");
    assert_eq!(texts(&log).await, numbers(30));
    assert_places(&log, numbers(30).into_iter().zip(answers)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_of_groups_is_made_good_by_retries_with_keys() {
    const APPENDS: usize = 400;
    for group_commit in [GroupCommit::Always, GroupCommit::Auto] {
        let (mut nats, log) = synced(group_commit).await;
        for round in 0..3 {
            connected(&log).await;
            let before = log.last_position().await.unwrap().get();
            if round == 0 {
                // What is sent from here on is in the dead server's socket.
                nats.pause().unwrap();
            }
            let names: Vec<String> = (0..APPENDS).map(|number| format!("{round}-{number}")).collect();
            let tasks = names.iter().map(|name| tokio::spawn(until_settled(log.clone(), keyed(single(note("a", name)), name))));
            let tasks: Vec<_> = tasks.collect();
            if round == 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            } else {
                wait_until("some to be stored", Duration::from_secs(20), async || {
                    let last = log.last_position().await.ok()?;
                    (before < last.get()).then_some(())
                })
                .await;
            }
            nats.kill();
            nats.restart().await.unwrap();
            let answers = join_all(tasks).await.into_iter().map(|answer| answer.unwrap().unwrap());
            // Appends have a connection of their own, which may be back before the one that reads.
            connected(&log).await;
            assert_places(&log, names.into_iter().zip(answers)).await;
        }
        let mut all = texts(&log).await;
        all.sort_unstable();
        all.dedup();
        let last = log.last_position().await.unwrap();
        assert_eq!((all.len(), last), (3 * APPENDS, Position::new(3 * APPENDS as u64)), "each once: {group_commit:?}");
    }
}

#[tokio::test]
async fn a_sequence_keeps_its_order_through_groups_batches_fences_and_fallbacks() {
    let (nats, log) = synced(GroupCommit::Always).await;
    let known = keyed(single(note("a", "known")), "known");
    log.append(known.clone()).await.unwrap();
    let mut wanted = vec!["known".to_owned()];
    let appends = (0..300).map(|number| {
        let name = number.to_string();
        match number % 30 {
            7 => return known.clone(),
            13 => {
                wanted.extend([name.clone(), format!("{name}b")]);
                return Append { events: vec![note("a", &name), note("b", &format!("{name}b"))], ..Append::default() };
            }
            _ => wanted.push(name.clone()),
        }
        match number % 30 {
            20 => fenced(note(&format!("f{number}"), &name), 0),
            _ => single(note(if number % 2 == 0 { "a" } else { "b" }, &name)),
        }
    });
    let answers = join_all(begun(&log, appends.collect::<Vec<_>>()).await).await;
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().enumerate().all(|(number, appended)| appended.duplicate == (number % 30 == 7)));
    assert_eq!(texts(&log).await, wanted);
    let grouped = in_batches(&nats).await.into_iter().filter(|grouped| *grouped).count();
    assert!((20..wanted.len()).contains(&grouped), "both ways were taken: {grouped} of {}", wanted.len());
}

#[tokio::test]
async fn who_stops_waiting_harms_nobody_else() {
    let (_nats, log) = synced(GroupCommit::Always).await;
    let mut all: Vec<Option<Begun>> = begun(&log, plain(0..50)).await.into_iter().map(Some).collect();
    // Before the group is made.
    all.iter_mut().step_by(3).for_each(|begun| *begun = None);
    tokio::task::yield_now().await;
    // While it is under way.
    all.iter_mut().step_by(5).for_each(|begun| *begun = None);
    let names = numbers(50);
    let waiting = names.iter().cloned().zip(all).filter_map(|(name, begun)| begun.map(|begun| (name, begun)));
    let answers = join_all(waiting.map(async |(name, begun)| (name, begun.await.unwrap()))).await;
    assert_eq!(answers.len(), 27);
    assert_places(&log, answers).await;
    let next = log.append(single(note("a", "next"))).await.unwrap();
    assert_eq!(position(&next), 51, "what was begun is on the log, wanted or not");
    assert_eq!(texts(&log).await, names.into_iter().chain(["next".to_owned()]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_are_cut_off_in_mid_flight_leave_at_most_their_own_event() {
    const APPENDS: usize = 200;
    let (_nats, log) = synced(GroupCommit::Always).await;
    let tasks = (0..APPENDS).map(|name| {
        let log = log.clone();
        tokio::spawn(async move { (name.to_string(), log.append(single(note("a", &name.to_string()))).await.unwrap()) })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks.iter().step_by(4) {
        tokio::task::yield_now().await;
        task.abort();
    }
    let answers: Vec<_> = join_all(tasks).await.into_iter().filter_map(Result::ok).collect();
    assert!(answers.len() >= APPENDS - APPENDS / 4);
    assert_places(&log, answers).await;
    let all = texts(&log).await;
    let mut distinct = all.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len(), "nothing twice");
}

#[tokio::test]
async fn fenced_appends_among_grouped_ones_are_answered_for_themselves_alone() {
    let (nats, log) = synced(GroupCommit::Always).await;
    let seen = log.append(single(note("f", "seen"))).await.unwrap();
    let appends = plain(0..10)
        .chain([fenced(note("f", "stale"), 0)])
        .chain(plain(10..20))
        .chain([fenced(note("f", "right"), position(&seen))])
        .chain(plain(20..30));
    let mut answers = join_all(begun(&log, appends).await).await;
    assert_eq!(answers.len(), 32);
    let right = answers.remove(21).unwrap();
    let stale = answers.remove(10);
    match stale {
        Err(LogError::Conflict { expected, actual, .. }) => assert_eq!((expected.get(), actual), (0, seen.receipts[0].position)),
        other => panic!("{other:?}"),
    }
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    let all = [("right".to_owned(), right.clone())].into_iter().chain(numbers(30).into_iter().zip(answers));
    assert_places(&log, all).await;
    let all = texts(&log).await;
    assert_eq!(all.len(), 32);
    assert!(!all.contains(&"stale".to_owned()));
    let grouped = in_batches(&nats).await;
    assert!(!grouped[position(&right) as usize - 1], "a fence in a group would refuse all of it");
    assert!(grouped.iter().filter(|grouped| **grouped).count() >= 20, "{grouped:?}");
}
