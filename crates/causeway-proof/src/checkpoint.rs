//! Checkpoints: whoever holds the signing key vouches for the log up to a position.
//!
//! What is signed is five lines of text, so that any Ed25519 tool can check it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_event::payload::LogCheckpointed;
use causeway_event::{Invalid, Position};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::chain::Chain;
use crate::hash::{Hash, from_hex, to_hex};
use crate::marks::Marks;

/// What is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a key: 32 bytes as 64 hex digits or as base64")]
pub struct KeyError;

/// The 32 bytes of a key: as hex digits or as base64, with white space around.
pub fn key_bytes(text: &str) -> Result<[u8; 32], KeyError> {
    let text = text.trim();
    from_hex(text).or_else(|| STANDARD.decode(text).ok()?.try_into().ok()).ok_or(KeyError)
}

/// The secret half of a key. Its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// The key of this seed, which must be secret and random.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key of the seed that this text holds.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        key_bytes(text).map(|seed| Self::from_seed(&seed))
    }

    /// The half that everybody may know.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Vouches for what the chain takes account of.
    pub fn sign(&self, chain: &Chain) -> LogCheckpointed {
        let signature = self.0.sign(statement(chain).as_bytes());
        LogCheckpointed {
            log: chain.log.to_string(),
            position: chain.position.get(),
            events: chain.entries,
            hash: chain.hash.to_string(),
            key_id: self.public_key().id(),
            signature: to_hex(&signature.to_bytes()),
            marks: String::new(),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public_key().id())
    }
}

/// The half of a key that everybody may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key that this text holds.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_bytes(&key_bytes(text)?).map(Self).map_err(|_| KeyError)
    }

    /// A short name: the first 16 hex digits of its SHA-256.
    pub fn id(&self) -> String {
        to_hex(&Hash::of(self.0.as_bytes()).as_bytes()[..8])
    }

    /// Whether the holder of this key signed this.
    pub fn has_signed(&self, checkpoint: &Checkpoint) -> bool {
        self.0.verify_strict(statement(&checkpoint.chain).as_bytes(), &checkpoint.signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(self.0.as_bytes()))
    }
}

/// A checkpoint as it stands on the log, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it vouches for.
    pub chain: Chain,
    /// Which key is said to have signed.
    pub key_id: String,
    pub(crate) marks: Marks,
    signature: Signature,
}

impl Checkpoint {
    /// Reads the data of a `LogCheckpointed`. The error's field is the path in it.
    pub fn read(data: &LogCheckpointed) -> Result<Self, Invalid> {
        let log = data.log.parse().map_err(|invalid: Invalid| invalid.within("/log"))?;
        let hash = data.hash.parse().map_err(|invalid: Invalid| invalid.within("/hash"))?;
        let signature = from_hex(&data.signature).ok_or_else(|| Invalid::new("/signature", "is not 128 hex digits"))?;
        let position = Position::new(data.position);
        Ok(Self {
            chain: Chain { log, position, entries: data.events, hash },
            key_id: data.key_id.clone(),
            marks: Marks::read(&data.marks, position).map_err(|invalid| invalid.within("/marks"))?,
            signature: Signature::from_bytes(&signature),
        })
    }
}

/// What is signed.
fn statement(chain: &Chain) -> String {
    format!("causeway checkpoint 1\n{}\n{}\n{}\n{}\n", chain.log, chain.position, chain.entries, chain.hash)
}
