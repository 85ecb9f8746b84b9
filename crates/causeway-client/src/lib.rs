//! A typed client of the gateway, for interfaces and the command line.
//!
//! Speaks `causeway.v1` over gRPC and gives back the domain's own types, and the very [`Problem`] that the server had. Knows
//! no NATS: everything goes through the gateway.
//!
//! ```no_run
//! # async fn example() -> Result<(), causeway_client::ClientError> {
//! use causeway_client::{Append, Client, Draft};
//! use causeway_event::{Data, Labels};
//!
//! let client = Client::connect("http://127.0.0.1:8470")?;
//! let event = Draft {
//!     event_type: "MessageReceived".parse()?,
//!     aggregate_id: "me".parse()?,
//!     data: Data::from_json(br#"{"content": "What is 6 * 7?"}"#)?,
//!     source: None,
//!     causation_id: None,
//!     correlation_id: None,
//!     labels: Labels::new(),
//! };
//! let appended = client.append(Append { events: vec![event], ..Append::default() }).await?;
//! # Ok(()) }
//! ```

mod client;
mod error;
mod subscribe;

pub use causeway_proto::{Appended, Conflict, Draft, Expected, Kind, Problem, Receipt};
pub use client::{Append, Client, Filter, Options, Order, Project, Projection, Read};
pub use error::ClientError;
pub use subscribe::{Start, Subscribe, Subscription, Update};
