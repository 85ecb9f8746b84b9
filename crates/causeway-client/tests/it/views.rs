//! Views and chains: what is asked for, and what becomes of a watch whose connections break.

use causeway_client::{ClientError, Diff, Kind, Problem, Scope, Trace, View, Watch, Watched};
use causeway_event::Position;
use causeway_proto::v1;
use causeway_proto::v1::watch_response::Update as Wire;
use futures::StreamExt as _;
use tonic::Status;

use crate::gateway::{Gateway, event, options};

type Said = Result<v1::WatchResponse, Status>;

fn watch() -> Watch {
    Watch { view: "state".into(), id: "me".into(), min_position: Some(Position::new(2)), states: true }
}

fn said(position: u64, update: Wire) -> Said {
    Ok(v1::WatchResponse { position, update: Some(update) })
}

fn state(position: u64, json: &str) -> Said {
    said(position, Wire::State(json.into()))
}

fn changed(position: u64) -> Said {
    said(position, Wire::Change(change(position)))
}

fn change(position: u64) -> v1::Change {
    v1::Change { event: Some(event(position)), patch: format!(r#"[{{"op":"add","path":"/{position}"}}]"#).into() }
}

fn broken() -> Status {
    Status::unknown("h2 protocol error")
}

fn away() -> Status {
    Problem::new(Kind::Unavailable, "the log cannot be reached").into()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn told(watched: &Result<Watched, ClientError>) -> String {
    match watched {
        Ok(Watched::State { position, state }) => format!("state {position} {}", text(state)),
        Ok(Watched::Change(change)) => format!("change {} {}", change.event.position, text(&change.patch)),
        Ok(Watched::Heartbeat { position, lag }) => format!("heartbeat {position} lag {lag}"),
        Err(error) => format!("error {error}"),
    }
}

#[tokio::test]
async fn a_watch_goes_on_over_another_connection_and_begins_there_with_the_whole_state() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().watches = vec![
        // Ends as a gateway does that shuts down.
        vec![state(3, "{}"), changed(5), Ok(v1::WatchResponse { position: 6, update: None })],
        // Breaks as a connection does.
        vec![state(7, "[7]"), Err(broken())],
        vec![Err(away())],
        vec![state(9, "[9]"), said(11, Wire::Heartbeat(v1::Heartbeat { position: 11, lag: 2 })), changed(12)],
        vec![Err(Problem::invalid("/view", "is not a view").into())],
    ];
    let watched: Vec<_> = gateway.start().await.watch(watch()).await.unwrap().collect().await;
    assert_eq!(
        watched.iter().map(told).collect::<Vec<_>>(),
        [
            "state 3 {}",
            r#"change 5 [{"op":"add","path":"/5"}]"#,
            "state 7 [7]",
            "state 9 [9]",
            "heartbeat 11 lag 2",
            r#"change 12 [{"op":"add","path":"/12"}]"#,
            "error /view: is not a view",
        ]
    );
    assert_eq!(gateway.asked(), ["watch state me min=2 states=true"; 5], "each time the same");
}

#[tokio::test]
async fn a_bad_watch_is_refused_at_once_and_one_of_nobody_after_the_retries() {
    let gateway = Gateway::default();
    let invalid = vec![Err(Problem::invalid("/view", "is not a view").into())];
    let nobody = (0..=options().retries_max).map(|_| vec![Err(away())]);
    gateway.0.lock().unwrap().watches = std::iter::once(invalid).chain(nobody).collect();
    let client = gateway.start().await;
    let refused = client.watch(watch()).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::Invalid));
    assert_eq!(gateway.asked().len(), 1);
    // Whoever begins to watch wants to know that there is nobody.
    let away = client.watch(watch()).await.map(drop).unwrap_err();
    assert_eq!(away.kind(), Some(Kind::Unavailable));
    assert_eq!(gateway.asked().len(), 5);
}

