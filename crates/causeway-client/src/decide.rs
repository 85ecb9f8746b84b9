//! The loop of optimistic concurrency: fold, decide, append under a fence, and again with what came between.
//!
//! Knows nothing of what is decided: `fold` and `decide` are the caller's, and should be pure.

use std::fmt;

use causeway_event::{AggregateId, Category, Event, Position};
use causeway_proto::{Appended, Conflict, Draft, Expected};
use futures::StreamExt as _;
use uuid::Uuid;

use crate::{Append, Client, ClientError, Filter, Read};

/// How often a decision is taken anew unless told otherwise. Each conflict means that somebody else got through.
const ATTEMPTS_MAX: u32 = 32;

/// What to decide about: an aggregate, as far as it is known.
#[derive(Clone, Debug)]
pub struct Decide<S> {
    /// The aggregate.
    pub aggregate_id: AggregateId,
    /// The category within it that is folded and fenced. Types of your own are all custom.
    pub category: Category,
    /// Its state, folded up to `position`.
    pub state: S,
    /// The last event that the state takes account of.
    pub position: Position,
    /// Makes it happen at most once, however often it is sent. A fresh one is made unless it is given.
    pub idempotency_key: Option<String>,
    /// How often the decision is taken at most.
    pub attempts_max: u32,
}

/// A decision that was taken.
#[derive(Clone, Debug)]
pub struct Decided<S> {
    /// The state that it was taken on, without the events that it appended.
    pub state: S,
    /// The last event that this state takes account of.
    pub position: Position,
    /// What was appended; `None` if there was nothing to do.
    pub appended: Option<Appended>,
}

/// Why nothing was decided.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecideError<R: fmt::Display + fmt::Debug> {
    /// What `decide` said. Nothing was written.
    #[error("{0}")]
    Refused(R),
    /// The gateway did not do it; [`ClientError::conflict`] if others got through each time.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl<S> Decide<S> {
    /// About an aggregate of which nothing is known yet but the state before its first event.
    pub fn new(aggregate_id: AggregateId, category: Category, state: S) -> Self {
        let position = Position::START;
        Self { aggregate_id, category, state, position, idempotency_key: None, attempts_max: ATTEMPTS_MAX }
    }
}

impl Client {
    /// Reads an aggregate, folds it, decides, and appends what was decided, fenced: if somebody was faster, the events that
    /// came between are folded too, and the decision is taken anew.
    ///
    /// ```no_run
    /// # use causeway_client::{Client, Decide, DecideError, Draft};
    /// # use causeway_event::{Category, Data, Event};
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // At most ten people get a ticket, however many ask at once.
    /// let sold = |sold: u32, event: &Event| sold + u32::from(event.event_type.as_str() == "TicketSold");
    /// let sell = |sold: &u32| match sold {
    ///     0..10 => Ok(vec![Draft::new("TicketSold".parse().unwrap(), "concert-7".parse().unwrap(), Data::from_json(b"{}").unwrap())]),
    ///     _ => Err("sold out"),
    /// };
    /// let concert = Decide::new("concert-7".parse()?, Category::Custom, 0);
    /// match client.decide(concert, sold, sell).await {
    ///     Ok(decided) => println!("yours is number {}", decided.state + 1),
    ///     Err(DecideError::Refused(reason)) => println!("sorry: {reason}"),
    ///     Err(DecideError::Client(error)) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn decide<S, R: fmt::Display + fmt::Debug>(
        &self,
        about: Decide<S>,
        fold: impl Fn(S, &Event) -> S,
        decide: impl Fn(&S) -> Result<Vec<Draft>, R>,
    ) -> Result<Decided<S>, DecideError<R>> {
        let Decide { aggregate_id, category, state, position, idempotency_key, attempts_max } = about;
        let key = idempotency_key.unwrap_or_else(|| Uuid::now_v7().to_string());
        let mut known = self.read_on(Known { aggregate_id, category, state, position }, &fold).await?;
        let mut attempt = 1;
        loop {
            let events = decide(&known.state).map_err(DecideError::Refused)?;
            if events.is_empty() {
                return Ok(known.decided(None));
            }
            let append = Append { events, expected: vec![known.fence()], idempotency_key: Some(key.clone()) };
            let error = match self.append(append).await {
                Ok(appended) => return Ok(known.decided(Some(appended))),
                Err(error) => error,
            };
            match error.conflict() {
                Some(conflict) if attempt < attempts_max && known.is_fenced_by(conflict) => {
                    known = conflict.events.iter().fold(known, |known, event| known.fold(event, &fold));
                    // What did not fit into the answer, or the whole of it from a gateway that gives none.
                    if known.position < conflict.actual {
                        known = self.read_on(known, &fold).await?;
                    }
                }
                _ => return Err(error.into()),
            }
            attempt += 1;
        }
    }

    /// Folds what stands behind the known position.
    async fn read_on<S>(&self, mut known: Known<S>, fold: &impl Fn(S, &Event) -> S) -> Result<Known<S>, ClientError> {
        let filter =
            Filter { aggregate_id: Some(known.aggregate_id.clone()), category: Some(known.category), ..Filter::default() };
        let after = Some(known.position.to_string()).filter(|_| known.position > Position::START);
        let mut events = self.read(Read { filter, after, ..Read::default() }).await?;
        while let Some(event) = events.next().await.transpose()? {
            known = known.fold(&event, fold);
        }
        Ok(known)
    }
}

/// The aggregate as far as it is folded.
struct Known<S> {
    aggregate_id: AggregateId,
    category: Category,
    state: S,
    position: Position,
}

impl<S> Known<S> {
    fn fold(self, event: &Event, fold: &impl Fn(S, &Event) -> S) -> Self {
        if event.position <= self.position {
            return self;
        }
        Self { state: fold(self.state, event), position: event.position, ..self }
    }

    fn fence(&self) -> Expected {
        let (aggregate_id, category) = (Some(self.aggregate_id.clone()), Some(self.category));
        Expected { aggregate_id, category, position: self.position }
    }

    fn is_fenced_by(&self, conflict: &Conflict) -> bool {
        conflict.aggregate_id == self.aggregate_id && conflict.category == self.category
    }

    fn decided(self, appended: Option<Appended>) -> Decided<S> {
        Decided { state: self.state, position: self.position, appended }
    }
}
