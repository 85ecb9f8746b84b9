//! The hash chain: one hash that stands for everything up to a position.

use std::fmt;
use std::str::FromStr;

use causeway_event::{Invalid, Position};
use sha2::{Digest as _, Sha256};

use crate::entry::Entry;
use crate::hash::Hash;

/// What a link of the chain begins with.
const LINK: &[u8] = b"causeway/chain/1";

/// How far the chain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which log it is of: the leaf of the first entry. It stays what it was when the log is copied. Zero before the first.
    pub log: Hash,
    /// The last position that it takes account of.
    pub position: Position,
    /// How many entries stand up to there.
    pub entries: u64,
    /// Stands for all of them.
    pub hash: Hash,
}

impl Default for Chain {
    fn default() -> Self {
        Self::START
    }
}

impl Chain {
    /// Before the first entry.
    pub const START: Self = Self { log: Hash::ZERO, position: Position::START, entries: 0, hash: Hash::ZERO };

    /// Takes account of the next entry.
    pub fn push(&mut self, entry: &Entry) {
        self.link(entry.position, &entry.leaf());
    }

    /// The same with a leaf that is known.
    pub fn link(&mut self, position: Position, leaf: &Hash) {
        let link = Sha256::new().chain_update(LINK).chain_update(self.hash.as_bytes()).chain_update(leaf.as_bytes());
        let log = if self.entries == 0 { *leaf } else { self.log };
        *self = Self { log, position, entries: self.entries + 1, hash: Hash::new(link.finalize().into()) };
    }

    /// What one can keep, to compare with later.
    pub fn head(&self) -> Head {
        Head { position: self.position, hash: self.hash }
    }
}

/// `POSITION:HASH`, kept by somebody: what stood on the log up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The position.
    pub position: Position,
    /// The chain's hash there.
    pub hash: Hash,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, self.hash)
    }
}

impl FromStr for Head {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("", "is not POSITION:HASH, as `causeway log verify` prints it");
        let (position, hash) = text.split_once(':').ok_or_else(invalid)?;
        let position = position.parse().map_err(|_| invalid())?;
        Ok(Self { position, hash: hash.parse().map_err(|_| invalid())? })
    }
}
