//! Reads: what is asked for, and what becomes of a read that breaks off.

use causeway_client::{ClientError, Count, Counted, Filter, Kind, Order, Problem, Project, Read};
use causeway_event::Position;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::Status;

use crate::gateway::Gateway;

#[tokio::test]
async fn events_and_views_are_read() {
    let client = Gateway::default().start().await;
    let read = client.read(Read { limit: Some(3), ..Read::default() }).await.unwrap();
    let positions: Vec<u64> = read.map(|event| event.unwrap().position.get()).collect().await;
    assert_eq!(positions, [1, 2, 3]);
    assert_eq!(client.get("7").await.unwrap().unwrap().position, Position::new(7));
    assert_eq!(client.get("8").await.unwrap(), None);
    let project = |view: &str| Project {
        view: view.into(),
        id: "me".into(),
        as_of: Some("4".into()),
        min_position: Some(Position::new(9)),
    };
    let projection = client.project(project("conversation")).await.unwrap();
    assert_eq!((&*projection.state, projection.position.get()), (br#"{"as_of":"4"}"#.as_slice(), 9));
    let read: std::collections::BTreeMap<String, String> = projection.state.read().unwrap();
    assert_eq!(read["as_of"], "4");
    let other = projection.state.read::<Vec<u8>>().unwrap_err();
    assert!(matches!(&other, ClientError::Unreadable(_)), "{other}");
    assert_eq!(client.project(project("nonsense")).await.unwrap_err().kind(), Some(Kind::Invalid));
}

#[tokio::test]
async fn a_read_that_breaks_off_goes_on_where_it_was_and_keeps_its_limit() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().reads = vec![
        (vec![1, 2], Some(Status::unknown("h2 protocol error"))),
        (vec![], Some(Problem::new(Kind::Unavailable, "the log cannot be reached").into())),
        (vec![5, 6], Some(Status::unknown("h2 protocol error"))),
    ];
    let client = gateway.start().await;
    let read = client.read(Read { limit: Some(4), ..Read::default() }).await.unwrap();
    let positions: Vec<u64> = read.map_ok(|event| event.position.get()).try_collect().await.unwrap();
    assert_eq!(positions, [1, 2, 5, 6]);
    let asked = ["read after= before= limit=4", "read after=2 before= limit=2", "read after=2 before= limit=2"];
    assert_eq!(gateway.asked(), asked, "nothing is asked again once the limit is reached");
}

#[tokio::test]
async fn a_backwards_read_goes_on_before_the_last_event_that_came() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().reads = vec![(vec![9, 7], Some(Status::unknown("h2 protocol error"))), (vec![5], None)];
    let client = gateway.start().await;
    let read = client.read(Read { order: Order::Backwards, ..Read::default() }).await.unwrap();
    let positions: Vec<u64> = read.map_ok(|event| event.position.get()).try_collect().await.unwrap();
    assert_eq!(positions, [9, 7, 5]);
    assert_eq!(gateway.asked(), ["read after= before= limit=0", "read after= before=7 limit=0"]);
}

#[tokio::test]
async fn a_read_that_is_refused_half_way_ends_with_the_refusal() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().reads = vec![(vec![1], Some(Problem::invalid("/filter", "is wrong").into()))];
    let mut read = gateway.start().await.read(Read::default()).await.unwrap();
    assert_eq!(read.next().await.unwrap().unwrap().position, Position::new(1));
    assert_eq!(read.next().await.unwrap().unwrap_err().kind(), Some(Kind::Invalid));
    assert!(read.next().await.is_none());
    assert_eq!(gateway.asked().len(), 1);
}

#[tokio::test]
async fn events_are_counted_and_aggregates_listed_over_all_pages() {
    let gateway = Gateway::default();
    let client = gateway.start().await;
    let cause = "evt_01k9x3m5v8e7rs2q4n6p8t0w1y";
    let filter = Filter {
        source: Some("importer".parse().unwrap()),
        caused_by: Some(cause.parse().unwrap()),
        descendants_of: Some(cause.parse().unwrap()),
        ..Filter::default()
    };
    let count = Count { filter, from: Some("2".into()), until: Some("7".into()), ..Count::default() };
    let counted = client.count(count).await.unwrap();
    assert_eq!(counted, Counted { count: 3, last_position: Position::new(9) });
    assert_eq!(gateway.asked(), [format!("count importer {cause} {cause} after= before= from=2 until=7")]);
    let aggregates: Vec<String> =
        client.aggregates("account-").map_ok(|aggregate| aggregate.aggregate_id.to_string()).try_collect().await.unwrap();
    assert_eq!(aggregates, ["account-1", "account-2"]);
}
