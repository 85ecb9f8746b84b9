//! What is signed is what stands on the log, whatever was known of it before.

use causeway_event::Data;
use causeway_log::{Config, Subscription};
use causeway_proof::{Audit, Severity, Trust};
use causeway_testkit::NatsServer;

use super::leaves::Leaves;
use super::*;

fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

async fn connect(nats: &NatsServer) -> Log {
    Log::connect(&Config { url: nats.url().as_str().into(), ..Config::default() }).await.unwrap()
}

fn a_note(text: &str, n: usize) -> NewEvent {
    NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "a".parse().unwrap(),
        data: Data::of(&serde_json::json!({ "text": text, "n": n })).unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: causeway_event::Labels::new(),
        schema_version: None,
        traceparent: None,
    }
}

async fn take_notes(log: &Log, text: &str, notes: usize) {
    for n in 0..notes {
        log.append(Append { events: vec![a_note(text, n)], ..Append::default() }).await.unwrap();
    }
}

async fn take_thousands(log: &Log, thousands: usize) {
    for _ in 0..thousands {
        let events = (0..1000).map(|n| a_note("many", n)).collect();
        log.append(Append { events, ..Append::default() }).await.unwrap();
    }
}

async fn walk(log: &Log) -> Vec<Entry> {
    let last = log.last_position().await.unwrap();
    let (mut walk, mut all) = (log.walk(Position::START, last), Vec::new());
    loop {
        let page = walk.page().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// How far a trusted checkpoint vouches for the log, which has no problem.
async fn vouched(log: &Log) -> u64 {
    let mut audit = Audit::new(Chain::START, Trust { keys: vec![signer().public_key()], ..Trust::default() });
    walk(log).await.iter().for_each(|entry| audit.entry(entry));
    let (findings, summary) = audit.finish();
    assert!(findings.iter().all(|finding| finding.severity != Severity::Problem), "{findings:#?}");
    summary.vouched.get()
}

#[tokio::test]
async fn a_log_that_was_put_in_the_place_of_another_is_signed_as_it_is() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    take_notes(&log, "before", 5).await;
    signing.advance().await.unwrap();
    assert_eq!(vouched(&log).await, 5);
    nats.client().await.unwrap().request("$JS.API.STREAM.DELETE.causeway_EVENTS", "".into()).await.unwrap();
    let restored = connect(&nats).await;
    take_notes(&restored, "behind", 20).await;
    signing.advance().await.unwrap();
    assert_eq!(vouched(&restored).await, 20);
    take_notes(&restored, "later", 2).await;
    signing.advance().await.unwrap();
    assert_eq!(vouched(&restored).await, 23);
}

/// Reads on what is behind the feed, as the read model does.
async fn feed(log: &Log, feed: &mut Subscription, leaves: &Leaves) {
    let last = log.last_position().await.unwrap();
    while leaves.next_of(feed).await.unwrap().position() < last {}
}

async fn linked(signing: &mut Signing, incoming: &mut Incoming) -> Position {
    signing.link(incoming.waiting()).await;
    signing.chain.position
}

#[tokio::test]
async fn what_the_feed_read_is_linked_and_where_it_has_a_gap_the_log_is_walked() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (leaves, mut incoming) = leaves::leaves();
    let mut fed = log.subscribe(Position::START);
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    take_notes(&log, "unwanted", 3).await;
    feed(&log, &mut fed, &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::START);
    signing.advance().await.unwrap();
    incoming.want_behind(signing.chain.position);
    take_notes(&log, "live", 3).await;
    feed(&log, &mut fed, &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(7), "three, a checkpoint, and three");
    assert_eq!((signing.newest, signing.content), (Position::new(4), Position::new(7)));
    signing.advance().await.unwrap();
    assert_eq!(vouched(&log).await, 7);
    // From here on one is missing.
    incoming.want_behind(Position::new(9));
    take_notes(&log, "gap", 3).await;
    feed(&log, &mut fed, &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(7));
    signing.advance().await.unwrap();
    assert_eq!(vouched(&log).await, 11);
}

