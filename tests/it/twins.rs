//! Several AI processors on one NATS: one answer each, whoever dies or freezes.

use std::time::Duration;

use causeway_e2e::{Api, Causeway, Setup, Turn, check_causation, count, types};
use causeway_testkit::{FakeModel, NatsServer, Reply, tool_results, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::kills::{model_with_two_steps, quick, wait_settled};

const TURN_LIMIT: Duration = Duration::from_secs(60);

struct House {
    nats: NatsServer,
    gateway: Causeway,
}

impl House {
    async fn start() -> Self {
        let nats = NatsServer::start().await.unwrap();
        let gateway = Setup::event_store(&nats.url()).start().await.unwrap();
        Self { nats, gateway }
    }

    fn processor(&self, model: &FakeModel) -> Setup {
        quick(Setup::ai_processor(&self.nats.url()).fake_model(model))
    }

    fn api(&self) -> Api {
        self.gateway.api()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_goes_on_when_one_is_killed_in_mid_turn() {
    let (house, model) = (House::start().await, model_with_two_steps().await);
    let mut first = house.processor(&model).env("CAUSEWAY_TEST_PAUSE_AT", "tool-finished").spawn().unwrap();
    house.api().say("s", "What is six by seven?").await.unwrap();
    first.wait_stderr("paused at tool-finished").await;
    let _second = house.processor(&model).spawn().unwrap();
    first.kill();
    let events = house.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    Turn(&events).check_once(2);
    check_causation(&events);
    assert_eq!(model.calls(), 2);
    assert_eq!(count(&events, "AIProcessingStarted"), 2, "the takeover is a claim of its own: {:?}", types(&events));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_froze_in_mid_turn_finds_its_work_done() {
    let (house, model) = (House::start().await, model_with_two_steps().await);
    model.hold();
    let frozen = house.processor(&model).spawn().unwrap();
    house.api().say("s", "What is six by seven?").await.unwrap();
    model.called(1).await;
    frozen.signal(Signal::STOP).unwrap();
    let mut second = house.processor(&model).spawn().unwrap();
    model.called(2).await;
    // Both have an answer under way; the second one's is recorded.
    model.release();
    house.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    frozen.signal(Signal::CONT).unwrap();
    wait_settled(&house.nats.url()).await;
    second.terminate().await.unwrap();

    // The one that was frozen works again, alone, and left no trace in the turn that was taken from it.
    house.api().say("s", "And again?").await.unwrap();
    let events = wait_until("the second turn", TURN_LIMIT, async || {
        let events = house.api().events("aggregate_id=s").await.ok()?;
        (count(&events, "AIProcessingCompleted") == 2).then_some(events)
    })
    .await;
    let second_turn = events.iter().rposition(|event| event["type"] == "MessageReceived").unwrap();
    Turn(&events[..second_turn]).check_once(2);
    Turn(&events[second_turn..]).check_once(2);
    check_causation(&events[..second_turn]);
    assert_eq!(model.calls(), 5, "two turns of two calls, and one that was lost");
    drop(frozen);
}

/// A calculation that is stopped after two seconds: long enough to freeze its process in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_froze_in_a_slow_tool_and_its_successor_record_one_outcome() {
    let house = House::start().await;
    let model = FakeModel::start(|request| match tool_results(request) {
        0 => Reply::tools([("calculate", json!({"expression": "9^9^9^9"})), ("now", json!({}))]),
        _ => Reply::text("It is too large."),
    });
    let model = model.await.unwrap();
    let mut frozen = house.processor(&model).spawn().unwrap();
    house.api().say("s", "What is a large number?").await.unwrap();
    // The quick call is done, the slow one has begun.
    house.api().wait_for("s", "ToolCompleted").await.unwrap();
    frozen.signal(Signal::STOP).unwrap();
    let events = house.api().events("aggregate_id=s").await.unwrap();
    assert_eq!(count(&events, "ToolFailed"), 0, "it froze in the slow call: {:?}", types(&events));
    let mut second = house.processor(&model).spawn().unwrap();
    wait_until("the takeover", TURN_LIMIT, async || {
        let events = house.api().events("aggregate_id=s&type=AIProcessingStarted").await.ok()?;
        (events.len() == 2).then_some(())
    })
    .await;
    // Its time for the calculation is long over: it has an outcome to tell, beside the one of its successor.
    frozen.signal(Signal::CONT).unwrap();
    house.api().wait_for("s", "AIProcessingCompleted").await.unwrap();
    wait_settled(&house.nats.url()).await;
    second.terminate().await.unwrap();
    frozen.terminate().await.unwrap();
    let events = house.api().events("aggregate_id=s").await.unwrap();
    Turn(&events).check_once(2);
    check_causation(&events);
    assert_eq!(count(&events, "ToolFailed"), 1, "{:?}", types(&events));
    assert_eq!(model.calls(), 2, "neither answer was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_sessions_are_answered_once_each_by_two_of_which_one_is_killed() {
    const SESSIONS: usize = 30;
    let house = House::start().await;
    let pause = Duration::from_millis(10);
    let model = FakeModel::start(move |request| match tool_results(request) {
        0 => Reply::tools([("calculate", json!({"expression": "6 * 7"}))]).slowly(pause),
        _ => Reply::text("It is 42.").slowly(pause),
    });
    let model = model.await.unwrap();
    let mut first = house.processor(&model).spawn().unwrap();
    let _second = house.processor(&model).spawn().unwrap();
    let api = house.api();
    for session in 0..SESSIONS {
        api.say(&format!("s{session}"), "What is six by seven?").await.unwrap();
    }
    model.called(SESSIONS / 2).await;
    first.kill();
    wait_until("all answers", TURN_LIMIT, async || {
        let completed = api.events("type=AIProcessingCompleted").await.ok()?;
        (completed.len() == SESSIONS).then_some(())
    })
    .await;
    wait_settled(&house.nats.url()).await;
    for session in 0..SESSIONS {
        let events = api.events(&format!("aggregate_id=s{session}")).await.unwrap();
        Turn(&events).check_once(1);
        check_causation(&events);
    }
}
