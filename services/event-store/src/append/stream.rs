//! Many appends of one client, one after the other, without waiting for the answers between.
//!
//! ```text
//! requests ── prepared, some at a time ── sent in order ── under way ── answers, in order ──> client
//! ```
//!
//! **Bounded.** Of one stream so many, and so many bytes of them, are in hand at a time, from the request to the answer that the client has taken; beyond that
//! its requests are not read, which HTTP/2 tells the client. What is under way goes on while a client does not read: it holds
//! nobody else up.
//!
//! **The end.** A client that sends no more gets all its answers, then the end. At shutdown what was begun is answered, then the
//! stream ends as unavailable.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use causeway_log::Sequence;
use causeway_proto::{Appended, Conflict, Kind, Problem};
use futures::future::OptionFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Prepared, Request, begin, conflict, finish, prepare, renewed, room};
use crate::gateway::Gateway;

/// How many requests of a stream look up their keys and causes at the same time.
const PREPARED_MAX: usize = 32;
/// Bytes of a stream that are in hand at a time: of its requests, until they are answered, and then of the answers. The request that
/// goes beyond is taken, further ones are not read.
const IN_HAND_BYTES_MAX: usize = 16 << 20;
/// What the receipt of an event takes, or a fence that does not hold, about.
const RECEIPT_BYTES: usize = 128;
/// Answers that are ready to be written out ...
pub(crate) const ANSWERS_MAX: usize = 64;
/// ... and KiB of them. A larger one takes all of that.
const ANSWERS_KIB_MAX: u32 = 2 << 10;

/// One of many.
pub(crate) struct Numbered {
    /// The client's name for it, which comes back.
    pub(crate) request_id: String,
    /// What it wants, or why that cannot be read.
    pub(crate) request: Result<Request, Problem>,
    /// How large it is.
    pub(crate) bytes: usize,
}

/// What came of it.
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) result: Result<Appended, Problem>,
    /// How large the request was.
    request_bytes: usize,
    /// Its room among the answers that are ready, until it is written out.
    _room: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// How large it is, about.
    fn bytes(&self) -> usize {
        let of_conflict = |conflict: &Conflict| {
            let events = conflict.events.iter().map(|event| RECEIPT_BYTES + event.data.as_bytes().len()).sum::<usize>();
            RECEIPT_BYTES + conflict.aggregate_id.as_str().len() + events
        };
        let result = match &self.result {
            Ok(appended) => appended.receipts.len() * RECEIPT_BYTES,
            Err(problem) => problem
                .conflict
                .iter()
                .flat_map(|conflict| [&**conflict].into_iter().chain(&conflict.others))
                .map(of_conflict)
                .sum(),
        };
        self.request_id.len() + result
    }
}

/// One that waits for its turn.
struct InHand {
    request_id: String,
    what: Result<Prepared, Problem>,
    bytes: usize,
}

/// Takes requests until they end, or break off, or the gateway stops; answers all that it took. Ends when nobody listens.
///
/// Whatever was begun is looked after until it is done, whether the client reads or not: what is left lying half done could hold
/// something that others wait for, a reader of the read model or a place at the gate.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    requests: impl Stream<Item = Result<Numbered, Problem>> + Send,
    answers: mpsc::Sender<Result<Answer, Problem>>,
) {
    let in_hand_max = gateway.config.limits.stream_appends_max;
    let mut requests = pin!(requests.take_until(gateway.stop.clone().cancelled_owned().boxed()));
    let (mut preparing, mut prepared) = (FuturesOrdered::new(), VecDeque::new());
    let mut sequence = Some(gateway.log.sequence());
    let mut sending = None;
    let (mut under_way, mut ready) = (FuturesOrdered::new(), VecDeque::<Answer>::new());
    let answers_room = Arc::new(Semaphore::new(ANSWERS_KIB_MAX as usize));
    let (mut telling, mut is_patient) = (None, true);
    let (mut end, mut bytes) = (None, 0);
    loop {
        if telling.is_none() {
            telling = ready.pop_front().map(|answer| Box::pin(tell(&gateway, &answers, &answers_room, answer, is_patient)));
        }
        let in_hand = under_way.len() + ready.len() + usize::from(telling.is_some());
        if in_hand < in_hand_max
            && !prepared.is_empty()
            && let Some(sequence) = sequence.take()
        {
            sending = prepared.pop_front().map(|request| Box::pin(send(&gateway, sequence, request)));
        }
        if end.is_some() && preparing.is_empty() && prepared.is_empty() && sending.is_none() && in_hand == 0 {
            break;
        }
        tokio::select! {
            // Answers first: they make room.
            biased;
            Some(told) = OptionFuture::from(telling.as_mut()), if telling.is_some() => {
                telling = None;
                match told {
                    Some(told) => {
                        bytes -= told.bytes;
                        is_patient = told.is_patient;
                    }
                    None => return,
                }
            },
            Some(answer) = under_way.next(), if !under_way.is_empty() => {
                let answer: Answer = answer;
                bytes = bytes - answer.request_bytes + answer.bytes();
                ready.push_back(answer);
            }
            Some((back, sent)) = OptionFuture::from(sending.as_mut()), if sending.is_some() => {
                (sequence, sending) = (Some(back), None);
                under_way.push_back(sent);
            },
            Some(request) = preparing.next(), if !preparing.is_empty() => prepared.push_back(request),
            request = requests.next(), if end.is_none()
                && preparing.len() + prepared.len() < PREPARED_MAX
                && bytes < IN_HAND_BYTES_MAX => match request {
                Some(Ok(request)) => {
                    bytes += request.bytes;
                    preparing.push_back(prepare_one(&gateway, request));
                }
                Some(Err(broken)) => end = Some(Some(broken)),
                None if gateway.stop.is_cancelled() => {
                    end = Some(Some(Problem::new(Kind::Unavailable, "the gateway is shutting down")));
                }
                None => end = Some(None),
            },
        }
    }
    if let Some(Some(problem)) = end {
        // Nobody may be listening, which is the end as well.
        let _ = answers.send(Err(problem)).await;
    }
}

