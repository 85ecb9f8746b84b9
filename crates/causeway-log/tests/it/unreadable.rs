//! What anybody with access to the stream can publish, and the client library breaks its connection at, or panics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_event::{Category, Delta, DeltaKind, Position};
use causeway_log::{Append, ConsumerConfig, Folded, Group, GroupPull, Log, Pull, Record};
use causeway_proof::Content;
use causeway_testkit::NatsServer;
use futures::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::integrity::leaves_are_those_of_a_walk;
use crate::support::{fence, id, next, note, server, single, text};

const LIMIT: Duration = Duration::from_secs(30);

/// Headers that no client can read, or that pass for the server's own words.
const HEADERS: [&[u8]; 6] = [
    b"NATS/1.0\r\nx-name: J\xf6rg\r\n\r\n",
    b"NATS/1.0\r\nx name: 1\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nx-value: 1\r2\r\n\r\n",
    b"NATS/1.0 204 EOB\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: x\r\n\r\n",
];

/// Publishes an event of `a` as any program could that speaks to the server's socket.
async fn publish(nats: &NatsServer, headers: &[u8]) {
    publish_at(nats, "causeway.ev.a.custom", headers).await;
}

async fn publish_at(nats: &NatsServer, subject: &str, headers: &[u8]) {
    let address = nats.url();
    let mut socket = BufReader::new(TcpStream::connect(address.trim_start_matches("nats://")).await.unwrap());
    let length = headers.len();
    let mut sent = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
    sent.extend(format!("HPUB {subject} {length} {}\r\n", length + 1).as_bytes());
    sent.extend([headers, b"x\r\nPING\r\n"].concat());
    socket.write_all(&sent).await.unwrap();
    let mut line = String::new();
    while !line.starts_with("PONG") {
        line.clear();
        assert_ne!(socket.read_line(&mut line).await.unwrap(), 0, "the server hung up");
        assert!(!line.starts_with("-ERR"), "{line}");
    }
}

/// A note, something that cannot be read, a note and so on, a run of two among them. How many stand there.
async fn filled(nats: &NatsServer, log: &Log) -> u64 {
    log.append(single(note("a", "1"))).await.unwrap();
    publish(nats, HEADERS[0]).await;
    for headers in HEADERS {
        publish(nats, headers).await;
        log.append(single(note("a", "1"))).await.unwrap();
        log.append(single(note("b", "1"))).await.unwrap();
    }
    let all = 2 + 3 * HEADERS.len() as u64;
    let last = log.last_position().await.unwrap();
    assert_eq!(last.get(), all);
    all
}

/// What a group of everything is given.
async fn pull(log: &Log) -> GroupPull {
    let group = Group {
        name: "g".parse().unwrap(),
        aggregate_id: None,
        categories: vec![],
        after: Position::START,
        terms: String::new(),
    };
    log.pull_group(&log.open_group(&group).await.unwrap().0)
}

