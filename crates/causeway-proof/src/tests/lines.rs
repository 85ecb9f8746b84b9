//! An export says all that a proof needs, on one line for each entry.

use causeway_event::TraceParent;
use proptest::prelude::*;

use super::*;
use crate::{Hash, Line};

fn text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ \"%a-zA-Z:é👋/\\\\]{1,20}").unwrap()
}

proptest! {
    #[test]
    fn every_entry_reads_back_from_its_line_with_the_same_leaf(
        position in 1..=i64::MAX as u64, id: u128, cause: Option<u128>, micros in 0_i64..4_000_000_000_000_000, aggregate in text(),
        source in text(), correlation in text(), key in proptest::option::of(text()), expected: Option<u64>,
        version in proptest::option::of(1_u32..), labels in proptest::collection::btree_map(text(), "\\PC{0,9}", 0..4),
        content in "\\PC{0,40}", space in "[ \\n\\t]{0,2}", sampled in proptest::option::of(any::<bool>()), digest: bool,
    ) {
        let data = format!("{space}{{\"a\":{space}{}}}{space}", serde_json::to_string(&content).unwrap());
        let entry = with(note(1, &aggregate, &data), |event| {
            event.id = EventId::from_uuid(Uuid::from_u128(id));
            event.timestamp = Timestamp::from_microsecond(micros).unwrap();
            event.metadata.source = source.parse().unwrap();
            event.metadata.causation_id = cause.map(|cause| EventId::from_uuid(Uuid::from_u128(cause)));
            event.metadata.correlation_id = correlation.parse().unwrap();
            event.metadata.schema_version = version;
            event.metadata.labels = labels;
            event.metadata.traceparent = sampled.map(|sampled| TraceParent { trace_id: [3; 16], span_id: [4; 8], sampled });
            event.key = key.map(|key| key.parse().unwrap());
            event.expected = expected.map(Position::new);
        });
        let entry = Entry { position: Position::new(position), ..entry };
        let whole = entry.leaf();
        let entry = match digest {
            true => with(entry, |event| event.payload = Payload::Digest(event.payload.digest())),
            false => entry,
        };
        prop_assert_eq!(entry.leaf(), whole, "data that was taken out proves the same");
        let line = Line::Entry { entry: Box::new(entry), hash: whole };
        let written = line.write();
        prop_assert!(!written.contains('\n'));
        prop_assert_eq!(Line::read(written.as_bytes()), Ok(line));
    }

    #[test]
    fn no_text_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = Line::read(&bytes);
    }
}

#[test]
fn the_other_lines_read_back() {
    let chain = Chain { log: Hash::of(b"first"), position: Position::new(9), entries: 7, hash: Hash::of(b"x") };
    let gap = Line::Gap { first: Position::new(3), last: Position::new(4) };
    let other = Line::Entry { entry: Box::new(foreign(4)), hash: Hash::ZERO };
    for line in [Line::Start(chain), gap, other, Line::End(chain)] {
        assert_eq!(Line::read(line.write().as_bytes()), Ok(line));
    }
}

#[test]
fn a_line_is_a_cloud_event_that_a_person_can_read() {
    let entry = with(note(42, "user_123", r#"{"content": "Hello"}"#), |event| {
        event.key = Some("k".parse().unwrap());
        event.expected = Some(Position::START);
        event.metadata.labels.insert("k".to_owned(), "v".to_owned());
    });
    let line = Line::Entry { entry: Box::new(entry), hash: Hash::ZERO }.write();
    assert_eq!(
        line,
        r#"{"specversion":"1.0","position":"42","id":""#.to_owned()
            + &id(42).to_string()
            + r#"","type":"NoteTaken","source":"test","subject":"user_123","time":"2026-11-23T10:00:00.123498Z","correlationid":"0af7651916cd43dd8448eb211c80319c","labels":"{\"k\":\"v\"}","idempotencykey":"k","expectedposition":"0","datacontenttype":"application/json","data":{"content": "Hello"},"hash":""#
            + &"0".repeat(64)
            + "\"}"
    );
}

#[test]
fn what_is_no_line_is_refused() {
    let good = Line::Entry { entry: Box::new(note(1, "a", "1")), hash: Hash::ZERO }.write();
    for (from, to) in [
        ("\"data\":1", "\"data\":1,\"data_base64\":\"MQ==\""),
        (",\"data\":1", ""),
        ("\"position\":\"1\"", "\"position\":\"x\""),
        ("\"position\":\"1\"", "\"position\":\"+1\""),
        ("\"position\":\"1\"", "\"position\":\"01\""),
        ("\"subject\":\"a\",", ""),
        ("\"source\"", "\"sauce\""),
        ("2026-", "today-"),
        ("\"1.0\"", "\"2.0\""),
        ("application/json", "text/plain"),
        ("\"position\":\"1\"", "\"position\":\"18446744073709551615\""),
        (",\"data\":1", ",\"labels\":\"{\\\"a\\\":\\\"x\\\",\\\"a\\\":\\\"y\\\"}\",\"data\":1"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(good, bad);
        assert!(Line::read(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn the_schema_of_another_type_is_refused() {
    let versioned = with(note(1, "a", "1"), |event| event.metadata.schema_version = Some(2));
    let good = Line::Entry { entry: Box::new(versioned), hash: Hash::ZERO }.write();
    assert!(good.contains("urn:causeway:type:NoteTaken:2") && Line::read(good.as_bytes()).is_ok(), "{good}");
    for other in ["urn:causeway:type:Refund:2", "urn:causeway:type:NoteTaken:02", "https://example.com/NoteTaken:2"] {
        let error = Line::read(good.replace("urn:causeway:type:NoteTaken:2", other).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("dataschema: is not urn:causeway:type:NoteTaken:<version>"), "{error}");
    }
}

#[test]
fn a_line_is_one_thing() {
    let event = Line::Entry { entry: Box::new(note(4, "a", "1")), hash: Hash::ZERO }.write();
    let other = Line::Entry { entry: Box::new(foreign(4)), hash: Hash::ZERO }.write();
    let members = event.strip_prefix("{\"specversion\":\"1.0\",\"position\":\"4\"").unwrap();
    let chain = Chain { position: Position::new(9), entries: 7, ..Chain::START };
    let gap = Line::Gap { first: Position::new(3), last: Position::new(4) };
    for line in [Line::Start(chain).write(), gap.write(), Line::End(chain).write(), other] {
        assert!(Line::read(line.as_bytes()).is_ok());
        for more in [members, ",\"subject\":null}", ",\"start\":null}"] {
            let both = format!("{}{more}", line.strip_suffix('}').unwrap());
            assert!(Line::read(both.as_bytes()).is_err(), "{both}");
        }
    }
}

#[test]
fn what_nats_would_act_upon_cannot_come_from_an_export() {
    let good = Line::Entry { entry: Box::new(foreign(4)), hash: Hash::ZERO }.write();
    for (from, to) in
        [("\"x\"", "\"Nats-Rollup\""), ("\"x\"", "\"nats-msg-id\""), ("ev.a.custom", "dlq.a"), ("ev.a.custom", "timer.a")]
    {
        let bad = good.replace(from, to);
        assert_ne!(good, bad);
        assert!(Line::read(bad.as_bytes()).is_err(), "{bad}");
    }
}
