//! Views over a real log: how many are made at once, and what is answered while types change.

use std::time::Duration;

use causeway_event::{Data, Labels, Lineage, NewEvent};
use causeway_log::{Append, Log};
use causeway_testkit::{NatsServer, wait_until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::ReadModelConfig;
use crate::checkpoint::leaves::leaves;
use crate::store::Store;
use crate::types::{Registration, Types};

struct World {
    gateway: Gateway,
    _feeding: AbortOnDropHandle<()>,
    _nats: NatsServer,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let (nats, dir) = (NatsServer::start().await.unwrap(), tempfile::tempdir().unwrap());
        let log = Log::connect(&causeway_log::Config { url: nats.url().into(), ..Default::default() }).await.unwrap();
        let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..Default::default() };
        let config = Config { read_model, ..Config::default() };
        let stop = CancellationToken::new();
        let (store, feeding) = Store::open(log.clone(), &config.read_model, leaves().0, stop.clone()).await.unwrap();
        let feeding = AbortOnDropHandle::new(tokio::spawn(async { feeding.await.unwrap() }));
        let types = Types::open(&log).await.unwrap();
        Self { gateway: Gateway::new(log, store, types, config, stop), _feeding: feeding, _nats: nats, _dir: dir }
    }

    /// Appends events with the numbers from 1 on.
    async fn count(&self, count: usize, schema_version: Option<u32>) {
        let event = |number: usize| NewEvent {
            event_type: "Counted".parse().unwrap(),
            aggregate_id: "a".parse().unwrap(),
            data: Data::of(&json!({ "number": number })).unwrap(),
            source: "test".parse().unwrap(),
            lineage: Lineage::Root { correlation: None },
            labels: Labels::default(),
            schema_version,
            traceparent: None,
        };
        for from in (1..=count).step_by(500) {
            let events = (from..=count.min(from + 499)).map(event).collect();
            self.gateway.log.append(Append { events, expected: vec![], idempotency_key: None }).await.unwrap();
        }
    }

    async fn look(&self, as_of: Option<u64>) -> Result<Projection, Problem> {
        let as_of = as_of.map(|position| position.to_string().parse().unwrap());
        project(&self.gateway, Request { view: "state".into(), id: "a".into(), as_of, min_position: None }).await
    }

    async fn diff(&self, from: u64, to: Option<u64>) -> Result<diff::Diff, Problem> {
        let moment = |position: u64| position.to_string().parse().unwrap();
        let request = DiffRequest { view: "state".into(), id: "a".into(), from: moment(from), to: to.map(moment) };
        diff(&self.gateway, request).await
    }

    async fn register(&self, upcast: Value) {
        let Value::Array(upcast) = upcast else { unreachable!() };
        let registration = Registration {
            name: "Counted".parse().unwrap(),
            schema: json!({"type": "object"}),
            upcast,
            version: None,
            description: String::new(),
        };
        let Gateway { log, types, .. } = &self.gateway;
        types.register(log, registration, None).await.unwrap();
    }
}

