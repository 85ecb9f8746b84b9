use std::time::Duration;

use causeway_event::{Category, Position};
use causeway_log::{Claim, Group, GroupName, GroupPull, Log, Pulled};
use causeway_testkit::wait_until;

use crate::support::{config, connected, id, note, server, single};

const LIMIT: Duration = Duration::from_secs(30);

fn name() -> GroupName {
    "g".parse().unwrap()
}

fn group(terms: &str) -> Group {
    Group { name: name(), aggregate_id: None, categories: vec![], after: Position::START, terms: terms.into() }
}

async fn next(pull: &mut GroupPull) -> Pulled {
    tokio::time::timeout(LIMIT, pull.next()).await.expect("something in time").expect("the group is there")
}

#[tokio::test]
async fn a_group_is_what_its_first_start_said_and_holds_what_was_not_acknowledged() {
    let (_nats, log) = server().await;
    for text in ["1", "2", "3"] {
        log.append(single(note("a", text))).await.unwrap();
    }
    assert_eq!(log.group(&name()).await.unwrap(), None);
    assert_eq!(log.open_group(&group("first")).await.unwrap(), "first");
    let second = Group { categories: vec![Category::Ai], ..group("second") };
    assert_eq!(log.open_group(&second).await.unwrap(), "first", "whoever comes later is told");
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
    second.hold.give_back().await;
    assert_eq!(next(&mut pull).await.position.get(), 2);
    assert_eq!(log.groups().await.unwrap().len(), 1);
    assert!(log.delete_group(&name()).await.unwrap());
    assert!(!log.delete_group(&name()).await.unwrap());
    assert!(tokio::time::timeout(LIMIT, pull.next()).await.expect("it ends").is_none());
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
    let replays = log.replays(&name()).await.unwrap();
    assert_eq!((replays.len(), replays[0].position.get()), (1, 1));
    log.end_replay(replays[0].number).await.unwrap();
    log.end_replay(replays[0].number).await.unwrap();
    assert_eq!(log.replays(&name()).await.unwrap(), []);
}
