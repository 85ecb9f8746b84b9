//! The gateway over a real nats-server, through its port only.

#![allow(clippy::unwrap_used)]

mod append_stream;
mod behind;
mod chains;
mod cloudevents;
mod conflicts;
mod consume;
mod grpc;
mod grpc_web;
mod harness;
mod hosts;
mod http;
mod outage;
mod projections;
mod reads;
mod refusals;
mod snapshots;
mod sse;
mod starting;
mod subscribe;
mod traces;
mod types;
mod watch;
