//! Concurrent fenced appends and reads, recorded while gateways and servers are killed, are checked for linearizability: there must
//! be an order of all calls, each within its own time, that explains every answer.

mod checker;
mod history;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_e2e::{Append, Causeway, Client, Dice, Draft, Fence, Outcome, Wire, gateways};
use causeway_testkit::{NatsCluster, NatsServer, wait_until};
use futures::future::join_all;
use history::{History, Logged, Look, Subject};
use serde_json::{Value, json};

const SUBJECTS: usize = 3;
const CLIENTS: usize = 8;
/// How long a client waits for the answers to the same append, before it leaves it unknown.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many acknowledged appends there must be between two kills: the history shall have something to tell of each.
const BETWEEN_KILLS: usize = 60;
const LIMIT: Duration = Duration::from_secs(60);

/// What the clients have in common.
struct Shared {
    gateways: Vec<Client>,
    start: Instant,
    stop: AtomicBool,
    acknowledged: std::sync::atomic::AtomicUsize,
}

impl Shared {
    fn new(gateways: &[Causeway]) -> Arc<Self> {
        let gateways = gateways.iter().map(|gateway| Client::of(gateway).unwrap()).collect();
        Arc::new(Self { gateways, start: Instant::now(), stop: AtomicBool::default(), acknowledged: 0.into() })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a test of less than 500 years")
    }

    /// Waits until the clients have got on.
    async fn more(&self, appends: usize) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + appends;
        wait_until(&format!("{appends} more acknowledged appends"), LIMIT, async || {
            (goal <= self.acknowledged.load(Ordering::SeqCst)).then_some(())
        })
        .await;
    }
}

fn aggregate(subject: Subject) -> String {
    format!("subject-{subject}")
}

fn subject(aggregate: &str) -> Subject {
    aggregate.strip_prefix("subject-").and_then(|number| number.parse().ok()).expect("an aggregate of this test")
}

/// One client: appends and looks, one after the other, over both wires and any gateway.
struct Person {
    number: usize,
    dice: Dice,
    shared: Arc<Shared>,
    /// Where it believes that each subject ends.
    known: [u64; SUBJECTS],
    history: History,
}

impl Person {
    fn new(number: usize, shared: Arc<Shared>) -> Self {
        Self { number, dice: Dice::new(number as u64), shared, known: [0; SUBJECTS], history: History::default() }
    }

    async fn live(mut self) -> History {
        for turn in 0.. {
            if self.shared.stop.load(Ordering::SeqCst) {
                break;
            }
            match self.dice.below(10) {
                0 | 1 => self.look().await,
                _ => self.append(turn).await,
            }
        }
        self.history
    }

    fn client(&mut self) -> (Client, Wire) {
        let gateway = self.dice.below(self.shared.gateways.len());
        (self.shared.gateways[gateway].clone(), *self.dice.pick(&[Wire::Http, Wire::Grpc]))
    }

    async fn look(&mut self) {
        let subject = self.dice.below(SUBJECTS);
        let (client, _) = self.client();
        let path = format!("/events?aggregate_id={}&category=custom&order=desc&limit=1", aggregate(subject));
        let called = self.shared.now();
        // An answer that did not come says nothing.
        let Ok(page) = client.http.fetch(&path).await else { return };
        let last = page["events"][0]["position"].as_u64().unwrap_or(0);
        self.history.looks.push(Look { called, returned: self.shared.now(), subject, last });
        self.known[subject] = last;
    }

    /// The subjects of an append and their fences: mostly one, fenced with what is known; sometimes two, or none fenced.
    fn events(&mut self) -> Vec<(Subject, Option<u64>)> {
        let first = self.dice.below(SUBJECTS);
        let subjects = if self.dice.percent(15) { vec![first, (first + 1) % SUBJECTS] } else { vec![first] };
        let fenced = self.dice.percent(90);
        subjects.into_iter().map(|subject| (subject, fenced.then_some(self.known[subject]))).collect()
    }

    async fn append(&mut self, turn: usize) {
        let name = format!("{}-{turn}", self.number);
        let events = self.events();
        let drafts = events.iter().map(|(subject, _)| Draft::new("Raced", &aggregate(*subject), json!({ "name": name })));
        let fences = events.iter().filter_map(|(subject, at)| at.map(|at| Fence::custom(&aggregate(*subject), at)));
        let append = Append { events: drafts.collect(), expected: fences.collect(), key: Some(name.clone()) };
        let called = self.shared.now();
        let outcome = self.settled(&append).await;
        let returned = self.shared.now();
        match &outcome {
            history::Outcome::Appended(positions) => {
                self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                for ((subject, _), position) in events.iter().zip(positions) {
                    self.known[*subject] = *position;
                }
            }
            history::Outcome::Conflict { subject, actual } => self.known[*subject] = *actual,
            history::Outcome::Refused | history::Outcome::Unknown => {}
        }
        self.history.appends.push(history::Append { name, called, returned, events, outcome });
    }

