//! A view of a new version: its snapshots are made again beside the old ones, and no answer waits for them.

use std::path::Path;

use causeway_testkit::wait_until;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::harness::{Gateway, LIMIT, World, message};

const MESSAGES: usize = 300;

/// The versions of which there are snapshots of the session.
fn versions(dir: &Path) -> rusqlite::Result<Vec<u32>> {
    let file = Connection::open_with_flags(dir.join("read-model.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT DISTINCT version FROM snapshots WHERE view = 'conversation' AND id = 'long' ORDER BY version";
    file.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_an_older_version_are_replaced_in_the_background() {
    let World { gateway, nats, dir } = World::start().await;
    for from in (0..MESSAGES).step_by(100) {
        let messages: Vec<Value> = (from..from + 100).map(|number| message("long", &format!("message {number}"))).collect();
        gateway.post(&Value::from(messages)).await.created();
        gateway.get("/projections/conversation/long").await.ok();
    }
    let before = gateway.get("/projections/conversation/long").await.ok();
    let kept = wait_until("a snapshot", LIMIT, async || versions(dir.path()).ok().filter(|kept| !kept.is_empty())).await;
    gateway.stop().await;

    // What an older release has left behind: other versions, and states that the fold of today does not know.
    let file = Connection::open(dir.path().join("read-model.sqlite")).unwrap();
    file.execute("UPDATE snapshots SET version = 0", []).unwrap();
    file.close().unwrap();

    let gateway = Gateway::start(&nats, dir.path()).await;
    let answer = gateway.get("/projections/conversation/long?as_of=150").await.ok();
    assert_eq!(answer["position"], 150, "answered from the events meanwhile");
    assert_eq!(gateway.get("/projections/conversation/long").await.ok(), before);
    wait_until("the new snapshots", LIMIT, async || versions(dir.path()).ok().filter(|now| *now == kept)).await;
    assert_eq!(gateway.get("/projections/conversation/long").await.ok(), before);
    gateway.stop().await;
}