#[tokio::test]
async fn leaves_that_are_too_many_to_wait_are_walked() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (leaves, mut incoming) = leaves::leaves();
    let mut fed = log.subscribe(Position::START);
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    take_notes(&log, "first", 1).await;
    signing.advance().await.unwrap();
    incoming.want_behind(signing.chain.position);
    take_thousands(&log, leaves::WAITING_MAX / 1000 + 2).await;
    feed(&log, &mut fed, &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(1 + leaves::WAITING_MAX as u64));
    signing.advance().await.unwrap();
    assert_eq!(vouched(&log).await, log.last_position().await.unwrap().get() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_of_what_the_feed_read_while_the_first_checkpoint_was_made() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (leaves, mut incoming) = leaves::leaves();
    let mut fed = log.subscribe(Position::START);
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    take_thousands(&log, 3).await;
    feed(&log, &mut fed, &leaves).await;
    let written = log.clone();
    let writer = tokio::spawn(async move { take_notes(&written, "meanwhile", usize::MAX).await });
    let fed = tokio::spawn(async move {
        loop {
            leaves.next_of(&mut fed).await.unwrap();
        }
    });
    assert!(signing.look(&mut incoming, 1, Instant::now()).await.unwrap());
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    let all = async {
        while linked(&mut signing, &mut incoming).await < log.last_position().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), all).await.expect("all is linked, and nothing walked");
    fed.abort();
    assert!(!signing.look(&mut incoming, u64::MAX, Instant::now() + LOOK_EVERY).await.unwrap(), "not due");
}

#[tokio::test]
async fn two_signers_with_feeds_of_their_own_take_over_from_each_other() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (mut fed, mut signing, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        fed.push(log.subscribe(Position::START));
        signing.push(Signing::new(log.clone(), signer()).unwrap());
        ends.push(leaves::leaves());
    }
    for round in 0..6 {
        take_notes(&log, "round", 2).await;
        // Somebody puts what is no event between them, on both ways of reading.
        nats.client().await.unwrap().request("causeway.ev.a.custom", "foreign".into()).await.unwrap();
        for (fed, (leaves, _)) in fed.iter_mut().zip(&ends) {
            feed(&log, fed, leaves).await;
        }
        let at = round % 2;
        assert!(signing[at].look(&mut ends[at].1, 1, Instant::now()).await.unwrap());
        assert_eq!(vouched(&log).await, signing[at].vouched.get());
        assert_eq!(signing[at].vouched, log.last_position().await.unwrap().previous());
    }
}

#[tokio::test]
async fn leaves_of_a_log_that_was_put_in_the_place_of_another_are_not_linked_to_it() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (leaves, mut incoming) = leaves::leaves();
    let mut fed = log.subscribe(Position::START);
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    take_notes(&log, "before", 2).await;
    signing.advance().await.unwrap();
    incoming.want_behind(signing.chain.position);
    take_notes(&log, "before", 2).await;
    feed(&log, &mut fed, &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(5));
    nats.client().await.unwrap().request("$JS.API.STREAM.DELETE.causeway_EVENTS", "".into()).await.unwrap();
    let restored = connect(&nats).await;
    take_notes(&restored, "behind", 9).await;
    assert!(leaves.next_of(&mut fed).await.is_err());
    feed(&restored, &mut restored.subscribe(Position::START), &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(5), "what was linked does not stand there");
    signing.advance().await.unwrap();
    assert_eq!(vouched(&restored).await, 9);
}

/// As after a look that broke off between the two.
#[tokio::test]
async fn leaves_are_not_linked_to_what_was_adopted_and_never_read() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    take_notes(&log, "before", 3).await;
    Signing::new(log.clone(), signer()).unwrap().advance().await.unwrap();
    let mut signing = Signing::new(log, signer()).unwrap();
    signing.adopt_newest().await.unwrap();
    assert_eq!(signing.chain.position, Position::new(3));
    nats.client().await.unwrap().request("$JS.API.STREAM.DELETE.causeway_EVENTS", "".into()).await.unwrap();
    let restored = connect(&nats).await;
    take_notes(&restored, "behind", 9).await;
    let (leaves, mut incoming) = leaves::leaves();
    incoming.want_behind(signing.chain.position);
    feed(&restored, &mut restored.subscribe(Position::START), &leaves).await;
    assert_eq!(linked(&mut signing, &mut incoming).await, Position::new(3));
    signing.advance().await.unwrap();
    assert_eq!(vouched(&restored).await, 9);
}

