//! Whoever follows the quick starts of `docs/clients` to the letter gets what they promise.

use std::fs;

use causeway_e2e::{Page, Setup};
use causeway_testkit::{NatsServer, workspace_root};
use serde_json::Value;

async fn follow(page: &str, runs: usize) {
    follow_page(Page::read(page).unwrap(), runs).await;
}

async fn follow_page(page: Page, runs: usize) {
    let nats = NatsServer::start().await.unwrap();
    let causeway = Setup::event_store(&nats.url()).start().await.unwrap();
    let server = &causeway.ready().gateway;
    assert_eq!(page.follow(server).await.unwrap(), runs, "a run with a promise for each of its programs");
    // On a log that has events already it says the same.
    assert_eq!(page.follow(server).await.unwrap(), runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_quick_start_prints_what_it_promises() {
    follow("docs/clients/python.md", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_quick_start_compiles_and_prints_what_it_promises() {
    follow("docs/clients/typescript.md", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_runs_over_grpc_web_as_a_browser_speaks_it() {
    let page = Page::read("docs/clients/typescript.md").unwrap();
    let page =
        page.replace("createGrpcTransport({ baseUrl, sessionManager", "createGrpcTransport({ baseUrl, httpVersion: \"1.1\"");
    let page = page.unwrap().replace("createGrpcTransport", "createGrpcWebTransport").unwrap();
    // Over HTTP/1.1 this client leaves the connection of a subscription open, and Node waits for it.
    let page = page.replace("sessionManager.abort();", "process.exit();").unwrap();
    follow_page(page, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_one_answer_does_not_hold_is_folded_to_its_end() {
    // In place of one payment more at once than an answer tells.
    let payments = [
        (
            "docs/clients/python.md",
            r#"events=[event("MoneyPaidIn", amount=100, balance=100)]"#,
            r#"events=[event("MoneyPaidIn", amount=1, balance=n) for n in range(1, 151)]"#,
            r#""/events", event("MoneyPaidIn", amount=100, balance=100)"#,
            r#""/events", [event("MoneyPaidIn", amount=1, balance=n) for n in range(1, 151)]"#,
        ),
        (
            "docs/clients/typescript.md",
            r#"events: [event("MoneyPaidIn", { amount: 100, balance: 100 })]"#,
            r#"events: [...Array(150).keys()].map((n) => event("MoneyPaidIn", { amount: 1, balance: n + 1 }))"#,
            r#""/events", event("MoneyPaidIn", { amount: 100, balance: 100 })"#,
            r#""/events", [...Array(150).keys()].map((n) => event("MoneyPaidIn", { amount: 1, balance: n + 1 }))"#,
        ),
    ];
    for (path, grpc, grpc_many, http, http_many) in payments {
        let page = Page::read(path).unwrap().replace(grpc, grpc_many).unwrap().replace(http, http_many).unwrap();
        let nats = NatsServer::start().await.unwrap();
        let causeway = Setup::event_store(&nats.url()).start().await.unwrap();
        let printed = page.printed(&causeway.ready().gateway).await.unwrap();
        assert_eq!(printed.len(), 2);
        for (printed, _) in printed {
            assert_eq!(printed.matches("conflict: missed MoneyPaidIn").count(), 150, "{path}: {printed}");
            assert!(printed.contains("withdrawn: 150 - 30\n"), "{path}: {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_of_the_grpc_page_works() {
    follow("docs/grpc.md", 0).await;
}

#[test]
fn the_quick_starts_install_the_versions_that_are_tested() {
    let tools = |file: &str| fs::read_to_string(workspace_root().join("tests/tools").join(file)).unwrap();
    let (python, node) = (tools("requirements.txt"), tools("package.json"));
    let node: Value = serde_json::from_str(&node).unwrap();
    for page in ["docs/clients/python.md", "docs/clients/typescript.md"] {
        let installs = Page::read(page).unwrap().installs();
        assert!(installs.len() >= 2, "{page}: {installs:?}");
        for (name, version) in installs {
            // The tests have the same program from the other registry: one buf for all of them.
            let python_name = if name == "@bufbuild/buf" { "buf-bin" } else { &name };
            let pinned = python.lines().any(|line| line == format!("{python_name}=={version}"))
                || node["dependencies"][&name] == version.as_str();
            assert!(pinned, "{page} installs {name} {version}, which is not what the tests have");
        }
    }
}
