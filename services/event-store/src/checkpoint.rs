//! The task that signs checkpoints of the log: it chains what is new, and appends what the chain has come to.
//!
//! ```text
//! look every second ─> enough is new, or it is time ─> newest checkpoint ─> walk what is behind it ─> sign ─> append, fenced
//! leaves of what the feed reads ─> linked at each look, so that there is next to nothing to walk
//! ```
//!
//! Several gateways may do so with the same key. A checkpoint is fenced on the one before it, so that one of them wins, and
//! all of them go on from what the winner signed. A checkpoint alone is nothing new: an idle log stays idle.
//!
//! What is known is never taken for what stands there: a log can be restored from a backup, or another put in its place, under a
//! gateway that lives on. To sign what was there before would make an honest log fail every audit. So the last link is looked up on
//! the log before anything is signed, and before leaves of another run of the feed are linked to it.

pub(crate) mod leaves;

use std::time::Duration;

use causeway_event::payload::LogCheckpointed;
use causeway_event::{AggregateId, Category, EventType, Lineage, NewEvent, Payload, Position, Source};
use causeway_log::{Append, Fence, Log, LogError};
use causeway_proof::{Chain, Checkpoint, Content, Entry, Hash, LOG_AGGREGATE, Marks, Signer};
use causeway_runtime::config::{Secret, duration};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use self::leaves::{Incoming, Leaf};
use crate::Error;

/// How often it is looked whether anything is new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause between two pages while there is much to read: appends come first.
const PAGE_PAUSE: Duration = Duration::from_millis(2);
/// How long signing what is new may hold up the end of the gateway.
const LAST_MAX: Duration = Duration::from_secs(1);
/// Of so many other keys it is told.
const KEYS_TOLD_MAX: usize = 8;
/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How far behind the end of the log a checkpoint may be signed. An audit remembers ten times as many entries, and could not compare
/// one that stands further behind what it vouches for.
const BEHIND_MAX: u64 = 10_000;
/// How many passes are made to come that near. Where appends are faster than the walk, what was walked is signed all the same, for the
/// next start to go on from.
const ROUNDS_MAX: u32 = 10;

/// Signed checkpoints of the log. Without a key there are none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntegrityConfig {
    /// The seed of the Ed25519 key: 32 random bytes as hex digits or base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<Secret>,
    /// After so many new events a checkpoint is due.
    pub every_events: u64,
    /// So long after the last one, or the gateway's start, a checkpoint is due, if anything is new.
    #[serde(with = "duration")]
    pub every: Duration,
}

impl Default for IntegrityConfig {
    fn default() -> Self {
        Self { signing_key: None, every_events: 10_000, every: Duration::from_secs(60) }
    }
}

impl IntegrityConfig {
    /// The key, if there is one. The error is for whoever set it.
    pub fn signer(&self) -> Result<Option<Signer>, causeway_proof::KeyError> {
        self.signing_key.as_ref().map(|key| Signer::parse(key.expose())).transpose()
    }
}

/// Signs for as long as the gateway lives, and what is new once more at its end.
pub(crate) async fn run(config: IntegrityConfig, log: Log, mut incoming: Incoming, end: CancellationToken) -> Result<(), Error> {
    let Some(signer) = config.signer().map_err(|error| Error::Config(format!("integrity.signing_key: {error}")))? else {
        end.cancelled().await;
        return Ok(());
    };
    tracing::info!(public_key = %signer.public_key(), "checkpoints of the log are signed");
    let mut signing = Signing::new(log, signer)?;
    end.run_until_cancelled(sign(&config, &mut signing, &mut incoming)).await;
    // Else it would stand unsigned until somebody starts a gateway again.
    match timeout(LAST_MAX, signing.look(&mut incoming, config.every_events, Instant::now())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "no checkpoint at the end"),
        Err(_) => tracing::debug!("there was too much to be signed at the end"),
    }
    Ok(())
}

async fn sign(config: &IntegrityConfig, signing: &mut Signing, incoming: &mut Incoming) {
    let mut due_at = Instant::now() + config.every;
    let mut look = tokio::time::interval(LOOK_EVERY.min(config.every));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match signing.look(incoming, config.every_events, due_at).await {
            Ok(false) => {}
            Ok(true) => due_at = Instant::now() + config.every,
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "no checkpoint at this time");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(%error, "a checkpoint could not be made");
                due_at = Instant::now() + config.every;
            }
        }
    }
}

