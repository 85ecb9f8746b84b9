//! Where things stand in a conversation, so that folding an event costs the same in a long one.
//!
//! It says nothing that the lists do not say: it is not part of the JSON, is built again when a state was read back, and all
//! indexes of equal lists are equal.

use std::collections::HashMap;

use causeway_event::EventId;

use super::{Conversation, Role};

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// The user's messages by their event.
    pub(super) inputs: HashMap<EventId, usize>,
    /// The turns by their id.
    pub(super) turns: HashMap<String, usize>,
    built: bool,
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Conversation {
    /// Makes sure that the index is there: a state that was read back comes without.
    pub(super) fn build_index(&mut self) {
        if self.index.built {
            return;
        }
        let inputs = self.messages.iter().enumerate().filter(|(_, message)| message.role == Role::User);
        self.index = Index {
            inputs: inputs.map(|(at, message)| (message.event_id, at)).collect(),
            turns: self.turns.iter().enumerate().map(|(at, turn)| (turn.id.clone(), at)).collect(),
            built: true,
        };
    }
}
