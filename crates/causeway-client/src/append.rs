//! Appends: one call, all or none.

use causeway_proto::{Appended, Conflict, Draft, Expected, Kind, Problem, v1};

use crate::client::Effect;
use crate::{Client, ClientError};

/// Events to append, all or none.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// 1 to 1000.
    pub events: Vec<Draft>,
    /// Fences; none accepts any state of the log.
    pub expected: Vec<Expected>,
    /// Makes it happen at most once, however often it is sent. With a key, an append is retried here.
    pub idempotency_key: Option<String>,
}

impl Append {
    /// One event, without a fence and a key.
    pub fn one(event: Draft) -> Self {
        Self { events: vec![event], ..Self::default() }
    }
}

impl Client {
    /// Appends events, all or none. The answer comes after they are on the log.
    ///
    /// [`Kind::OutcomeUnknown`] says that nobody knows whether they are: the same append with the same key settles it. With
    /// a key that is done here, as often as the options say. Of one that is known to be there [`Problem::appended`] says where. [`Kind::Conflict`] says that a fence does not hold:
    /// [`ClientError::conflict`] has the events that stand in the way.
    pub async fn append(&self, append: Append) -> Result<Appended, ClientError> {
        let keyed = append.idempotency_key.is_some();
        let request = v1::AppendRequest::from(append);
        let call = || async {
            let mut grpc = self.grpc.clone();
            let answer = grpc.append(self.request(request.clone()));
            let mut answer = self.answer(answer, Effect::Write).await?;
            if let Some(conflict) = answer.conflict.take() {
                let conflict = Conflict::try_from(conflict).map_err(ClientError::Unreadable)?;
                return Err(Problem::from(conflict).into());
            }
            Appended::try_from(answer).map_err(ClientError::Unreadable)
        };
        let again = |error: &ClientError| match error.kind() {
            Some(Kind::OutcomeUnknown) => keyed,
            _ => error.changed_nothing(),
        };
        self.retried(call, again).await
    }
}

impl From<Append> for v1::AppendRequest {
    fn from(append: Append) -> Self {
        Self {
            events: append.events.into_iter().map(Into::into).collect(),
            expected: append.expected.into_iter().map(Into::into).collect(),
            idempotency_key: append.idempotency_key.unwrap_or_default(),
            answer_conflict: true,
        }
    }
}
