//! The gateway over a real nats-server, through its port only.

#![allow(clippy::unwrap_used)]

mod grpc;
mod harness;
mod http;
mod outage;
mod projections;
mod refusals;
mod sse;
mod traces;
