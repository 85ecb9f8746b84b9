//! The gateway: gRPC and HTTP over the log, with a local read model

mod follow;
mod read_model;
mod store;
