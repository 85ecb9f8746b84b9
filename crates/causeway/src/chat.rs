//! `causeway chat`: a conversation in the terminal, or through a pipe.
//!
//! Holds no state: a message is an event, the answer comes as events, and leaving stops nothing. What stands where on the
//! screen is decided in `screen`.

mod screen;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use causeway_client::{Append, Client, Draft, Filter, Start, Subscribe, Subscription, Update};
use causeway_event::payload::{Channel, Input};
use causeway_event::{AggregateId, Data, EventId, Labels, Payload};
use causeway_runtime::shutdown::Signals;
use clap::Args;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tracing::{Instrument as _, info_span};
use uuid::Uuid;

use crate::cli::{DEFAULT_SERVER, ServerArgs};
use crate::events;
use crate::output::{self, Look, Output};
use screen::Screen;

/// After so long without anybody taking up a message, a person is told what may be missing.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a person types who wants to leave.
const LEAVE: &str = "/quit";

/// Lines that wait while an answer is awaited; whoever pipes more waits with them.
const LINES_MAX: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads one message a line, also from a pipe, and waits for each answer.

Examples:
  causeway chat
  causeway chat --session web:42
  echo 'What is 6 * 7?' | causeway chat")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The conversation to go on with [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<AggregateId>,
}

/// How a turn ended.
enum Outcome {
    Answered,
    Failed,
    /// The person left first.
    Left,
}

/// `causeway chat`
pub(crate) async fn run(args: ChatArgs, out: &Output) -> anyhow::Result<()> {
    let session = match args.session {
        Some(session) => session,
        // The end of a UUID is its random part.
        None => format!("cli:{}", &Uuid::now_v7().simple().to_string()[24..]).parse()?,
    };
    let client = events::patient_client(&args.server)?;
    let filter = Filter { aggregate_id: Some(session.clone()), ..Filter::default() };
    let updates = client.subscribe(Subscribe { filter, start: Start::Now, deltas: true, ..Subscribe::default() }).await?;
    let person = std::io::stdin().is_terminal() && !out.json;
    let mut chat = Chat { client, session, out, updates, screen: Screen::default(), signals: Signals::watch(), person };
    if person {
        out.line(&out.paint(Look::Dim, &format!("session {}, Ctrl-D or {LEAVE} leaves", chat.session)))?;
    }
    let failed = chat.lines(read_lines()).await?;
    if !out.json {
        let server = match args.server.server.as_str() {
            DEFAULT_SERVER => String::new(),
            server => format!(" --server {server}"),
        };
        let session = output::shell_word(chat.session.as_str());
        out.note(&format!("go on with: {} chat --session {session}{server}", output::program()));
    }
    match failed && !person {
        true => bail!("the assistant could not answer"),
        false => Ok(()),
    }
}

struct Chat<'o> {
    client: Client,
    session: AggregateId,
    out: &'o Output,
    updates: Subscription,
    screen: Screen,
    signals: Signals,
    person: bool,
}