/// The chain as far as it is known, and the newest checkpoint.
struct Signing {
    log: Log,
    signer: Signer,
    aggregate: AggregateId,
    source: Source,
    chain: Chain,
    /// Of the last entries that were read here.
    marks: Marks,
    /// The leaf of the chain's last entry, if that was read here.
    tip: Option<Hash>,
    /// The run of the feed that it came in, if it was not walked.
    run: Option<u64>,
    /// Where the newest checkpoint stands: what the next one is fenced on.
    newest: Position,
    /// How far the newest checkpoint of this key vouches.
    vouched: Position,
    /// The last entry in the chain that is no checkpoint.
    content: Position,
    /// Up to here it has been looked.
    looked: Position,
    /// Where the last checkpoint stands that was signed here.
    own: Position,
    /// Of which other keys it was told that they sign as well.
    told: Vec<String>,
}

impl Signing {
    fn new(log: Log, signer: Signer) -> Result<Self, Error> {
        let named = |invalid: causeway_event::Invalid| Error::Config(invalid.to_string());
        Ok(Self {
            log,
            signer,
            aggregate: LOG_AGGREGATE.parse().map_err(named)?,
            source: "event-store".parse().map_err(named)?,
            chain: Chain::START,
            marks: Marks::default(),
            tip: None,
            run: None,
            newest: Position::START,
            vouched: Position::START,
            content: Position::START,
            looked: Position::START,
            own: Position::START,
            told: Vec::new(),
        })
    }

    /// Chains what the feed has read; then all there is, and signs it, if that is due. Says whether it was.
    async fn look(&mut self, incoming: &mut Incoming, every_events: u64, due_at: Instant) -> Result<bool, LogError> {
        self.link(incoming.waiting()).await;
        let last = self.log.last_position().await?;
        // A log that has become shorter is another one.
        let new = last.get().abs_diff(self.looked.get());
        let anything = new > 0 || self.vouched < self.content;
        if !anything || (new < every_events && Instant::now() < due_at) {
            return Ok(false);
        }
        // The log is read at least as far. What comes behind that waits meanwhile.
        incoming.want_behind(last);
        self.advance().await?;
        Ok(true)
    }

    /// Chains what the feed has read, as far as it goes on where the chain ends. What is missing is walked when a checkpoint is due.
    async fn link(&mut self, leaves: Vec<Leaf>) {
        for leaf in leaves {
            tokio::task::coop::consume_budget().await;
            if leaf.position != self.chain.position.next() {
                continue;
            }
            // What is not known to stand there is not gone on from.
            if self.run != Some(leaf.run) && (self.tip.is_none() || !matches!(self.still_stands().await, Ok(true))) {
                continue;
            }
            self.run = Some(leaf.run);
            self.push(leaf.position, leaf.hash, leaf.is_checkpoint);
        }
    }

    fn push(&mut self, position: Position, leaf: Hash, is_checkpoint: bool) {
        self.chain.link(position, &leaf);
        self.marks.push(position, &leaf);
        self.tip = Some(leaf);
        match is_checkpoint {
            true => self.newest = position,
            false => self.content = position,
        }
    }

    /// Chains what is new and signs it, unless there is nothing but checkpoints.
    async fn advance(&mut self) -> Result<(), LogError> {
        if !self.still_stands().await? {
            let (position, signed) = (self.chain.position, self.vouched);
            match signed > Position::START {
                true => tracing::error!(
                    %position, %signed,
                    "the log is another one, or lost its end; what was signed may be gone. From now on what stands there is signed: \
                     compare it with what was kept of the one before (docs/integrity.md)"
                ),
                false => tracing::warn!(%position, "the log lost what it had; nothing of that was signed"),
            }
            self.tip = None;
        }
        if self.tip.is_none() {
            self.forget();
        }
        self.adopt_newest().await?;
        self.catch_up().await?;
        self.looked = self.chain.position;
        match self.vouched < self.content {
            true => self.append().await,
            false => Ok(()),
        }
    }

    /// Whether what was read last still stands where it stood.
    async fn still_stands(&self) -> Result<bool, LogError> {
        let Some(tip) = self.tip else { return Ok(true) };
        let position = self.chain.position;
        let page = self.log.walk(position.previous(), position).page().await?;
        Ok(page.last().is_some_and(|entry| entry.leaf() == tip))
    }

    fn forget(&mut self) {
        (self.chain, self.tip, self.run) = (Chain::START, None, None);
        self.marks = Marks::default();
        (self.newest, self.vouched, self.own) = (Position::START, Position::START, Position::START);
        (self.content, self.looked) = (Position::START, Position::START);
    }

