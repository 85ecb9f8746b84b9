//! The audit: every entry of a log, or of its export, held against what is known to be true of an honest one.
//!
//! The true chain is what stands here, and ends as the head that one can keep. Two others are set right wherever something did
//! not agree, one by checkpoints, one by the hashes that an export states with each line: so one altered entry is named once
//! and does not make everything behind it look altered.
//!
//! A gap, and what is no event, may have been there from the start or be the trace of a deed. A checkpoint that agrees says
//! that it stood so when it was signed: only then is it a mere warning.
//!
//! That nothing is wrong and that somebody vouches for it are two things: whoever can write to a log can take its checkpoints out.
//! So the summary names both, and with trusted keys a log that none of them vouches for fails.

mod checks;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use causeway_event::payload::LogCheckpointed;
use causeway_event::{AggregateId, Category, EventId, Position};

use crate::chain::{Chain, Head};
use crate::checkpoint::{Checkpoint, PublicKey};
use crate::entry::{Content, Entry, Payload, Recorded};
use crate::hash::Hash;
use crate::{LOG_AGGREGATE, Line};

/// How far behind its own place a checkpoint can vouch, in entries, and still be compared.
const RECENT_MAX: usize = if cfg!(test) { 1000 } else { 100_000 };
/// How many events without their data are named; all are counted.
const WITHOUT_DATA_MAX: usize = 20;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The position it is about; of several, the first.
    pub position: Position,
    /// The last of several.
    pub last: Position,
    /// What sort it is.
    pub fault: Fault,
    /// Whether it fails the audit.
    pub severity: Severity,
    /// In words.
    pub what: String,
}

/// Whether a finding fails the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Worth a look, and possible in an honest log.
    Warning,
    /// Not possible in an honest log.
    Problem,
}

/// The sorts of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing stands where something should.
    Missing,
    /// A position that is not behind the one before it.
    OutOfOrder,
    /// No event.
    NoEvent,
    /// Not a line of an export.
    BadLine,
    /// An export without its end.
    CutOff,
    /// Not what was hashed.
    Altered,
    /// Not what was signed.
    Checkpoint,
    /// Not signed by who should have.
    Signature,
    /// Nobody who is trusted vouches for any of it.
    Unvouched,
    /// An export that begins behind the log's beginning.
    Unseen,
    /// Events of which only the data's digest is there.
    WithoutData,
    /// Not what somebody kept.
    KeptHead,
    /// An id that another event has.
    DuplicateId,
    /// An idempotency key that another append to the aggregate has.
    DuplicateKey,
    /// A fence that did not hold.
    Fence,
    /// A cause that does not stand before its effect.
    Cause,
}

impl Fault {
    /// Its name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OutOfOrder => "out_of_order",
            Self::NoEvent => "no_event",
            Self::BadLine => "bad_line",
            Self::CutOff => "cut_off",
            Self::Altered => "altered",
            Self::Checkpoint => "checkpoint",
            Self::Signature => "signature",
            Self::Unvouched => "unvouched",
            Self::Unseen => "unseen",
            Self::WithoutData => "without_data",
            Self::KeptHead => "kept_head",
            Self::DuplicateId => "duplicate_id",
            Self::DuplicateKey => "duplicate_key",
            Self::Fence => "fence",
            Self::Cause => "cause",
        }
    }
}

/// What the auditor brings along.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Who may sign. With none, hashes are compared and signatures are not.
    pub keys: Vec<PublicKey>,
    /// Heads that somebody kept.
    pub heads: Vec<Head>,
    /// Whether there is a first checkpoint by now, if anybody signs.
    pub first_checkpoint: FirstCheckpoint,
}

