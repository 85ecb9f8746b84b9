//! Deciding under a fence: what is folded, when it is decided anew, and when not.

use causeway_client::{Conflict, Decide, DecideError, Draft, Kind, Problem};
use causeway_event::{Category, Data, Event, Position};
use tonic::Status;

use crate::gateway::{Gateway, appended, event};

/// The state is the list of the folded positions.
fn fold(mut seen: Vec<u64>, event: &Event) -> Vec<u64> {
    seen.push(event.position.get());
    seen
}

fn about() -> Decide<Vec<u64>> {
    Decide::new("me".parse().unwrap(), Category::Custom, Vec::new())
}

fn note() -> Vec<Draft> {
    vec![Draft::new("NoteTaken".parse().unwrap(), "me".parse().unwrap(), Data::from_json(b"{}").unwrap())]
}

fn conflict(expected: u64, actual: u64, events: &[u64], more: bool) -> Status {
    let events = events.iter().map(|position| event(*position).try_into().unwrap()).collect();
    let (expected, actual) = (Position::new(expected), Position::new(actual));
    let aggregate_id = "me".parse().unwrap();
    Problem::from(Conflict { aggregate_id, category: Category::Custom, expected, actual, events, more, others: vec![] }).into()
}

#[tokio::test]
async fn a_conflict_is_folded_and_decided_anew_without_another_read() {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.reads = vec![(vec![1, 4], None)];
        script.appends = vec![Err(conflict(4, 6, &[5, 6], false)), appended(7)];
    }
    let client = gateway.start().await;
    let decided = client.decide(about(), fold, |_| Ok::<_, String>(note())).await.unwrap();
    assert_eq!((decided.state, decided.position), (vec![1, 4, 5, 6], Position::new(6)));
    assert_eq!(decided.appended.unwrap().receipts[0].position, Position::new(7));
    let asked = gateway.asked();
    assert_eq!(asked.iter().filter(|line| line.starts_with("read")).count(), 1, "{asked:?}");
    let keys: Vec<&str> = asked.iter().filter_map(|line| line.strip_prefix("NoteTaken ")).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys[0] == keys[1] && keys[0].len() > 36, "the same fresh key each time: {keys:?}");
}

#[tokio::test]
async fn what_did_not_fit_into_a_conflict_is_read() {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.reads = vec![(vec![1], None), (vec![8, 9], None)];
        script.appends = vec![Err(conflict(1, 9, &[5], true)), appended(10)];
    }
    let client = gateway.start().await;
    let decided = client.decide(about(), fold, |_| Ok::<_, String>(note())).await.unwrap();
    assert_eq!(decided.state, [1, 5, 8, 9]);
    assert!(gateway.asked().contains(&"read after=5 before= limit=0".to_owned()), "{:?}", gateway.asked());
}

#[tokio::test]
async fn a_refusal_and_nothing_to_do_write_nothing() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().reads = vec![(vec![1], None), (vec![2], None)];
    let client = gateway.start().await;
    match client.decide(about(), fold, |seen| Err::<Vec<Draft>, _>(format!("no, {seen:?}"))).await {
        Err(DecideError::Refused(reason)) => assert_eq!(reason, "no, [1]"),
        other => panic!("{:?}", other.map(|decided| decided.state)),
    }
    // What is known already is not read again.
    let known = Decide { state: vec![1], position: Position::new(1), ..about() };
    let decided = client.decide(known, fold, |_| Ok::<_, String>(Vec::new())).await.unwrap();
    assert_eq!((decided.state, decided.appended), (vec![1, 2], None));
    assert_eq!(gateway.asked(), ["read after= before= limit=0", "read after=1 before= limit=0"]);
}

#[tokio::test]
async fn a_decision_that_is_always_overtaken_is_given_up_with_the_conflict() {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.reads = vec![(vec![], None)];
        script.appends = vec![Err(conflict(0, 1, &[1], false)), Err(conflict(1, 2, &[2], false))];
    }
    let client = gateway.start().await;
    let about = Decide { attempts_max: 2, ..about() };
    match client.decide(about, fold, |_| Ok::<_, String>(note())).await.unwrap_err() {
        DecideError::Client(error) => {
            assert_eq!(error.kind(), Some(Kind::Conflict));
            assert_eq!(error.conflict().unwrap().actual, Position::new(2));
        }
        refused @ DecideError::Refused(_) => panic!("{refused}"),
    }
}
