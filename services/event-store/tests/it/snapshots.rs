//! A view of a new version: its snapshots are made again beside the old ones, and no answer waits for them.

use std::path::Path;

use causeway_testkit::wait_until;
use serde_json::{Value, json};

use crate::harness::{Gateway, LIMIT, World, message, read_model};

const MESSAGES: usize = 300;

/// The versions of which there are snapshots of the session.
fn versions(dir: &Path) -> rusqlite::Result<Vec<u32>> {
    let file = read_model(dir)?;
    let sql = "SELECT DISTINCT version FROM snapshots WHERE view = 'conversation' AND id = 'long' ORDER BY version";
    file.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_an_older_version_are_replaced_in_the_background() {
    let World { gateway, nats, dir } = World::start().await;
    for from in (0..MESSAGES).step_by(100) {
        for session in ["long", "other"] {
            let text = |number| format!("message {number} of {session}");
            let messages: Vec<Value> = (from..from + 100).map(|number| message(session, &text(number))).collect();
            gateway.post(&Value::from(messages)).await.created();
            gateway.get(&format!("/projections/conversation/{session}")).await.ok();
        }
    }
    let in_between = "/projections/conversation/long?as_of=450";
    let (before, past) = (gateway.get("/projections/conversation/long").await.ok(), gateway.get(in_between).await.ok());
    assert!(!before.to_string().contains("of other"));
    let kept = wait_until("the snapshots of both", LIMIT, async || {
        let others = read_model(dir.path()).ok()?;
        let sql = "SELECT count(*) FROM snapshots WHERE view = 'conversation' AND id = 'other'";
        let others: u32 = others.query_row(sql, [], |row| row.get(0)).ok()?;
        versions(dir.path()).ok().filter(|kept| !kept.is_empty() && others > 0)
    })
    .await;
    gateway.stop().await;

    // What an older release has left behind: another version, and states that are whole but mean something else today. These show
    // another session's messages.
    let file = read_model(dir.path()).unwrap();
    file.execute("DELETE FROM snapshots WHERE id = 'long'", []).unwrap();
    file.execute("UPDATE snapshots SET id = 'long', version = 0 WHERE id = 'other'", []).unwrap();
    file.close().unwrap();
    assert_eq!(versions(dir.path()).unwrap(), [0]);

    let gateway = Gateway::start(&nats, dir.path()).await;
    assert_eq!(gateway.get(in_between).await.ok(), past, "answered from the events meanwhile");
    assert_eq!(gateway.get("/projections/conversation/long").await.ok(), before);
    wait_until("the new snapshots", LIMIT, async || versions(dir.path()).ok().filter(|now| *now == kept)).await;
    assert_eq!(gateway.get("/projections/conversation/long").await.ok(), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_between_late_moments_leaves_a_snapshot_for_the_next_one() {
    let World { gateway, nats: _nats, dir } = World::start().await;
    for from in (0..MESSAGES).step_by(100) {
        let messages: Vec<Value> = (from..from + 100).map(|number| message("long", &format!("message {number}"))).collect();
        gateway.post(&Value::from(messages)).await.created();
    }
    let late = "/projections/conversation/long/diff?from=298";
    let first = gateway.get(late).await.ok();
    assert_eq!(first["changes"].as_array().map(Vec::len), Some(2), "{first}");
    wait_until("a snapshot", LIMIT, async || versions(dir.path()).ok().filter(|kept| !kept.is_empty())).await;
    assert_eq!(gateway.get(late).await.ok(), first);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_older_versions_of_types_are_replaced_in_the_background() {
    let World { gateway, nats: _nats, dir } = World::start().await;
    let register = async |upcast: Value| {
        let body = json!({"name": "Counted", "schema": {"type": "object"}, "upcast": upcast});
        let answer = gateway.send(gateway.request(reqwest::Method::POST, "/types").json(&body)).await;
        assert!(answer.status.is_success(), "{answer:?}");
    };
    // Of the newest of each: its position, and how it shows a number.
    let newest = |id: &str| -> Option<(i64, String)> {
        let file = read_model(dir.path()).ok()?;
        let sql = "SELECT position, state FROM snapshots WHERE view = 'state' AND id = ?1 ORDER BY position DESC LIMIT 1";
        let (position, state): (_, Vec<u8>) = file.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
        let state = state.split(|byte| *byte == b'\n').nth(1)?;
        Some((position, serde_json::from_slice::<Value>(state).ok()?["state"].to_string()))
    };
    register(json!([])).await;
    for (event_type, aggregate) in [("Counted", "a"), ("Counted", "b"), ("Weighed", "c")] {
        let event = json!({"type": event_type, "aggregate_id": aggregate, "data": {"in": aggregate}});
        gateway.post(&Value::from(vec![event; 150])).await.created();
        gateway.get(&format!("/projections/state/{aggregate}")).await.ok();
    }
    let before = wait_until("a snapshot of each", LIMIT, async || Some((newest("a")?, newest("b")?, newest("c")?))).await;
    assert_eq!(before.0.1, r#"{"in":"a"}"#);
    // What comes later is in the snapshots of those only that had to be made again.
    for aggregate in ["a", "b", "c"] {
        gateway.post(&json!({"type": "Later", "aggregate_id": aggregate, "data": {}})).await.created();
    }
    register(json!([{"op": "move", "from": "/in", "path": "/of"}])).await;
    wait_until("those of the type", LIMIT, async || {
        let (a, b) = (newest("a")?, newest("b")?);
        (a.1 == r#"{"of":"a"}"# && b.1 == r#"{"of":"b"}"# && before.0.0 < a.0).then_some(())
    })
    .await;
    assert_eq!(newest("c"), Some(before.2), "it has none of them");
    gateway.stop().await;
}
