//! Test harness: real nats-servers on free ports, slow links to them, a model server that plays a script, and waiting without sleeping.
//!
//! Only ever a dev-dependency. Nothing here knows Causeway's own crates: tests of any of them may use it.

mod cluster;
mod model;
mod nats;
mod slow_link;
mod wait;

pub use cluster::NatsCluster;
pub use model::{FakeModel, Reply, tool_results};
pub use nats::{Durability, NatsServer, binary, free_port};
pub use slow_link::SlowLink;
pub use wait::{wait_until, workspace_root};
