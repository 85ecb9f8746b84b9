//! The folded state of one aggregate, kept up to date by reading its tail.

use causeway_event::{AggregateId, Category, Event, Position};

use crate::{Log, LogError, Record};

/// A state and how far it has been folded.
#[derive(Clone, Debug, Default)]
pub struct Folded<S> {
    state: S,
    position: Position,
    tips: [Position; Category::ALL.len()],
}

impl<S> Folded<S> {
    /// What the log says.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The last event of the aggregate that has been folded.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last folded event of this category: what a decision is fenced on.
    pub fn tip(&self, category: Category) -> Position {
        self.tips[category as usize]
    }
}

impl Log {
    /// Folds what the aggregate has got since, at least up to `at_least` (a position of this aggregate, or the start). The cost
    /// is that of what is new. On an error `folded` is as it was.
    pub async fn catch_up<S: Clone>(
        &self,
        aggregate: &AggregateId,
        folded: &mut Folded<S>,
        at_least: Position,
        fold: impl Fn(S, &Event) -> S,
    ) -> Result<(), LogError> {
        let mut next = Some((folded.state.clone(), folded.tips));
        let position = self
            .tail(aggregate, folded.position, at_least, |category, record| {
                let Some((state, mut tips)) = next.take() else { return };
                // What cannot be read stands on its subject all the same, and so does every fence.
                if let Some(category) = category {
                    tips[category as usize] = record.position();
                }
                let state = match record {
                    Record::Event(stored) => fold(state, &stored.event),
                    Record::Unreadable { position, reason } => {
                        tracing::warn!(%position, %reason, "not an event of ours, left out");
                        state
                    }
                };
                next = Some((state, tips));
            })
            .await?;
        if let Some((state, tips)) = next {
            *folded = Folded { state, position, tips };
        }
        Ok(())
    }
}
