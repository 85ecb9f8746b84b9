//! A read model of one's own, in a file: what each customer has ordered in all. It follows the log, and goes on where it stopped when
//! it is started again: the file has the position that it has reached beside the totals.
//!
//! ```sh
//! cargo run -p causeway-client --example follow -- totals.json         # until Ctrl-C
//! cargo run -p causeway-client --example follow -- totals.json once    # until it has caught up
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use causeway_client::{Client, Filter, Start, Subscribe, Update};
use causeway_event::{Event, Position};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

/// Everything up to `position` is in the totals.
#[derive(Default, Serialize, Deserialize)]
struct Totals {
    position: Position,
    orders: u64,
    by_customer: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
struct Order {
    customer: String,
    total: i64,
}

impl Totals {
    fn load(file: &Path) -> anyhow::Result<Self> {
        match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| file.display().to_string()),
            Err(_) => Ok(Self::default()),
        }
    }

    /// The totals and the position change together or not at all: nothing is counted twice.
    fn save(&self, file: &Path) -> anyhow::Result<()> {
        let beside = file.with_extension("tmp");
        fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(beside, file)?)
    }

    fn fold(&mut self, event: &Event) {
        // Events of others may look different; what cannot be read is not counted.
        if let Ok(order) = event.data.parse::<Order>() {
            *self.by_customer.entry(order.customer).or_default() += order.total;
            self.orders += 1;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = PathBuf::from(arguments.next().context("usage: follow FILE [once]")?);
    let once = arguments.next().as_deref() == Some("once");
    let server = std::env::var("CAUSEWAY_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8470".to_owned());

    let mut totals = Totals::load(&file)?;
    println!("{} orders are known", totals.orders);
    let start = match totals.position {
        Position::START => Start::First,
        position => Start::After(position.to_string()),
    };
    let filter = Filter { types: vec!["OrderPlaced".to_owned()], ..Filter::default() };
    // It reconnects by itself, and each event comes once.
    let mut updates = Client::connect(&server)?.subscribe(Subscribe { filter, start, ..Subscribe::default() }).await?;
    while let Some(update) = updates.next().await.transpose()? {
        if let Update::Event(event) = &update {
            totals.fold(event);
        }
        // Marks between events count too: behind a long run of events of others nothing has to be read again.
        if let Some(position) = update.position() {
            totals.position = position;
        }
        let caught_up = matches!(update, Update::CaughtUp { .. });
        // In the past a file a mark is enough; what is live is kept at once.
        if caught_up || !once {
            totals.save(&file)?;
        }
        if caught_up {
            println!("caught up: {} orders, {:?}", totals.orders, totals.by_customer);
        }
        if caught_up && once {
            break;
        }
    }
    Ok(())
}
