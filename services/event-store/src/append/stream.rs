//! Many appends of one client, one after the other, without waiting for the answers between.
//!
//! ```text
//! requests ── prepared, some at a time ── sent in order ── under way ── answers, in order ──> client
//! ```
//!
//! **Bounded.** Of one stream so many are in hand at a time, from the request to the answer that the client has taken; beyond that
//! its requests are not read, which HTTP/2 tells the client. What is under way goes on while a client does not read: it holds
//! nobody else up.
//!
//! **The end.** A client that sends no more gets all its answers, then the end. At shutdown what was begun is answered, then the
//! stream ends as unavailable.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use causeway_log::Sequence;
use causeway_proto::{Appended, Kind, Problem};
use futures::future::OptionFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::{Prepared, Request, begin, finish, prepare, renewed};
use crate::gateway::{Gateway, Pass};

/// How many requests of a stream look up their keys and causes at the same time.
const PREPARED_MAX: usize = 32;
/// Answers that are ready to be written out.
pub(crate) const ANSWERS_MAX: usize = 64;

/// One of many.
pub(crate) struct Numbered {
    /// The client's name for it, which comes back.
    pub(crate) request_id: String,
    /// What it wants, or why that cannot be read.
    pub(crate) request: Result<Request, Problem>,
}

/// What came of it.
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) result: Result<Appended, Problem>,
}

/// One that waits for its turn.
struct InHand {
    request_id: String,
    what: Result<Prepared, Problem>,
}

/// Takes requests until they end, or break off, or the gateway stops; answers all that it took. Ends when nobody listens.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    requests: impl Stream<Item = Result<Numbered, Problem>> + Send,
    answers: mpsc::Sender<Result<Answer, Problem>>,
) {
    let in_hand_max = gateway.config.limits.stream_appends_max;
    let mut sequence = gateway.log.sequence();
    let stopped = gateway.stop.clone().cancelled_owned().boxed();
    let requests = requests.take_until(stopped).map(|request| prepared(&gateway, request)).buffered(PREPARED_MAX);
    let mut requests = pin!(requests);
    let (mut under_way, mut ready) = (FuturesOrdered::new(), VecDeque::new());
    // The next one, at the gate. Nobody holds a place there who is not looked after: what is under way is, what is prepared is not.
    let mut entering = None;
    let mut end = None;
    loop {
        let in_hand = under_way.len() + ready.len();
        if end.is_some() && entering.is_none() && in_hand == 0 {
            break;
        }
        tokio::select! {
            // Answers first: they make room.
            biased;
            place = answers.reserve(), if !ready.is_empty() => match (place, ready.pop_front()) {
                (Ok(place), Some(answer)) => place.send(Ok(answer)),
                _ => return,
            },
            Some(answer) = under_way.next(), if !under_way.is_empty() => ready.push_back(answer),
            Some((pass, request)) = OptionFuture::from(entering.as_mut()), if entering.is_some() => {
                entering = None;
                under_way.push_back(sent(&gateway, &mut sequence, pass, request).await);
            },
            request = requests.next(), if end.is_none() && entering.is_none() && in_hand < in_hand_max => match request {
                Some(Ok(request)) => {
                    let entered = gateway.appends.enter_in_turn();
                    entering = Some(Box::pin(entered.map(|pass| (pass, request))));
                },
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

async fn prepared(gateway: &Gateway, request: Result<Numbered, Problem>) -> Result<InHand, Problem> {
    let Numbered { request_id, request } = request?;
    let what = match request {
        Ok(request) => prepare(gateway, request).await,
        Err(problem) => Err(problem),
    };
    Ok(InHand { request_id, what })
}

async fn sent(
    gateway: &Arc<Gateway>,
    sequence: &mut Sequence,
    pass: Result<Pass, Problem>,
    request: InHand,
) -> impl Future<Output = Answer> + Send + use<> {
    let InHand { request_id, what } = request;
    let (pass, under_way) = match (pass, what) {
        // It may have waited for its turn for as long as the client took no answers.
        (Ok(pass), Ok(prepared)) => match renewed(gateway, prepared).await {
            Ok(prepared) => (Some(pass), Ok(begin(sequence, prepared).await)),
            Err(problem) => (None, Err(problem)),
        },
        (Err(problem), _) | (_, Err(problem)) => (None, Err(problem)),
    };
    let gateway = gateway.clone();
    async move {
        let result = match under_way {
            Ok(under_way) => finish(&gateway, under_way).await,
            Err(problem) => Err(problem),
        };
        drop(pass);
        Answer { request_id, result }
    }
}