    /// Asks again under the same key while the outcome is unknown; one in three leaves it at that.
    async fn settled(&mut self, append: &Append) -> history::Outcome {
        let patient = !self.dice.percent(33);
        let (asked, mut unknown) = (Instant::now(), false);
        loop {
            let (client, wire) = self.client();
            match client.try_append(wire, append).await.unwrap() {
                Outcome::Appended { receipts, duplicate } => {
                    assert!(unknown || !duplicate, "the first answer to {append:?} is no repetition");
                    return history::Outcome::Appended(receipts.iter().map(|receipt| receipt.position).collect());
                }
                Outcome::Conflict(conflict) => {
                    let fence = append.expected.iter().find(|fence| **fence == conflict.fence);
                    assert!(fence.is_some(), "{conflict:?} names a fence of {append:?}");
                    let subject = subject(&conflict.fence.aggregate_id);
                    return history::Outcome::Conflict { subject, actual: conflict.actual };
                }
                refused @ Outcome::Refused { .. } => {
                    assert!(refused.is_passing(), "{append:?}: {refused:?}");
                    if !unknown {
                        return history::Outcome::Refused;
                    }
                }
                Outcome::Unknown(_) if !patient => return history::Outcome::Unknown,
                Outcome::Unknown(_) => unknown = true,
            }
            if PATIENCE < asked.elapsed() {
                return history::Outcome::Unknown;
            }
            // Its gateway may be on its way back.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Lets the clients work while `disturb` does its worst, and judges what they recorded.
async fn check(gateways: Vec<Causeway>, disturb: impl AsyncFnOnce(&Shared, &mut Vec<Causeway>)) {
    let mut gateways = gateways;
    let shared = Shared::new(&gateways);
    let clients = (0..CLIENTS).map(|number| tokio::spawn(Person::new(number, Arc::clone(&shared)).live()));
    let clients: Vec<_> = clients.collect();
    shared.more(BETWEEN_KILLS).await;
    disturb(&shared, &mut gateways).await;
    shared.more(BETWEEN_KILLS).await;
    shared.stop.store(true, Ordering::SeqCst);
    let mut history = History::default();
    for recorded in join_all(clients).await {
        let recorded = recorded.unwrap();
        history.appends.extend(recorded.appends);
        history.looks.extend(recorded.looks);
    }
    for client in &shared.gateways {
        client.wait_ready().await;
    }
    let log = shared.gateways[0].http.events("type=Raced").await.unwrap();
    assert_eq!(log, shared.gateways[1].http.events("type=Raced").await.unwrap(), "both gateways show one log");
    let log: Vec<Logged> = log.iter().map(logged).collect();
    if let Err(wrong) = history.judge(&log) {
        panic!("{wrong}");
    }
    let conflicts = history.appends.iter().filter(|append| matches!(append.outcome, history::Outcome::Conflict { .. }));
    assert!(BETWEEN_KILLS < conflicts.count(), "they really got in each other's way");
}

fn logged(event: &Value) -> Logged {
    Logged {
        position: event["position"].as_u64().unwrap(),
        subject: subject(event["aggregate_id"].as_str().unwrap()),
        name: event["data"]["name"].as_str().unwrap().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fenced_appends_are_linearizable_through_kills_of_gateways_and_of_the_server() {
    let mut nats = NatsServer::start().await.unwrap();
    let started = gateways(2, &nats.url(), 1).await.unwrap();
    check(started, async |shared, gateways| {
        for gateway in gateways.iter_mut() {
            gateway.kill();
            shared.more(BETWEEN_KILLS / 2).await;
            gateway.restart().await.unwrap();
            shared.more(BETWEEN_KILLS).await;
        }
        nats.kill();
        nats.restart().await.unwrap();
        shared.more(BETWEEN_KILLS).await;
        // Neither an answer nor a closed connection: the gateways cannot know what becomes of what they sent.
        nats.pause().unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        nats.resume().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fenced_appends_are_linearizable_through_kills_of_the_leader() {
    let mut nats = NatsCluster::start().await.unwrap();
    let started = gateways(2, &nats.url(), 3).await.unwrap();
    check(started, async |shared, _| {
        for _ in 0..3 {
            let killed = nats.kill_leader("causeway_EVENTS").await;
            nats.successor_of(killed, "causeway_EVENTS").await;
            shared.more(BETWEEN_KILLS / 2).await;
            nats.node(killed).restart().await.unwrap();
            shared.more(BETWEEN_KILLS / 2).await;
        }
    })
    .await;
}