/// A log that nobody vouches for is one that was rewritten, unless it is too young.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstCheckpoint {
    /// Its absence is a problem.
    #[default]
    Due,
    /// Its absence is a warning.
    StillToCome,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// What it began behind: nothing was seen of what stands before.
    pub start: Chain,
    /// The chain over what stands here.
    pub chain: Chain,
    /// Entries that were seen.
    pub seen: u64,
    /// Events among the entries.
    pub events: u64,
    /// Of those, how many have their data taken out: what it was, only its digest says.
    pub without_data: u64,
    /// Checkpoints that agree with what they vouch for.
    pub checkpoints: u64,
    /// Of those, how many were signed by one of the given keys.
    pub signed: u64,
    /// The last position up to which a checkpoint of a trusted key, or a kept head, vouches for what was seen.
    pub vouched: Position,
    /// Entries that were seen behind it: for those nobody vouches.
    pub unvouched: u64,
    /// Findings that fail the audit.
    pub problems: u64,
    /// The other findings.
    pub warnings: u64,
}

/// Positions at which nothing stands.
#[derive(Debug)]
struct Gap {
    first: Position,
    last: Position,
    /// It is known that something did, and that was told.
    is_taken_out: bool,
}

/// A line whose hash does not fit what stands up to it: that line was altered, or one before it, of which the hashes up to here were
/// made anew. Only marks tell which.
#[derive(Debug)]
struct Misfit {
    position: Position,
    /// A line before it is missing, and that was told.
    is_told: bool,
}

/// An audit under way. Its memory grows with the ids, keys and aggregates that it has to remember.
#[derive(Debug, Default)]
pub struct Audit {
    keys: Vec<PublicKey>,
    first_checkpoint: FirstCheckpoint,
    heads: BTreeMap<Position, Vec<Hash>>,
    leaves: BTreeMap<Position, Hash>,
    /// Where nothing stood in what somebody kept, if that was not passed.
    kept_gaps: Vec<(Position, Position)>,
    /// Whether somebody kept the head that it began behind.
    start_is_kept: bool,
    seen: Position,
    truth: Chain,
    /// The chain as checkpoints see it.
    expected: Chain,
    /// The chain as an export's own hashes have it.
    stated: Chain,
    /// Whether the chain that checkpoints see was ever set right: if not, what they agree with is what stands here.
    broken: bool,
    /// Up to here a checkpoint of whatever key was compared.
    compared: Position,
    /// Entries up to what is vouched for, by the chain.
    vouched_entries: u64,
    /// Whether anything was seen but checkpoints.
    has_content: bool,
    /// The leaves of the last entries, and the expected chain with each.
    recent: VecDeque<(Hash, Chain)>,
    ids: HashSet<EventId>,
    used_keys: HashSet<(AggregateId, Hash)>,
    tips: HashMap<(AggregateId, Category), Position>,
    /// Where nothing stands.
    gaps: Vec<Gap>,
    /// Lines of an export whose hash does not fit, and was set right, since a checkpoint was compared.
    misfits: Vec<Misfit>,
    /// The first events whose data was taken out, and the last one.
    without_data: Vec<Position>,
    without_data_last: Position,
    /// Findings that a checkpoint may explain.
    pending: Vec<Finding>,
    found: Vec<Finding>,
    summary: Summary,
    ended: bool,
}

impl Audit {
    /// Of what stands behind `start`, which is the start of the chain for a whole log.
    pub fn new(start: Chain, trust: Trust) -> Self {
        let mut heads: BTreeMap<Position, Vec<Hash>> = BTreeMap::new();
        for head in trust.heads {
            heads.entry(head.position).or_default().push(head.hash);
        }
        let mut audit = Self { keys: trust.keys, first_checkpoint: trust.first_checkpoint, heads, ..Self::default() };
        audit.summary.chain = start;
        audit.begin(start);
        audit
    }

    fn begin(&mut self, start: Chain) {
        (self.summary.start, self.seen, self.compared) = (start, start.position, start.position);
        (self.truth, self.expected, self.stated) = (start, start, start);
        self.vouched_entries = start.entries;
        self.recent = VecDeque::from([(Hash::ZERO, start)]);
        self.compare_heads();
        self.start_is_kept = self.summary.vouched == start.position;
    }

