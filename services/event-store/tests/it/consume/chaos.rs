//! Members, gateways and the server end in the midst of the work: nothing is lost, and order holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_proto::v1;
use causeway_proto::v1::consume_request::Message as Say;
use causeway_proto::v1::consume_response::Message as Hear;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_testkit::wait_until;
use tokio::time::sleep;

use super::{Member, TAKEOVER, aggregate, number, second_gateway, seconds, start};
use crate::harness::{LIMIT, World};

/// What happened to the events of one aggregate, as members saw it.
#[derive(Default)]
struct Book {
    /// Who is at work on what, by aggregate.
    at_work: HashMap<String, u64>,
    acknowledged: BTreeMap<String, Vec<u64>>,
    wrong: Vec<String>,
}

impl Book {
    fn begin(&mut self, aggregate: &str, number: u64) {
        let done = self.acknowledged.entry(aggregate.to_owned()).or_default();
        let next = done.iter().max().map_or(1, |last| last + 1);
        if number > next {
            self.wrong.push(format!("{aggregate}: {number} before {next}"));
        }
        if let Some(other) = self.at_work.insert(aggregate.to_owned(), number).filter(|other| *other != number) {
            self.wrong.push(format!("{aggregate}: {number} while {other} is worked on"));
        }
    }

    fn end(&mut self, aggregate: &str, number: u64) {
        self.at_work.remove(aggregate);
        self.acknowledged.entry(aggregate.to_owned()).or_default().push(number);
    }

    fn broke_off(&mut self, aggregate: &str) {
        self.at_work.remove(aggregate);
    }
}

/// Works until cut off: acknowledges most, naks some, and breaks its stream off now and then.
async fn work(gateways: Arc<Mutex<Vec<String>>>, which: usize, book: Arc<Mutex<Book>>) {
    let mut turn = which;
    loop {
        turn += 1;
        let url = {
            let gateways = gateways.lock().unwrap();
            gateways[turn % gateways.len()].clone()
        };
        let Ok(mut client) = EventStoreClient::connect(url).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let begin = v1::ConsumeStart { in_flight_max: 3, deliveries_max: 1000, ..start("chaos") };
        let Ok(mut member) = Member::join(&mut client, begin).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut count = 0;
        while let Ok(Some(heard)) = member.hear().await {
            let Hear::Delivery(delivery) = heard else { continue };
            let (aggregate, number) = (aggregate(&delivery), number(&delivery));
            book.lock().unwrap().begin(&aggregate, number);
            count += 1;
            if (number + u64::from(delivery.deliveries)) % 13 == 0 {
                book.lock().unwrap().broke_off(&aggregate);
                let nak = v1::ConsumeNak { delivery_id: delivery.delivery_id, delay: seconds(0.02), reason: String::new() };
                member.say(Say::Nak(nak)).await;
                continue;
            }
            tokio::task::yield_now().await;
            if count % 97 == 0 {
                // Its process dies.
                book.lock().unwrap().broke_off(&aggregate);
                break;
            }
            book.lock().unwrap().end(&aggregate, number);
            member.ack(&delivery).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_order_holds_through_the_end_of_members_gateways_and_the_server() {
    const AGGREGATES: usize = 12;
    const EVENTS_EACH: u64 = 60;
    let World { gateway, mut nats, dir } = World::start().await;
    let other = second_gateway(&nats, dir.path()).await;
    let gateways = Arc::new(Mutex::new(vec![gateway.url.clone(), other.url.clone()]));
    let book = Arc::new(Mutex::new(Book::default()));
    let members: Vec<_> = (0..4).map(|which| tokio::spawn(work(gateways.clone(), which, book.clone()))).collect();
    let acknowledged = || book.lock().unwrap().acknowledged.values().map(Vec::len).sum::<usize>();
    let reached = async |count: usize| {
        wait_until(&format!("{count} acknowledged"), TAKEOVER, async || (count <= acknowledged()).then_some(())).await;
    };
    let write = async |from: u64, to: u64| {
        for number in from..=to {
            for aggregate in 0..AGGREGATES {
                gateway.note(&format!("a{aggregate}"), number as usize).await;
            }
        }
    };
    write(1, EVENTS_EACH / 3).await;
    reached(AGGREGATES * 5).await;
    nats.kill();
    nats.restart().await.unwrap();
    wait_until("the log", LIMIT, async || gateway.log.last_position().await.ok()).await;
    write(EVENTS_EACH / 3 + 1, EVENTS_EACH).await;
    reached(AGGREGATES * EVENTS_EACH as usize / 2).await;
    // One of the two dispatches.
    gateways.lock().unwrap().remove(0);
    gateway.stop().await;
    wait_until("all to be acknowledged", TAKEOVER, async || {
        let book = book.lock().unwrap();
        let complete = |done: &Vec<u64>| done.iter().collect::<BTreeSet<_>>().len() as u64 == EVENTS_EACH;
        (book.acknowledged.len() == AGGREGATES && book.acknowledged.values().all(complete)).then_some(())
    })
    .await;
    members.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(book.lock().unwrap().wrong, Vec::<String>::new());
    other.stop().await;
}