    /// Chains what stands on the log, as near to its end as it comes.
    async fn catch_up(&mut self) -> Result<(), LogError> {
        let mut last = self.log.last_position().await?;
        for _ in 0..ROUNDS_MAX {
            self.walk_to(last).await?;
            last = self.log.last_position().await?;
            if last.get().saturating_sub(self.chain.position.get()) <= BEHIND_MAX {
                break;
            }
        }
        Ok(())
    }

    async fn walk_to(&mut self, last: Position) -> Result<(), LogError> {
        let mut walk = self.log.walk(self.chain.position, last);
        loop {
            let page = walk.page().await?;
            if page.is_empty() {
                break;
            }
            for entry in &page {
                let is_checkpoint =
                    matches!(&entry.content, Content::Event(event) if is_checkpoint(&event.aggregate_id, &event.event_type));
                self.push(entry.position, entry.leaf(), is_checkpoint);
            }
            self.run = None;
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        Ok(())
    }

    /// Goes on from the newest checkpoint, if it is one of this key and ahead of what is known here.
    async fn adopt_newest(&mut self) -> Result<(), LogError> {
        let Some(stored) = self.log.last_event(&self.aggregate, Category::System).await? else { return Ok(()) };
        self.newest = self.newest.max(stored.event.position);
        let Payload::LogCheckpointed(data) = stored.event.payload() else { return Ok(()) };
        let Some(checkpoint) = self.read_own(&data) else {
            // A key that was exchanged leaves the checkpoints of the one before; one that signs behind ours is somebody's.
            if self.own < stored.event.position && self.own > Position::START && data.key_id != self.signer.public_key().id() {
                self.tell_of(data.key_id);
            }
            return Ok(());
        };
        // Whoever may publish can put a checkpoint where it does not belong: one of another log, or one of what is to come.
        if stored.event.position <= checkpoint.chain.position || checkpoint.chain.log != self.log_identity().await? {
            tracing::warn!(position = %stored.event.position, "a checkpoint is out of place; `causeway log verify` says more");
            return Ok(());
        }
        self.vouched = self.vouched.max(checkpoint.chain.position);
        if self.chain.position < checkpoint.chain.position {
            (self.chain, self.tip, self.run) = (checkpoint.chain, None, None);
            self.marks = Marks::default();
        }
        Ok(())
    }

    /// Once of each, of a few.
    fn tell_of(&mut self, key: String) {
        if self.told.len() < KEYS_TOLD_MAX && !self.told.contains(&key) {
            tracing::warn!(
                key,
                own = self.signer.public_key().id(),
                "the log is signed by another key as well: whoever trusts one of the two hears of the other; gateways of one log share a key \
                 (event_store.integrity.signing_key_file)"
            );
            self.told.push(key);
        }
    }

    /// The leaf of what stands first on the log.
    async fn log_identity(&self) -> Result<Hash, LogError> {
        if self.chain.log != Hash::ZERO {
            return Ok(self.chain.log);
        }
        let page = self.log.walk(Position::START, self.log.last_position().await?).page().await?;
        Ok(page.first().map_or(Hash::ZERO, Entry::leaf))
    }

    fn read_own(&self, data: &LogCheckpointed) -> Option<Checkpoint> {
        Checkpoint::read(data).ok().filter(|checkpoint| self.signer.public_key().has_signed(checkpoint))
    }

    async fn append(&mut self) -> Result<(), LogError> {
        let data = LogCheckpointed { marks: self.marks.behind(self.vouched), ..self.signer.sign(&self.chain) };
        let payload = Payload::LogCheckpointed(data);
        let lineage = Lineage::Root { correlation: None };
        let event = NewEvent::of(&payload, self.aggregate.clone(), self.source.clone(), lineage)?;
        let fence = Fence { aggregate_id: self.aggregate.clone(), category: Category::System, position: self.newest };
        let append = Append { events: vec![event], expected: vec![fence], idempotency_key: None };
        match self.log.append(append).await {
            Ok(appended) => {
                self.newest = appended.receipts.first().map_or(self.newest, |receipt| receipt.position);
                (self.vouched, self.own) = (self.chain.position, self.newest);
                if self.newest == self.chain.position.next() {
                    self.looked = self.newest;
                }
                tracing::debug!(position = %self.chain.position, at = %self.newest, "a checkpoint was signed");
                Ok(())
            }
            // Another gateway was faster; what it vouches for is read the next time.
            Err(LogError::Conflict { actual, .. }) => {
                self.newest = actual;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Of whatever key.
fn is_checkpoint(aggregate: &AggregateId, event_type: &EventType) -> bool {
    aggregate.as_str() == LOG_AGGREGATE && event_type.as_str() == "LogCheckpointed"
}

#[cfg(test)]
mod tests;