async fn prepare_one(gateway: &Gateway, request: Numbered) -> InHand {
    let Numbered { request_id, request, bytes } = request;
    let what = match request {
        Ok(request) => prepare(gateway, request).await,
        Err(problem) => Err(problem),
    };
    InHand { request_id, what, bytes }
}

/// What came of telling.
struct Told {
    /// What that frees of what is in hand.
    bytes: usize,
    /// Whether the read model had what was wanted of it in time.
    is_patient: bool,
}

/// Hands an answer over as soon as the client takes it, and only then reads what is large about it: the events of a conflict. Behind
/// one for which the read model was too slow the others do not wait for it. None if nobody listens.
async fn tell(
    gateway: &Gateway,
    answers: &mpsc::Sender<Result<Answer, Problem>>,
    room: &Arc<Semaphore>,
    mut answer: Answer,
    mut is_patient: bool,
) -> Option<Told> {
    let place = answers.reserve().await.ok()?;
    let bytes = answer.bytes();
    if let Err(problem) = answer.result {
        let fences = problem.conflict.iter().flat_map(|conflict| [&**conflict].into_iter().chain(&conflict.others));
        let wanted = fences.filter(|fence| fence.expected < fence.actual).map(|fence| fence.actual).max();
        let is_readable = || wanted.is_none_or(|wanted| wanted <= gateway.store.position());
        answer.result = match is_patient || is_readable() {
            true => Err(conflict::with_events(gateway, problem).boxed().await),
            false => Err(problem),
        };
        if wanted.is_some() {
            is_patient = is_readable();
        }
    }
    let kib = u32::try_from(answer.bytes() >> 10).unwrap_or(u32::MAX).clamp(1, ANSWERS_KIB_MAX);
    answer._room = room.clone().acquire_many_owned(kib).await.ok();
    place.send(Ok(answer));
    Some(Told { bytes, is_patient })
}

/// Waits for a place and sends. Gives the sequence back for the next one, and what is to come of this one.
async fn send<'g>(
    gateway: &'g Gateway,
    mut sequence: Sequence,
    request: InHand,
) -> (Sequence, impl Future<Output = Answer> + Send + use<'g>) {
    let InHand { request_id, what, bytes: request_bytes } = request;
    let room = what.as_ref().map_or(1, |prepared| room(prepared.events()));
    let (pass, under_way) = match (gateway.appends.enter_in_turn(room).await, what) {
        // It may have waited for its turn for as long as the client took no answers.
        (Ok(pass), Ok(prepared)) => match renewed(gateway, prepared).await {
            Ok(prepared) => (Some(pass), Ok(begin(&mut sequence, prepared).await)),
            Err(problem) => (None, Err(problem)),
        },
        (Err(problem), _) | (_, Err(problem)) => (None, Err(problem)),
    };
    let answer = async move {
        let result = match under_way {
            Ok(under_way) => finish(gateway, under_way).await,
            Err(problem) => Err(problem),
        };
        drop(pass);
        Answer { request_id, result, request_bytes, _room: None }
    };
    (sequence, answer)
}

#[cfg(test)]
mod tests {
    use causeway_event::{CorrelationId, EventId, Position};
    use causeway_proto::Receipt;
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_answer_is_as_large_as_its_name_and_its_receipts() {
        let receipt = Receipt {
            id: EventId::from_uuid(Uuid::nil()),
            position: Position::START,
            timestamp: Timestamp::UNIX_EPOCH,
            correlation_id: CorrelationId::from_uuid(Uuid::nil()),
        };
        let bytes = |request_id: &str, receipts| {
            let appended = Appended { receipts: vec![receipt.clone(); receipts], duplicate: false };
            Answer { request_id: request_id.to_owned(), result: Ok(appended), request_bytes: 0, _room: None }.bytes()
        };
        assert_eq!(bytes("12345", 0), 5);
        assert_eq!(bytes("", 1000), 1000 * RECEIPT_BYTES);
    }

    #[test]
    fn a_conflict_is_as_large_as_all_its_fences() {
        let fence = |others| Conflict {
            aggregate_id: "0123456789".parse().unwrap(),
            category: causeway_event::Category::Custom,
            expected: Position::START,
            actual: Position::new(7),
            events: vec![],
            more: true,
            others,
        };
        let problem = Problem::from(fence(vec![fence(vec![]); 999]));
        let answer = Answer { request_id: String::new(), result: Err(problem), request_bytes: 0, _room: None };
        assert_eq!(answer.bytes(), 1000 * (RECEIPT_BYTES + 10));
    }
}
