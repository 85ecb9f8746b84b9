//! Two writers race for the same fence, a thousand times, through two gateways: exactly one wins, and the other learns to whom it
//! lost, with all that it needs to decide again.

use causeway_e2e::{Append, Causeway, Client, Conflict, Dice, Draft, Fence, Outcome, Receipt, Wire, gateways};
use causeway_testkit::{NatsCluster, NatsServer};
use serde_json::json;

const ROUNDS: u64 = 1000;

#[derive(Debug)]
struct Won {
    by: usize,
    receipt: Receipt,
}

async fn race(gateways: Vec<Causeway>) {
    let clients: Vec<Client> = gateways.iter().map(|gateway| Client::of(gateway).unwrap()).collect();
    let (mut dice, mut last, mut wins) = (Dice::new(1), 0, [0, 0]);
    for round in 0..ROUNDS {
        let append = |writer: usize| {
            Append::one(draft(round, writer)).expecting(Fence::custom("prize", last)).keyed(format!("{round}-{writer}"))
        };
        let (one, other) = (append(0), append(1));
        let wires = [0, 1].map(|_| *dice.pick(&[Wire::Http, Wire::Grpc]));
        let both = tokio::join!(clients[0].try_append(wires[0], &one), clients[1].try_append(wires[1], &other));
        let (won, conflict) = outcome([both.0.unwrap(), both.1.unwrap()]);
        check(&conflict, &won, last, round);
        last = won.receipt.position;
        wins[won.by] += 1;
    }
    assert!(wins.iter().all(|wins| 0 < *wins), "a race has two runners: {wins:?}");
    for client in &clients {
        let log = client.http.events("aggregate_id=prize").await.unwrap();
        let rounds: Vec<u64> = log.iter().map(|event| event["data"]["round"].as_u64().unwrap()).collect();
        assert!(rounds.iter().copied().eq(0..ROUNDS), "one event for each round: {rounds:?}");
    }
}

fn draft(round: u64, writer: usize) -> Draft {
    Draft::new("PrizeTaken", "prize", json!({"round": round, "writer": writer}))
}

#[track_caller]
fn outcome(both: [Outcome; 2]) -> (Won, Conflict) {
    match both {
        [Outcome::Appended { receipts, duplicate: false }, Outcome::Conflict(conflict)] => {
            (Won { by: 0, receipt: receipts[0].clone() }, conflict)
        }
        [Outcome::Conflict(conflict), Outcome::Appended { receipts, duplicate: false }] => {
            (Won { by: 1, receipt: receipts[0].clone() }, conflict)
        }
        both => panic!("exactly one wins: {both:?}"),
    }
}

/// The loser is told who won, and what the winner did.
#[track_caller]
fn check(conflict: &Conflict, won: &Won, last: u64, round: u64) {
    assert_eq!(conflict.fence, Fence::custom("prize", last));
    assert_eq!(conflict.actual, won.receipt.position, "{won:?}");
    let events = conflict.events.as_ref().expect("a conflict carries the events behind the fence");
    let [event] = &events[..] else { panic!("the winner's event alone: {events:?}") };
    assert!(!conflict.more);
    assert_eq!(event["id"], won.receipt.id);
    assert_eq!(event["position"], won.receipt.position);
    assert_eq!(event["timestamp"], won.receipt.timestamp);
    assert_eq!(event["metadata"]["correlation_id"], won.receipt.correlation_id);
    assert_eq!(event["data"], draft(round, won.by).data);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_exactly_one_wins_on_one_server() {
    let nats = NatsServer::start().await.unwrap();
    race(gateways(2, &nats.url(), 1).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_exactly_one_wins_on_three_servers() {
    let nats = NatsCluster::start().await.unwrap();
    race(gateways(2, &nats.url(), 3).await.unwrap()).await;
}
