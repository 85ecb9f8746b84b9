//! `causeway up` as a process: what it prints, what it refuses, how it ends, and what it leaves behind.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use causeway_e2e::{Causeway, Plant, Seen, Setup, gateway, plant, types};
use causeway_testkit::{NatsServer, wait_until};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_line_tells_where_everything_is() {
    let causeway = Setup::up().start().await.unwrap();
    let ready = causeway.ready();
    assert_eq!(ready.pid, causeway.pid());
    assert!(ready.gateway.starts_with("http://127.0.0.1:"), "{ready:?}");
    assert!(ready.nats.starts_with("nats://127.0.0.1:"), "{ready:?}");
    async_nats::connect(&ready.nats).await.unwrap();
    assert_eq!(causeway.api().get("/readyz").await.unwrap().0, 200);
    assert_eq!(causeway.stdout().lines().count(), 1, "one line, then nothing: {}", causeway.stdout());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_says_that_it_serves_when_it_answers_reads_and_not_before() {
    // So many that the indexes are made last, which is said: and so few that all are at hand before.
    const EVENTS: u64 = 100_001;
    let nats = NatsServer::start().await.unwrap();
    let setup = gateway(&nats.url()).unwrap().env("CAUSEWAY__EVENT_STORE__READ_MODEL__RING_EVENTS_MAX", "200000");
    let mut gateway = setup.env("CAUSEWAY__EVENT_STORE__READ_MODEL__RING_BYTES_MAX", "1GiB").start().await.unwrap();
    assert_eq!(plant(nats.port(), (0..EVENTS).map(Plant::note)).await.unwrap(), EVENTS);
    gateway.kill();
    std::fs::remove_dir_all(gateway.data().join("event-store")).unwrap();
    let said = gateway.stderr().len();
    gateway.restart().await.unwrap();
    let said_since = || gateway.stderr()[said..].to_owned();
    assert!(said_since().contains("makes its indexes"), "{}", said_since());
    // What was sorted for them had no checksums.
    wait_until("the check of what was made", RECOVERY_LIMIT, async || {
        said_since().contains("was checked in full, and is sound").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_ctrl_c_stop_everything() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut causeway = Setup::up().start().await.unwrap();
        causeway.api().say("s", "Hello").await.unwrap();
        // An open stream must not hold up the end.
        let mut stream = causeway.api().stream("", None).await.unwrap();
        stream.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap();
        causeway.signal(signal).unwrap();
        let status = causeway.wait_end().await;
        assert!(status.success(), "{signal:?}: {status}\n{}", causeway.stderr());
        assert_eq!(causeway.processes(), Vec::<u32>::new(), "{signal:?} leaves no process");
        causeway.restart().await.unwrap();
        let events = causeway.api().events("aggregate_id=s").await.unwrap();
        assert_eq!(types(&events).last(), Some(&"AIProcessingCompleted"), "everything is there again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_no_nats_server_stays_and_the_next_start_goes_on() {
    let mut causeway = Setup::up().start().await.unwrap();
    causeway.api().say("s", "Hello").await.unwrap();
    let before = causeway.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    assert!(1 < causeway.processes().len(), "the private nats-server is a process of its own");
    causeway.kill();
    causeway.wait_gone().await;
    causeway.restart().await.unwrap();
    assert_eq!(causeway.api().events("aggregate_id=s").await.unwrap(), before);
    causeway.api().say("s", "Again").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_when_its_nats_server_dies() {
    let mut causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    let mut stream = api.stream("aggregate_id=s", None).await.unwrap();
    api.say("s", "Hello").await.unwrap();
    let before = events_of(&stream.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap());
    let killed = kill_server(&causeway);
    wait_until("another nats-server", RECOVERY_LIMIT, async || server(&causeway).filter(|pid| *pid != killed)).await;
    // Where the last one was: whoever knows its address comes back to it.
    wait_until("its old address", RECOVERY_LIMIT, async || async_nats::connect(&causeway.ready().nats).await.ok()).await;
    // Under a key: an append whose answer was lost in the outage must not become two.
    let again = json!({"type": "MessageReceived", "aggregate_id": "s", "data": {"content": "Again"}});
    let receipt = wait_until("an append", RECOVERY_LIMIT, async || {
        let request = api.request(Method::POST, "/events").header("idempotency-key", "again").json(&again);
        request.send().await.ok()?.error_for_status().ok()?.json::<Value>().await.ok()
    })
    .await;
    assert!(before.last().unwrap()["position"].as_u64() < receipt["position"].as_u64(), "the log goes on: {receipt}");
    let after = events_of(&stream.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap());
    assert_eq!(api.events("aggregate_id=s").await.unwrap(), [before, after].concat(), "the open stream missed nothing");
    // It is looked at now and then.
    wait_until("ready again", RECOVERY_LIMIT, async || (api.get("/readyz").await.ok()?.0 == 200).then_some(())).await;
    assert!(causeway.terminate().await.unwrap().success(), "{}", causeway.stderr());
    assert_eq!(causeway.processes(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_a_reason_when_its_nats_server_dies_again_and_again() {
    // As many deaths in a row are mended; the next one is not.
    const MENDED: usize = 5;
    let mut causeway = Setup::up().start().await.unwrap();
    for deaths in 1..=MENDED {
        kill_server(&causeway);
        wait_until(&format!("restart {deaths}"), RECOVERY_LIMIT, async || {
            (deaths <= causeway.stderr().matches("nats-server serves again").count()).then_some(())
        })
        .await;
    }
    kill_server(&causeway);
    let status = causeway.wait_end().await;
    assert!(!status.success(), "{status}");
    let stderr = causeway.stderr();
    let reason = stderr.lines().rev().find(|line| line.contains("nats-server died 6 times in a row"));
    let reason = reason.unwrap_or_else(|| panic!("it says what happened: {stderr}"));
    let log = causeway.data().join("nats-server.log").display().to_string();
    assert!(reason.contains(&log), "and where to look: {reason}");
    assert_eq!(causeway.processes(), Vec::<u32>::new(), "nothing is left");
}

/// How long it may take until a nats-server that died serves again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Its private nats-server, once it is one: the process that becomes it has another name before.
fn server(causeway: &Causeway) -> Option<u32> {
    let program = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    causeway.processes().into_iter().find(|pid| program(*pid).trim_end() == "nats-server")
}

fn kill_server(causeway: &Causeway) -> u32 {
    let server = server(causeway).expect("a nats-server");
    let pid = rustix::process::Pid::from_raw(i32::try_from(server).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    server
}

fn events_of(seen: &[Seen]) -> Vec<Value> {
    seen.iter().filter(|seen| seen.is_event()).map(|seen| seen.data.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_data_is_refused() {
    let first = Setup::up().start().await.unwrap();
    let data = first.data().display().to_string();
    let second = Setup::command(&["up", "--json", "--listen", "127.0.0.1:0", "--data", &data]).run().await.unwrap();
    assert!(!second.status.success());
    assert!(second.stderr.contains(&data), "it names the folder: {}", second.stderr);
    assert!(second.stderr.lines().count() <= 4, "a message, not a backtrace: {}", second.stderr);
    assert_eq!(first.api().get("/readyz").await.unwrap().0, 200, "the first does not notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::command(&["up", "--json", "--listen", &address]);
    let mut causeway = setup.spawn().unwrap();
    let status = causeway.wait_end().await;
    assert!(!status.success());
    assert!(causeway.stderr().contains(&address), "it names the address: {}", causeway.stderr());
    assert_eq!(causeway.processes(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_nats_is_used_when_named() {
    let nats = NatsServer::start().await.unwrap();
    let mut causeway = Setup::up().arg("--nats").arg(&nats.url()).start().await.unwrap();
    assert_eq!(causeway.processes(), [causeway.pid()], "no server of its own");
    causeway.api().say("s", "Hello").await.unwrap();
    causeway.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    let stream = async_nats::jetstream::new(nats.client().await.unwrap()).get_stream("causeway_EVENTS").await.unwrap();
    assert!(0 < stream.cached_info().state.messages);
    causeway.terminate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_is_not_there_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let mut causeway = Setup::command(&["up", "--json", "--listen", "127.0.0.1:0", "--nats", &url]).spawn().unwrap();
    let status = causeway.wait_end().await;
    assert!(!status.success());
    assert!(causeway.stderr().contains(&port.to_string()), "{}", causeway.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_model_is_rebuilt_when_it_is_deleted_or_damaged() {
    let mut causeway = Setup::up().start().await.unwrap();
    causeway.api().say("s", "Hello").await.unwrap();
    let before = causeway.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    let view = causeway.api().fetch("/projections/conversation/s").await.unwrap();
    for damage in [damage_by_deleting, damage_by_writing] {
        causeway.kill();
        causeway.wait_gone().await;
        let databases = databases(&causeway);
        assert!(!databases.is_empty(), "a read model on disk");
        databases.iter().for_each(damage);
        causeway.restart().await.unwrap();
        assert_eq!(causeway.api().events("aggregate_id=s").await.unwrap(), before);
        let now = causeway.api().fetch("/projections/conversation/s").await.unwrap();
        assert_eq!(now["state"], view["state"]);
    }
}

fn damage_by_deleting(path: &PathBuf) {
    std::fs::remove_file(path).unwrap();
}

fn damage_by_writing(path: &PathBuf) {
    let length = std::fs::metadata(path).unwrap().len();
    std::fs::write(path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
}

/// The files of the read model: whatever SQLite made below the data folder.
fn databases(causeway: &Causeway) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![causeway.data()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if [".db", ".sqlite", ".db-wal", ".sqlite-wal"].iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_of_the_configuration_is_named_with_the_right_one() {
    let setup = Setup::command(&["up", "--json", "--listen", "127.0.0.1:0"]);
    let finished = setup.env("CAUSEWAY__AI_PROCESSOR__MODEL__PROVIDR", "demo").run().await.unwrap();
    assert!(!finished.status.success());
    assert!(finished.stderr.to_lowercase().contains("providr"), "{}", finished.stderr);
    assert!(finished.stderr.contains("provider"), "{}", finished.stderr);
}
