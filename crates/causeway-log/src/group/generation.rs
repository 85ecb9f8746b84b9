//! Which of the groups of one name is the newest: a number in the bucket of the leases, one higher for each that was deleted.
//!
//! Asked of the leader: a replica may not know yet of a group that was deleted a moment ago.

use async_nats::jetstream::kv::{self, UpdateErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;

use super::GroupName;
use crate::{Log, LogError};

/// Stands before a group's name: no lease has a dot in its key.
const PREFIX: &str = "generation.";

impl Log {
    /// The newest group of this name, which may not have been started.
    pub(super) async fn newest(&self, group: &GroupName) -> Result<GroupName, LogError> {
        self.require_connection()?;
        let bucket = self.group_leases().await?;
        Ok(GroupName { generation: generation(&bucket, group).await?.0, ..group.clone() })
    }

    /// Makes the next one the newest.
    pub(super) async fn pass(&self, group: &GroupName) -> Result<(), LogError> {
        let bucket = self.group_leases().await?;
        loop {
            let (newest, revision) = generation(&bucket, group).await?;
            if newest > group.generation {
                return Ok(());
            }
            let next = Bytes::from((group.generation + 1).to_string());
            match bucket.update(key(group), next, revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(LogError::unavailable(format!("the generation of group {group}: {error}"))),
            }
        }
    }
}

fn key(group: &GroupName) -> String {
    format!("{PREFIX}{}", group.as_str())
}

/// And the revision that says so.
async fn generation(bucket: &kv::Store, group: &GroupName) -> Result<(u64, u64), LogError> {
    let subject = format!("{}{}", bucket.prefix, key(group));
    match bucket.stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => {
            let text = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
            let generation = text.ok_or_else(|| LogError::Mismatch { what: format!("{subject} is no number") })?;
            Ok((generation, message.sequence))
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok((0, 0)),
        Err(error) => Err(LogError::unavailable(format!("the generation of group {group}: {error}"))),
    }
}
