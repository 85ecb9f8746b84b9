//! Proof that a log was not altered: a hash chain over what stands on it, signed checkpoints of the chain, and the audit that
//! holds a log or its export against them.
//!
//! Pure: no I/O, no clock, no randomness. It knows what stands at a position, not where that is kept. `docs/integrity.md` says how
//! each hash is made, with test vectors, so that anybody can compute it without this crate.
//!
//! ```text
//! log ────┐
//!         ├─> Entry ─> leaf ─> Chain ─> Checkpoint (signed)
//! export ─┘               └──> Audit ─> findings
//! ```

mod audit;
mod chain;
mod checkpoint;
mod entry;
mod hash;
mod line;
mod marks;

pub use audit::{Audit, Fault, Finding, FirstCheckpoint, Severity, Summary, Trust};
pub use chain::{Chain, Head};
pub use checkpoint::{Checkpoint, KeyError, PublicKey, Signer, key_bytes};
pub use entry::{Content, Entry, Foreign, Payload, Recorded, is_of_nats};
pub use hash::{Hash, to_hex};
pub use line::{Line, LineError};
pub use marks::Marks;

/// The aggregate of what Causeway says of the log itself.
pub const LOG_AGGREGATE: &str = "causeway:log";

#[cfg(test)]
mod tests;
