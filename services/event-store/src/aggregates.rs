//! The list of aggregates that have events.

use causeway_event::{AggregateId, Invalid};
use causeway_proto::Problem;

use crate::gateway::Gateway;
use crate::read_model::Aggregates;

/// Aggregates of one answer: unless asked, and at most.
pub(crate) const LIMIT: u32 = 100;
pub(crate) const LIMIT_MAX: u32 = 1000;

/// At most `limit` aggregates behind `after` whose ids start with `prefix`, as fresh as the log is. One that comes while somebody
/// pages through them appears if its place is still ahead, and moves no other.
pub(crate) async fn list(
    gateway: &Gateway,
    prefix: Prefix,
    after: Option<AggregateId>,
    limit: u32,
) -> Result<Aggregates, Problem> {
    let list = async {
        gateway.store.fresh().await?;
        gateway.store.aggregates(prefix.0, after, limit as usize).await
    };
    gateway.within(list).await
}

/// A text that an aggregate's id can start with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prefix(pub(crate) String);

impl std::str::FromStr for Prefix {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // What no id can start with is a mistake of the caller's, not an empty answer.
        match text.is_empty() {
            true => Ok(Self::default()),
            false => text.parse::<AggregateId>().map(|_| Self(text.to_owned())),
        }
    }
}
