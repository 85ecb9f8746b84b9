//! The shell against a real nats-server: claims, takeover, retry, dead letters, drain.
//!
//! The processor here answers each input once: claim (AIProcessingStarted), effect (a counter), outcome
//! (AIProcessingCompleted). What its effect does is up to each test.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_event::payload::{Input, ProcessingCompleted, ProcessingFailed, ProcessingStarted, Usage};
use causeway_event::{Category, Event, EventId, Lineage, NewEvent, Payload, Position};
use causeway_log::{Append, Log, Record};
use causeway_processor::{ActError, Config, Next, Origin, Processor, Run};
use causeway_testkit::{NatsServer, wait_until};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const ATTEMPTS_MAX: u32 = 3;

/// Inputs in order, with the owner and attempt of each claim, until done.
#[derive(Clone, Default)]
struct Inbox {
    items: Vec<Item>,
}

#[derive(Clone)]
struct Item {
    input: EventId,
    position: Position,
    claim: Option<Claim>,
    done: bool,
}

#[derive(Clone)]
struct Claim {
    owner: String,
    attempt: u32,
    delivery: Option<EventId>,
    position: Position,
}

#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Succeed,
    /// Waits until the test lets it go on.
    Wait,
    Fail,
    Panic,
}

struct Counter {
    effects: Arc<Mutex<BTreeMap<EventId, u32>>>,
    gate: Arc<Semaphore>,
    effect: fn(&Event) -> Effect,
}

impl Processor for Counter {
    const NAME: &'static str = "counter";
    const CATEGORIES: &'static [Category] = &[Category::Input];
    type State = Inbox;
    type Scratch = ();

    fn fold(mut inbox: Inbox, event: &Event) -> Inbox {
        let item = |inbox: &mut Inbox, id: &str, change: &dyn Fn(&mut Item)| {
            inbox.items.iter_mut().filter(|item| item.input.to_string() == id).for_each(change);
        };
        match event.payload() {
            Payload::MessageReceived(_) => {
                inbox.items.push(Item { input: event.id, position: event.position, claim: None, done: false });
            }
            Payload::AIProcessingStarted(started) => {
                let (owner, attempt, delivery, position) = (started.owner, started.attempt, started.delivery, event.position);
                item(&mut inbox, &started.turn, &|item| {
                    item.claim = Some(Claim { owner: owner.clone(), attempt, delivery, position });
                });
            }
            Payload::AIProcessingCompleted(done) => item(&mut inbox, &done.turn, &|item| item.done = true),
            Payload::AIProcessingFailed(failed) => item(&mut inbox, &failed.turn, &|item| item.done = true),
            _ => {}
        }
        inbox
    }

    async fn act(&self, run: &Run<'_>, inbox: &Inbox, (): &mut ()) -> Result<Next, ActError> {
        let Some(item) = inbox.items.iter().find(|item| !item.done) else { return Ok(Next::Done) };
        let turn = item.input.to_string();
        let origin = Origin {
            lineage: Lineage::CausedBy { cause: item.input, correlation: run.event().metadata.correlation_id.clone() },
            traceparent: None,
        };
        let attempt = match &item.claim {
            Some(claim) if claim.owner == run.owner() => return self.work(run, item.input, origin).await,
            Some(claim) => match run.held().iter().find(|held| Some(held.event) == claim.delivery) {
                Some(held) if claim.position <= held.since => claim.attempt + 1,
                Some(_) => return Err(ActError::TakenOver),
                None => return Ok(Next::Done),
            },
            None => 1,
        };
        if attempt > ATTEMPTS_MAX {
            let failed = ProcessingFailed {
                turn: turn.clone(),
                reason: "attempts_exhausted".into(),
                message: String::new(),
                steps: 0,
                usage: Usage::default(),
                duration_ms: 0,
            };
            let key = format!("{turn}:failed:{}", run.owner());
            run.park(item.position, "attempts exhausted\nfor good").await?;
            run.decide(Category::Ai, vec![(Payload::AIProcessingFailed(failed), origin)], &key).await?;
            return Ok(Next::Again);
        }
        let key = format!("{turn}:{attempt}:{}", run.owner());
        let started = ProcessingStarted {
            turn,
            inputs: vec![item.input],
            owner: run.owner().into(),
            delivery: Some(run.delivery()),
            attempt,
            agent: String::new(),
            model: String::new(),
            config_hash: String::new(),
        };
        run.decide(Category::Ai, vec![(Payload::AIProcessingStarted(started), origin)], &key).await?;
        Ok(Next::Again)
    }
}

