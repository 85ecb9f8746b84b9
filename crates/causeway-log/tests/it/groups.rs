use std::time::{Duration, Instant};

use causeway_event::{Category, Position};
use causeway_log::{Claim, DeadLetter, Group, GroupName, GroupPull, Log, LogError, Pull, Pulled};
use causeway_testkit::wait_until;
use futures::TryStreamExt as _;

use crate::support::{config, connected, id, note, server, single};

const LIMIT: Duration = Duration::from_secs(30);

fn name() -> GroupName {
    "g".parse().unwrap()
}

fn group(terms: &str) -> Group {
    Group { name: name(), aggregate_id: None, categories: vec![], after: Position::START, terms: terms.into() }
}

async fn next(pull: &mut GroupPull) -> Pulled {
    let next = pull.next(Instant::now() + LIMIT);
    match tokio::time::timeout(LIMIT, next).await.expect("something in time") {
        Pull::Came(pulled) => pulled,
        Pull::Broke => panic!("the connection broke"),
    }
}

#[tokio::test]
async fn a_group_is_what_its_first_start_said_and_holds_what_was_not_acknowledged() {
    let (_nats, log) = server().await;
    for text in ["1", "2", "3"] {
        log.append(single(note("a", text))).await.unwrap();
    }
    assert_eq!(log.group(&name()).await.unwrap(), None);
    assert_eq!(log.open_group(&group("first")).await.unwrap(), (name(), "first".to_owned()));
    let second = Group { categories: vec![Category::Ai], ..group("second") };
    assert_eq!(log.open_group(&second).await.unwrap().1, "first", "whoever comes later is told");
    let mut pull = log.pull_group(&name());
    let first = next(&mut pull).await;
    let event = first.event.unwrap();
    assert_eq!((event.aggregate_id, event.data.as_str()), (id("a"), "null"), "without its data");
    first.hold.ack().await.unwrap();
    let (second, third) = (next(&mut pull).await, next(&mut pull).await);
    assert_eq!((second.position.get(), third.position.get()), (2, 3));
    third.hold.ack().await.unwrap();
    let state = log.group(&name()).await.unwrap().unwrap();
    assert_eq!((state.acknowledged.get(), state.unacknowledged, state.undelivered), (1, 1, 0));
    second.hold.give_back().await.unwrap();
    assert_eq!(next(&mut pull).await.position.get(), 2);
    assert_eq!(log.groups().await.unwrap().len(), 1);
    assert!(log.delete_group(&name()).await.unwrap());
    assert!(!log.delete_group(&name()).await.unwrap());
    assert_eq!(log.group(&name()).await.unwrap(), None);
}

#[tokio::test]
async fn whoever_worked_for_a_group_that_was_deleted_gets_nothing_of_the_next_one() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let (first, _) = log.open_group(&group("first")).await.unwrap();
    let mut lease = log.group_lease(&first);
    assert_eq!(lease.claim().await.unwrap(), Claim::Won);
    lease.notes = "of the first one".into();
    lease.release().await;
    assert!(log.delete_group(&name()).await.unwrap());
    assert_eq!(log.group_named(&name()).await.unwrap(), None);
    let (second, terms) = log.open_group(&group("second")).await.unwrap();
    assert_eq!((second.as_str(), terms.as_str()), ("g", "second"));
    assert_eq!(log.open_group(&group("third")).await.unwrap(), (second.clone(), terms), "it is there");
    assert_eq!(log.group(&first).await.unwrap(), None);
    assert_eq!(log.groups().await.unwrap(), [log.group_named(&name()).await.unwrap().unwrap()]);
    let mut lease = log.group_lease(&second);
    assert_eq!((lease.claim().await.unwrap(), lease.notes.as_str()), (Claim::Won, ""));
    let mut late = log.pull_group(&first);
    let nothing = tokio::time::timeout(Duration::from_secs(1), late.next(Instant::now() + LIMIT)).await;
    assert!(!matches!(nothing, Ok(Pull::Came(_))), "it is the next one's");
    assert_eq!(next(&mut log.pull_group(&second)).await.position.get(), 1);
    assert!(log.delete_group(&name()).await.unwrap());
    assert_eq!(log.open_group(&group("fourth")).await.unwrap().1, "fourth");
}

