//! One event: one publish, its fence in the same message.

use std::sync::Arc;

use causeway_event::Position;
use futures::FutureExt as _;

use super::answer::{Answer, Patience};
use super::fence::{Standing, standing};
use super::prepare::{Message, Prepared};
use super::publisher::Sent;
use super::{Appended, Begun, Receipt, after_sending};
use crate::{Log, LogError};

/// Whether an earlier attempt of the same message has gone unanswered: then "not now" does not mean "nothing is stored".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Attempt {
    First,
    AfterSilence,
}

impl Log {
    pub(super) async fn begin_single(&self, prepared: Arc<Prepared>) -> Begun {
        let sent = self.inner.publisher.send(&prepared.messages[0]).await;
        let log = self.clone();
        async move { log.settle_single(&prepared, sent, Attempt::First).await }.boxed()
    }

    /// From the first answer to one that is sure.
    pub(super) async fn settle_single(&self, prepared: &Prepared, sent: Sent, attempt: Attempt) -> Result<Appended, LogError> {
        let patience = Patience::of(self);
        match sent.await {
            Answer::Stored { last, duplicate: false } => Ok(done(&prepared.messages[0], last)),
            // Apart, since it takes much room, and mostly nobody needs it.
            other => self.insist(prepared, other, attempt, patience).boxed().await,
        }
    }

    /// From an answer that is anything but plain to one that is sure.
    async fn insist(
        &self,
        prepared: &Prepared,
        mut answer: Answer,
        mut attempt: Attempt,
        patience: Patience,
    ) -> Result<Appended, LogError> {
        let message = &prepared.messages[0];
        loop {
            match answer {
                Answer::Stored { last, duplicate: false } => return Ok(done(message, last)),
                Answer::Stored { last, duplicate: true } => return self.found_at(last, prepared, &patience).await,
                Answer::WrongLast { actual } => {
                    match self.settle_refusal(prepared, message, actual, attempt).await.map_err(after_sending)? {
                        Some(position) => return self.found_at(position, prepared, &patience).await,
                        // Somebody's write is in flight under this fence: what it was shows in a moment.
                        None => patience.pause_or(LogError::Unknown).await?,
                    }
                }
                Answer::Silence => {
                    attempt = Attempt::AfterSilence;
                    patience.pause_or(LogError::Unknown).await?;
                }
                // A server looks at its limits before it looks whether it has the message already.
                Answer::Unavailable(_) | Answer::Refused { .. } if attempt == Attempt::AfterSilence => {
                    patience.pause_or(LogError::Unknown).await?;
                }
                Answer::Unavailable(reason) => return Err(LogError::Unavailable { reason }),
                Answer::DuplicateInBatch | Answer::Incomplete => {
                    return Err(LogError::Refused { code: 0, reason: "a single publish was answered as a batch".into() });
                }
                Answer::Refused { code, reason } => return Err(LogError::Refused { code, reason }),
            }
            // Without a connection this sends nothing, and says so at once.
            answer = patience.answer(async { self.inner.publisher.send(message).await.await }).await;
        }
    }

    /// A fence was refused: is it because our own message stands there already? It says where; none means: ask again.
    async fn settle_refusal(
        &self,
        prepared: &Prepared,
        message: &Message,
        actual: Option<Position>,
        attempt: Attempt,
    ) -> Result<Option<Position>, LogError> {
        let Some(fence) = prepared.fences.iter().find(|fence| Some(fence.position) == message.fence) else {
            return Err(LogError::Refused { code: 10071, reason: "a fence was refused that nobody set".into() });
        };
        let expected = fence.position;
        let actual = match actual {
            Some(actual) => actual,
            None => self.last_of(&fence.aggregate_id, fence.category).await?,
        };
        match standing(expected, actual, attempt) {
            Standing::Holds | Standing::Unsure => return Ok(None),
            Standing::Passed => match self.next_id(&message.subject, expected).await? {
                Some((position, Some(id))) if id == prepared.message_id => return Ok(Some(position)),
                Some(_) => {}
                // The leader has changed: the new one may not have applied what the old one knew.
                None => return Ok(None),
            },
            Standing::Ahead => {}
        }
        let (aggregate_id, category) = (fence.aggregate_id.clone(), fence.category);
        Err(LogError::Conflict { aggregate_id, category, expected, actual, others: Vec::new() })
    }
}

pub(super) fn done(message: &Message, position: Position) -> Appended {
    let receipt = Receipt { id: message.id, position, correlation_id: message.correlation.clone() };
    Appended { receipts: vec![receipt], duplicate: false }
}
