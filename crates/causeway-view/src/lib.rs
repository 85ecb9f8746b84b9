//! Views: what the log says, folded into the shape that somebody wants to read.
//!
//! Every view is a pure fold, `fold(state, event) -> state`: no I/O, no async, no clock, no randomness, so that the same log
//! gives the same bytes on every machine, for ever. The state is the JSON that readers get, and it is its own snapshot: it
//! can be written, read back and folded on. Two laws hold for each of them: an event folded twice in a row changes nothing
//! more, and any prefix of a history can be resumed. A view never refuses an event; what makes no sense is shown as it is.

pub mod chain;
pub mod conversation;
mod price;
#[cfg(test)]
mod sample;
pub mod state;
mod time;
mod usage;
mod view;

pub use price::{Price, Prices};
pub use time::Time;
pub use view::{IdKind, Part, View};
