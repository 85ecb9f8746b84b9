//! kill -9 of everything at every step of a turn. After the next start the turn completes as if nothing had happened.
//!
//! `CAUSEWAY_TEST_PAUSE_AT` makes the AI processor stop for ever at a named step and say so; the kill is real.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_e2e::{Causeway, Setup, Turn, check_causation, data, types};
use causeway_testkit::{FakeModel, Reply, tool_results, wait_until};
use serde_json::{Value, json};

const PAUSE_AT: &str = "CAUSEWAY_TEST_PAUSE_AT";
/// How long the broker may take to give up on a killed consumer and hand the event out again.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Thinks, calls two tools at once, then answers: every kind of step.
pub(crate) async fn model_with_two_steps() -> FakeModel {
    let model = FakeModel::start(|request| match tool_results(request) {
        0 => Reply::tools([("calculate", json!({"expression": "6 * 7"})), ("now", json!({}))])
            .after_thinking("Two tools will tell."),
        _ => Reply::text("It is 42 now, and it is late."),
    });
    model.await.unwrap()
}

/// Kills at `step`. `losses` is how many answers of the model were under way and not on the log yet.
async fn killed_at(step: &str, losses: usize) {
    let model = model_with_two_steps().await;
    let setup = quick(Setup::up().fake_model(&model)).env(PAUSE_AT, step);
    let mut causeway = setup.start().await.unwrap();
    causeway.api().say("s", "What is six by seven?").await.unwrap();
    causeway.wait_stderr(&format!("paused at {step}")).await;
    causeway.kill();
    causeway.wait_gone().await;

    causeway.forget_env(PAUSE_AT);
    causeway.restart().await.unwrap();
    let api = causeway.api();
    api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    wait_settled(&causeway.ready().nats).await;
    let events = api.events("aggregate_id=s").await.unwrap();
    Turn(&events).check_once(2);
    check_causation(&events);
    assert_eq!(model.calls(), 2 + losses, "a recorded answer is never paid for again: {:?}", types(&events));

    // The session is as good as new.
    api.say("s", "And again?").await.unwrap();
    wait_until("the next turn", DRAIN_LIMIT, async || {
        let events = api.events("aggregate_id=s&type=AIProcessingCompleted").await.ok()?;
        (events.len() == 2).then_some(())
    })
    .await;
    assert_eq!(model.calls(), 4 + losses);
}

/// The same with a broker that gives up on a killed consumer sooner than it would in production.
pub(crate) fn quick(setup: Setup) -> Setup {
    setup.env("CAUSEWAY__AI_PROCESSOR__PROCESSING__ACK_WAIT", "2s")
}

