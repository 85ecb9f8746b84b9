//! Groups of consumers from outside: the processor of docs/consumers.md and what an operator sees of it, and gateways that die.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use causeway_e2e::grpc::v1;
use causeway_e2e::{Causeway, Grpc, Page, Setup, gateways};
use causeway_testkit::{NatsServer, wait_until};
use futures::StreamExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::consume_request::Message as Say;
use v1::consume_response::Message as Hear;

const GROUP: &str = "g";
/// Longer than a dispatcher that was killed is waited for, and what it held comes again.
const TAKEOVER: Duration = Duration::from_secs(90);

/// What a command prints, which must succeed.
async fn command(causeway: &Causeway, arguments: &[&str]) -> String {
    let setup = Setup::command(arguments).env("CAUSEWAY_SERVER", causeway.ready().gateway.clone());
    let finished = setup.run().await.unwrap();
    assert!(finished.status.success(), "{arguments:?}: {finished:?}");
    finished.stdout
}

async fn groups(causeway: &Causeway) -> Value {
    serde_json::from_str(&command(causeway, &["groups", "list", "--json"]).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processor_in_python_does_what_its_page_promises_and_an_operator_sees_it() {
    let causeway = Setup::up().start().await.unwrap();
    let page = Page::read("docs/consumers.md").unwrap();
    assert_eq!(page.follow(&causeway.ready().gateway).await.unwrap(), 1, "a run with a promise");
    let seen = &groups(&causeway).await[0];
    assert_eq!((&seen["terms"]["types"], &seen["terms"]["ack_wait_ms"]), (&json!(["InvoiceDue"]), &json!(30_000)));
    let listed = command(&causeway, &["groups", "list"]).await;
    assert!(listed.ends_with("1 parked  types=InvoiceDue ack_wait=30s deliveries_max=10\n"), "{listed}");
    assert_eq!((&seen["name"], &seen["pending"], &seen["parked"]), (&json!("invoices"), &json!(0), &json!(1)));
    let listed = command(&causeway, &["dlq", "list"]).await;
    assert!(listed.contains("a total of -3"), "{listed}");
    assert_eq!(command(&causeway, &["dlq", "retry", "invoices", "--all"]).await, "1 will be delivered again\n");
    assert_eq!(command(&causeway, &["dlq", "list"]).await, "");
    assert_eq!(command(&causeway, &["dlq", "retry", "invoices", "--all"]).await, "0 will be delivered again\n");
    assert_eq!(command(&causeway, &["dlq", "discard", "invoices", "--all"]).await, "0 taken off the list\n");
    for what in ["retry", "discard"] {
        let unknown = Setup::command(&["dlq", what, "invoices", "999"]).env("CAUSEWAY_SERVER", causeway.ready().gateway.clone());
        let unknown = unknown.run().await.unwrap();
        assert_eq!(unknown.status.code(), Some(1));
        assert!(unknown.stderr.contains("none of these was given up by invoices: 999"), "{unknown:?}");
    }
    assert!(command(&causeway, &["groups", "delete", "invoices"]).await.contains("is gone"));
    assert_eq!(command(&causeway, &["groups", "list"]).await, "");
}

/// A member of the group.
struct Member {
    say: mpsc::Sender<v1::ConsumeRequest>,
    hear: Streaming<v1::ConsumeResponse>,
}

impl Member {
    async fn join(gateway: &str, in_flight_max: u32) -> anyhow::Result<Self> {
        let (say, said) = mpsc::channel(64);
        let start = v1::ConsumeStart { group: GROUP.into(), in_flight_max, ..v1::ConsumeStart::default() };
        say.send(v1::ConsumeRequest { message: Some(Say::Start(start)) }).await?;
        let hear = Grpc::new(gateway)?.client().consume(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, hear })
    }

    /// The next delivery; an error when the stream is at its end.
    async fn next(&mut self) -> anyhow::Result<v1::Delivery> {
        loop {
            let heard = timeout(TAKEOVER, self.hear.message()).await.context("nothing came")??;
            if let Some(Hear::Delivery(delivery)) = heard.context("the stream ended")?.message {
                return Ok(delivery);
            }
        }
    }

    async fn say(&self, message: Say) -> anyhow::Result<()> {
        Ok(self.say.send(v1::ConsumeRequest { message: Some(message) }).await?)
    }

    async fn ack(&self, delivery: &v1::Delivery) -> anyhow::Result<()> {
        self.say(Say::Ack(v1::ConsumeAck { delivery_id: delivery.delivery_id.clone() })).await
    }
}

fn number(delivery: &v1::Delivery) -> (String, u64) {
    let event = delivery.event.as_ref().unwrap();
    let data: Value = serde_json::from_slice(&event.data).unwrap();
    (event.aggregate_id.clone(), data["number"].as_u64().unwrap())
}

/// Numbers from 1, for each of so many aggregates.
async fn counted(causeway: &Causeway, aggregates: usize, numbers: u64) {
    for number in 1..=numbers {
        for aggregate in 0..aggregates {
            let event = json!({"type": "Counted", "aggregate_id": format!("a{aggregate}"), "data": {"number": number}});
            causeway.api().append(&event).await.unwrap();
        }
    }
}

/// What members did with the events of each aggregate.
#[derive(Default)]
struct Book {
    at_work: BTreeMap<String, u64>,
    /// How far each aggregate is.
    done: BTreeMap<String, u64>,
    count: usize,
    wrong: Vec<String>,
}

impl Book {
    fn begin(&mut self, aggregate: &str, number: u64) {
        let next = self.done.get(aggregate).copied().unwrap_or_default() + 1;
        if next < number {
            self.wrong.push(format!("{aggregate}: {number} before {next}"));
        }
        if let Some(other) = self.at_work.insert(aggregate.to_owned(), number).filter(|other| *other != number) {
            self.wrong.push(format!("{aggregate}: {number} while {other} is worked on"));
        }
    }

    fn end(&mut self, aggregate: &str, number: u64) {
        self.at_work.remove(aggregate);
        let done = self.done.entry(aggregate.to_owned()).or_default();
        *done = number.max(*done);
        self.count += 1;
    }
}

/// Works until its gateway is gone, and takes its time.
async fn work(gateway: String, book: Arc<Mutex<Book>>) -> anyhow::Result<()> {
    let mut member = Member::join(&gateway, 4).await?;
    loop {
        let delivery = member.next().await?;
        let (aggregate, number) = number(&delivery);
        book.lock().unwrap().begin(&aggregate, number);
        sleep(Duration::from_millis(3)).await;
        book.lock().unwrap().end(&aggregate, number);
        member.ack(&delivery).await?;
    }
}

/// What the dispatcher of the group leaves to the next one.
async fn notes(nats: &NatsServer) -> anyhow::Result<Value> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await?);
    let lease = jetstream.get_key_value("causeway_GROUPS").await?.get(GROUP).await?.context("a lease")?;
    let lease: Value = serde_json::from_slice(&lease)?;
    Ok(serde_json::from_str(lease["notes"].as_str().context("notes")?)?)
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Killed,
    /// It stands still for longer than it may dispatch, and then goes on as if nothing had been.
    Paused,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_order_holds_when_the_gateway_that_dispatches_is_killed() {
    the_other_gateway_goes_on(Fate::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_order_holds_when_the_gateway_that_dispatches_is_paused_and_goes_on() {
    the_other_gateway_goes_on(Fate::Paused).await;
}

async fn the_other_gateway_goes_on(fate: Fate) {
    const AGGREGATES: usize = 6;
    const NUMBERS: u64 = 60;
    let nats = NatsServer::start().await.unwrap();
    let mut gateways = gateways(2, &nats.url(), 1).await.unwrap();
    let (other, mut dispatching) = (gateways.pop().unwrap(), gateways.pop().unwrap());
    counted(&other, AGGREGATES, NUMBERS).await;
    let book = Arc::new(Mutex::new(Book::default()));
    let start = |gateway: &Causeway| tokio::spawn(work(gateway.ready().gateway.clone(), book.clone()));
    let theirs = start(&dispatching);
    let count = || book.lock().unwrap().count;
    wait_until("the first to be done", TAKEOVER, async || (0 < count()).then_some(())).await;
    let ours = start(&other);
    wait_until("some to be done by both", TAKEOVER, async || (60 < count()).then_some(())).await;
    match fate {
        Fate::Killed => dispatching.kill(),
        Fate::Paused => dispatching.signal(Signal::STOP).unwrap(),
    }
    assert!(count() < AGGREGATES * NUMBERS as usize, "that is under way");
    match fate {
        Fate::Killed => assert!(theirs.await.unwrap().is_err(), "its members learn it"),
        Fate::Paused => {
            other.wait_stderr("dispatching the group").await;
            dispatching.signal(Signal::CONT).unwrap();
        }
    }
    // Whatever they had in hand is nobody's any more; those of the other gateway go on with theirs.
    wait_until("all to be done", TAKEOVER, async || {
        let book = book.lock().unwrap();
        let complete = book.done.len() == AGGREGATES && book.done.values().all(|last| *last == NUMBERS);
        complete.then_some(())
    })
    .await;
    assert_eq!(book.lock().unwrap().wrong, Vec::<String>::new());
    other.wait_stderr("dispatching the group").await;
    // How often the dead one delivered what is done by now is of no interest to anybody.
    let last = json!(other.api().last_position().await.unwrap());
    wait_until("nothing to be left", TAKEOVER, async || {
        let group = &groups(&other).await[0];
        let settled = group["acknowledged_position"] == last && group["parked"] == 0;
        (settled && notes(&nats).await.ok()? == json!([])).then_some(())
    })
    .await;
    assert!(!ours.is_finished());
    ours.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_progress_do_not_pile_up_while_the_dispatcher_is_silent() {
    const MARKS: usize = 3000;
    let nats = NatsServer::start().await.unwrap();
    let gateways = gateways(2, &nats.url(), 1).await.unwrap();
    let (dispatching, other) = (&gateways[0], &gateways[1]);
    counted(dispatching, 2, 1).await;
    let mut theirs = Member::join(&dispatching.ready().gateway, 1).await.unwrap();
    theirs.next().await.unwrap();
    let mut ours = Member::join(&other.ready().gateway, 1).await.unwrap();
    let delivery = ours.next().await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut said = client.subscribe("causeway.group.g.dispatcher").await.unwrap();
    client.flush().await.unwrap();
    dispatching.signal(Signal::STOP).unwrap();
    let id = delivery.delivery_id.clone();
    for _ in 0..MARKS {
        ours.say(Say::Progress(v1::ConsumeProgress { delivery_id: id.clone() })).await.unwrap();
    }
    let (mut marks, mut announced) = (0, 0);
    while announced < 3 {
        let words = timeout(TAKEOVER, said.next()).await.unwrap().unwrap();
        let words: Value = serde_json::from_slice(&words.payload).unwrap();
        announced += usize::from(words["is"] == "announce");
        marks += usize::from(words["answer"]["is"] == "progress");
    }
    assert!((1..10).contains(&marks), "{marks} are on their way");
    // The other gateway takes over from the silent one, and the answer counts.
    ours.ack(&delivery).await.unwrap();
    let (aggregate, _) = number(&delivery);
    assert_ne!(number(&ours.next().await.unwrap()).0, aggregate);
}