    /// What it began behind.
    fn start(&self) -> Position {
        self.summary.start.position
    }

    /// A leaf that somebody kept, of a position that has not been seen yet: of an export, read in step with this.
    pub fn keep(&mut self, position: Position, leaf: Hash) {
        self.leaves.insert(position, leaf);
    }

    /// Nothing stood from `first` to `last` in what somebody kept, of which nothing has been seen yet.
    pub fn keep_gap(&mut self, first: Position, last: Position) {
        self.kept_gaps.push((first, last));
    }

    /// What was kept is not whole: it says nothing of what stands behind this position.
    pub fn kept_in_part(&mut self, position: Position, what: String) {
        self.warning(Fault::CutOff, position, what);
    }

    /// The next entry of a log.
    pub fn entry(&mut self, entry: &Entry) {
        self.take(entry, None);
    }

    /// The next line of an export.
    pub fn line(&mut self, line: &Line) {
        if self.ended {
            let what = "the export goes on behind its end".to_owned();
            self.problem(Fault::OutOfOrder, self.seen.next(), self.seen.next(), what);
            self.ended = false;
        }
        match line {
            Line::Start(chain) if self.seen == Position::START && chain.position != Position::START => self.begin(*chain),
            Line::Start(_) => {
                self.problem(Fault::OutOfOrder, self.seen.next(), self.seen.next(), "the export begins a second time".to_owned());
            }
            Line::Entry { entry, hash } => self.take(entry, Some(*hash)),
            Line::Gap { first, last } => self.gap(*first, *last),
            Line::End(chain) => self.end(chain),
        }
    }

    /// A line of an export that is none.
    pub fn bad_line(&mut self, what: String) {
        let position = self.seen.next();
        self.problem(Fault::BadLine, position, position, what);
    }

    /// The export has no more lines.
    pub fn no_more_lines(&mut self) {
        if !self.ended {
            let position = self.seen.next();
            let what = format!("the export breaks off behind position {}: its end is missing", self.seen);
            self.problem(Fault::CutOff, position, position, what);
        }
    }

    /// What was found since the last call.
    pub fn findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.found)
    }

    /// How far it has come.
    pub fn position(&self) -> Position {
        self.seen
    }

    /// The chain over what has been seen.
    pub fn chain(&self) -> Chain {
        self.truth
    }

    /// There is nothing more. The last findings and the whole.
    pub fn finish(mut self) -> (Vec<Finding>, Summary) {
        self.settle(Position::new(u64::MAX), Severity::Problem);
        self.tell_misfits(Position::new(u64::MAX), |_| true);
        self.say_what_was_not_seen();
        self.say_what_has_no_data();
        for (position, _) in std::mem::take(&mut self.heads) {
            let what = if self.seen < position {
                format!("the log ends at position {}, before the kept head at {position}", self.seen)
            } else if position < self.start() {
                format!("the kept head at {position} cannot be compared: the export begins behind position {}", self.start())
            } else {
                format!("nothing stands at position {position}, of which a head was kept")
            };
            self.problem(Fault::KeptHead, position, position, what);
        }
        if let Some((&first, _)) = self.leaves.first_key_value()
            && first <= self.start()
        {
            let last = self.start();
            let what = format!("positions {first} to {last} of what was kept cannot be compared: the export begins behind them");
            self.problem(Fault::Unseen, first, last, what);
        }
        if let Some((&position, _)) = self.leaves.last_key_value()
            && self.seen < position
        {
            let what = format!("the log ends at position {}, what was kept goes on to {position}", self.seen);
            self.problem(Fault::CutOff, self.seen.next(), position, what);
        }
        self.summary.chain = self.truth;
        self.summary.unvouched = self.truth.entries.saturating_sub(self.vouched_entries).min(self.summary.seen);
        self.say_whether_anybody_vouches();
        (self.found, self.summary)
    }
}
