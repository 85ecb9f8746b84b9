//! A processor: writes an invoice for each order. Start as many as you like, they share the orders; those of one customer are worked
//! on one after the other.
//!
//! ```sh
//! cargo run -p causeway-client --example processor    # until Ctrl-C
//! ```
//!
//! An order may be delivered again after a crash. The invoice has a key made of the order's id, so it is written once.

use std::pin::pin;

use causeway_client::{Append, Client, Consume, Delivery, Draft, Filter};
use causeway_event::{Data, Event};
use serde::Deserialize;
use tokio::task::JoinSet;

const GROUP: &str = "invoices";
/// Orders that are worked on at once, each in a task of its own.
const IN_FLIGHT_MAX: u32 = 8;

#[derive(Deserialize)]
struct Order {
    total: i64,
}

/// Answers the delivery in any case: one that is not answered comes again after a while.
async fn work(client: Client, delivery: Delivery) {
    let Ok(order) = delivery.event.data.parse::<Order>() else {
        // Nobody can ever do this: an operator shall look at it.
        return delivery.park("is not an order").await;
    };
    match invoice(&client, &delivery.event, &order).await {
        Ok(()) => delivery.ack().await,
        // Whatever it is may pass: later, and later each time.
        Err(error) => delivery.nak(None, &format!("{error:#}")).await,
    }
}

async fn invoice(client: &Client, event: &Event, order: &Order) -> anyhow::Result<()> {
    let data = Data::of(&serde_json::json!({ "order": event.id, "total": order.total }))?;
    let draft = Draft::new("InvoiceWritten".parse()?, event.aggregate_id.clone(), data);
    let draft = Draft { source: Some(GROUP.parse()?), causation_id: Some(event.id), ..draft };
    let key = Some(format!("{GROUP}:{}", event.id));
    client.append(Append { idempotency_key: key, ..Append::one(draft) }).await?;
    Ok(())
}

/// Works on what is delivered until it is to stop, and then comes to an end with what was begun.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::var("CAUSEWAY_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8470".to_owned());
    let client = Client::connect(&server)?;
    let filter = Filter { types: vec!["OrderPlaced".to_owned()], ..Filter::default() };
    let consume = Consume { group: GROUP.to_owned(), filter, in_flight_max: Some(IN_FLIGHT_MAX), ..Consume::default() };
    // It joins again by itself when its gateway is gone.
    let mut consumer = client.consume(consume).await?;
    let mut works = JoinSet::new();
    let mut stop = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                works.spawn(work(client.clone(), delivery?));
            }
            Some(_) = works.join_next() => {}
            _ = &mut stop => break,
        }
    }
    // What has begun is finished, and its answers arrive before the program ends: it is not delivered again.
    while works.join_next().await.is_some() {}
    Ok(consumer.close().await?)
}
