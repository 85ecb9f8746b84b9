//! The gateway over a real nats-server, through its port only.

mod grpc;
mod harness;
mod http;
mod outage;
mod projections;
mod refusals;
mod sse;
mod traces;
