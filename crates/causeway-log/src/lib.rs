//! The log on JetStream: append, read, follow, fold.
//!
//! The only crate that names a subject, a stream or a header of NATS. Rules it keeps, each from a measurement of what the server
//! really does: a fence stands on the exact subject that is published; a lost acknowledgement is settled by looking for one's
//! own message; an atomic batch is used only where atomicity is asked for. It holds no business rule and no state that the
//! server does not have.

mod append;
mod config;
mod connection;
mod consumer;
mod copies;
mod dead_letter;
mod direct;
mod error;
mod fold;
mod group;
mod import;
mod info;
mod leader;
mod link;
mod live;
mod message;
mod names;
mod raw;
mod snapshot;
mod subscribe;
mod walk;

pub use append::{Append, Appended, Begun, EVENTS_MAX, Fence, GroupCommit, Receipt, Sequence, StaleFence};
pub use config::{APPEND_TIMEOUT_MAX, Config, DUPLICATE_WINDOW, NatsUrl, NotAUrl};
pub use connection::{Log, SERVER_MIN};
pub use consumer::{Consumer, ConsumerConfig, Delivery, Seen};
pub use copies::{Copies, Copy, CopyLabel};
pub use dead_letter::{DeadLetter, Letter, Replay};
pub use error::LogError;
pub use fold::Folded;
pub use group::{Claim, Group, GroupName, GroupPull, GroupState, Hold, Lease, Mail, Post, Pull, Pulled};
pub use import::Import;
pub use info::{ConsumerInfo, LogInfo};
pub use message::{Record, Stored};
pub use snapshot::{Held, Restoring, Snapshot, StreamFacts};
pub use subscribe::{Leaf, Replaced, Subscription};
pub use walk::Walk;