impl Counter {
    async fn work(&self, run: &Run<'_>, input: EventId, origin: Origin) -> Result<Next, ActError> {
        run.may_start_effect()?;
        *self.effects.lock().unwrap().entry(input).or_default() += 1;
        match (self.effect)(run.event()) {
            Effect::Succeed => {}
            Effect::Wait => self.gate.acquire().await.unwrap().forget(),
            Effect::Fail => return Err(ActError::Failed("no luck".into())),
            Effect::Panic => panic!("a bug"),
        }
        let turn = input.to_string();
        let completed = ProcessingCompleted { turn: turn.clone(), steps: 1, usage: Usage::default(), duration_ms: 0 };
        run.record(Payload::AIProcessingCompleted(completed), origin, &format!("{turn}:outcome")).await?;
        Ok(Next::Again)
    }
}

struct Scene {
    _nats: NatsServer,
    url: String,
    log: Log,
    effects: Arc<Mutex<BTreeMap<EventId, u32>>>,
    gate: Arc<Semaphore>,
}

async fn scene() -> Scene {
    let nats = NatsServer::start().await.unwrap();
    let url = nats.url();
    let log = connect(&url).await;
    Scene { _nats: nats, url, log, effects: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
}

async fn connect(url: &str) -> Log {
    Log::connect(&causeway_log::Config { url: url.into(), ..causeway_log::Config::default() }).await.unwrap()
}

impl Scene {
    /// One replica, on a connection of its own.
    async fn replica(&self, effect: fn(&Event) -> Effect) -> (tokio::task::JoinHandle<()>, CancellationToken) {
        let config = Config {
            ack_wait: Duration::from_millis(900),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(50),
            drain_timeout: Duration::from_secs(5),
            ..Config::default()
        };
        let counter = Counter { effects: Arc::clone(&self.effects), gate: Arc::clone(&self.gate), effect };
        let (log, stop) = (connect(&self.url).await, CancellationToken::new());
        let token = stop.clone();
        let task = tokio::spawn(async move { causeway_processor::run(counter, log, config, token).await.unwrap() });
        (task, stop)
    }

    async fn say(&self, aggregate: &str, content: &str) -> EventId {
        let said = Payload::MessageReceived(Input { content: content.into(), ..Input::default() });
        let root = Lineage::Root { correlation: None };
        let event = NewEvent::of(&said, aggregate.parse().unwrap(), "test".parse().unwrap(), root).unwrap();
        self.log.append(Append { events: vec![event], ..Append::default() }).await.unwrap().receipts[0].id
    }

    /// All events so far, by type.
    async fn events(&self) -> Vec<Event> {
        let last = self.log.last_position().await.unwrap();
        let mut subscription = self.log.subscribe(Position::START);
        let mut events = Vec::new();
        while events.len() as u64 != last.get() {
            let Record::Event(stored) = subscription.next().await.unwrap() else { panic!("unreadable") };
            events.push(stored.event);
        }
        events
    }

    async fn count(&self, event_type: &str) -> usize {
        self.events().await.iter().filter(|event| event.event_type.as_str() == event_type).count()
    }

    async fn until(&self, event_type: &str, count: usize) {
        wait_until(event_type, LIMIT, async || (self.count(event_type).await >= count).then_some(())).await;
    }

    fn effects(&self, input: EventId) -> u32 {
        self.effects.lock().unwrap().get(&input).copied().unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_work_and_each_effect_happens_once() {
    let scene = scene().await;
    let _a = scene.replica(|_| Effect::Succeed).await;
    let _b = scene.replica(|_| Effect::Succeed).await;
    let mut inputs = Vec::new();
    for n in 0..60 {
        inputs.push(scene.say(&format!("s{}", n % 7), "x").await);
    }
    scene.until("AIProcessingCompleted", 60).await;
    assert_eq!(scene.count("AIProcessingStarted").await, 60);
    assert!(inputs.iter().all(|input| scene.effects(*input) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_left_behind_is_taken_over_with_all_that_waited_behind_it() {
    let scene = scene().await;
    let (owner, _) = scene.replica(|_| Effect::Wait).await;
    let first = scene.say("s", "1").await;
    scene.until("AIProcessingStarted", 1).await;
    let second = scene.say("s", "2").await;
    let (_heir, _) = scene.replica(|_| Effect::Succeed).await;
    let elsewhere = scene.say("other", "3").await;
    owner.abort();
    scene.until("AIProcessingCompleted", 3).await;
    assert_eq!((scene.effects(first), scene.effects(second)), (2, 1));
    assert!(scene.effects(elsewhere) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_owner_is_left_in_peace_however_long_it_takes() {
    let scene = scene().await;
    let _owner = scene.replica(|_| Effect::Wait).await;
    let input = scene.say("s", "1").await;
    scene.until("AIProcessingStarted", 1).await;
    let _other = scene.replica(|_| Effect::Succeed).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.count("AIProcessingStarted").await, 1);
    scene.gate.add_permits(1);
    scene.until("AIProcessingCompleted", 1).await;
    assert_eq!(scene.effects(input), 1);
}

async fn given_up(effect: fn(&Event) -> Effect) {
    let scene = scene().await;
    let _replica = scene.replica(effect).await;
    let bad = scene.say("bad", "x").await;
    let good = scene.say("good", "x").await;
    scene.until("AIProcessingCompleted", 1).await;
    scene.until("AIProcessingFailed", 1).await;
    assert_eq!((scene.effects(bad), scene.effects(good)), (ATTEMPTS_MAX, 1));
    let client = async_nats::connect(&scene.url).await.unwrap();
    let mut dead = async_nats::jetstream::new(client).get_stream("causeway_DLQ").await.unwrap();
    wait_until("the dead letter", LIMIT, async || (dead.info().await.unwrap().state.messages == 1).then_some(())).await;
    let letter = dead.get_raw_message(1).await.unwrap();
    assert_eq!(letter.headers.get("Causeway-Reason").unwrap().as_str(), "attempts exhausted for good");
    let event: Event = serde_json::from_slice(&letter.payload).unwrap();
    assert_eq!(event.id, bad);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_always_fails_is_given_up_and_parked_and_blocks_nobody() {
    given_up(|event| if event.aggregate_id.as_str() == "bad" { Effect::Fail } else { Effect::Succeed }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_breaks_its_worker_is_given_up_too() {
    given_up(|event| if event.aggregate_id.as_str() == "bad" { Effect::Panic } else { Effect::Succeed }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_stop_lets_what_was_begun_come_to_its_end() {
    let scene = scene().await;
    let (replica, stop) = scene.replica(|_| Effect::Wait).await;
    scene.say("s", "1").await;
    scene.until("AIProcessingStarted", 1).await;
    stop.cancel();
    scene.say("other", "2").await;
    scene.gate.add_permits(1);
    replica.await.unwrap();
    assert_eq!((scene.count("AIProcessingStarted").await, scene.count("AIProcessingCompleted").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_on_a_fenced_subject_stops_nobody() {
    let scene = scene().await;
    let _replica = scene.replica(|_| Effect::Succeed).await;
    let first = scene.say("s", "1").await;
    scene.until("AIProcessingCompleted", 1).await;
    let client = async_nats::connect(&scene.url).await.unwrap();
    client.request("causeway.ev.s.ai", "of a later release".into()).await.unwrap();
    let second = scene.say("s", "2").await;
    // Two times input, claim, outcome, and what cannot be read.
    wait_until("the second outcome", LIMIT, async || (scene.log.last_position().await.unwrap().get() == 7).then_some(())).await;
    assert_eq!((scene.effects(first), scene.effects(second)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_that_is_given_up_has_a_letter_of_its_own() {
    let scene = scene().await;
    let (first, second) = (scene.say("bad", "1").await, scene.say("bad", "2").await);
    let _replica = scene.replica(|_| Effect::Fail).await;
    scene.until("AIProcessingFailed", 2).await;
    let client = async_nats::connect(&scene.url).await.unwrap();
    let dead = async_nats::jetstream::new(client).get_stream("causeway_DLQ").await.unwrap();
    let mut parked = Vec::new();
    for sequence in [1, 2] {
        let letter = dead.get_raw_message(sequence).await.unwrap();
        parked.push(serde_json::from_slice::<Event>(&letter.payload).unwrap().id);
    }
    assert_eq!(parked, [first, second]);
}
