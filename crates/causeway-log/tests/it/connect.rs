use async_nats::jetstream;
use causeway_log::{Log, LogError};
use causeway_testkit::NatsServer;

use crate::support::{config, note, server, single};

#[tokio::test]
async fn the_stream_is_made_as_documented_and_found_again() {
    let (nats, log) = server().await;
    log.append(single(note("a", "1"))).await.unwrap();
    let again = Log::connect(&config(&nats.url())).await.unwrap();
    assert_eq!(again.last_position().await.unwrap().get(), 1);
    assert_eq!(again.identity().await.unwrap(), log.identity().await.unwrap());
    let context = jetstream::new(nats.client().await.unwrap());
    let stream = context.get_stream("causeway_EVENTS").await.unwrap();
    let found = &stream.cached_info().config;
    assert!(found.deny_delete && found.deny_purge && found.allow_direct && found.allow_atomic_publish);
    assert_eq!(found.subjects, ["causeway.ev.>"]);
    assert!(stream.purge().await.is_err());
    assert!(stream.delete_message(1).await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_configured_otherwise_is_refused_by_name() {
    let nats = NatsServer::start().await.unwrap();
    let context = jetstream::new(nats.client().await.unwrap());
    let other = jetstream::stream::Config {
        name: "causeway_EVENTS".into(),
        subjects: vec!["causeway.ev.>".into()],
        ..Default::default()
    };
    context.create_stream(other).await.unwrap();
    let Err(LogError::Mismatch { what }) = Log::connect(&config(&nats.url())).await.map(drop) else { panic!("connected") };
    assert!(what.contains("causeway_EVENTS") && what.contains("deny_delete"), "{what}");
}

#[tokio::test]
async fn two_namespaces_share_a_server_and_see_nothing_of_each_other() {
    let (nats, log) = server().await;
    let mut other = config(&nats.url());
    other.namespace = "other".into();
    let other = Log::connect(&other).await.unwrap();
    log.append(single(note("a", "1"))).await.unwrap();
    assert_eq!(other.last_position().await.unwrap().get(), 0);
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_a_bad_namespace_a_mismatch() {
    let mut nowhere = config("nats://127.0.0.1:1");
    nowhere.request_timeout = std::time::Duration::from_millis(300);
    assert!(matches!(Log::connect(&nowhere).await.map(drop), Err(LogError::Unavailable { .. })));
    nowhere.namespace = "a.b".into();
    assert!(matches!(Log::connect(&nowhere).await.map(drop), Err(LogError::Mismatch { .. })));
}
