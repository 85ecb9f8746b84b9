//! The harness of the black-box tests: starts the built `causeway`, talks to it as anybody would, and kills it.
//!
//! Uses none of Causeway's crates: what it knows of Causeway is the documented command line, HTTP and environment.

mod api;
mod append;
mod dice;
mod follower;
mod gateways;
pub mod grpc;
mod plant;
mod process;
mod quickstart;
mod tools;
mod turn;

pub use api::{Api, Seen, Sse, client};
pub use append::{Append, Conflict, Draft, Fence, Outcome, PASSING, Receipt, Wire};
pub use dice::Dice;
pub use follower::{Follower, Told, Wanted};
pub use gateways::{Client, gateway, gateways};
pub use grpc::{Grpc, Subscription, Update};
pub use plant::{Plant, plant, planted_id};
pub use process::{Causeway, Finished, Ready, Setup, binary, example};
pub use quickstart::Page;
pub use tools::{Aimock, OtlpSink, python, reference_page, script, tool, tools};
pub use turn::{Turn, check_causation, count, data, of_type, types};
