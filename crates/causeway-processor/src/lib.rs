//! The shell that all processors share: how work is taken, carried on after a crash, and given up.
//!
//! ```text
//! delivery (a hint) -> fold the aggregate from the log -> act: the one thing that is due -> fold again -> ... -> nothing due -> ack
//! ```
//!
//! A delivery is only a hint; the log is the truth. Decisions are appended under a fence, so a stale twin is refused by the log
//! itself; outcomes are facts and are recorded without one. A crash anywhere is healed by redelivery: a claim names the delivery
//! that its owner holds, and whoever gets that delivery knows that the owner is gone, since a living owner sends in-progress
//! marks. There is no business rule here.

mod cache;
mod config;
mod dispatch;
mod held;
mod hook;
mod run;
mod tenure;
mod work;

use std::future::Future;

use causeway_event::{Category, Event};
use causeway_log::LogError;

pub use config::Config;
pub use dispatch::run;
pub use held::Held;
pub use hook::reached;
pub use run::{Origin, Run};

/// A processor: a pure fold, and what to do with the state it gives.
pub trait Processor: Send + Sync + 'static {
    /// Its name: of the durable consumer, the source of its events, the service.
    const NAME: &'static str;
    /// The categories whose events wake it.
    const CATEGORIES: &'static [Category];
    /// What the log says about one aggregate. Cheap to clone.
    type State: Clone + Default + Send + Sync + 'static;
    /// What lives only as long as one run, and which no decision may depend on: spans, open connections.
    type Scratch: Default + Send;

    /// Takes account of one event. Pure; leaves alone what it does not know.
    fn fold(state: Self::State, event: &Event) -> Self::State;

    /// Does the one thing that is due, and appends what came of it. It is asked again until nothing is due.
    fn act(
        &self,
        run: &Run<'_>,
        state: &Self::State,
        scratch: &mut Self::Scratch,
    ) -> impl Future<Output = Result<Next, ActError>> + Send;
}

/// What an action came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The log knows more than before: fold again.
    Again,
    /// Nothing is due for this hint.
    Done,
}

/// Why an action stopped short.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The log did not take what was appended. After a conflict it knows more than we do: the shell folds again.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Somebody else has taken over, or may have, since our marks did not get through for too long: nothing more may be
    /// started, and nothing acknowledged.
    #[error("somebody else has taken over, or may have")]
    TakenOver,
    /// The processor has been told to stop, and this was only waiting.
    #[error("stopping")]
    Stopping,
    /// Something else; the event is delivered again after a while.
    #[error("{0}")]
    Failed(String),
}
