//! Test harness: a real nats-server on a free port, wire-level fakes