#[tokio::test]
async fn a_deleted_group_leaves_no_lease_behind_and_the_next_still_has_another_generation() {
    let (nats, log) = server().await;
    let bucket = || async {
        let bucket = async_nats::jetstream::new(nats.client().await.unwrap()).get_key_value("causeway_GROUPS").await.unwrap();
        let mut keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort();
        keys
    };
    let (first, _) = log.open_group(&group("first")).await.unwrap();
    let mut lease = log.group_lease(&first);
    assert_eq!(lease.claim().await.unwrap(), Claim::Won);
    assert_eq!(bucket().await, ["g"]);
    assert!(log.delete_group(&name()).await.unwrap());
    assert_eq!(bucket().await, ["generation.g"]);
    lease.release().await;
    assert_eq!(bucket().await, ["generation.g"], "not even by its last holder");
    // A gateway that has not heard of the end takes the lease, sees it and lets go.
    assert_eq!(lease.claim().await.unwrap(), Claim::Won);
    log.forget_lease(&first).await;
    assert_eq!(bucket().await, ["generation.g"]);
    let (second, _) = log.open_group(&group("second")).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(log.group_lease(&second).claim().await.unwrap(), Claim::Won);
}

#[tokio::test]
async fn one_at_a_time_has_the_lease_and_the_next_gets_its_notes() {
    let (mut nats, log) = server().await;
    let other = Log::connect(&config(&nats.url())).await.unwrap();
    let (mut one, mut two) = (log.group_lease(&name()), other.group_lease(&name()));
    assert_eq!(one.claim().await.unwrap(), Claim::Won);
    assert_eq!(two.claim().await.unwrap(), Claim::Elsewhere);
    one.notes = "remember".into();
    assert_eq!(one.claim().await.unwrap(), Claim::Kept);
    nats.kill();
    assert!(one.claim().await.is_err());
    nats.restart().await.unwrap();
    connected(&log).await;
    assert_eq!(one.claim().await.unwrap(), Claim::Kept, "nobody else had it in between");
    one.release().await;
    connected(&other).await;
    assert_eq!(two.claim().await.unwrap(), Claim::Won, "at once");
    assert_eq!(two.notes, "remember");
    assert_eq!(one.claim().await.unwrap(), Claim::Elsewhere);
    // Its holder says nothing any more.
    wait_until("the lease to run out", LIMIT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (one.claim().await.unwrap() == Claim::Won).then_some(())
    })
    .await;
    assert_eq!(two.claim().await.unwrap(), Claim::Elsewhere, "it slept, and learns that it lost it");
}

