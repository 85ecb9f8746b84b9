//! Walking, importing and copying the log, on real servers.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::{kv, object_store, stream};
use bytes::Bytes;
use causeway_event::{Category, EventId, Position};
use causeway_log::{Append, Config, ConsumerConfig, Import, Log, LogError};
use causeway_proof::{Chain, Content, Entry, Foreign};
use causeway_testkit::NatsServer;
use uuid::Uuid;

use crate::support::{config, connected, event, fenced, id, keyed, note, server, single};

async fn walk(log: &Log) -> Vec<Entry> {
    let last = log.last_position().await.unwrap();
    let mut walk = log.walk(Position::START, last);
    let mut all = Vec::new();
    loop {
        let page = walk.page().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn head(entries: &[Entry]) -> Chain {
    let mut chain = Chain::START;
    entries.iter().for_each(|entry| chain.push(entry));
    chain
}

/// A log with everything that can stand on one.
async fn filled() -> (NatsServer, Log) {
    let (nats, log) = server().await;
    let client = nats.client().await.unwrap();
    log.append(keyed(single(note("a", "1")), "first")).await.unwrap();
    log.append(fenced(note("a", "2"), 1)).await.unwrap();
    let batch = Append { events: vec![note("a", "3"), note("b %", "4")], ..Append::default() };
    log.append(keyed(batch, "k 1")).await.unwrap();
    client.request("causeway.ev.a.custom", "garbage".into()).await.unwrap();
    let mut caused = event("c", "MessageReceived", &serde_json::json!({ "content": "line\nbreak" }));
    caused.labels.insert("k".to_owned(), "é v".to_owned());
    caused.schema_version = Some(3);
    log.append(single(caused)).await.unwrap();
    // JSON with white space that a parser would not keep.
    let mut headers = async_nats::HeaderMap::new();
    let stored = log.get(Position::new(1)).await.unwrap().unwrap();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_01h455vb4pex5vsknk084sn02q"),
        ("ce-type", "NoteTaken"),
        ("ce-source", "nats"),
        ("ce-subject", "a"),
        ("ce-causationid", &stored.event.id.to_string()),
        ("ce-correlationid", "c"),
        // Of another type: no version of this one.
        ("ce-dataschema", "urn:causeway:type:OrderPlaced:1"),
    ] {
        headers.insert(name, value);
    }
    let js = jetstream::new(client);
    js.publish_with_headers("causeway.ev.a.custom", headers, " {\n} ".into()).await.unwrap().await.unwrap();
    (nats, log)
}

/// Everything on the log as a subscription gives it, beside what a walk finds there.
pub(crate) async fn leaves_are_those_of_a_walk(log: &Log) {
    let mut subscription = log.subscribe(Position::START);
    for entry in walk(log).await {
        let next = subscription.next_with_leaf(|position| position == entry.position);
        let (record, leaf) = tokio::time::timeout(Duration::from_secs(20), next).await.expect("in time").unwrap();
        assert_eq!(record.position(), entry.position);
        assert_eq!(leaf.map(|leaf| leaf.hash), Some(entry.leaf()), "{entry:?}");
    }
}

#[tokio::test]
async fn a_subscription_says_the_same_leaves_as_a_walk_and_where_it_was_broken() {
    let (mut nats, log) = filled().await;
    leaves_are_those_of_a_walk(&log).await;
    let mut import = log.import().await.unwrap();
    for (number, mut entry) in (8..).zip(walk(&log).await) {
        entry.position = Position::new(number);
        import.put(&entry).await.unwrap();
    }
    import.finish().await.unwrap();
    leaves_are_those_of_a_walk(&log).await;

    let mut subscription = log.subscribe(Position::START);
    let mut run = async || {
        let next = subscription.next_with_leaf(|position| position.get() != 2);
        tokio::time::timeout(Duration::from_secs(2), next).await.ok()?.unwrap().1.map(|leaf| leaf.run)
    };
    let (first, unwanted, third) = (run().await, run().await, run().await);
    assert!(first.is_some() && first == third && unwanted.is_none(), "{first:?} {unwanted:?} {third:?}");
    for _ in 4..=14 {
        run().await;
    }
    nats.restart().await.unwrap();
    connected(&log).await;
    assert_eq!(run().await, None, "nothing is there, and it goes on");
    log.append(single(note("a", "more"))).await.unwrap();
    let next = run().await;
    assert!(next.is_some() && next != first, "{next:?} {first:?}");
}

#[tokio::test]
async fn a_walk_meets_everything_with_its_key_and_fence() {
    let (_nats, log) = filled().await;
    let entries = walk(&log).await;
    assert_eq!(entries.iter().map(|entry| entry.position.get()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    let event = |at: usize| match &entries[at].content {
        Content::Event(event) => event,
        Content::Foreign(foreign) => panic!("{foreign:?}"),
    };
    assert_eq!(event(0).key.as_ref().map(causeway_event::IdempotencyKey::as_str), Some("first"));
    assert_eq!(event(1).expected, Some(Position::new(1)));
    assert_eq!(event(2).key.as_ref().map(causeway_event::IdempotencyKey::as_str), Some("k 1"));
    assert!(
        matches!(&entries[4].content, Content::Foreign(foreign) if foreign.subject == "ev.a.custom" && foreign.headers.is_empty())
    );
    assert_eq!((event(5).metadata.schema_version, event(6).metadata.schema_version), (Some(3), None));
    assert_eq!(event(6).payload, causeway_proof::Payload::Bytes(Bytes::from_static(b" {\n} ")));
    // From the middle, and not to the end.
    let mut walk = log.walk(Position::new(2), Position::new(4));
    let page = walk.page().await.unwrap();
    assert_eq!(page, entries[2..4]);
    assert!(walk.page().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_imported_log_is_the_same_and_goes_on_where_it_broke_off() {
    let (_nats, log) = filled().await;
    let entries = walk(&log).await;
    let (nats, copy) = server().await;
    let mut import = copy.import().await.unwrap();
    for entry in &entries[..3] {
        import.put(entry).await.unwrap();
    }
    import.finish().await.unwrap();
    let mut import = copy.import().await.unwrap();
    assert_eq!(import.position().get(), 3);
    assert!(matches!(import.put(&entries[4]).await, Err(LogError::Mismatch { .. })), "no position is left out");
    for entry in &entries[3..] {
        import.put(entry).await.unwrap();
    }
    assert_eq!(import.finish().await.unwrap().get(), 7);
    let copied = walk(&copy).await;
    assert_eq!(copied, entries);
    assert_eq!(head(&copied), head(&entries));
    let (original, imported) =
        (log.get(Position::new(1)).await.unwrap().unwrap(), copy.get(Position::new(1)).await.unwrap().unwrap());
    assert_eq!(original, imported, "its time is that of the log it comes from");
    // A fence on the copy means what it meant on the original.
    assert!(matches!(copy.append(fenced(note("a", "x"), 2)).await, Err(LogError::Conflict { .. })));
    drop(nats);
}

#[tokio::test]
async fn an_import_publishes_nothing_that_nats_would_act_upon_and_no_event_in_disguise() {
    let (_nats, log) = filled().await;
    let entries = walk(&log).await;
    let Content::Foreign(foreign) = entries[4].content.clone() else { panic!("{:?}", entries[4]) };
    let (_other, copy) = server().await;
    let event: Vec<(String, String)> = [
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_01h455vb4pex5vsknk084sn02q"),
        ("ce-type", "NoteTaken"),
        ("ce-source", "nats"),
        ("ce-subject", "a"),
        ("ce-correlationid", "c"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let rollup = vec![("nats-rollup".to_owned(), "all".to_owned())];
    // Neither can be sent: such a line was not written by an export of ours.
    let with_a_space = vec![("x name".to_owned(), "1".to_owned())];
    let of_two_lines = vec![("x".to_owned(), "1\r\nnats-rollup: all".to_owned())];
    for (headers, payload) in [(rollup, "x"), (event, "{}"), (with_a_space, "x"), (of_two_lines, "x")] {
        let foreign = Foreign { headers, payload: payload.into(), ..foreign.clone() };
        let entry = Entry { position: Position::new(1), content: Content::Foreign(foreign) };
        let refused = copy.import().await.unwrap().put(&entry).await;
        assert!(matches!(refused, Err(LogError::Mismatch { .. })), "{entry:?}");
        assert!(matches!(Import::check("causeway", &entry), Err(LogError::Mismatch { .. })), "{entry:?}");
    }
    assert_eq!(copy.last_position().await.unwrap(), Position::START);
}

#[tokio::test]
async fn an_import_stops_when_somebody_else_writes() {
    let (_nats, log) = filled().await;
    let entries = walk(&log).await;
    let (_other, copy) = server().await;
    let mut import = copy.import().await.unwrap();
    copy.append(single(note("a", "mine"))).await.unwrap();
    import.put(&entries[0]).await.unwrap();
    let refused = import.finish().await.unwrap_err();
    assert!(matches!(&refused, LogError::Mismatch { what } if what.contains("somebody else")), "{refused}");
    assert_eq!(copy.last_position().await.unwrap().get(), 1);
}

async fn chunks(log: &Log, stream: &str) -> (serde_json::Value, Vec<Bytes>) {
    let mut snapshot = log.snapshot(stream).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = snapshot.chunk().await.unwrap() {
        chunks.push(chunk);
    }
    (snapshot.description().clone(), chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_streams_come_back_from_their_snapshots_with_consumers_artifacts_and_timers() {
    let (nats, log) = filled().await;
    let js = jetstream::new(nats.client().await.unwrap());
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let bucket =
        js.create_object_store(object_store::Config { bucket: "causeway_artifacts".into(), ..Default::default() }).await.unwrap();
    bucket.put("report.pdf", &mut large.as_slice()).await.unwrap();
    let cache = js.create_key_value(kv::Config { bucket: "causeway_snapshots".into(), ..Default::default() }).await.unwrap();
    cache.put("a", "state".into()).await.unwrap();
    js.create_stream(stream::Config {
        name: "causeway_TIMERS".into(),
        subjects: vec!["causeway.timer.>".into(), "causeway.due.>".into()],
        allow_message_schedules: true,
        allow_message_ttl: true,
        allow_direct: true,
        ..Default::default()
    })
    .await
    .unwrap();
    let at = jiff::Timestamp::now() + Duration::from_secs(5);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Schedule", format!("@at {at:.0}"));
    headers.insert("Nats-Schedule-Target", "causeway.due.one");
    js.publish_with_headers("causeway.timer.one", headers, "wake up".into()).await.unwrap().await.unwrap();
    js.create_stream(stream::Config { name: "other_EVENTS".into(), subjects: vec!["other.>".into()], ..Default::default() })
        .await
        .unwrap();
    let consuming = ConsumerConfig { ack_wait: Duration::from_secs(5), ..consumer_config() };
    let mut consumer = log.consumer(consuming.clone()).await.unwrap();
    let first = consumer.next().await;
    first.ack().await.unwrap();
    drop(consumer);
    // What is only a copy is left out.
    log.make_copies().await.unwrap();
    let before = walk(&log).await;
    let streams = log.streams().await.unwrap();
    let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["KV_causeway_snapshots", "OBJ_causeway_artifacts", "causeway_DLQ", "causeway_EVENTS", "causeway_TIMERS"]);
    let mut copies = Vec::new();
    for name in &names {
        copies.push(chunks(&log, name).await);
    }
    drop((log, nats));

    let fresh = NatsServer::start().await.unwrap();
    let log = Log::reach(&config(&fresh.url())).await.unwrap();
    for (name, (description, chunks)) in names.iter().zip(copies) {
        let mut chunks = chunks.into_iter();
        log.restore::<LogError>(name, &description, async || Ok(chunks.next())).await.unwrap();
        let again = log.restore::<LogError>(name, &description, async || Ok(None)).await;
        assert!(matches!(again, Err(LogError::Refused { .. })), "nothing is overwritten");
    }
    assert_eq!(log.streams().await.unwrap(), streams);
    let log = Log::connect(&config(&fresh.url())).await.unwrap();
    assert_eq!(walk(&log).await, before);
    let mut consumer = log.consumer(consuming).await.unwrap();
    // What had been sent and not acknowledged comes again, in whatever order.
    let mut left = std::collections::BTreeSet::from([2, 3, 4, 7]);
    while !left.is_empty() {
        let delivery = consumer.next().await;
        assert_ne!(delivery.position().get(), 1, "what was acknowledged stays so");
        left.remove(&delivery.position().get());
        delivery.ack().await.unwrap();
    }
    let js = jetstream::new(fresh.client().await.unwrap());
    let mut object = js.get_object_store("causeway_artifacts").await.unwrap().get("report.pdf").await.unwrap();
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut object, &mut bytes).await.unwrap();
    assert!(bytes == large);
    assert_eq!(js.get_key_value("causeway_snapshots").await.unwrap().get("a").await.unwrap().unwrap(), "state");
    let timers = js.get_stream("causeway_TIMERS").await.unwrap();
    causeway_testkit::wait_until("the timer to fire", Duration::from_secs(20), async || {
        timers.direct_get_last_for_subject("causeway.due.one").await.ok()
    })
    .await;
}

fn consumer_config() -> ConsumerConfig {
    ConsumerConfig { processor: "test", categories: &[Category::Custom], ack_wait: Duration::from_secs(5), ack_pending_max: 10 }
}

#[tokio::test]
async fn the_log_tells_what_it_holds_without_being_read() {
    let (_nats, log) = filled().await;
    let info = log.info().await.unwrap();
    assert_eq!((info.stream.messages, info.stream.first, info.stream.last, info.replicas), (7, 1, 7, 1));
    assert_eq!(info.categories["custom"], 6);
    assert_eq!(info.categories["input"], 1);
    assert!(info.consumers.is_empty());
    assert!(log.last_event(&id("c"), Category::Input).await.unwrap().is_some());
    assert!(log.last_event(&id("c"), Category::Ai).await.unwrap().is_none());
}

#[tokio::test]
async fn a_log_that_is_opened_is_not_made() {
    let nats = NatsServer::start().await.unwrap();
    let refused = Log::open(&config(&nats.url())).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("there is no log"), "{refused}");
    let reached = Log::reach(&Config { ..config(&nats.url()) }).await.unwrap();
    assert!(reached.streams().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_event_that_other_clients_would_read_otherwise_is_none() {
    let (nats, log) = server().await;
    let js = jetstream::new(nats.client().await.unwrap());
    let publish = async |more: &[(&'static str, &'static str)]| {
        let mut headers = async_nats::HeaderMap::new();
        let id = EventId::from_uuid(Uuid::now_v7()).to_string();
        for (name, value) in [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-type", "NoteTaken"), ("ce-source", "nats")] {
            headers.insert(name, value);
        }
        headers.insert("ce-subject", "a");
        headers.insert("ce-correlationid", "c");
        more.iter().for_each(|(name, value)| headers.append(*name, *value));
        js.publish_with_headers("causeway.ev.a.custom", headers, "{}".into()).await.unwrap().await.unwrap();
        let last = log.last_position().await.unwrap();
        log.walk(last.previous(), last).page().await.unwrap().remove(0).content
    };
    for unknown in [&[][..], &[("x-note", "1"), ("x-note", "2"), ("X-Note", "3"), ("Nats-X", "4")]] {
        let content = publish(unknown).await;
        assert!(matches!(content, Content::Event(_)), "{content:?}");
    }
    for more in
        [("ce-type", "Refunded"), ("Ce-Type", "Refunded"), ("ce-source", "the-bank"), ("CAUSEWAY-time", "2020-01-01T00:00:00Z")]
    {
        let Content::Foreign(foreign) = publish(&[more]).await else { panic!("{more:?} is an event") };
        assert!(foreign.reason.reason.contains("more than once"), "{:?}", foreign.reason);
    }
}
