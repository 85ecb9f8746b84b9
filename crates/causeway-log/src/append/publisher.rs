//! Handing messages to NATS. Knows no event: what an answer means to an append is decided elsewhere.
//!
//! Appends have a connection of their own, so that a break ends what waits on it (`publisher/line.rs`), and so that they do not
//! queue up with what readers are sent. Handing a message over is a step of its own, which is waited for: once it is done the
//! message has its place, and nothing that is handed over later comes before it.

mod line;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

pub(crate) use self::line::Way;
use self::line::{Answers, Line, Reply, not_connected};
use super::answer::Answer;
use super::prepare::Message;
use crate::LogError;

/// A message that has been handed over, or could not be; resolves with the server's answer.
pub(super) type Sent = BoxFuture<'static, Answer>;

/// The shortest pause before connecting is tried again ...
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// ... and the longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The way out. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Publisher {
    line: watch::Receiver<Option<Arc<Line>>>,
    /// The server keeps open only so many batches of a stream: of ours one is handed over at a time.
    batches: Arc<Mutex<()>>,
}

impl Publisher {
    /// Connects, and from then on again after each break, as long as anybody has this.
    pub(crate) async fn connect(way: Way) -> Result<Self, LogError> {
        let (line, answers) = Line::open(&way).await?;
        let (lines, watched) = watch::channel(Some(line.clone()));
        tokio::spawn(keep(way, lines, line, answers));
        Ok(Self { line: watched, batches: Arc::default() })
    }

    /// Whether a message would be taken at this moment.
    pub(crate) fn is_connected(&self) -> bool {
        self.line().is_ok()
    }

    /// Hands one message over, behind all that were handed over before. Without a connection nothing is sent or kept. Dropping
    /// this before it is done takes the message back; dropping what it returns does not.
    pub(super) async fn send(&self, message: &Message) -> Sent {
        match self.line() {
            Ok(line) => resolve(ask(&line, message, message.headers()).await),
            Err(answer) => future::ready(answer).boxed(),
        }
    }

    /// Hands an atomic batch over; the answer to its last message is the batch's. Dropping this before it is done leaves the server
    /// with a batch that never ends, which it keeps for ten seconds.
    pub(super) async fn send_batch<'m>(&self, messages: impl ExactSizeIterator<Item = &'m Message>) -> Sent {
        let _turn = self.batches.lock().await;
        match self.line() {
            Ok(line) => resolve(batch(&line, messages).await),
            Err(answer) => future::ready(answer).boxed(),
        }
    }

    fn line(&self) -> Result<Arc<Line>, Answer> {
        self.line.borrow().as_ref().filter(|line| line.is_connected()).cloned().ok_or_else(not_connected)
    }
}

async fn batch<'m>(line: &Arc<Line>, messages: impl ExactSizeIterator<Item = &'m Message>) -> Result<Reply, Answer> {
    let batch_id = Uuid::now_v7().simple().to_string();
    let count = messages.len();
    for (index, message) in messages.enumerate() {
        let mut headers = message.headers();
        headers.insert("Nats-Batch-Id", batch_id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        if index + 1 == count {
            headers.insert("Nats-Batch-Commit", "1");
            return ask(line, message, headers).await;
        }
        line.tell(message.subject.clone(), headers, message.payload.clone()).await?;
    }
    Err(Answer::Incomplete)
}

async fn ask(line: &Arc<Line>, message: &Message, headers: HeaderMap) -> Result<Reply, Answer> {
    line.ask(message.subject.clone(), headers, message.payload.clone()).await
}

fn resolve(sent: Result<Reply, Answer>) -> Sent {
    match sent {
        Ok(reply) => reply.answer().boxed(),
        Err(answer) => future::ready(answer).boxed(),
    }
}

/// One line after the other. Ends when nobody wants one any more.
async fn keep(way: Way, lines: watch::Sender<Option<Arc<Line>>>, mut line: Arc<Line>, mut answers: Answers) {
    loop {
        tokio::select! {
            () = line.hand_out(answers) => {}
            () = lines.closed() => return,
        }
        lines.send_replace(None);
        let mut pause = PAUSE_MIN;
        (line, answers) = loop {
            tokio::select! {
                opened = Line::open(&way) => match opened {
                    Ok(opened) => break opened,
                    Err(error) => tracing::debug!(%error, "not connected"),
                },
                () = lines.closed() => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        lines.send_replace(Some(line.clone()));
    }
}
