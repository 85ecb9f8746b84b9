//! The log against a real nats-server.

#![allow(clippy::unwrap_used)]

mod append;
mod batch;
mod cluster;
mod connect;
mod consumer;
mod grouping;
mod groups;
mod integrity;
mod race;
mod subscribe;
mod support;
mod unreadable;
