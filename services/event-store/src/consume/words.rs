//! What a group's dispatcher and members say to each other, as JSON over core NATS. Both may be of different versions for the time
//! of an upgrade: fields are only ever added.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// To the dispatcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(super) enum ToDispatcher {
    /// I am here, work on so much at once, and have these (position, deliveries). Of them these still wait for my client to take them.
    Announce {
        member: String,
        room: usize,
        held: Vec<(u64, u32)>,
        #[serde(default)]
        waiting: Vec<u64>,
    },
    /// I am going, to be answered with [`Reply::Done`]. Of what was delivered to me these (position, deliveries) broke off with my
    /// client, and the others were given back; from members before this was said: nothing is known of it.
    Leave {
        member: String,
        #[serde(default)]
        given: Option<Vec<(u64, u32)>>,
    },
    /// Of a delivery. To be answered with a [`Reply`].
    Answer { member: String, position: u64, deliveries: u32, answer: Answer },
    /// There is something to be delivered again.
    Replays,
    /// To be answered with a [`Status`].
    Status,
}

/// What a client, and so its member, says of a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Answer {
    Ack,
    Nak {
        delay_ms: Option<u64>,
        reason: String,
        /// The client did not say so: its time is over.
        #[serde(default)]
        unanswered: bool,
    },
    Progress,
    Park {
        reason: String,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done,
    /// Say it again in a moment.
    Later,
    /// It is no longer yours.
    Stale,
}

/// How it goes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) in_flight: u64,
}

/// To one member, or to all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(super) enum ToMember {
    /// Work on this.
    Deliver { position: u64, deliveries: u32 },
    /// Who is there?
    Call,
    /// The group was deleted.
    Deleted,
}

pub(super) fn write(words: &impl Serialize) -> Vec<u8> {
    // Numbers, texts and enums of those: nothing that JSON cannot say.
    serde_json::to_vec(words).unwrap_or_default()
}

/// None for what is of a later version, or of somebody who should not be here.
pub(super) fn read<T: DeserializeOwned>(words: &[u8]) -> Option<T> {
    serde_json::from_slice(words).inspect_err(|error| tracing::debug!(%error, "words of a group were not understood")).ok()
}
