//! What a state depends on besides its events: how the registry of types showed them.
//!
//! An event of a registered type is folded in the newest version of its type. A later version of that type makes such a state
//! wrong; of another type it does not.

use std::collections::BTreeMap;

use axum::body::Bytes;
use causeway_event::{Event, EventType, Position};
use serde::{Deserialize, Serialize};

use super::View;
use crate::types::Types;

/// The registered types whose events are in a state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Basis {
    /// Each with the registry's revision before the first of its events was shown.
    types: BTreeMap<EventType, Position>,
}

impl Basis {
    /// Takes note of an event that was shown by the registry as of `revision`, or a later one.
    pub(super) fn take(&mut self, event: &Event, revision: Position) {
        if event.metadata.schema_version.is_some() && !self.types.contains_key(&event.event_type) {
            self.types.insert(event.event_type.clone(), revision);
        }
    }

    /// Whether all those events would still be shown as they were.
    pub(super) fn holds(&self, types: &Types) -> bool {
        self.types.is_empty() || types.unchanged(self.types.iter().map(|(name, revision)| (name, *revision)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.types.keys().map(|name| name.as_str().len() + size_of::<Position>()).sum()
    }

    /// A snapshot as it is kept: what it depends on stands in a line before it.
    pub(super) fn sealed(&self, view: &View, state: Bytes) -> serde_json::Result<Bytes> {
        if !view.own_types {
            return Ok(state);
        }
        let mut sealed = serde_json::to_vec(self)?;
        sealed.push(b'\n');
        sealed.extend_from_slice(&state);
        Ok(sealed.into())
    }

    /// What was sealed; `None` if it is something else.
    pub(super) fn opened(view: &View, mut sealed: Vec<u8>) -> Option<(Self, Vec<u8>)> {
        if !view.own_types {
            return Some((Self::default(), sealed));
        }
        let end = sealed.iter().position(|byte| *byte == b'\n')?;
        let basis = serde_json::from_slice(&sealed[..end]).ok()?;
        sealed.drain(..=end);
        Some((basis, sealed))
    }
}
