//! The log against a real nats-server.

#![allow(clippy::unwrap_used)]

mod append;
mod batch;
mod cluster;
mod connect;
mod consumer;
mod race;
mod subscribe;
mod support;