impl Chat<'_> {
    /// Says each line and waits for its answer. True if the last one failed.
    async fn lines(&mut self, mut lines: mpsc::Receiver<std::io::Result<String>>) -> anyhow::Result<bool> {
        let mut failed = false;
        loop {
            self.prompt()?;
            let line = loop {
                tokio::select! {
                    line = lines.recv() => break line,
                    () = self.signals.token().cancelled_owned() => break None,
                    // Somebody else may write to this session too.
                    update = self.updates.next() => {
                        if let Some(Update::Event(event)) = self.show(update)?
                            && matches!(event.payload(), Payload::AIProcessingCompleted(_) | Payload::AIProcessingFailed(_))
                        {
                            self.prompt()?;
                        }
                    }
                }
            };
            let Some(line) = line else {
                if self.person {
                    self.out.line("")?;
                }
                return Ok(failed);
            };
            self.screen.typed();
            let line = line.context("cannot read standard input")?;
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if self.person && line == LEAVE {
                return Ok(failed);
            }
            if !self.person && !self.out.json {
                self.out.line(&format!("{}{}", self.out.paint(Look::Strong, screen::PROMPT), output::clean(line)))?;
            }
            let id = match self.say(line).await? {
                Some(id) => id,
                None => return Ok(failed),
            };
            failed = match self.answer(id).await? {
                Outcome::Answered => false,
                Outcome::Failed => true,
                Outcome::Left => return Ok(failed),
            };
        }
    }

    fn prompt(&mut self) -> anyhow::Result<()> {
        if self.person {
            let pieces = self.screen.prompt();
            self.draw(pieces)?;
        }
        Ok(())
    }

    fn draw(&self, pieces: impl IntoIterator<Item = (Look, String)>) -> anyhow::Result<()> {
        for (look, text) in pieces {
            self.out.piece(look, &text)?;
        }
        Ok(())
    }

    /// Appends what was typed. Each message is the root of a chain, and so of a trace, of its own.
    async fn say(&mut self, text: &str) -> anyhow::Result<Option<EventId>> {
        let channel = Channel { kind: "chat".to_owned(), address: serde_json::Map::new() };
        let input = Input { content: text.to_owned(), channel: Some(channel), ..Input::default() };
        let event = Draft {
            event_type: "MessageReceived".parse()?,
            aggregate_id: self.session.clone(),
            data: Data::of(&input)?,
            source: Some("cli".parse()?),
            causation_id: None,
            correlation_id: None,
            labels: Labels::new(),
            schema_version: None,
        };
        // With a key of its own a message is sent again safely when an answer is lost.
        let key = Uuid::now_v7().simple().to_string();
        let append = Append { events: vec![event], idempotency_key: Some(key), ..Append::default() };
        let token = self.signals.token();
        let span = info_span!(parent: None, "say", aggregate.id = %self.session);
        tokio::select! {
            appended = self.client.append(append).instrument(span) => {
                let receipt = appended?.receipts.into_iter().next().context("the gateway gave no receipt")?;
                self.screen.said(receipt.id);
                Ok(Some(receipt.id))
            }
            () = token.cancelled() => Ok(None),
        }
    }

    /// Shows what happens until the turn that takes up `input` has ended.
    async fn answer(&mut self, input: EventId) -> anyhow::Result<Outcome> {
        let mut turn: Option<String> = None;
        let token = self.signals.token();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut told = false;
        loop {
            let update = tokio::select! {
                update = self.updates.next() => update,
                () = token.cancelled() => return Ok(Outcome::Left),
                () = &mut patience, if turn.is_none() && !told => {
                    told = true;
                    self.out.note("nobody has taken this up yet; is an ai-processor running? Ctrl-C leaves, the message stays");
                    continue;
                }
            };
            let Some(Update::Event(event)) = self.show(update)? else { continue };
            match event.payload() {
                Payload::AIProcessingStarted(claim) if claim.inputs.contains(&input) => turn = Some(claim.turn),
                Payload::AIProcessingCompleted(end) if Some(&end.turn) == turn.as_ref() => return Ok(Outcome::Answered),
                Payload::AIProcessingFailed(end) if Some(&end.turn) == turn.as_ref() => return Ok(Outcome::Failed),
                _ => {}
            }
        }
    }

    /// Prints an update; gives it back.
    fn show(&mut self, update: Option<Result<Update, causeway_client::ClientError>>) -> anyhow::Result<Option<Update>> {
        let update = update.context("the gateway ended the subscription")??;
        if self.out.json {
            match &update {
                Update::Event(event) => self.out.json(event)?,
                Update::Delta(_, delta) => self.out.json(&serde_json::json!({ "delta": delta }))?,
                Update::CaughtUp { .. } | Update::Checkpoint(_) | Update::Heartbeat { .. } => {}
            }
        } else {
            let pieces = self.screen.update(&update);
            self.draw(pieces)?;
        }
        Ok(Some(update))
    }
}

/// Lines of standard input, from a thread of its own: a read of a terminal cannot be cancelled.
fn read_lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (tx, rx) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    rx
}