#[tokio::test]
async fn a_change_that_cannot_be_read_ends_the_watch() {
    let gateway = Gateway::default();
    let nameless = v1::Change { event: Some(v1::Event { id: "7".into(), ..event(7) }), patch: Vec::new() };
    gateway.0.lock().unwrap().watches = vec![vec![state(3, "{}"), said(7, Wire::Change(nameless)), changed(8)]];
    let watched: Vec<_> = gateway.start().await.watch(watch()).await.unwrap().collect().await;
    assert_eq!(watched.len(), 2, "{watched:?}");
    assert!(matches!(watched[1], Err(ClientError::Unreadable(_))), "{watched:?}");
}

#[tokio::test]
async fn a_diff_tells_what_changed_and_by_which_events() {
    let gateway = Gateway::default();
    let response = v1::DiffResponse {
        view: "state".into(),
        id: "me".into(),
        from_position: 3,
        to_position: 9,
        patch: b"[]".to_vec(),
        changes: vec![change(5), change(9)],
        more: true,
    };
    let unreadable = v1::DiffResponse { changes: vec![v1::Change::default()], ..response.clone() };
    gateway.0.lock().unwrap().diffs = vec![Err(away()), Ok(response), Ok(unreadable)];
    let client = gateway.start().await;
    let diff = Diff { view: "state".into(), id: "me".into(), from: "3".into(), to: Some("2026-11-23T10:00:00Z".into()) };
    let diffed = client.diff(diff.clone()).await.unwrap();
    assert_eq!((diffed.from.get(), diffed.to.get(), diffed.more, text(&diffed.patch)), (3, 9, true, "[]"));
    let changes: Vec<_> = diffed.changes.iter().map(|change| (change.event.position.get(), text(&change.patch))).collect();
    assert_eq!(changes, [(5, r#"[{"op":"add","path":"/5"}]"#), (9, r#"[{"op":"add","path":"/9"}]"#)]);
    let error = client.diff(Diff { to: None, ..diff }).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
    let to_a_moment = "diff state me from=3 to=2026-11-23T10:00:00Z";
    assert_eq!(gateway.asked(), [to_a_moment, to_a_moment, "diff state me from=3 to="], "asked again, for it only reads");
}

#[tokio::test]
async fn chains_are_traced_as_a_whole_or_from_an_event_up_or_down() {
    let gateway = Gateway::default();
    let traced = |url: &str| Ok(v1::TraceResponse { tree: br#"{"nodes":[]}"#.to_vec(), url: url.into(), more: !url.is_empty() });
    let missing = Problem::new(Kind::NotFound, "there is no event 9").into();
    gateway.0.lock().unwrap().traces = vec![Err(away()), traced("http://traces/1"), traced(""), traced(""), Err(missing)];
    let client = gateway.start().await;
    let trace = |scope| Trace { id: "7".into(), scope, as_of: None };
    let chain = client.trace(Trace { as_of: Some("8".into()), ..trace(Scope::Chain) }).await.unwrap();
    assert_eq!((text(&chain.tree), chain.url.as_deref(), chain.more), (r#"{"nodes":[]}"#, Some("http://traces/1"), true));
    let ancestors = client.trace(trace(Scope::Ancestors)).await.unwrap();
    assert_eq!((ancestors.url, ancestors.more), (None, false));
    client.trace(trace(Scope::Descendants)).await.unwrap();
    assert_eq!(client.trace(trace(Scope::default())).await.unwrap_err().kind(), Some(Kind::NotFound));
    assert_eq!(
        gateway.asked(),
        ["7 CHAIN as_of=8", "7 CHAIN as_of=8", "7 ANCESTORS as_of=", "7 DESCENDANTS as_of=", "7 CHAIN as_of="]
            .map(|asked| format!("trace {asked}"))
    );
}

#[tokio::test]
async fn the_views_are_listed() {
    let gateway = Gateway::default();
    let view = v1::View { name: "state".into(), version: 3, description: "merged data".into(), id_kind: "aggregate".into() };
    gateway.0.lock().unwrap().views = vec![Err(away()), Ok(v1::ListViewsResponse { views: vec![view] })];
    let views = gateway.start().await.views().await.unwrap();
    let known = View { name: "state".into(), version: 3, description: "merged data".into(), id_kind: "aggregate".into() };
    assert_eq!(views, [known]);
    assert_eq!(gateway.asked(), ["views", "views"]);
}
