//! Dead letters: events that a processor gave up on, parked with the reason. They stay on the log as well.

use async_nats::HeaderMap;
use bytes::Bytes;
use causeway_event::Event;

use crate::names::Names;
use crate::{Log, LogError};

/// Why a processor gave up on an event.
#[derive(Clone, Debug)]
pub struct DeadLetter<'e> {
    /// Who gave up.
    pub processor: &'static str,
    /// On what.
    pub event: &'e Event,
    /// Why, for a person.
    pub reason: &'e str,
}

impl Log {
    /// Parks an event. The same letter twice within the duplicate window is one.
    pub async fn park(&self, letter: DeadLetter<'_>) -> Result<(), LogError> {
        let DeadLetter { processor, event, reason } = letter;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", Names::message_id(&event.aggregate_id, &format!("{processor}:{}", event.id)));
        headers.insert("Causeway-Position", event.position.to_string());
        // A header holds one line.
        headers.insert("Causeway-Reason", reason.replace(['\r', '\n'], " "));
        let json = serde_json::to_vec(event).map_err(|error| causeway_event::Invalid::new("", error.to_string()))?;
        let subject = self.inner.names.dead_letter(processor, &event.aggregate_id);
        let sent = self.inner.jetstream.publish_with_headers(subject, headers, Bytes::from(json)).await;
        sent.map_err(LogError::unavailable)?.await.map_err(LogError::unavailable)?;
        Ok(())
    }
}
