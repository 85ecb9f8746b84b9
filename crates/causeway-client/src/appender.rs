//! Many appends over one stream, without waiting for the answers between.
//!
//! ```text
//! send ──> queue ──> stream ──> gateway
//!   │                  │ answers, in the order of the requests
//!   └── ticket <───────┘
//!            connection lost: those with a key, and those that were not sent yet, go over the next connection;
//!                             of the others nobody knows, and their tickets say so
//! ```

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use backon::ExponentialBackoff;
use causeway_event::Invalid;
use causeway_proto::v1::append_stream_response::Result as Wire;
use causeway_proto::{Appended, Kind, Problem, v1};
use futures::channel::mpsc as requests;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Response;
use tracing::warn;

use crate::{Append, Client, ClientError};

/// How many appends are under way at once unless told otherwise. Enough to keep a disk that syncs each group busy.
const IN_FLIGHT_MAX: usize = 512;

/// Appends, one after the other without waiting for the answers between: for imports and other streams of events.
///
/// They are written in the order in which they were sent; one that is refused does not stop those behind it. Dropping the
/// appender lets what was sent come to its end.
///
/// ```no_run
/// # async fn example(client: causeway_client::Client, drafts: Vec<causeway_client::Draft>) -> Result<(), causeway_client::ClientError> {
/// use causeway_client::Append;
///
/// let appender = client.appender();
/// let mut tickets = Vec::new();
/// for draft in drafts {
///     // Waits while too many are under way, and only then.
///     tickets.push(appender.send(Append::one(draft)).await);
/// }
/// for ticket in tickets {
///     let appended = ticket.await?;
///     println!("{}", appended.receipts[0].position);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Appender {
    queue: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    in_flight_max: u32,
}

/// The outcome of one append, once it is known. Dropping it does not take the append back.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Appended, ClientError>>);

impl Future for Ticket {
    type Output = Result<Appended, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let settled = std::task::ready!(self.0.poll_unpin(context));
        Poll::Ready(settled.unwrap_or_else(|_| Err(unknown("the appender ended before the answer came"))))
    }
}

impl Client {
    /// An appender over this connection. Must be called inside a runtime.
    pub fn appender(&self) -> Appender {
        self.appender_with(IN_FLIGHT_MAX)
    }

    /// The same with so many appends under way at once, at least one.
    pub fn appender_with(&self, in_flight_max: usize) -> Appender {
        let in_flight_max = u32::try_from(in_flight_max).unwrap_or(u32::MAX).clamp(1, 1 << 16);
        let bound = in_flight_max as usize;
        let (queue, jobs) = mpsc::channel(bound);
        let courier = Courier { client: self.clone(), jobs, bound, unsettled: VecDeque::new(), next_id: 0 };
        // Ends by itself: when the appender is gone and each append has its answer, for which there is a limit of time.
        tokio::spawn(courier.run());
        Appender { queue, room: Arc::new(Semaphore::new(bound)), in_flight_max }
    }
}

impl Appender {
    /// Sends an append. Waits only while as many as allowed are under way.
    ///
    /// The ticket gives what [`Client::append`] would give, but each append is sent once, unless the connection breaks.
    pub async fn send(&self, append: Append) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        // The semaphore is never closed, and the courier lives as long as the queue; if not, the ticket says so.
        if let Ok(room) = Arc::clone(&self.room).acquire_owned().await {
            let keyed = append.idempotency_key.is_some();
            let job = Job { append: append.into(), keyed, sent: false, answer, _room: room };
            let _ = self.queue.send(job).await;
        }
        Ticket(ticket)
    }

    /// Waits until every append that was sent has its outcome.
    pub async fn settled(&self) {
        let _ = self.room.acquire_many(self.in_flight_max).await;
    }
}

/// An append and whom to tell.
#[derive(Debug)]
struct Job {
    append: v1::AppendRequest,
    keyed: bool,
    /// Whether it may have reached a gateway over a connection that is no more.
    sent: bool,
    answer: oneshot::Sender<Result<Appended, ClientError>>,
    _room: OwnedSemaphorePermit,
}

/// Carries appends to the gateway and answers back, over as many connections as it takes.
struct Courier {
    client: Client,
    jobs: mpsc::Receiver<Job>,
    bound: usize,
    /// In the order of the answers: those that were sent on this connection.
    unsettled: VecDeque<Job>,
    /// What the next answer must refer to; counts the answers of one connection.
    next_id: u64,
}

