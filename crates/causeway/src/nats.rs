//! The private nats-server of `causeway up`: found, configured, started, watched and stopped.
//!
//! It serves this machine's loopback only. It lives no longer than we do, however we die: see [`guard`].

mod child;
mod find;
pub(crate) mod guard;
mod leftover;
mod server;

pub(crate) use find::{Binary, find};
pub(crate) use server::{Durability, Server, Settings};
