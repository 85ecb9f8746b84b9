//! The examples of the client crate run, and show what they say.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use causeway_e2e::{Causeway, Setup, example};
use causeway_testkit::{NatsServer, wait_until};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

const RUN_LIMIT: Duration = Duration::from_secs(60);

async fn gateway() -> (NatsServer, Causeway) {
    let nats = NatsServer::start().await.unwrap();
    let causeway = Setup::event_store(&nats.url()).start().await.unwrap();
    (nats, causeway)
}

/// One that stays the same over restarts.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Runs an example to its end.
async fn output(causeway: &Causeway, name: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new(example(name).unwrap());
    command.args(arguments).env("CAUSEWAY_SERVER", &causeway.ready().gateway).kill_on_drop(true);
    timeout(RUN_LIMIT, command.output()).await.unwrap().unwrap()
}

/// What it printed; it must succeed.
async fn run(causeway: &Causeway, name: &str, arguments: &[&Path]) -> Vec<String> {
    let output = output(causeway, name, arguments).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {}\n{stdout}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    stdout.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_account_is_never_overdrawn() {
    let (_nats, causeway) = gateway().await;
    let printed = run(&causeway, "bank_account", &[]).await;
    assert_eq!(
        printed,
        [
            "10 people tried to withdraw 30 of 100 at once: 3 got it, 10 are left",
            "after a transfer of 10: 0 are left, 10 are saved",
            "too late: missed MoneyWithdrawn",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_where_it_stopped() {
    let (_nats, causeway) = gateway().await;
    let api = causeway.api();
    let order = async |customer: &str, total: i64| {
        let data = json!({"customer": customer, "total": total});
        api.append(&json!({"type": "OrderPlaced", "aggregate_id": "shop", "data": data})).await.unwrap();
    };
    order("Ada", 10).await;
    order("Grace", 20).await;
    api.append(&json!({"type": "OrderShipped", "aggregate_id": "shop", "data": {"customer": "Ada", "total": 1}})).await.unwrap();
    let (file, once) = (causeway.home().join("totals.json"), Path::new("once"));
    let printed = run(&causeway, "follow", &[&file, once]).await;
    assert_eq!(printed, ["0 orders are known", "caught up: 2 orders, {\"Ada\": 10, \"Grace\": 20}"]);
    order("Ada", 5).await;
    let printed = run(&causeway, "follow", &[&file, once]).await;
    assert_eq!(printed, ["2 orders are known", "caught up: 3 orders, {\"Ada\": 15, \"Grace\": 20}"]);
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["position"], api.last_position().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_outlives_its_gateway_and_counts_each_event_once() {
    let nats = NatsServer::start().await.unwrap();
    let mut causeway = Setup::event_store_at(&nats.url(), &free_address()).start().await.unwrap();
    let file = causeway.home().join("totals.json");
    let mut follow = Command::new(example("follow").unwrap());
    let server = &causeway.ready().gateway;
    let _follower = follow.arg(&file).env("CAUSEWAY_SERVER", server).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let kept = |orders: u64| {
        let file = file.clone();
        wait_until("the totals", RUN_LIMIT, async move || {
            let kept: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (kept["orders"] == orders).then_some(kept)
        })
    };
    let api = causeway.api();
    let order = json!({"type": "OrderPlaced", "aggregate_id": "shop", "data": {"customer": "Ada", "total": 1}});
    let other = json!({"type": "OrderShipped", "aggregate_id": "shop", "data": {}});
    kept(0).await;
    for round in 1..=3 {
        for event in [&order, &other, &order, &other] {
            api.append(event).await.unwrap();
        }
        kept(2 * round).await;
        causeway.kill();
        causeway.restart().await.unwrap();
    }
    api.append(&order).await.unwrap();
    assert_eq!(kept(7).await["by_customer"], json!({"Ada": 7}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_outlives_its_gateway_and_deals_with_each_order_once_and_in_order() {
    const CUSTOMERS: usize = 5;
    const ORDERS: usize = 300;
    let nats = NatsServer::start().await.unwrap();
    let mut causeway = Setup::event_store_at(&nats.url(), &free_address()).start().await.unwrap();
    let api = causeway.api();
    let order = async |number: usize| {
        let customer = format!("customer-{}", number % CUSTOMERS);
        api.append(&json!({"type": "OrderPlaced", "aggregate_id": customer, "data": {"total": number}})).await.unwrap();
    };
    for number in 0..ORDERS {
        order(number).await;
    }
    let mut processor = Command::new(example("processor").unwrap());
    processor.env("CAUSEWAY_SERVER", &causeway.ready().gateway).kill_on_drop(true);
    let mut processor = processor.spawn().unwrap();
    let invoices = async || api.events("type=InvoiceWritten").await.unwrap_or_default();
    let written = async |count: usize| {
        wait_until("invoices", RUN_LIMIT, async || (count <= invoices().await.len()).then_some(())).await;
    };
    written(20).await;
    causeway.kill();
    causeway.restart().await.unwrap();
    assert!(invoices().await.len() < ORDERS, "it is killed under way");
    order(ORDERS).await;
    written(ORDERS + 1).await;
    let mut by_customer = vec![Vec::new(); CUSTOMERS];
    for invoice in invoices().await {
        let total = invoice["data"]["total"].as_u64().unwrap() as usize;
        by_customer[total % CUSTOMERS].push(total);
    }
    for (customer, totals) in by_customer.iter().enumerate() {
        let expected: Vec<usize> = (0..=ORDERS).filter(|number| number % CUSTOMERS == customer).collect();
        assert_eq!(*totals, expected, "each once, in order");
    }
    assert!(processor.try_wait().unwrap().is_none(), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlives_its_gateway_and_imports_each_line_once() {
    const LINES: usize = 20_000;
    let nats = NatsServer::start().await.unwrap();
    let listen = free_address();
    let mut causeway = Setup::event_store_at(&nats.url(), &listen).start().await.unwrap();
    let file = causeway.home().join("readings.csv");
    let lines: String = (0..LINES).map(|reading| format!("sensor-{},{reading}\n", reading % 7)).collect();
    std::fs::write(&file, lines).unwrap();
    let mut import = Command::new(example("import_csv").unwrap());
    import.arg(&file).env("CAUSEWAY_SERVER", format!("http://{listen}")).kill_on_drop(true);
    let import = tokio::spawn(async move { import.output().await });
    let api = causeway.api();
    wait_until("some events", RUN_LIMIT, async || api.last_position().await.ok().filter(|last| *last > 200)).await;
    causeway.kill();
    assert!(!import.is_finished(), "it is killed under way");
    causeway.restart().await.unwrap();
    let output = timeout(RUN_LIMIT, import).await.unwrap().unwrap().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.ends_with("0 failed\n"), "{stdout}");
    let events = api.events("type=ReadingTaken").await.unwrap();
    let mut values: Vec<u64> = events.iter().map(|event| event["data"]["value"].as_f64().unwrap() as u64).collect();
    assert_eq!(values.len(), LINES);
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), LINES);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_may_be_run_again() {
    let (_nats, causeway) = gateway().await;
    let file = causeway.home().join("readings.csv");
    let mut lines = String::new();
    for reading in 0..2_000 {
        writeln!(lines, "sensor-{},{reading}.5", reading % 7).unwrap();
    }
    std::fs::write(&file, &lines).unwrap();
    assert_eq!(run(&causeway, "import_csv", &[&file]).await, ["2000 imported, 0 were there already, 0 failed"]);
    std::fs::write(&file, format!("{lines}sensor-1,2000\nnonsense\n")).unwrap();
    let printed = run(&causeway, "import_csv", &[&file]).await;
    assert_eq!(printed, ["line 2002: is not `sensor,value`", "1 imported, 2000 were there already, 1 failed"]);
    let events = causeway.api().events("type=ReadingTaken").await.unwrap();
    let values: Vec<f64> = events.iter().map(|event| event["data"]["value"].as_f64().unwrap()).collect();
    assert_eq!(values.len(), 2_001);
    let of_one: Vec<f64> =
        events.iter().filter(|event| event["aggregate_id"] == "sensor-3").map(|e| e["data"]["value"].as_f64().unwrap()).collect();
    assert!(of_one.is_sorted(), "in the order of the file");
}
