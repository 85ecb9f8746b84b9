use std::time::Duration;

use async_nats::jetstream;
use causeway_log::{Config, Log, LogError};
use causeway_testkit::NatsServer;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

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
async fn an_account_without_jetstream_is_told_at_once() {
    let accounts = "no_auth_user: b\naccounts { A { users: [{user: a, password: a}] }, \
                    B { jetstream: enabled, users: [{user: b, password: b}] } }";
    let nats = NatsServer::start_configured(accounts).await.unwrap();
    let without = config(&nats.url().replace("nats://", "nats://a:a@"));
    let told = tokio::time::timeout(Duration::from_secs(10), Log::connect(&without)).await.expect("at once");
    let Err(LogError::Mismatch { what }) = told.map(drop) else { panic!("connected") };
    assert!(what.contains("JetStream") && what.contains("account"), "{what}");
    Log::connect(&config(&nats.url())).await.unwrap();
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
    nowhere.request_timeout = Duration::from_millis(300);
    assert!(matches!(Log::connect(&nowhere).await.map(drop), Err(LogError::Unavailable { .. })));
    nowhere.namespace = "a.b".into();
    assert!(matches!(Log::connect(&nowhere).await.map(drop), Err(LogError::Mismatch { .. })));
}

#[tokio::test]
async fn a_password_in_the_url_is_not_told() {
    let mut nowhere = config("nats://me:s3cret@127.0.0.1:1");
    nowhere.request_timeout = Duration::from_millis(300);
    let error = Log::connect(&nowhere).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("nats://***@127.0.0.1:1"), "{error}");
    assert!(!format!("{error} {error:?} {nowhere:?}").contains("s3cret"), "{error:?}");
}

/// The first line of a server, as little as clients want to know.
fn hello(version: &str) -> String {
    let info = serde_json::json!({
        "server_id": "x", "server_name": "x", "version": version, "go": "", "host": "127.0.0.1", "port": 4222,
        "proto": 1, "headers": true, "max_payload": 1_048_576, "client_id": 1, "jetstream": true,
    });
    format!("INFO {info}\r\n")
}

/// A server of which only the first two lines are real: it says hello, and keeps what the client says of itself.
#[tokio::test]
async fn user_and_password_of_the_url_are_for_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        stream.write_all(hello("2.15.0").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        line
    });
    let refused = Log::connect(&config(&format!("nats://me:s3cr%40t@{address}"))).await.map(drop).unwrap_err();
    assert!(!refused.to_string().contains("s3cr"), "{refused}");
    let said = server.await.unwrap();
    assert!(said.contains(r#""user":"me""#) && said.contains(r#""pass":"s3cr@t""#), "{said}");
}

/// It says hello and answers pings.
#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_the_version_that_is_needed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                stream.write_all(hello("2.12.1").as_bytes()).await.unwrap();
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if std::mem::take(&mut line).starts_with("PING") {
                        stream.write_all(b"PONG\r\n").await.unwrap();
                    }
                }
            });
        }
    });
    let Err(LogError::Mismatch { what }) = Log::connect(&config(&format!("nats://{address}"))).await.map(drop) else {
        panic!("connected");
    };
    assert_eq!(what, "nats-server 2.12.1 is too old: Causeway needs 2.12.2 or newer");
}

#[tokio::test]
async fn what_is_asked_when_the_connection_breaks_fails_then_and_not_when_its_time_is_over() {
    let mut nats = NatsServer::start().await.unwrap();
    let log = Log::connect(&Config { request_timeout: Duration::from_secs(20), ..config(&nats.url()) }).await.unwrap();
    nats.pause().unwrap();
    let asked = tokio::spawn({
        let log = log.clone();
        async move { log.last_position().await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    nats.kill();
    let failed = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("at once").unwrap();
    assert!(matches!(failed, Err(LogError::Unavailable { .. })), "{failed:?}");
}
