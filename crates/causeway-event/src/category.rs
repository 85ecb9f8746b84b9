//! The few kinds of event that subjects, fences and filters know.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{EventType, Invalid, payload};

/// What kind of event a type is. Optimistic concurrency holds per aggregate and category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// What came in from outside.
    Input,
    /// What the AI processor did.
    Ai,
    /// What went out.
    Output,
    /// What is remembered.
    Memory,
    /// Everything else: the users' own types.
    Custom,
    /// What Causeway says of the log itself: registered types, checkpoints.
    System,
}

impl Category {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Input, Self::Ai, Self::Output, Self::Memory, Self::Custom, Self::System];

    /// The category of a type; a type that is not known is `custom`.
    pub fn of(event_type: &EventType) -> Self {
        payload::known(event_type.as_str()).unwrap_or(Self::Custom)
    }

    /// Its name in subjects, JSON and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Ai => "ai",
            Self::Output => "output",
            Self::Memory => "memory",
            Self::Custom => "custom",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Category {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|category| category.as_str() == text)
            .ok_or_else(|| Invalid::new("", "is not a category: input, ai, output, memory, custom or system"))
    }
}
