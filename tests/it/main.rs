//! Black-box tests: the built `causeway`, real NATS, real clients, real kills. One binary, a module per subject.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod chains;
mod cli;
mod fresh_clone;
mod kills;
mod load;
mod malformed;
mod models;
mod outside;
mod sequence;
mod twins;
mod up;
