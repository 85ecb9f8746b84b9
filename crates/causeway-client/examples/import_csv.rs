//! Imports a file into the log: an event for each line `sensor,value`, over one stream, without waiting for the answers between.
//! It may be stopped and run again at any time: each line has a key, so that it is appended once.
//!
//! ```sh
//! cargo run -p causeway-client --example import_csv -- readings.csv
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use causeway_client::{Append, Client, Draft, Options, Ticket};
use causeway_event::Data;
use tokio::sync::mpsc;

/// How many outcomes wait to be looked at. More than are under way at once, so that looking at them holds up nothing.
const TICKETS_MAX: usize = 1_024;

/// What became of the lines.
#[derive(Default)]
struct Tally {
    imported: u64,
    known: u64,
    failed: u64,
}

/// The key is the line's: the file's name and its number. The same key for the same sensor is the same event.
fn append(file: &str, number: usize, line: &str) -> anyhow::Result<Append> {
    let (sensor, value) = line.split_once(',').context("is not `sensor,value`")?;
    let value: f64 = value.trim().parse().context("the value is not a number")?;
    let data = Data::of(&serde_json::json!({ "value": value }))?;
    let event = Draft::new("ReadingTaken".parse()?, sensor.trim().parse()?, data);
    Ok(Append { idempotency_key: Some(format!("{file}:{number}")), ..Append::one(event) })
}

/// Looks at the outcomes, in the order of the lines.
async fn tally(mut tickets: mpsc::Receiver<(usize, Ticket)>) -> Tally {
    let mut tally = Tally::default();
    while let Some((number, ticket)) = tickets.recv().await {
        match ticket.await {
            Ok(appended) if appended.duplicate => tally.known += 1,
            Ok(_) => tally.imported += 1,
            Err(error) => {
                println!("line {number}: {error}");
                tally.failed += 1;
            }
        }
    }
    tally
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: import_csv FILE")?;
    let server = std::env::var("CAUSEWAY_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8470".to_owned());
    let name = Path::new(&path).file_name().context("a file")?.to_string_lossy().into_owned();

    // An import waits for a gateway that is being restarted.
    let patient = Options { retries_max: 10, ..Options::default() };
    let appender = Client::connect_with(&server, patient)?.appender();
    let (outcomes, tickets) = mpsc::channel(TICKETS_MAX);
    let tally = tokio::spawn(tally(tickets));
    let mut unreadable = 0;
    for (index, line) in BufReader::new(File::open(&path)?).lines().enumerate() {
        let number = index + 1;
        match append(&name, number, &line?) {
            // Waits only while as many as allowed are under way.
            Ok(append) => outcomes.send((number, appender.send(append).await)).await?,
            Err(error) => {
                println!("line {number}: {error:#}");
                unreadable += 1;
            }
        }
    }
    drop(outcomes);
    let Tally { imported, known, failed } = tally.await?;
    println!("{imported} imported, {known} were there already, {} failed", failed + unreadable);
    anyhow::ensure!(failed == 0, "run it again");
    Ok(())
}
