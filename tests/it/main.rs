//! Black-box tests: the built `causeway`, real NATS, real clients, real kills. One binary, a module per subject.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod chains;
mod cli;
mod consumers;
mod damage;
mod examples;
mod fresh_clone;
mod integrity;
mod kills;
mod linear;
mod load;
mod malformed;
mod memory;
mod model;
mod models;
mod openapi;
mod outages;
mod outside;
mod proto;
mod quickstarts;
mod races;
mod sequence;
mod twins;
mod up;
mod whole_log;