fn json(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_states_are_made_at_once_and_who_finds_no_place_is_told_so() {
    let world = World::start().await;
    world.count(300, None).await;
    let inside = join_all((0..FOLDS_MAX).map(|_| world.gateway.views.folds.enter(1))).await;
    let moments = || 1..=300_u64;
    let asked = join_all(moments().map(|at| world.look(Some(at))));
    let others = async { tokio::join!(world.look(None), world.diff(1, None)) };
    let mut asked = std::pin::pin!(asked);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut asked).await.is_err(), "those inside are not done");
    let (now, between) = others.await;
    for turned_away in [now.map(drop), between.map(drop)] {
        let problem = turned_away.unwrap_err();
        assert_eq!((problem.kind, problem.retry_after.is_some()), (Kind::Overloaded, true));
    }
    drop(inside);
    let (mut made, mut refused) = (0, 0);
    for (at, answer) in moments().zip(asked.await) {
        match answer {
            Ok(then) => {
                assert_eq!(json(&then.state)["state"], json!({ "number": at }));
                made += 1;
            }
            Err(problem) => {
                assert_eq!((problem.kind, problem.retry_after.is_some()), (Kind::Overloaded, true));
                refused += 1;
            }
        }
    }
    assert_eq!((made, refused), (FOLDS_WAITING_MAX, 300 - FOLDS_WAITING_MAX));
    assert_eq!(json(&world.look(None).await.unwrap().state)["events"], 300, "all places are free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_in_memory_needs_a_place_only_for_what_is_more_than_a_page() {
    let world = World::start().await;
    let events = async |world: &World| json(&world.look(None).await.unwrap().state)["events"].as_u64().unwrap();
    world.count(10, None).await;
    assert_eq!(events(&world).await, 10);
    let inside = join_all((0..FOLDS_MAX).map(|_| world.gateway.views.folds.enter(1))).await;
    world.count(1000, None).await;
    assert_eq!(events(&world).await, 1010, "a page more, with all places taken");
    world.count(1500, None).await;
    let mut asked = std::pin::pin!(events(&world));
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut asked).await.is_err(), "those inside are not done");
    drop(inside);
    assert_eq!(asked.await, 2510);
    assert_eq!(join_all((0..FOLDS_MAX).map(|_| world.gateway.views.folds.enter(1))).await.iter().flatten().count(), FOLDS_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_that_is_folded_leaves_snapshots_on_the_way() {
    const EVENTS: usize = 4500;
    let world = World::start().await;
    world.count(EVENTS, None).await;
    let now = world.look(None).await.unwrap();
    assert_eq!(json(&now.state)["events"], EVENTS);
    let store = &world.gateway.store;
    let view = VIEWS.iter().find(|view| view.name == "state").unwrap();
    let (mut at_most, mut found) = (now.position.get(), Vec::new());
    wait_until("the last snapshot", Duration::from_secs(10), async || {
        let newest = store.snapshot(view.name, view.version, "a", Position::new(at_most)).await.unwrap();
        newest.filter(|(position, _)| position.get() == EVENTS as u64)
    })
    .await;
    while let Some((position, _)) = store.snapshot(view.name, view.version, "a", Position::new(at_most)).await.unwrap() {
        found.insert(0, position.get());
        at_most = position.get() - 1;
    }
    assert_eq!(found, [1000, 4000, 4500]);
    for at in [999, 1000, 3000] {
        assert_eq!(json(&world.look(Some(at)).await.unwrap().state)["state"], json!({ "number": at }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_leads_to_the_state_whatever_becomes_of_its_types_meanwhile() {
    const EVENTS: usize = 1500;
    let world = World::start().await;
    world.register(json!([])).await;
    world.gateway.fresh().await.unwrap();
    world.count(EVENTS, Some(1)).await;
    let last = world.gateway.fresh().await.unwrap().get();
    let from = last - EVENTS as u64;
    for waits in 0..12 {
        let diff = world.diff(from, Some(last));
        let meanwhile = async {
            tokio::time::sleep(Duration::from_millis(15 * waits)).await;
            world.register(json!([{"op": "add", "path": format!("/{waits}"), "value": true}])).await;
        };
        let (diff, ()) = tokio::join!(diff, meanwhile);
        let diff = diff.unwrap();
        let mut state = json(&world.look(Some(from)).await.unwrap().state);
        let operations: json_patch::Patch = serde_json::from_slice(&diff.patch).unwrap();
        json_patch::patch(&mut state, &operations).unwrap();
        // One before or after the registration, and nothing between.
        let seen = state["state"].as_object().unwrap().len() as u64 - 1;
        let first = json(&diff.changes[0].event.data.as_str().to_owned().into());
        let shown = first.as_object().unwrap().len() as u64 - 1;
        assert!(
            seen == shown && (waits..=waits + 1).contains(&seen),
            "{waits}: {shown} in the first change, {seen} in the state"
        );
    }
}
