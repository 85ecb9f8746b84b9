//! The command line against a running Causeway: what it prints for people and for programs, and its exit codes.

use causeway_e2e::{Causeway, Setup};
use serde_json::Value;

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
    assert!(before.contains("What is 6 * 7?") && !before.contains("42"), "{before}");

    let trace = house.run(&["trace", receipt["correlation_id"].as_str().unwrap()]).await;
    for kind in ["MessageReceived", "AIProcessingStarted", "ToolCalled", "MessageGenerated", "AIProcessingCompleted"] {
        assert!(trace.contains(kind), "{trace}");
    }
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
    assert_eq!(code(house.command(&["events", "append", "noted", "me"])).await, Some(2), "a name that is none");
    assert_eq!(code(house.command(&["nonsense"])).await, Some(2), "no such command");
    assert_eq!(code(house.command(&["view", "nonsense", "me"])).await.map(|code| code == 0), Some(false), "no such view");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Setup::command(&["events", "read"]).env("CAUSEWAY_SERVER", format!("http://{nobody}"));
    assert_eq!(code(unreachable).await, Some(4), "nobody there");
}
