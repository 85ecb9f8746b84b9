//! Live deltas: what a model is saying while it says it. Core NATS, never stored; whoever is not listening misses them.

use bytes::Bytes;
use causeway_event::{AggregateId, Delta};
use futures::{Stream, StreamExt as _};

use crate::{Log, LogError, link};

impl Log {
    /// Tells whoever listens to this aggregate, and says whether it went out. Best effort: the log gets the whole message later.
    pub async fn publish_delta(&self, aggregate: &AggregateId, delta: &Delta) -> bool {
        let Ok(json) = serde_json::to_vec(delta) else { return false };
        let Ok(talker) = self.talker() else { return false };
        let subject = self.inner.names.live(aggregate);
        link::say(&talker, subject, Bytes::from(json)).await.is_ok()
    }

    /// Deltas of this aggregate from now on, without an end. Breaks of the connection are invisible; what was said meanwhile is missed.
    pub async fn deltas(&self, aggregate: &AggregateId) -> Result<impl Stream<Item = Delta> + Send + Unpin + use<>, LogError> {
        let messages = self.listen(vec![self.inner.names.live(aggregate)]).await?;
        Ok(messages.filter_map(|message| std::future::ready(serde_json::from_slice(&message.payload).ok())))
    }
}
