//! A bank account that is never overdrawn, however many people withdraw from it at once, and a transfer that happens on both
//! accounts or on none.
//!
//! ```sh
//! cargo run -p causeway-client --example bank_account
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use anyhow::Context as _;
use causeway_client::{Append, Client, ClientError, Decide, DecideError, Draft, Expected, Kind};
use causeway_event::{AggregateId, Category, Data, Event, Invalid};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What `data` of our events has.
#[derive(Serialize, Deserialize)]
struct Money {
    amount: i64,
}

/// The state of an account is its balance.
fn fold(balance: i64, event: &Event) -> i64 {
    let amount = event.data.parse::<Money>().map_or(0, |money| money.amount);
    match event.event_type.as_str() {
        "MoneyPaidIn" => balance + amount,
        "MoneyWithdrawn" => balance - amount,
        _ => balance,
    }
}

fn event(name: &str, account: &AggregateId, amount: i64) -> Result<Draft, Invalid> {
    Ok(Draft::new(name.parse()?, account.clone(), Data::of(&Money { amount })?))
}

/// The rule of the bank.
fn withdraw(balance: i64, account: &AggregateId, amount: i64) -> Result<Vec<Draft>, String> {
    if balance < amount {
        return Err(format!("{balance} are left"));
    }
    let withdrawn = event("MoneyWithdrawn", account, amount).map_err(|invalid| invalid.to_string())?;
    Ok(vec![withdrawn])
}

/// A withdrawal on the state of this moment: whoever is faster changes it, and the rule is asked again.
async fn try_to_withdraw(client: &Client, account: &AggregateId, amount: i64) -> anyhow::Result<bool> {
    let about = Decide::new(account.clone(), Category::Custom, 0);
    match client.decide(about, fold, |balance| withdraw(*balance, account, amount)).await {
        Ok(_) => Ok(true),
        Err(DecideError::Refused(_)) => Ok(false),
        Err(DecideError::Client(error)) => Err(error.into()),
    }
}

/// The balance, and the fence for what is decided on it.
async fn look(client: &Client, account: &AggregateId) -> anyhow::Result<(i64, Expected)> {
    // A decision to do nothing folds and writes nothing.
    let about = Decide::new(account.clone(), Category::Custom, 0);
    let known = client.decide(about, fold, |_| Ok::<_, String>(Vec::new())).await?;
    let fence = Expected { aggregate_id: Some(account.clone()), category: Some(Category::Custom), position: known.position };
    Ok((known.state, fence))
}

/// One append over two accounts, fenced on both.
async fn transfer(client: &Client, from: &AggregateId, to: &AggregateId, amount: i64) -> anyhow::Result<()> {
    let key = Some(Uuid::now_v7().to_string());
    loop {
        let ((balance, from_fence), (_, to_fence)) = tokio::try_join!(look(client, from), look(client, to))?;
        let mut events = withdraw(balance, from, amount).map_err(anyhow::Error::msg)?;
        events.push(event("MoneyPaidIn", to, amount)?);
        let append = Append { events, expected: vec![from_fence, to_fence], idempotency_key: key.clone() };
        match client.append(append).await {
            Err(error) if error.kind() == Some(Kind::Conflict) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::var("CAUSEWAY_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8470".to_owned());
    let client = Client::connect(&server)?;
    // Accounts of our own, so that the example can be run again.
    let account: AggregateId = format!("account-{}", Uuid::now_v7()).parse()?;
    let savings: AggregateId = format!("savings-{}", Uuid::now_v7()).parse()?;

    client.append(Append::one(event("MoneyPaidIn", &account, 100)?)).await?;
    let attempts = (0..10).map(|_| try_to_withdraw(&client, &account, 30));
    let withdrawn = futures::future::try_join_all(attempts).await?.into_iter().filter(|withdrawn| *withdrawn).count();
    let (balance, stale) = look(&client, &account).await?;
    println!("10 people tried to withdraw 30 of 100 at once: {withdrawn} got it, {balance} are left");

    transfer(&client, &account, &savings, 10).await?;
    let (balance, _) = look(&client, &account).await?;
    let (saved, _) = look(&client, &savings).await?;
    println!("after a transfer of 10: {balance} are left, {saved} are saved");

    // A decision on a state that is no more is refused, and the answer has what was missed.
    let late = Append { expected: vec![stale], ..Append::one(event("MoneyPaidIn", &account, 1)?) };
    let error: ClientError = client.append(late).await.err().context("the fence holds no more")?;
    let missed: Vec<String> =
        error.conflict().context("a conflict")?.events.iter().map(|event| event.event_type.to_string()).collect();
    println!("too late: missed {}", missed.join(", "));
    Ok(())
}
