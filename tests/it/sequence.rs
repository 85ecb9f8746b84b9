//! What follows a message, as the README shows it and as every kind of reader sees it.

use std::process::Stdio;
use std::time::Duration;

use causeway_e2e::{Api, Seen, Setup, check_causation, count, of_type, python, types};
use causeway_testkit::workspace_root;
use serde_json::Value;

/// The first command of the README that starts so, with continuation lines joined.
pub(crate) fn readme_command(start: &str, contains: &str) -> String {
    let readme = std::fs::read_to_string(workspace_root().join("README.md")).expect("README.md");
    let joined = readme.replace("\\\n", " ");
    let mut commands = joined.lines().map(|line| line.trim().trim_start_matches("$ "));
    let command = commands.find(|line| line.starts_with(start) && line.contains(contains));
    command.unwrap_or_else(|| panic!("README.md has no command `{start} ... {contains}`")).to_owned()
}

/// Runs a command of the README against this gateway. What it printed.
async fn run(command: &str, api: &Api) -> String {
    let command = command.replace("http://127.0.0.1:8470", api.base()).replace("http://localhost:8470", api.base());
    let command = command.replace("127.0.0.1:8470", api.base()).replace("localhost:8470", api.base());
    let output = tokio::process::Command::new("bash").args(["-c", &command]).stdin(Stdio::null()).output().await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// The documented sequence of a turn: what each event may be followed by.
#[track_caller]
fn check_sequence(events: &[Value]) {
    let seen = types(events);
    assert_eq!(seen[..2], ["MessageReceived", "AIProcessingStarted"], "{seen:?}");
    assert_eq!(seen[seen.len() - 2..], ["MessageGenerated", "AIProcessingCompleted"], "{seen:?}");
    let between = &seen[2..seen.len() - 2];
    let known = ["ThinkingGenerated", "ToolCalled", "ToolCompleted"];
    assert!(between.iter().all(|kind| known.contains(kind)), "{seen:?}");
    let mut open: Vec<&str> = Vec::new();
    for event in events {
        match (event["type"].as_str().unwrap(), event["data"]["call_id"].as_str()) {
            ("ToolCalled", Some(call)) => open.push(call),
            ("ToolCompleted", Some(call)) => {
                let at = open.iter().position(|of| *of == call);
                open.remove(at.unwrap_or_else(|| panic!("{call} was completed but not called: {seen:?}")));
            }
            ("MessageGenerated", _) => assert!(open.is_empty(), "an answer with open calls {open:?}: {seen:?}"),
            _ => {}
        }
    }
    assert!(0 < count(events, "ToolCalled"), "the demo model uses the tools: {seen:?}");
}

fn events_of(seen: &[Seen]) -> Vec<Value> {
    seen.iter().filter(|seen| seen.is_event()).map(|seen| seen.data.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_sequence_follows_the_curl_line_of_the_readme() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    let curl = readme_command("curl", "-d");
    assert!(curl.contains("MessageReceived"), "{curl}");
    let mut sse = api.stream("", None).await.unwrap();
    let printed: Value = serde_json::from_str(&run(&curl, &api).await).unwrap();
    let seen = sse.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap();

    let events = events_of(&seen);
    check_sequence(&events);
    check_causation(&events);
    assert_eq!(printed["id"], events[0]["id"]);
    assert_eq!(printed["position"], events[0]["position"]);
    assert_eq!(printed["correlation_id"], events[0]["metadata"]["correlation_id"]);
    assert_eq!(printed["timestamp"], events[0]["timestamp"]);
    assert_eq!(printed["duplicate"], false);
    for seen in seen.iter().filter(|seen| seen.is_event()) {
        assert_eq!(seen.id, seen.data["position"].to_string(), "the id of a message is the position");
        assert_eq!(seen.data["type"], seen.kind);
    }
    let positions: Vec<u64> = events.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    assert_eq!(seen.iter().filter(|seen| seen.kind == "caught_up").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_seen_live_by_whoever_asks_for_the_session() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    let mut sse = api.stream("aggregate_id=s", None).await.unwrap();
    sse.until(|seen| seen.kind == "caught_up").await.unwrap();
    api.say("s", "Hello").await.unwrap();
    let mut seen = sse.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap();
    let answered = seen.iter().position(|seen| seen.kind == "MessageGenerated").unwrap();
    let before = seen[..answered].iter().filter(|seen| seen.kind == "delta").count();
    let kinds = || seen.iter().map(|seen| &seen.kind).collect::<Vec<_>>();
    assert!(1 < before, "several pieces come before the whole message: {:?}", kinds());
    let answer = seen[answered].data["data"]["content"].as_str().unwrap().to_owned();
    let text = |seen: &Seen| {
        (seen.kind == "delta" && seen.data["kind"] == "text").then(|| seen.data["text"].as_str().unwrap().to_owned())
    };
    // The last ones take another way than the message, and may come behind it.
    let all = async {
        while !seen.iter().filter_map(text).collect::<String>().ends_with(&answer) {
            seen.extend(sse.next().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("every piece of the answer, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_left() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    api.say("s", "Hello").await.unwrap();
    let all = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    let from = all[1]["position"].as_u64().unwrap();
    let mut sse = api.stream("aggregate_id=s", Some(from)).await.unwrap();
    let seen = sse.until(|seen| seen.kind == "caught_up").await.unwrap();
    assert_eq!(events_of(&seen), all[2..]);
    // The seam between what stood there and what comes: nothing twice, nothing lost.
    api.say("s", "And again").await.unwrap();
    let live = sse.until(|seen| seen.kind == "AIProcessingCompleted").await.unwrap();
    let whole = api.events("aggregate_id=s").await.unwrap();
    assert_eq!(events_of(&live), whole[all.len()..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_with_stubs_from_proto_sees_the_same() {
    let causeway = Setup::up().start().await.unwrap();
    let target = causeway.ready().gateway.trim_start_matches("http://").to_owned();
    let proto = workspace_root().join("proto").display().to_string();
    let seen = python("grpc_client.py", &[&target, &proto, "turn", "python-session", "Hello"]).await.unwrap();

    let events = seen["subscribed"].as_array().unwrap();
    check_sequence(events);
    check_causation(events);
    assert_eq!(seen["append"]["duplicate"], false);
    assert_eq!(seen["again"]["duplicate"], true, "the same idempotency key is the same append");
    assert_eq!(seen["again"]["id"], seen["append"]["id"]);
    assert_eq!(seen["again"]["position"], seen["append"]["position"]);
    assert_eq!(seen["append"]["id"], events[0]["id"]);
    assert_eq!(seen["caught_up"], 1);
    assert_eq!(seen["read"], seen["subscribed"]);
    assert_eq!(seen["got"], seen["subscribed"]);
    assert_eq!(seen["by_position"], seen["subscribed"]);
    let tools: Vec<Value> = events.iter().filter(|event| event["type"].as_str().unwrap().starts_with("Tool")).cloned().collect();
    assert_eq!(seen["tools"].as_array().unwrap(), &tools);
    let last: Vec<Value> = events.iter().rev().take(2).cloned().collect();
    assert_eq!(seen["backwards"].as_array().unwrap(), &last);
    assert!(events.last().unwrap()["position"].as_u64() <= seen["now"]["position"].as_u64());
    assert_ne!(seen["now"]["state"], seen["then"]["state"], "the past is another state");

    // And HTTP says what gRPC says.
    let http = causeway.api().events("aggregate_id=python-session").await.unwrap();
    assert_eq!(&http, events);
    let view = causeway.api().fetch("/projections/conversation/python-session").await.unwrap();
    let answer = of_type(&http, "MessageGenerated")[0]["data"]["content"].as_str().unwrap();
    assert!(view.to_string().contains(&serde_json::to_string(answer).unwrap()), "{view}");
}