fn is_readable(position: u64) -> bool {
    position != 2 && !position.is_multiple_of(3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_and_a_walk_meet_what_no_client_can_read_and_go_on_behind_it() {
    let (nats, log) = server().await;
    let mut live = log.subscribe(Position::START);
    let all = filled(&nats, &log).await;
    let mut late = log.subscribe(Position::START);
    for subscription in [&mut live, &mut late] {
        for position in 1..=all {
            let record = next(subscription).await;
            assert_eq!(record.position().get(), position);
            assert_eq!(matches!(record, Record::Event(_)), is_readable(position), "{record:?}");
        }
    }
    log.append(single(note("a", "more"))).await.unwrap();
    for subscription in [&mut live, &mut late] {
        assert_eq!(text(&next(subscription).await), "more");
    }
    let mut walk = log.walk(Position::START, Position::new(all));
    let mut entries = Vec::new();
    loop {
        match walk.page().await.unwrap() {
            page if page.is_empty() => break,
            page => entries.extend(page),
        }
    }
    assert_eq!(entries.iter().map(|entry| entry.position.get()).collect::<Vec<_>>(), (1..=all).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| matches!(entry.content, Content::Event(_)) == is_readable(entry.position.get())));
    leaves_are_those_of_a_walk(&log).await;
    let Content::Foreign(foreign) = &entries[1].content else { panic!("{:?}", entries[1]) };
    let raw = ("raw headers".to_owned(), "TkFUUy8xLjANCngtbmFtZTogSvZyZw0KDQo=".to_owned());
    assert_eq!((&foreign.subject[..], &foreign.headers[..], &foreign.payload[..]), ("ev.a.custom", &[raw][..], &b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_is_folded_and_fenced_past_what_no_client_can_read() {
    let (nats, log) = server().await;
    filled(&nats, &log).await;
    publish(&nats, HEADERS[0]).await;
    let last = log.last_position().await.unwrap();
    let mut folded = Folded::<usize>::default();
    log.catch_up(&id("a"), &mut folded, last, |count, _| count + 1).await.unwrap();
    assert_eq!((*folded.state(), folded.tip(Category::Custom)), (1 + HEADERS.len(), last));
    assert_eq!(log.get(last).await.unwrap(), None);
    let append = Append {
        events: vec![note("a", "2"), note("a", "3")],
        expected: vec![fence("a", Category::Custom, last.get())],
        idempotency_key: None,
    };
    log.append(append).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_and_groups_put_aside_just_what_no_client_can_read_and_appends_go_on_meanwhile() {
    let (nats, log) = server().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (log, stop) = (log.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                log.append(single(note("w", "1"))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let mut all = BTreeSet::new();
    for headers in [&HEADERS[0]].into_iter().chain(&HEADERS) {
        all.insert(log.append(single(note("a", "1"))).await.unwrap().receipts[0].position);
        publish(&nats, headers).await;
    }
    let mut pull = pull(&log).await;
    let ack_wait = Duration::from_secs(2);
    let config = ConsumerConfig { processor: "p", categories: &[Category::Custom], ack_wait, ack_pending_max: 100 };
    let mut consumer = log.consumer(config).await.unwrap();
    let (mut pulled, mut consumed) = (BTreeSet::new(), BTreeSet::new());
    let work = async {
        while pulled.len() < all.len() || consumed.len() < all.len() {
            tokio::select! {
                next = pull.next(Instant::now() + LIMIT) => if let Pull::Came(next) = next {
                    next.hold.ack().await.unwrap();
                    pulled.extend(next.event.filter(|event| event.aggregate_id == id("a")).map(|_| next.position));
                },
                delivery = consumer.next() => {
                    delivery.ack().await.unwrap();
                    consumed.extend(Some(delivery.position()).filter(|_| delivery.event.aggregate_id == id("a")));
                }
            }
        }
    };
    tokio::time::timeout(LIMIT * 2, work).await.expect("all of them in time");
    assert_eq!((&pulled, &consumed), (&all, &all));
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    // Nothing is left that would come again and break the next connection.
    let end = log.last_position().await.unwrap();
    let rest = async {
        loop {
            tokio::select! {
                next = pull.next(Instant::now() + LIMIT) => if let Pull::Came(next) = next {
                    next.hold.ack().await.unwrap();
                },
                delivery = consumer.next() => delivery.ack().await.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(300)) => {
                    let info = log.info().await.unwrap();
                    if info.consumers.len() == 2 && info.consumers.iter().all(|consumer| consumer.acknowledged == end) {
                        return;
                    }
                }
            }
        }
    };
    tokio::time::timeout(LIMIT * 2, rest).await.expect("everything acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_deleted_and_made_anew_gets_past_the_same_once_more() {
    let (nats, log) = server().await;
    let all = filled(&nats, &log).await;
    let ack_wait = Duration::from_secs(2);
    let config = ConsumerConfig { processor: "p", categories: &[Category::Custom], ack_wait, ack_pending_max: 100 };
    let mut consumer = log.consumer(config).await.unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let stream = jetstream.get_stream_no_info("causeway_EVENTS").await.unwrap();
    let readable: BTreeSet<_> = (1..=all).filter(|position| is_readable(*position)).collect();
    for _ in 0..2 {
        let mut consumed = BTreeSet::new();
        let work = async {
            while !readable.is_subset(&consumed) {
                let delivery = consumer.next().await;
                delivery.ack().await.unwrap();
                consumed.insert(delivery.position().get());
            }
        };
        tokio::time::timeout(LIMIT, work).await.expect("all of them in time");
        stream.delete_consumer("causeway_p").await.unwrap();
    }
}

/// Older servers keep a status that somebody published, and hand it on as if it were their own word.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_was_published_ends_no_page_and_no_pull() {
    let (nats, log) = server().await;
    let statuses = ["204 EOB", "404 Not Found", "408 Request Timeout", "409 Consumer Deleted", "503"];
    for status in statuses {
        publish(&nats, format!("NATS/1.0 {status}\r\n\r\n").as_bytes()).await;
    }
    let last = log.append(single(note("a", "1"))).await.unwrap().receipts[0].position;
    leaves_are_those_of_a_walk(&log).await;
    let mut folded = Folded::<usize>::default();
    log.catch_up(&id("a"), &mut folded, last, |count, _| count + 1).await.unwrap();
    assert_eq!((*folded.state(), folded.tip(Category::Custom)), (1, last));
    let mut pull = pull(&log).await;
    for position in 1..=last.get() {
        let pulled = async {
            let until = Instant::now() + LIMIT;
            loop {
                if let Pull::Came(pulled) = pull.next(until).await {
                    return pulled;
                }
            }
        };
        let pulled = tokio::time::timeout(LIMIT, pulled).await.expect("at once");
        assert_eq!((pulled.position.get(), pulled.event.is_some()), (position, position == last.get()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_can_read_among_deltas_and_mail_is_got_over_and_keeps_nobody_else_waiting() {
    let (nats, log) = server().await;
    let group = "g".parse().unwrap();
    let mut deltas = log.deltas(&id("s")).await.unwrap();
    let mut mail = log.dispatcher_mail(&group).await.unwrap();
    let delta = Delta { turn: "t".into(), step: 1, kind: DeltaKind::Text, text: "hel".into() };
    let client = nats.client().await.unwrap();
    let mut spy = client.subscribe("causeway.*.>").await.unwrap();
    // A round trip: from here on it hears.
    client.request("$JS.API.INFO", "".into()).await.unwrap();
    log.tell_dispatcher(&group, b"0".to_vec()).await.unwrap();
    log.publish_delta(&id("s"), &delta).await;
    let mut subjects = Vec::new();
    for _ in 0..2 {
        subjects.push(tokio::time::timeout(LIMIT, spy.next()).await.unwrap().unwrap().subject.to_string());
    }
    drop(spy);
    let words = |round: usize| format!("round {round}").into_bytes();
    for (round, headers) in HEADERS.into_iter().enumerate() {
        for subject in &subjects {
            publish_at(&nats, subject, headers).await;
        }
        assert!(log.is_connected());
        log.append(single(note("a", "1"))).await.unwrap();
        // What is said until the connection is back is missed, and here said again.
        let delta = Delta { text: round.to_string(), ..delta.clone() };
        let said = async {
            loop {
                log.publish_delta(&id("s"), &delta).await;
                let _ = log.tell_dispatcher(&group, words(round)).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let heard = async {
            while deltas.next().await.unwrap() != delta {}
            while mail.next().await.payload != words(round) {}
        };
        tokio::select! {
            () = said => unreachable!(),
            heard = tokio::time::timeout(LIMIT, heard) => heard.expect("they are heard again"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_among_the_dead_letters_and_is_none_is_passed_by() {
    let (nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let event = log.get(Position::new(1)).await.unwrap().unwrap().event;
    let name = "g".parse().unwrap();
    for reason in ["first", "second"] {
        log.park_of_group(&name, &event, reason, 1, Some(reason.len() as u64)).await.unwrap();
        for headers in HEADERS {
            publish_at(&nats, "causeway.dlq.group_g.a", headers).await;
        }
    }
    let (letters, more) = tokio::time::timeout(LIMIT, log.letters(Some("g"), 0, 10)).await.unwrap().unwrap();
    assert_eq!((letters.iter().map(|letter| &letter.reason[..]).collect::<Vec<_>>(), more), (vec!["first", "second"], false));
    assert_eq!(log.replay_letters(&name, &[letters[1].number]).await.unwrap(), 1);
}