impl Courier {
    async fn run(mut self) {
        let mut waits = self.client.waits();
        while self.has_work().await {
            self.next_id = 0;
            let Err(error) = self.connection().await else { continue };
            if self.next_id > 0 {
                waits = self.client.waits();
            }
            self.interrupted(&error, &mut waits).await;
        }
    }

    async fn has_work(&mut self) -> bool {
        if self.unsettled.is_empty() {
            self.unsettled.extend(self.jobs.recv().await);
        }
        !self.unsettled.is_empty()
    }

    /// One stream: ends well when nothing is left to be answered.
    async fn connection(&mut self) -> Result<(), ClientError> {
        let client = self.client.clone();
        // As many places as there can be appends under way: it is never full.
        let (mut outbound, stream) = requests::channel(self.bound);
        let mut sent = 0_u64;
        let mut send = |outbound: &mut requests::Sender<_>, job: &Job| {
            let request = v1::AppendStreamRequest { request_id: sent.to_string(), append: Some(job.append.clone()) };
            sent += 1;
            // A stream that has broken says so where answers are read.
            let _ = outbound.try_send(request);
        };
        for job in &self.unsettled {
            send(&mut outbound, job);
        }
        let mut outbound = Some(outbound);
        let mut grpc = client.grpc.clone();
        let request = client.request(stream);
        let answers = async move { grpc.append_stream(request).await.map(Response::into_inner) };
        let mut answers = pin!(answers.try_flatten_stream());
        let timeout = client.options.request_timeout;
        let mut deadline = Instant::now() + timeout;
        while outbound.is_some() || !self.unsettled.is_empty() {
            tokio::select! {
                job = self.jobs.recv(), if outbound.is_some() => match (job, &mut outbound) {
                    (Some(job), Some(outbound)) => {
                        if self.unsettled.is_empty() {
                            deadline = Instant::now() + timeout;
                        }
                        send(outbound, &job);
                        self.unsettled.push_back(job);
                    }
                    _ => outbound = None,
                },
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => {
                        self.settle(answer)?;
                        deadline = Instant::now() + timeout;
                    }
                    Some(Err(status)) => return Err(client.error(&status)),
                    None if self.unsettled.is_empty() => return Ok(()),
                    None => return Err(client.too_late(Kind::Unavailable)),
                },
                () = sleep_until(deadline), if !self.unsettled.is_empty() => return Err(client.too_late(Kind::TimedOut)),
            }
        }
        Ok(())
    }

    /// Gives the oldest append its answer.
    fn settle(&mut self, answer: v1::AppendStreamResponse) -> Result<(), ClientError> {
        let unreadable = |field: &str, reason: &str| ClientError::Unreadable(Invalid::new(field, reason));
        if answer.request_id != self.next_id.to_string() {
            return Err(unreadable("/request_id", "is not that of the oldest append under way"));
        }
        let result = answer.result.ok_or_else(|| unreadable("/result", "is missing"))?;
        let job = self.unsettled.pop_front().ok_or_else(|| unreadable("/request_id", "is of no append"))?;
        self.next_id += 1;
        let outcome = match result {
            Wire::Appended(appended) => Appended::try_from(appended).map_err(ClientError::Unreadable),
            Wire::Problem(problem) => Err(ClientError::Problem(problem.into())),
        };
        // Whoever dropped the ticket does not want to know.
        let _ = job.answer.send(outcome);
        Ok(())
    }

    /// After a connection that broke: tells those of which nobody knows, and waits before the next attempt.
    async fn interrupted(&mut self, error: &ClientError, waits: &mut ExponentialBackoff) {
        let reached = !matches!(error, ClientError::Unreachable { .. });
        let wait = self.client.wait(waits, error).filter(|_| error.is_interruption());
        if !self.unsettled.is_empty() {
            warn!(%error, unsettled = self.unsettled.len(), again = wait.is_some(), "stream of appends interrupted");
        }
        for mut job in std::mem::take(&mut self.unsettled) {
            job.sent |= reached;
            match (wait, job.sent) {
                (Some(_), true) if job.keyed => self.unsettled.push_back(job),
                (Some(_), false) => self.unsettled.push_back(job),
                (None, false) => drop(job.answer.send(Err(error.clone()))),
                (_, true) => drop(job.answer.send(Err(unknown(&format!("no answer came: {error}"))))),
            }
        }
        if let Some(wait) = wait {
            sleep(wait).await;
        }
    }
}

fn unknown(detail: &str) -> ClientError {
    Problem::new(Kind::OutcomeUnknown, detail).into()
}
