//! A typed client of the gateway, for interfaces and the command line.
//!
//! Speaks `causeway.v1` over gRPC and gives back the domain's own types, and the very [`Problem`] that the server had. Knows
//! no NATS: everything goes through the gateway.
//!
//! ```no_run
//! # async fn example() -> Result<(), causeway_client::ClientError> {
//! use causeway_client::{Append, Client, Draft};
//! use causeway_event::Data;
//!
//! let client = Client::connect("http://127.0.0.1:8470")?;
//! let data = Data::from_json(br#"{"content": "What is 6 * 7?"}"#)?;
//! let event = Draft::new("MessageReceived".parse()?, "me".parse()?, data);
//! let appended = client.append(Append::one(event)).await?;
//! println!("it stands at {}", appended.receipts[0].position);
//! # Ok(()) }
//! ```
//!
//! What may be called again without harm is called again (reads, unless their time ran out, and appends with an idempotency key),
//! with growing waits; what may have happened is [`Kind::OutcomeUnknown`], never success or failure. `examples/` has whole programs:
//! a bank account ([`Client::decide`]), a follower with a view of its own ([`Client::subscribe`]), a processor that shares its work
//! with others ([`Client::consume`]) and an import ([`Client::appender`]).

mod append;
mod appender;
mod client;
mod decide;
mod error;
mod groups;
mod json;
mod project;
mod read;
mod subscribe;
mod types;

pub use append::Append;
pub use appender::{Appender, Ticket};
pub use causeway_proto::{Appended, Conflict, Draft, Expected, Kind, Problem, Receipt};
pub use client::{Client, Options};
pub use decide::{Decide, DecideError, Decided};
pub use error::ClientError;
pub use groups::{Consume, Consumer, Delivery, GroupInfo, GroupTerms, Parked};
pub use json::Json;
pub use project::{Change, Diff, Diffed, Project, Projection, Scope, Trace, Traced, View, Watch, Watched};
pub use read::{Aggregate, Count, Counted, Filter, Order, Read};
pub use subscribe::{Start, Subscribe, Subscription, Update};
pub use types::{EventTypeInfo, RegisterType, RegisteredType, TypeVersion};
