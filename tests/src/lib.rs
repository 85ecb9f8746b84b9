//! The harness of the black-box tests: starts the built `causeway`, talks to it as anybody would, and kills it.
//!
//! Uses none of Causeway's crates: what it knows of Causeway is the documented command line, HTTP and environment.

mod api;
mod process;
mod tools;
mod turn;

pub use api::{Api, Seen, Sse, client};
pub use process::{Causeway, Ready, Setup, binary};
pub use tools::{Aimock, OtlpSink, python, tools};
pub use turn::{Turn, check_causation, count, data, of_type, types};