#[tokio::test]
async fn whoever_goes_by_a_name_has_letters_of_its_own() {
    let (_nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let event = log.get(Position::new(1)).await.unwrap().unwrap().event;
    let alike: GroupName = "group_g".parse().unwrap();
    for attempt in 1..=3 {
        log.park_of_group(&name(), &event, "no", 1, Some(attempt)).await.unwrap();
    }
    log.park_of_group(&alike, &event, "no", 1, None).await.unwrap();
    log.park(DeadLetter { processor: "ai", event: &event, reason: "no" }).await.unwrap();
    let listed = async |of: &str| {
        log.letters(Some(of), 0, 10).await.unwrap().0.into_iter().map(|letter| letter.number).collect::<Vec<_>>()
    };
    let (of_group, of_alike, of_processor) = (listed("g").await, listed("group_g").await, listed("ai").await);
    assert_eq!((of_group.len(), of_alike.len(), of_processor.len()), (3, 1, 1));
    assert_eq!(log.discard_letters("group_g", &of_group).await.unwrap(), 0);
    assert_eq!(log.discard_all("group_g", 99).await.unwrap(), 1);
    assert_eq!(log.discard_all("ai", 99).await.unwrap(), 1, "also of a processor");
    assert_eq!(listed("g").await, of_group);
    assert_eq!(log.discard_letters("g", &[of_group[1]]).await.unwrap(), 1);
    assert_eq!(log.discard_all("g", of_group[1]).await.unwrap(), 1);
    assert_eq!(listed("g").await, of_group[2..]);
}

#[tokio::test]
async fn a_letter_is_listed_until_it_is_sent_back() {
    let (_nats, log) = server().await;
    for text in ["1", "2"] {
        log.append(single(note("a", text))).await.unwrap();
        let position = log.last_position().await.unwrap();
        let event = log.get(position).await.unwrap().unwrap().event;
        log.park_of_group(&name(), &event, "line\none", 3, None).await.unwrap();
        log.park_of_group(&name(), &event, "said twice", 3, None).await.unwrap();
    }
    log.open_group(&group("")).await.unwrap();
    let (letters, more) = log.letters(Some("g"), 0, 1).await.unwrap();
    assert_eq!((letters.len(), more, letters[0].reason.as_str(), letters[0].deliveries), (1, true, "line one", 3));
    assert_eq!(log.letters(Some("other"), 0, 10).await.unwrap(), (vec![], false));
    assert_eq!(log.count_letters(&name()).await.unwrap(), 2);
    let number = letters[0].number;
    assert_eq!(log.replay_letters(&"other".parse().unwrap(), &[number]).await.unwrap(), 0, "it is not theirs");
    assert_eq!(log.replay_letters(&name(), &[number, number, 999]).await.unwrap(), 1);
    assert_eq!(log.letters(None, 0, 10).await.unwrap().0.len(), 1);
    let (replays, more) = log.replays(&name(), 0, 10).await.unwrap();
    assert_eq!((replays.len(), replays[0].position.get(), more), (1, 1, false));
    log.delete_letter(replays[0].number).await.unwrap();
    log.delete_letter(replays[0].number).await.unwrap();
    log.delete_letter(999).await.unwrap();
    assert_eq!(log.replays(&name(), 0, 10).await.unwrap(), (vec![], false));
    // Another group of that name gives up on it too.
    assert!(log.delete_group(&name()).await.unwrap());
    let (anew, _) = log.open_group(&group("")).await.unwrap();
    let event = log.get(Position::new(1)).await.unwrap().unwrap().event;
    log.park_of_group(&anew, &event, "no", 1, None).await.unwrap();
    assert_eq!(log.count_letters(&anew).await.unwrap(), 2);
}

/// A group that gave up on so many events.
async fn parked(log: &Log, count: usize) {
    log.open_group(&group("")).await.unwrap();
    for number in 1..=count {
        log.append(single(note("a", &number.to_string()))).await.unwrap();
        let position = log.last_position().await.unwrap();
        let event = log.get(position).await.unwrap().unwrap().event;
        log.park_of_group(&name(), &event, "no", 1, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_replay_of_all_takes_its_time_and_not_what_is_parked_meanwhile() {
    let (_nats, log) = server().await;
    assert_eq!(log.last_letter().await.unwrap(), 0);
    parked(&log, 3).await;
    let up_to = log.last_letter().await.unwrap();
    assert_eq!(log.replay_all(&name(), up_to, Duration::ZERO).await.unwrap(), (1, true), "no time, and yet it gets on");
    let first = &log.replays(&name(), 0, 10).await.unwrap().0[0];
    let again = log.get(first.position).await.unwrap().unwrap().event;
    log.park_of_group(&name(), &again, "no again", 1, Some(first.number)).await.unwrap();
    assert_eq!(log.replay_all(&name(), up_to, LIMIT).await.unwrap(), (2, false));
    let left: Vec<String> = log.letters(Some("g"), 0, 10).await.unwrap().0.into_iter().map(|letter| letter.reason).collect();
    assert_eq!(left, ["no again"]);
    // They are read once each: behind the last one that is known.
    let (begin, more) = log.replays(&name(), 0, 2).await.unwrap();
    assert_eq!((begin.iter().map(|replay| replay.position.get()).collect::<Vec<_>>(), more), (vec![1, 2], true));
    let (rest, more) = log.replays(&name(), begin[1].number, 2).await.unwrap();
    assert_eq!((rest.iter().map(|replay| replay.position.get()).collect::<Vec<_>>(), more), (vec![3], false));
    // The end of the group is theirs too; its letters stay.
    assert!(log.delete_group(&name()).await.unwrap());
    assert_eq!(log.replays(&name(), 0, 10).await.unwrap(), (vec![], false));
    assert_eq!(log.count_letters(&name()).await.unwrap(), 1);
}

#[tokio::test]
async fn what_the_server_does_not_delete_is_not_deleted() {
    let (nats, log) = server().await;
    parked(&log, 2).await;
    let number = log.letters(Some("g"), 0, 1).await.unwrap().0[0].number;
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let letters = jetstream.get_stream("causeway_DLQ").await.unwrap();
    let mut config = letters.cached_info().config.clone();
    config.deny_delete = true;
    jetstream.update_stream(&config).await.unwrap();
    assert!(matches!(log.delete_letter(number).await, Err(LogError::Refused { .. })));
    let moved = log.replay_letters(&name(), &[number]).await;
    assert!(matches!(moved, Err(LogError::Unknown)), "it is on its way and is listed: {moved:?}");
    let moved = log.replay_all(&name(), number, LIMIT).await;
    assert!(matches!(moved, Err(LogError::Unknown)), "{moved:?}");
    assert_eq!(log.replays(&name(), 0, 10).await.unwrap().0.len(), 1, "twice is once");
    assert_eq!(log.count_letters(&name()).await.unwrap(), 2);
}
