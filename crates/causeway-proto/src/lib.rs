//! The wire contract of the gateway, for both of its ends: generated types, their conversions to and from the domain, and
//! the one error that server and client share.
//!
//! No logic: nothing here decides anything about an event.

mod convert;
mod problem;
mod status;

pub use convert::{Appended, Draft, Expected, Receipt, timestamp, timestamp_from};
pub use problem::{Conflict, Kind, Problem};
pub use status::{ERROR_DOMAIN, is_own};

/// What `proto/causeway/v1` says, generated.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("causeway.v1");
}

/// The compiled `.proto` files with their imports and comments, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/causeway_descriptor.bin"));
