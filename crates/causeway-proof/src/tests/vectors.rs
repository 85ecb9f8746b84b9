//! The test vectors of `docs/integrity.md`.

use causeway_event::TraceParent;

use super::*;
use crate::{Checkpoint, Head, PublicKey};

fn full() -> Entry {
    with(note(7, "telegram:42", r#"{"content":"Hello"}"#), |event| {
        event.event_type = "MessageReceived".parse().unwrap();
        event.metadata.source = "telegram".parse().unwrap();
        event.metadata.causation_id = Some(id(6));
        event.metadata.traceparent = Some(TraceParent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes(),
            span_id: 0xb7ad_6b71_6920_3331_u64.to_be_bytes(),
            sampled: true,
        });
        event.metadata.labels.extend([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "é".to_owned())]);
        event.metadata.schema_version = Some(3);
        event.key = Some("update-9".parse().unwrap());
        event.expected = Some(Position::new(5));
    })
}

/// The documentation holds what this crate computes.
#[test]
fn the_documentation_has_the_vectors_of_this_code() {
    let (first, second, third) = (note(6, "a", "1"), full(), foreign(8));
    let mut chain = Chain::START;
    let mut vectors = Vec::new();
    for entry in [&first, &second, &third] {
        vectors.push(entry.leaf().to_string());
        chain.push(entry);
        vectors.push(chain.hash.to_string());
    }
    let data = signer().sign(&chain);
    vectors.extend([signer().public_key().to_string(), data.key_id, data.signature]);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/integrity.md");
    let documented = std::fs::read_to_string(file).unwrap();
    for vector in vectors {
        assert!(documented.contains(&vector), "{vector} is not in docs/integrity.md");
    }
}

#[test]
fn every_field_is_part_of_the_leaf() {
    let whole = full();
    let changes: [fn(&mut Recorded); 14] = [
        |event| event.id = id(99),
        |event| event.timestamp = Timestamp::from_microsecond(1).unwrap(),
        |event| event.event_type = "MessageGenerated".parse().unwrap(),
        |event| event.aggregate_id = "b".parse().unwrap(),
        |event| event.metadata.source = "b".parse().unwrap(),
        |event| event.metadata.causation_id = None,
        |event| event.metadata.correlation_id = "b".parse().unwrap(),
        |event| event.metadata.traceparent = None,
        |event| event.metadata.schema_version = None,
        |event| drop(event.metadata.labels.remove("a")),
        |event| drop(event.metadata.labels.insert("a".to_owned(), "e".to_owned())),
        |event| event.key = None,
        |event| event.expected = None,
        |event| event.payload = Payload::Bytes(Bytes::from_static(br#"{"content": "Hello"}"#)),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert_ne!(with(whole.clone(), change).leaf(), whole.leaf(), "change {at}");
    }
    assert_ne!(Entry { position: Position::new(8), ..whole.clone() }.leaf(), whole.leaf());
}

#[test]
fn a_signature_is_of_its_key_and_of_each_field() {
    let mut chain = Chain::START;
    chain.push(&full());
    let data = signer().sign(&chain);
    let has_signed = |key: PublicKey, data: &LogCheckpointed| key.has_signed(&Checkpoint::read(data).unwrap());
    let key = signer().public_key();
    assert!(has_signed(key, &data));
    assert!(!has_signed(Signer::from_seed(&[8; 32]).public_key(), &data));
    assert!(!has_signed(key, &LogCheckpointed { position: 8, ..data.clone() }));
    assert!(!has_signed(key, &LogCheckpointed { events: 2, ..data.clone() }));
    assert!(!has_signed(key, &LogCheckpointed { log: "0".repeat(64), ..data.clone() }));
    assert!(!has_signed(key, &LogCheckpointed { hash: "0".repeat(64), ..data.clone() }));
    assert_eq!(PublicKey::parse(&key.to_string()).unwrap(), key);
    assert!(Checkpoint::read(&LogCheckpointed { signature: "x".to_owned(), ..data }).is_err());
}

#[test]
fn a_seed_is_read_from_hex_digits_and_from_base64() {
    let key = signer().public_key();
    for text in [format!(" {}\n", "07".repeat(32)), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned()] {
        assert_eq!(Signer::parse(&text).unwrap().public_key(), key);
    }
    for bad in ["", "07", "not a key at all, but as long as one would be if it were one....!"] {
        assert!(Signer::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_head_reads_back() {
    let mut chain = Chain::START;
    chain.push(&full());
    let head = chain.head();
    assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
    for bad in ["", "7", "7:", ":00", "x:00", "7:00"] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}