/// Waits until the processor has acknowledged all that it was given: only then can nothing more come of a redelivery.
pub(crate) async fn wait_settled(nats: &str) {
    use futures::TryStreamExt as _;
    let client = async_nats::connect(nats).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("causeway_EVENTS").await.unwrap();
    wait_until("all deliveries to be acknowledged", DRAIN_LIMIT, async || {
        let consumers: Vec<_> = stream.consumers().try_collect().await.ok()?;
        let durable: Vec<_> = consumers.iter().filter(|consumer| consumer.config.durable_name.is_some()).collect();
        let settled = durable.iter().all(|consumer| consumer.num_ack_pending == 0 && consumer.num_pending == 0);
        (settled && !durable.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_event_was_delivered() {
    killed_at("delivered", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_turn_was_claimed() {
    killed_at("claimed", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_the_answer_of_the_model_in_hand() {
    killed_at("model-called", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_answer_of_the_model_was_recorded() {
    killed_at("model-recorded", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_a_tool_ran() {
    killed_at("tool-started", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_tool_ran() {
    killed_at("tool-finished", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_the_outcome_of_a_tool_was_recorded() {
    killed_at("tool-recorded", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_message_and_the_completion() {
    killed_at("message-recorded", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_acknowledgement() {
    killed_at("completed", 0).await;
}

/// The event of the second turn has been let go before that turn began: only the delivery of the first one is still held.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_second_of_two_turns_that_came_together() {
    let model = FakeModel::start(|request| match last_words(request) {
        "second" => Reply::text("The second answer, in no hurry.").slowly(Duration::from_millis(300)),
        _ => Reply::text("The first answer."),
    });
    let model = model.await.unwrap();
    let mut causeway = quick(Setup::up().fake_model(&model)).start().await.unwrap();
    let api = causeway.api();
    model.hold();
    api.say("s", "first").await.unwrap();
    model.called(1).await;
    let second = api.say("s", "second").await.unwrap()["position"].as_u64().unwrap();
    wait_delivered(&causeway.ready().nats, second).await;
    model.release();
    model.called(2).await;
    restarted(&mut causeway).await;
    wait_until("both answers", DRAIN_LIMIT, async || {
        let completed = causeway.api().events("aggregate_id=s&type=AIProcessingCompleted").await.ok()?;
        (completed.len() == 2).then_some(())
    })
    .await;
    let messages = causeway.api().events("aggregate_id=s&type=MessageGenerated").await.unwrap();
    assert_eq!(data(&messages, "MessageGenerated", "content"), ["The first answer.", "The second answer, in no hurry."]);
    assert_eq!(model.calls(), 3, "two results and one loss");
}

fn last_words(request: &Value) -> &str {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    messages.iter().rev().find(|message| message["role"] == "user").and_then(|message| message["content"].as_str()).unwrap_or("")
}

/// Waits until the event at `position` has been handed to the processor.
async fn wait_delivered(nats: &str, position: u64) {
    let client = async_nats::connect(nats).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("causeway_EVENTS").await.unwrap();
    wait_until("the delivery of the second message", DRAIN_LIMIT, async || {
        let consumer = stream.consumer_info("causeway_ai-processor").await.ok()?;
        (position <= consumer.delivered.stream_sequence).then_some(())
    })
    .await;
}

/// A kill at no step in particular, again and again on the same data.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random() {
    const ROUNDS: u64 = 20;
    let pause = Duration::from_millis(15);
    let served = AtomicUsize::new(0);
    // One call at a time: this count is the number of the request.
    let model = FakeModel::start(move |request| {
        let number = served.fetch_add(1, Ordering::SeqCst) + 1;
        match tool_results(request) {
            0 => Reply::tools([("calculate", json!({"expression": "6 * 7"})), ("now", json!({}))]).slowly(pause),
            _ => Reply::text(&format!("It is 42 now, says answer {number}")).slowly(pause),
        }
    });
    let model = model.await.unwrap();
    let mut causeway = quick(Setup::up().fake_model(&model)).start().await.unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..ROUNDS {
        let (session, before) = (format!("s{round}"), model.calls());
        causeway.api().say(&session, "What is six by seven?").await.unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Not a wait for something: the kill shall come at any moment of the turn, which takes about 400 ms.
        tokio::time::sleep(Duration::from_millis(random % 450)).await;
        restarted(&mut causeway).await;
        let events = match causeway.api().wait_for(&session, "AIProcessingCompleted").await {
            Ok(events) => events,
            Err(error) => panic!("{error:?}\n{}", consumers(&causeway.ready().nats).await),
        };
        Turn(&events).check_once(2);
        check_causation(&events);
        check_calls(&model.requests()[before..], before + 1, &events);
    }
    wait_settled(&causeway.ready().nats).await;
    for round in 0..ROUNDS {
        let events = causeway.api().events(&format!("aggregate_id=s{round}")).await.unwrap();
        Turn(&events).check_once(2);
    }
}

/// Asserts of one turn, killed once, that the model was called for each answer on the log and for one that was lost at most:
/// whose very request came again, and only that. `first` is the number of the first of these calls.
#[track_caller]
fn check_calls(requests: &[Value], first: usize, events: &[Value]) {
    let answer_of_call = |call: &str| call.split('_').nth(1).and_then(|number| number.parse().ok());
    let answer_of_text = |text: &str| text.rsplit(' ').next().and_then(|number| number.parse().ok());
    let calls = data(events, "ToolCalled", "call_id").into_iter().map(answer_of_call);
    let texts = data(events, "MessageGenerated", "content").into_iter().map(answer_of_text);
    let recorded: BTreeSet<usize> = calls.chain(texts).map(|number| number.expect("the number of an answer")).collect();
    assert_eq!(recorded.len(), 2, "two answers are on the log: {recorded:?} in {:?}", types(events));
    let lost: Vec<usize> = (first..first + requests.len()).filter(|number| !recorded.contains(number)).collect();
    assert_eq!(requests.len(), recorded.len() + lost.len(), "calls {first} and on, of which the log has {recorded:?}");
    assert!(lost.len() <= 1, "one kill loses one answer at most, not {lost:?}");
    for (at, number) in (first..first + requests.len()).enumerate() {
        let again = requests.get(at + 1).is_some_and(|next| next["messages"] == requests[at]["messages"]);
        assert_eq!(again, lost.contains(&number), "only a lost answer is asked for again: call {number}, lost {lost:?}");
    }
}

/// What the broker believes, for a test that failed.
async fn consumers(nats: &str) -> String {
    use futures::TryStreamExt as _;
    let client = async_nats::connect(nats).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("causeway_EVENTS").await.unwrap();
    let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
    format!("{consumers:#?}")
}

async fn restarted(causeway: &mut Causeway) {
    causeway.kill();
    causeway.wait_gone().await;
    causeway.restart().await.unwrap();
}
