//! Reads: what is asked for, and what becomes of a read that breaks off.

use std::time::Duration;

use causeway_client::{
    Client, ClientError, Count, Counted, Filter, Kind, Options, Order, Problem, Project, Read, Subscribe, Watch,
};
use causeway_event::Position;
use causeway_proto::v1;
use causeway_proto::v1::subscribe_response::Update;
use causeway_proto::v1::watch_response::Update as Watched;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::net::TcpListener;
use tonic::Status;

use crate::gateway::{Gateway, options};

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

/// A gateway that answers whatever is asked in [`reads`].
fn willing() -> Gateway {
    let gateway = Gateway::default();
    {
        let mut script = gateway.0.lock().unwrap();
        script.subscriptions = vec![vec![Ok(Update::Checkpoint(v1::Checkpoint { position: 1 }))]];
        script.watches = vec![vec![Ok(v1::WatchResponse { position: 1, update: Some(Watched::State(Vec::new())) })]];
    }
    gateway
}

const READS: [&str; 5] = ["count", "get", "read", "subscribe", "watch"];

async fn ask(client: &Client, what: &str) -> Result<(), ClientError> {
    let watch = Watch { view: "state".into(), id: "me".into(), min_position: None, states: false };
    match what {
        "count" => client.count(Count::default()).await.map(drop),
        "get" => client.get("7").await.map(drop),
        "read" => client.read(Read { limit: Some(1), ..Read::default() }).await?.try_collect::<Vec<_>>().await.map(drop),
        "subscribe" => client.subscribe(Subscribe::default()).await.map(drop),
        _ => client.watch(watch).await.map(drop),
    }
}

#[tokio::test]
async fn a_read_is_made_again_when_its_connection_is_cut_under_it() {
    for what in READS {
        let client = willing().start_behind_cuts(2).await;
        ask(&client, what).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let client = willing().start_behind_cuts(1 + options().retries_max as usize).await;
        let error = ask(&client, what).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::Unavailable), "{what}: {error}");
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn a_read_that_others_than_the_gateway_refuse_is_made_again() {
    for what in READS {
        let gateway = willing();
        gateway.0.lock().unwrap().refusals = vec![
            Status::unknown("transport error"),
            Status::internal("h2 protocol error"),
            Status::cancelled("operation was canceled"),
        ];
        ask(&gateway.start().await, what).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let gateway = willing();
        gateway.0.lock().unwrap().refusals = vec![Problem::new(Kind::Internal, "a defect").into()];
        let error = ask(&gateway.start().await, what).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::Internal), "{what}: the gateway's own word is believed");
    }
}

#[tokio::test]
async fn a_read_whose_time_ran_out_is_not_made_again() {
    for what in READS {
        let gateway = willing();
        gateway.0.lock().unwrap().refusals = vec![Problem::new(Kind::TimedOut, "no answer within 10s").into()];
        let error = ask(&gateway.start().await, what).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::TimedOut), "{what}: at the gateway");
        // Takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let limit = Duration::from_millis(200);
        let client = Client::connect_with(&server, Options { request_timeout: limit, ..options() }).unwrap();
        let error = tokio::time::timeout(2 * limit, ask(&client, what)).await.expect("one attempt").unwrap_err();
        assert_eq!(error.kind(), Some(Kind::TimedOut), "{what}: here");
    }
}

#[tokio::test]
async fn a_read_whose_next_piece_is_late_is_not_begun_again() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().reads = vec![(vec![1], Some(Problem::new(Kind::TimedOut, "no answer within 10s").into()))];
    let mut read = gateway.start().await.read(Read::default()).await.unwrap();
    read.next().await.unwrap().unwrap();
    assert_eq!(read.next().await.unwrap().unwrap_err().kind(), Some(Kind::TimedOut));
    assert_eq!(gateway.asked().len(), 1);
}