/// Puts a checkpoint of this chain onto the log, as whoever may publish could.
async fn plant(log: &Log, chain: &Chain) {
    let aggregate: AggregateId = LOG_AGGREGATE.parse().unwrap();
    let payload = Payload::LogCheckpointed(signer().sign(chain));
    let event = NewEvent::of(&payload, aggregate, "test".parse().unwrap(), Lineage::Root { correlation: None }).unwrap();
    log.append(Append { events: vec![event], ..Append::default() }).await.unwrap();
}

/// The next checkpoint, and what it should be by what stands on the log.
async fn signed(log: &Log) -> (LogCheckpointed, LogCheckpointed) {
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    signing.adopt_newest().await.unwrap();
    let before = signing.vouched;
    signing.advance().await.unwrap();
    let stored = log.last_event(&signing.aggregate, Category::System).await.unwrap().unwrap();
    let Payload::LogCheckpointed(data) = stored.event.payload() else { panic!("{stored:?}") };
    let (mut chain, mut marks) = (Chain::START, Marks::default());
    for entry in walk(log).await.iter().filter(|entry| entry.position.get() <= data.position) {
        chain.push(entry);
        marks.push(entry.position, &entry.leaf());
    }
    (data, LogCheckpointed { marks: marks.behind(before), ..signer().sign(&chain) })
}

#[tokio::test]
async fn a_checkpoint_that_is_out_of_place_is_not_gone_on_from() {
    let (here, there) = (NatsServer::start().await.unwrap(), NatsServer::start().await.unwrap());
    let (log, other) = (connect(&here).await, connect(&there).await);
    take_notes(&other, "there", 3).await;
    let foreign = Checkpoint::read(&signed(&other).await.0).unwrap().chain;
    take_notes(&log, "here", 5).await;
    plant(&log, &foreign).await;
    let (data, expected) = signed(&log).await;
    assert_eq!(data, expected, "one of another log under the same key");

    take_notes(&log, "here", 1).await;
    let own = log.last_position().await.unwrap().next();
    let chain = Checkpoint::read(&data).unwrap().chain;
    plant(&log, &Chain { position: own, ..chain }).await;
    take_notes(&log, "here", 1).await;
    let (data, expected) = signed(&log).await;
    assert_eq!(data, expected, "one that vouches for itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_much_was_read_is_signed_with_it() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    take_thousands(&log, 40).await;
    let mut signing = Signing::new(log.clone(), signer()).unwrap();
    let (signed, ()) = tokio::join!(signing.advance(), take_thousands(&log, 12));
    signed.unwrap();
    let stored = log.last_event(&signing.aggregate, Category::System).await.unwrap().unwrap();
    let behind = stored.event.position.get() - signing.vouched.get();
    assert!(behind <= BEHIND_MAX, "a checkpoint at {} vouches for {}", stored.event.position, signing.vouched);
    assert_eq!(vouched(&log).await, signing.vouched.get());
}

#[tokio::test]
async fn that_another_key_signs_as_well_is_told_but_not_of_one_that_was_exchanged() {
    let nats = NatsServer::start().await.unwrap();
    let log = connect(&nats).await;
    let (mut one, mut other) =
        (Signing::new(log.clone(), signer()).unwrap(), Signing::new(log.clone(), Signer::from_seed(&[8; 32])).unwrap());
    take_notes(&log, "a", 2).await;
    one.advance().await.unwrap();
    take_notes(&log, "b", 2).await;
    other.advance().await.unwrap();
    assert_eq!(other.told, Vec::<String>::new(), "it may be the one after");
    for _ in 0..2 {
        take_notes(&log, "c", 2).await;
        one.advance().await.unwrap();
        take_notes(&log, "d", 2).await;
        other.advance().await.unwrap();
    }
    assert_eq!((one.told, other.told), (vec![Signer::from_seed(&[8; 32]).public_key().id()], vec![signer().public_key().id()]));
}
