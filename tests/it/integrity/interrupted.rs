//! A command that a signal ends: what it had begun to write is gone.

use std::time::Duration;

use causeway_e2e::{Plant, Setup, gateway, plant};
use causeway_testkit::{NatsServer, wait_until};
use rustix::process::Signal;

/// Of so many an export takes its time.
const EVENTS: u64 = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_a_signal_ends_leaves_nothing_behind() {
    let nats = NatsServer::start().await.unwrap();
    let _gateway = gateway(&nats.url()).unwrap().start().await.unwrap();
    plant(nats.port(), (0..EVENTS).map(Plant::note)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    for signal in [Signal::INT, Signal::TERM] {
        let file = folder.path().join("log.ndjson");
        let file = file.to_str().unwrap();
        let mut export = Setup::command(&["log", "export", "--nats", &nats.url(), "--file", file]).spawn().unwrap();
        let begun = || names().iter().any(|name| name.to_string_lossy().ends_with(".part"));
        wait_until("a part of the export", Duration::from_secs(60), async || begun().then_some(())).await;
        export.signal(signal).unwrap();
        let status = export.wait_end().await;
        assert_eq!(status.code(), Some(130), "{}", export.stderr());
        assert_eq!(export.stderr(), "error: interrupted\n");
        assert!(names().is_empty(), "{signal:?} leaves {:?}", names());
    }
}
