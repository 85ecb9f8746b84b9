//! A piece of a message that is being generated: not an event, never stored.

use serde::{Deserialize, Serialize};

/// What the model is saying right now. The log gets the whole message once, as an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The turn that generates it.
    pub turn: String,
    /// The model call within the turn, from 1.
    pub step: u32,
    /// What the text is.
    pub kind: DeltaKind,
    /// The piece.
    pub text: String,
}

/// What a delta's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltaKind {
    /// A piece of the answer.
    Text,
    /// A piece of the model's reasoning.
    Thinking,
    /// Without text: the model call failed and is made again, so what was said of this step is void.
    Reset,
}
