//! What an answer means, where no server gives it when it is wanted: the answers are ours, the log is real.

use causeway_event::{Data, Labels, Lineage};
use causeway_testkit::NatsServer;
use futures::future;

use super::answer::Answer;
use super::prepare::{Prepared, prepare};
use super::single::Attempt;
use super::*;

async fn log() -> (NatsServer, Log) {
    let nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&crate::Config { url: nats.url().as_str().into(), ..crate::Config::default() }).await.unwrap();
    (nats, log)
}

fn prepared(log: &Log, events: usize) -> Arc<Prepared> {
    let event = NewEvent {
        event_type: "NoteTaken".parse().unwrap(),
        aggregate_id: "a".parse().unwrap(),
        data: Data::from_json(b"1").unwrap(),
        source: "test".parse().unwrap(),
        lineage: Lineage::Root { correlation: None },
        labels: Labels::new(),
        schema_version: None,
        traceparent: None,
    };
    Arc::new(prepare(&log.inner.names, Append { events: vec![event; events], ..Append::default() }).unwrap())
}

/// As a server says it whose account became full by the very message that it did not answer.
fn refused() -> publisher::Sent {
    future::ready(Answer::Refused { code: 10002, reason: "resource limits exceeded".into() }).boxed()
}

fn positions(appended: &Appended) -> Vec<u64> {
    appended.receipts.iter().map(|receipt| receipt.position.get()).collect()
}

#[tokio::test]
async fn a_refusal_behind_an_attempt_that_went_unanswered_says_nothing_of_that_attempt() {
    let (_nats, log) = log().await;
    let one = prepared(&log, 1);
    let stored = log.inner.publisher.send(&one.messages[0]).await.await;
    assert_eq!(stored, Answer::Stored { last: Position::new(1), duplicate: false });
    let settled = log.settle_single(&one, refused(), Attempt::AfterSilence).await.unwrap();
    assert_eq!((positions(&settled), settled.duplicate), (vec![1], false));
    let first = log.settle_single(&one, refused(), Attempt::First).await.unwrap_err();
    assert!(matches!(first, LogError::Refused { code: 10002, .. }), "{first:?}");
}

#[tokio::test]
async fn nor_does_one_of_a_batch() {
    let (_nats, log) = log().await;
    let batch = prepared(&log, 3);
    let stored = log.inner.publisher.send_batch(batch.messages.iter()).await.await;
    assert!(matches!(stored, Answer::Stored { last, .. } if last == Position::new(3)), "{stored:?}");
    let settled = log.settle_batch(&batch, refused(), Attempt::AfterSilence, Position::START).await.unwrap();
    assert_eq!((positions(&settled), settled.duplicate), (vec![1, 2, 3], false));
    let first = log.settle_batch(&batch, refused(), Attempt::First, Position::START).await.unwrap_err();
    assert!(matches!(first, LogError::Refused { code: 10002, .. }), "{first:?}");
}
