//! The command line against a running Causeway: what it prints for people and for programs, and its exit codes.

use std::fs;
use std::time::Duration;

use causeway_e2e::{Causeway, Setup, types};
use causeway_testkit::{wait_until, workspace_root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a watching command may take to print what there is.
const TAIL_LIMIT: Duration = Duration::from_secs(30);

struct House(Causeway);

impl House {
    async fn start() -> Self {
        Self(Setup::up().start().await.unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Setup {
        Setup::command(arguments).env("CAUSEWAY_SERVER", self.0.api().base())
    }

    /// Runs a command that must succeed. What it printed.
    async fn run(&self, arguments: &[&str]) -> String {
        let finished = self.command(arguments).run().await.unwrap();
        assert!(finished.status.success(), "{arguments:?}: {}\n{}", finished.status, finished.stderr);
        finished.stdout
    }

    /// The same with `--json`: its lines as values.
    async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.run(&[arguments, &["--json"]].concat()).await;
        match serde_json::from_str(&printed) {
            Ok(value) => vec![value],
            Err(_) => printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_through_a_pipe_answers_each_line() {
    let house = House::start().await;
    let chat = house.command(&["chat", "--session", "s"]).stdin("What is 6 * 7?\nWhat is 6 * 8?\n").run().await.unwrap();
    assert!(chat.status.success(), "{}", chat.stderr);
    assert!(chat.stdout.contains("42") && chat.stdout.contains("48"), "{}", chat.stdout);
    assert!(!chat.stdout.contains('\u{1b}'), "no colours in a pipe: {}", chat.stdout);
    let events = house.0.api().events("aggregate_id=s&type=AIProcessingCompleted").await.unwrap();
    assert_eq!(events.len(), 2, "one session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_on_a_terminal_says_how_to_leave_it_and_how_to_go_on() {
    let house = House::start().await;
    let typed = "What is 6 * 7?\n/quit\n";
    let chat = house.command(&["chat", "--session", "s"]).stdin(typed).on_a_terminal().run().await.unwrap();
    assert!(chat.status.success(), "{}", chat.stdout);
    for shown in ["session s, Ctrl-D or /quit leaves", "42", "chat --session s"] {
        assert!(chat.stdout.contains(shown), "{shown}: {}", chat.stdout);
    }
    let said = house.0.api().events("aggregate_id=s&type=MessageReceived").await.unwrap();
    assert_eq!(said.len(), 1, "who leaves says nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_does_not_fit_is_told_by_its_own_name() {
    let house = House::start().await;
    let finished = house.command(&["events", "append", "MessageReceived", "s", "--data", "{}"]).run().await.unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("data.content: missing field"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("/events/0"), "{}", finished.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_for_programs_is_events_and_deltas() {
    let house = House::start().await;
    let arguments = ["chat", "--session", "s", "--json"];
    let chat = house.command(&arguments).stdin("What is 6 * 7?\n").run().await.unwrap();
    assert!(chat.status.success(), "{}", chat.stderr);
    let lines: Vec<Value> = chat.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (deltas, events): (Vec<Value>, Vec<Value>) = lines.into_iter().partition(|line| line["delta"].is_object());
    assert_eq!(events, house.0.api().events("aggregate_id=s").await.unwrap(), "as HTTP has them, and nothing else");
    let said: String =
        deltas.iter().filter(|line| line["delta"]["kind"] == "text").filter_map(|line| line["delta"]["text"].as_str()).collect();
    let answer = events.iter().find(|event| event["type"] == "MessageGenerated").unwrap();
    assert!(said.ends_with(answer["data"]["content"].as_str().unwrap()), "{said:?} against {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shows_what_stands_behind_a_position_and_what_comes() {
    let house = House::start().await;
    let api = house.0.api();
    api.say("s", "What is 6 * 7?").await.unwrap();
    let before = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    let after = before[1]["position"].to_string();
    let tail = ["events", "tail", "--aggregate", "s", "--after", &after];
    let for_programs = house.command(&[&tail[..], &["--json"]].concat()).spawn().unwrap();
    let for_people = house.command(&tail).spawn().unwrap();
    let lines = async |tail: &Causeway, count: usize| {
        wait_until(&format!("{count} lines"), TAIL_LIMIT, async || {
            let printed = tail.stdout();
            let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
            (count <= whole.lines().count()).then(|| whole.lines().map(str::to_owned).collect::<Vec<_>>())
        })
        .await
    };
    for tail in [&for_programs, &for_people] {
        lines(tail, before.len() - 2).await;
    }
    api.append(&serde_json::json!({"type": "Noted", "aggregate_id": "other", "data": {}})).await.unwrap();
    api.append(&serde_json::json!({"type": "Noted", "aggregate_id": "s", "data": {"n": 4711}})).await.unwrap();
    let all = api.events("aggregate_id=s").await.unwrap();
    let printed: Vec<Value> =
        lines(&for_programs, all.len() - 2).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed, all[2..]);
    let read = lines(&for_people, all.len() - 2).await;
    for (line, event) in read.iter().zip(&all[2..]) {
        let (position, kind) = (event["position"].to_string(), event["type"].as_str().unwrap());
        assert!(line.trim_start().starts_with(&position) && line.contains(kind), "{line:?} is {event}");
    }
    for mut tail in [for_programs, for_people] {
        assert!(tail.terminate().await.unwrap().success(), "to be stopped is its end: {}", tail.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_checked_and_exemplified() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.toml", "[up]\nlisten = \"127.0.0.1:9000\"\n[ai_processor.model]\napi_key = \"very-secret\"\n");
    let shown = Setup::command(&["config", "show", "--config", &good]).env("CAUSEWAY__LOG__NAMESPACE", "blue");
    let shown = shown.run().await.unwrap();
    assert!(shown.status.success(), "{}", shown.stderr);
    let line = |start: &str| shown.stdout.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("listen = \"127.0.0.1:9000\"").contains(&good), "{}", shown.stdout);
    assert!(line("namespace = \"blue\"").contains("CAUSEWAY__LOG__NAMESPACE"), "{}", shown.stdout);
    assert!(!shown.stdout.contains("very-secret") && !shown.stdout.contains('\u{1b}'), "{}", shown.stdout);
    let shown = Setup::command(&["config", "show", "--config", &good, "--json"]).run().await.unwrap();
    let value: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(value["config"]["up"]["listen"], "127.0.0.1:9000");
    assert!(value["sources"]["up.listen"].as_str().unwrap().contains("good.toml"), "{value}");
    assert!(value["file"].as_str() == Some(&good) && !shown.stdout.contains("very-secret"), "{value}");

    let check = async |file: &str| Setup::command(&["config", "check", "--config", file]).run().await.unwrap();
    let checked = check(&good).await;
    assert!(checked.status.success() && checked.stdout.contains(&good), "{checked:?}");
    for (name, text, told) in [
        ("misspelt.toml", "[up]\nlisen = \"127.0.0.1:9000\"\n", "up.listen"),
        ("mistyped.toml", "[up]\nrelaxed_durability = 7\n", "relaxed_durability"),
        ("broken.toml", "[up\n", "broken.toml"),
    ] {
        let checked = check(&file(name, text)).await;
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        assert!(checked.stderr.contains(told) && checked.stderr.contains(name), "{checked:?}");
        assert!(checked.stderr.lines().count() <= 12 && !checked.stderr.contains("backtrace"), "{checked:?}");
    }
    assert_eq!(check("no-such-file.toml").await.status.code(), Some(2));

    let example = Setup::command(&["config", "example"]).run().await.unwrap();
    assert!(example.status.success(), "{}", example.stderr);
    assert_eq!(example.stdout, fs::read_to_string(workspace_root().join("causeway.example.toml")).unwrap());
    assert!(check(&file("example.toml", &example.stdout)).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn views_and_traces_are_there_for_programs() {
    let house = House::start().await;
    let api = house.0.api();
    let receipt = api.say("me", "What is 6 * 7?").await.unwrap();
    let events = api.wait_for("me", "AIProcessingCompleted").await.unwrap();
    let view = house.json(&["view", "conversation", "me"]).await.remove(0);
    let by_http = api.fetch("/projections/conversation/me").await.unwrap();
    assert_eq!((&view["view"], &view["id"], &view["state"]), (&by_http["view"], &by_http["id"], &by_http["state"]));
    assert!(view["position"].as_u64() >= events.last().unwrap()["position"].as_u64(), "{view}");

    let trace = house.json(&["trace", receipt["correlation_id"].as_str().unwrap()]).await.remove(0);
    assert_eq!(trace, house.json(&["trace", receipt["id"].as_str().unwrap()]).await.remove(0), "any event of it names the chain");
    assert_eq!((&trace["events"], &trace["orphans"], &trace["unfinished"]), (&events.len().into(), &0.into(), &0.into()));
    let nodes = trace["nodes"].as_array().unwrap();
    let mut known: Vec<&str> = nodes.iter().map(|node| node["type"].as_str().unwrap()).collect();
    let mut all = types(&events);
    known.sort_unstable();
    all.sort_unstable();
    assert_eq!(known, all, "each event of the chain is in the tree");
    assert!(0 < trace["duration_us"].as_i64().unwrap(), "{trace}");
    for node in nodes {
        let event = events.iter().find(|event| event["id"] == node["id"]).unwrap();
        let cause = events.iter().find(|event| event["id"] == node["causation_id"]);
        assert_eq!(node["gap_us"].is_i64(), cause.is_some(), "the time since its cause: {node}");
        let lasts = matches!(event["type"].as_str(), Some("AIProcessingStarted" | "ToolCalled"));
        assert_eq!(node["duration_us"].as_i64().is_some_and(|time| 0 < time), lasts, "what lasts has a duration: {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_appended_read_viewed_and_traced() {
    let house = House::start().await;
    let data = r#"{"content": "What is 6 * 7?"}"#;
    let receipt = house.json(&["events", "append", "MessageReceived", "me", "--data", data]).await.remove(0);
    house.0.api().wait_for("me", "AIProcessingCompleted").await.unwrap();
    let events = house.json(&["events", "read", "--aggregate", "me"]).await;
    assert_eq!(events, house.0.api().events("aggregate_id=me").await.unwrap(), "as HTTP has them");
    assert_eq!(events[0]["id"], receipt["id"]);
    let tools = house.json(&["events", "read", "--type", "Tool*"]).await;
    assert!(tools.iter().all(|event| event["type"].as_str().unwrap().starts_with("Tool")), "{tools:?}");

    let view = house.run(&["view", "conversation", "me"]).await;
    assert!(view.contains("What is 6 * 7?") && view.contains("42"), "{view}");
    let before = house.run(&["view", "conversation", "me", "--as-of", receipt["id"].as_str().unwrap()]).await;
    assert!(before.starts_with("me: 1 message,") && before.contains("What is 6 * 7?"), "without the answer: {before}");

    let trace = house.run(&["trace", receipt["correlation_id"].as_str().unwrap()]).await;
    for kind in ["MessageReceived", "AIProcessingStarted", "ToolCalled", "MessageGenerated", "AIProcessingCompleted"] {
        assert!(trace.contains(kind), "{trace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_seen_in_the_past_between_two_moments_and_as_it_changes() {
    let house = House::start().await;
    assert!(house.run(&["view"]).await.contains("JSON Merge Patch"), "all views with what they show");
    assert!(house.run(&["view", "conversation", "nobody"]).await.starts_with("no events of nobody"));
    let append = async |event_type: &str, data: &str| {
        house.json(&["events", "append", event_type, "order-7", "--data", data]).await.remove(0)
    };
    let placed = append("OrderPlaced", r#"{"total": 12, "rate": 1.50}"#).await;
    append("OrderPaid", r#"{"paid": true}"#).await;
    let state = ["view", "state", "order-7"];
    assert!(house.run(&[&state[..], &["--as-of", "10m"]].concat()).await.starts_with("no events of order-7"));
    let printed = house.run(&[&state[..], &["--json"]].concat()).await;
    assert!(printed.contains(r#""state":{"paid":true,"rate":1.50,"total":12}"#), "as it was sent: {printed}");
    let diff = house.run(&[&state[..], &["--diff", placed["id"].as_str().unwrap()]].concat()).await;
    assert!(diff.contains("OrderPaid") && diff.contains("+ /state/paid true") && !diff.contains("OrderPlaced"), "{diff}");

    let mut watch = house.command(&[&state[..], &["--watch", "--json"]].concat()).spawn().unwrap();
    let lines = async |count: usize| {
        wait_until(&format!("{count} lines"), TAIL_LIMIT, async || {
            let printed = watch.stdout();
            let lines: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (count <= lines.len()).then_some(lines)
        })
        .await
    };
    assert_eq!(lines(1).await[0]["state"]["events"], 2);
    let lost = append("OrderLost", "[]").await;
    assert_eq!(lines(2).await[1]["event"]["id"], lost["id"]);
    assert!(watch.terminate().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_registered_listed_and_shown() {
    let house = House::start().await;
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        format!("@{}", path.display())
    };
    let first = file("order.json", r#"{"type": "object", "required": ["amount"], "properties": {"amount": {"minimum": 1}}}"#);
    let second = r#"{"type": "object", "required": ["total"]}"#;
    let upcast = file("upcast.json", r#"[{"op": "move", "from": "/amount", "path": "/total"}]"#);

    let register = ["types", "register", "OrderPlaced", "--schema", &first, "--description", "somebody bought something"];
    let described = [&register[..], &["--version", "1"]].concat();
    assert_eq!(house.run(&described).await, "OrderPlaced version 1 is registered\n");
    assert_eq!(house.run(&described).await, "OrderPlaced version 1 was registered before\n");
    house.run(&["events", "append", "OrderPlaced", "order-7", "--data", r#"{"amount": 12}"#]).await;
    let second = ["types", "register", "OrderPlaced", "--schema", second, "--upcast", &upcast];
    let registered = house.json(&second).await.remove(0);
    assert_eq!((&registered["duplicate"], &registered["type"]["name"]), (&false.into(), &"OrderPlaced".into()));
    let read = house.json(&["events", "read", "--aggregate", "order-7"]).await.remove(0);
    assert_eq!(read["data"], serde_json::json!({"total": 12}), "in the newest version");

    let list = house.run(&["types", "list"]).await;
    let of = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {list}"));
    let words = of("OrderPlaced").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, "OrderPlaced custom v2 somebody bought something");
    assert!(of("MessageReceived").split_whitespace().nth(1) == Some("input"), "{list}");
    let types = house.json(&["types", "list"]).await.remove(0);
    let listed = types["types"].as_array().unwrap();
    assert_eq!(listed.last(), Some(&registered["type"]));
    let by_http = house.0.api().fetch("/types").await.unwrap();
    let name = |info: &Value| info["name"].clone();
    assert_eq!(
        listed.iter().map(name).collect::<Vec<_>>(),
        by_http["types"].as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    );

    let show = house.run(&["types", "show", "OrderPlaced"]).await;
    assert!(show.starts_with("OrderPlaced (custom)\nsomebody bought something\n"), "{show}");
    let (one, two) = (show.find("version 1").unwrap(), show.find("version 2").unwrap());
    assert!(show[one..two].contains("\"minimum\": 1") && !show[one..two].contains("from the version before"), "{show}");
    assert!(show[two..].contains("from the version before") && show[two..].contains("\"op\": \"move\""), "{show}");
    let shown = house.json(&["types", "show", "OrderPlaced"]).await.remove(0);
    assert_eq!(shown, registered["type"]);
    assert!(shown["versions"][1]["registered_by"].as_str().unwrap().starts_with("evt_"), "{shown}");

    let code = async |arguments: &[&str]| {
        let finished = house.command(arguments).run().await.unwrap();
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty(), "{finished:?}");
        finished.status.code()
    };
    assert_eq!(code(&["types", "register", "OrderPlaced", "--schema", "true", "--version", "1"]).await, Some(3), "it is taken");
    assert_eq!(code(&["types", "register", "OrderPlaced", "--schema", "{"]).await, Some(2), "no JSON");
    assert_eq!(code(&["types", "register", "OrderPlaced", "--schema", "@no-such-file"]).await, Some(2), "no such file");
    assert_eq!(code(&["types", "register", "order", "--schema", "true"]).await, Some(2), "a name that is none");
    assert_eq!(code(&["types", "show", "Unheard"]).await.map(|code| code == 0), Some(false), "no such type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_ends_with_its_place_in_the_tracing_tool() {
    let url = "https://jaeger.example/trace/{trace_id}";
    let house = House(Setup::up().env("CAUSEWAY__EVENT_STORE__TRACE_URL", url).start().await.unwrap());
    let chain = "0af7651916cd43dd8448eb211c80319c";
    house.run(&["events", "append", "NoteTaken", "me", "--correlation-id", chain]).await;
    let tree = house.run(&["trace", chain]).await;
    assert!(tree.ends_with(&format!("\nhttps://jaeger.example/trace/{chain}\n")), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_something_happened_and_what_it_led_to_are_told() {
    let house = House::start().await;
    let receipt = house.0.api().say("me", "What is 6 * 7?").await.unwrap();
    let events = house.0.api().wait_for("me", "AIProcessingCompleted").await.unwrap();
    let of = |event_type: &str| events.iter().find(|event| event["type"] == event_type).unwrap()["id"].as_str().unwrap();
    let nothing = house.command(&["trace", "me"]).run().await.unwrap();
    assert!(nothing.stderr.starts_with("error: nothing to trace: id: there is no event in a chain me\nhint: "), "{nothing:?}");
    assert!(nothing.stderr.contains(" events read --aggregate me` tells their positions"), "{nothing:?}");
    let why = house.run(&["trace", of("ToolCompleted"), "--why"]).await;
    assert!(why.contains("MessageReceived") && !why.contains("MessageGenerated"), "{why}");
    let effects = house.run(&["trace", of("ToolCalled"), "--effects"]).await;
    assert!(effects.contains("ToolCompleted") && !effects.contains("MessageReceived"), "{effects}");
    let flowchart = house.run(&["trace", receipt["id"].as_str().unwrap(), "--format", "mermaid"]).await;
    assert!(flowchart.starts_with("flowchart TD\n") && flowchart.contains("-->"), "{flowchart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_for_programs_is_one_line_each_however_data_was_written() {
    let house = House::start().await;
    let data = house.0.home().join("order.json");
    fs::write(&data, "{\n  \"n\": [1,\r\n 2],\n  \"text\": \"a\\nb\"\n}\n").unwrap();
    house.run(&["events", "append", "NoteTaken", "a", "--data", &format!("@{}", data.display())]).await;
    house.run(&["events", "append", "NoteTaken", "a", "--data", "{}"]).await;
    let read = house.json(&["events", "read", "--aggregate", "a"]).await;
    assert_eq!(
        read.iter().map(|event| event["data"].clone()).collect::<Vec<_>>(),
        [json!({"n": [1, 2], "text": "a\nb"}), json!({})]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_no_program_reads_is_shown_as_it_was_written() {
    let house = House::start().await;
    let odd = r#"{"n":1e400,"half":"\ud83d","\ud83d":1,"x":1,"x":2,"f":0.1000000000000000055511151231257827}"#;
    house.run(&["events", "append", "Oddity", "odd", "--data", odd]).await;
    let refused = house.command(&["events", "append", "Oddity", "odd", "--expected", "empty", "--json"]).run().await.unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(refused.stderr.contains(odd) && refused.stderr.contains(r#""exit_code":3"#), "{refused:?}");
    let diff = house.run(&["view", "state", "odd", "--diff", "0"]).await;
    // Merged: the last of a name that comes twice counts, and half of a pair is no name.
    let state = "{\"f\":0.1000000000000000055511151231257827,\"half\":\"\\ud83d\",\"n\":1e400,\"x\":2,\"\u{fffd}\":1}";
    assert!(diff.contains("/state/half \"\\ud83d\"") && diff.contains("/state/n 1e400"), "{diff}");
    let shown = house.run(&["view", "state", "odd", "--json"]).await;
    assert!(shown.contains(state), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_happened() {
    let house = House::start().await;
    let code = async |setup: Setup| {
        let finished = setup.run().await.unwrap();
        assert!(finished.status.success() || !finished.stderr.is_empty(), "a failure says why");
        finished.status.code()
    };
    let append = ["events", "append", "Noted", "me", "--expected", "empty"];
    assert_eq!(code(house.command(&append)).await, Some(0));
    assert_eq!(code(house.command(&append)).await, Some(3), "a conflict");
    let conflict = house.command(&[&append[..], &["--json"]].concat()).run().await.unwrap();
    let told: Value = serde_json::from_str(&conflict.stderr).unwrap();
    let (conflict, event) = (&told["conflict"], &told["conflict"]["events"][0]);
    assert_eq!(conflict["expected_position"], 0);
    assert_eq!((&event["position"], &event["type"]), (&conflict["actual_position"], &Value::from("Noted")), "{told}");
    assert_eq!(code(house.command(&["events", "append", "noted", "me"])).await, Some(2), "a name that is none");
    assert_eq!(code(house.command(&["nonsense"])).await, Some(2), "no such command");
    assert_eq!(code(house.command(&["view", "nonsense", "me"])).await.map(|code| code == 0), Some(false), "no such view");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Setup::command(&["events", "read"]).env("CAUSEWAY_SERVER", format!("http://{nobody}"));
    assert_eq!(code(unreachable).await, Some(4), "nobody there");
}
