//! Dead letters: events that a processor or a group gave up on, parked with the reason. They stay on the log as well.
//!
//! A letter stands on `<namespace>.dlq.<who>.<aggregate>`. One that is to be delivered to its group again moves to a subject that
//! the group's dispatcher reads, in the same stream, and is deleted when the group is done with it. Between the two steps of
//! the move a crash leaves both: the event is delivered again, which a member must bear anyway.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{DeleteMessageError, DeleteMessageErrorKind, PurgeErrorKind, Stream};
use bytes::Bytes;
use causeway_event::{AggregateId, Event, Invalid, Position};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::group::{GroupName, PREFIX};
use crate::names::Names;
use crate::raw::Raw;
use crate::{Log, LogError};

const POSITION: &str = "Causeway-Position";
const REASON: &str = "Causeway-Reason";
const DELIVERIES: &str = "Causeway-Deliveries";
/// A reason is cut to this length: all headers together may have 64 KiB.
const REASON_CHARS_MAX: usize = 2000;
/// How a server says that what is to be deleted is not there: any more, or because its stream does not reach that far.
const NO_SUCH_MESSAGE: [&str; 2] = ["no message found", "stream store EOF"];

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

/// A parked event.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Its number in the stream.
    pub number: u64,
    /// Who gave up: a group, or a processor.
    pub by: String,
    /// On what.
    pub event: Event,
    /// Why.
    pub reason: String,
    /// When.
    pub parked_at: Timestamp,
    /// How often it had been delivered; 0 if that was not counted.
    pub deliveries: u32,
}

/// A letter that is on its way back to its group.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Its number in the stream.
    pub number: u64,
    /// The event's place in the log.
    pub position: Position,
    /// Its aggregate.
    pub aggregate_id: AggregateId,
}

impl Log {
    /// Parks an event. The same letter twice within the duplicate window is one.
    pub async fn park(&self, letter: DeadLetter<'_>) -> Result<(), LogError> {
        let DeadLetter { processor, event, reason } = letter;
        self.write_letter(processor, event, reason, 0, &format!("{processor}:{}", event.id)).await
    }

    /// Parks an event that a group gave up on. `attempt` tells the letter from an earlier one of the same event.
    pub async fn park_of_group(
        &self,
        group: &GroupName,
        event: &Event,
        reason: &str,
        deliveries: u32,
        attempt: Option<u64>,
    ) -> Result<(), LogError> {
        let processor = group.as_processor();
        // A group that was started anew is another one, of which the server must not take this for a repetition.
        let id = format!("{PREFIX}{}:{}:{}", group.key(), event.id, attempt.unwrap_or_default());
        self.write_letter(&processor, event, reason, deliveries, &id).await
    }

    /// The letters behind `after`, the oldest first, at most `limit`; and whether there are more. Of one group or processor, or all.
    pub async fn letters(&self, of: Option<&str>, after: u64, limit: usize) -> Result<(Vec<Letter>, bool), LogError> {
        let names = &self.inner.names;
        let subjects = match of {
            None => vec![names.dead_letters_of_all()],
            Some(name) => names.dead_letters_by_name(name),
        };
        let (mut letters, mut more) = (Vec::new(), false);
        for subject in subjects {
            let (found, beyond) = self.letters_on(&subject, after, limit, letter).await?;
            letters.extend(found);
            more |= beyond;
        }
        letters.sort_by_key(|letter| letter.number);
        more |= letters.len() > limit;
        letters.truncate(limit);
        Ok((letters, more))
    }

    /// How many letters of a group there are.
    pub async fn count_letters(&self, group: &GroupName) -> Result<u64, LogError> {
        let subject = self.inner.names.dead_letters_of(&group.as_processor());
        let counts = self.letters_stream().await?.info_with_subjects(subject).await.map_err(LogError::unavailable)?;
        let counts: Vec<(String, usize)> = counts.try_collect().await.map_err(LogError::unavailable)?;
        Ok(counts.into_iter().map(|(_, count)| count as u64).sum())
    }

    /// The number of the newest letter or replay, of whomever; 0 if there never was one.
    pub async fn last_letter(&self) -> Result<u64, LogError> {
        let info = self.letters_stream().await?.get_info().await.map_err(LogError::unavailable)?;
        Ok(info.state.last_sequence)
    }

    /// Sends these letters back to their group; says how many there were. [`LogError::Unknown`] if it broke off when some of them
    /// may have been moved: the same again does the rest.
    pub async fn replay_letters(&self, group: &GroupName, numbers: &[u64]) -> Result<u32, LogError> {
        let mut replayed = 0;
        for number in numbers {
            let message = self.raw_letter(&json!({ "seq": number })).await.map_err(|error| broke_off(replayed, error))?;
            let Some(message) = message else { continue };
            if Names::processor_of(&message.subject) == Some(&group.as_processor()) {
                replayed += self.send_back(group, &message).await?;
            }
        }
        Ok(replayed)
    }

    /// Sends back all letters of the group up to this number, the oldest first, until `time` is over. How many there were, and
    /// whether there are more. Breaks off as [`Log::replay_letters`] does.
    pub async fn replay_all(&self, group: &GroupName, up_to: u64, time: Duration) -> Result<(u32, bool), LogError> {
        let subject = self.inner.names.dead_letters_of(&group.as_processor());
        let (begun, mut replayed, mut next) = (Instant::now(), 0, 1);
        loop {
            let message = self.raw_letter(&json!({ "seq": next, "next_by_subj": subject })).await;
            let message = message.map_err(|error| broke_off(replayed, error))?.filter(|message| number(message) <= up_to);
            let Some(message) = message else { return Ok((replayed, false)) };
            // At least one, so that asking again and again comes to an end.
            if next > 1 && time < begun.elapsed() {
                return Ok((replayed, true));
            }
            next = number(&message) + 1;
            replayed += self.send_back(group, &message).await?;
        }
    }

    /// Takes these letters of a group or processor off the list for good; says how many there were. Breaks off as
    /// [`Log::replay_letters`] does.
    pub async fn discard_letters(&self, of: &str, numbers: &[u64]) -> Result<u32, LogError> {
        let mut discarded = 0;
        for number in numbers {
            let message = self.raw_letter(&json!({ "seq": number })).await.map_err(|error| broke_off(discarded, error))?;
            let by = message.as_ref().and_then(|message| Names::processor_of(&message.subject));
            if by.is_some_and(|by| by.strip_prefix(PREFIX).unwrap_or(by) == of) {
                self.delete_letter(*number).await.map_err(|error| broke_off(begun(discarded, &error), error))?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }

    /// Takes all letters of a group or processor up to this number off the list for good; says how many there were.
    pub async fn discard_all(&self, of: &str, up_to: u64) -> Result<u32, LogError> {
        let (stream, mut discarded) = (self.letters_stream().await?, 0_u32);
        for subject in self.inner.names.dead_letters_by_name(of) {
            let purged = stream.purge().sequence(up_to.saturating_add(1)).filter(subject).await.map_err(|error| {
                let error = match error.kind() {
                    PurgeErrorKind::JetStream(refused) if refused.code() != 503 => {
                        LogError::Refused { code: refused.error_code().0, reason: format!("to delete dead letters: {refused}") }
                    }
                    _ => LogError::unavailable(error),
                };
                broke_off(begun(discarded, &error), error)
            })?;
            discarded = discarded.saturating_add(u32::try_from(purged.purged).unwrap_or(u32::MAX));
        }
        Ok(discarded)
    }

    /// What is on its way back to a group behind this number, the oldest first, at most `limit`; and whether there is more.
    pub async fn replays(&self, group: &GroupName, after: u64, limit: usize) -> Result<(Vec<Replay>, bool), LogError> {
        self.letters_on(&self.inner.names.replays(group.as_str()), after, limit, replay).await
    }

    /// Nobody waits for a letter any more: its group is done with it, or it was sent back or discarded.
    pub async fn delete_letter(&self, number: u64) -> Result<(), LogError> {
        is_deleted(self.letters_stream().await?.delete_message(number).await)
    }

    /// Nobody waits for what is on its way back to the group.
    pub(crate) async fn drop_replays(&self, group: &GroupName) -> Result<(), LogError> {
        let stream = self.letters_stream().await?;
        stream.purge().filter(self.inner.names.replays(group.as_str())).await.map(drop).map_err(LogError::unavailable)
    }

    /// Moves a letter of the group; 0 if it cannot be read. Nothing less than its end is certain.
    async fn send_back(&self, group: &GroupName, message: &Raw) -> Result<u32, LogError> {
        let (Some(letter), Ok(mut headers)) = (letter(message), message.readable()) else { return Ok(0) };
        headers.insert("Nats-Msg-Id", format!("replay:{}", letter.number));
        let subject = self.inner.names.replay(group.as_str(), &letter.event.aggregate_id);
        let moved = async {
            self.store_letter(subject, headers, message.payload.clone()).await?;
            self.delete_letter(letter.number).await
        };
        moved.await.map(|()| 1).map_err(|error| broke_off(1, error))
    }

    async fn write_letter(
        &self,
        processor: &str,
        event: &Event,
        reason: &str,
        deliveries: u32,
        id: &str,
    ) -> Result<(), LogError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", Names::message_id(&event.aggregate_id, id));
        headers.insert(POSITION, event.position.to_string());
        headers.insert(DELIVERIES, deliveries.to_string());
        // A header holds one line.
        headers.insert(REASON, reason.replace(['\r', '\n'], " ").chars().take(REASON_CHARS_MAX).collect::<String>());
        let json = serde_json::to_vec(event).map_err(|error| Invalid::new("", error.to_string()))?;
        self.store_letter(self.inner.names.dead_letter(processor, &event.aggregate_id), headers, Bytes::from(json)).await
    }

    async fn store_letter(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), LogError> {
        let sent = self.jetstream().publish_with_headers(subject, headers, payload).await;
        sent.map_err(LogError::unavailable)?.await.map_err(LogError::unavailable)?;
        Ok(())
    }

    /// What `read` makes of the letters on a subject behind `after`, at most `limit`, and whether there are more.
    async fn letters_on<T>(
        &self,
        subject: &str,
        after: u64,
        limit: usize,
        read: impl Fn(&Raw) -> Option<T>,
    ) -> Result<(Vec<T>, bool), LogError> {
        let (mut letters, mut next) = (Vec::new(), after.saturating_add(1));
        while let Some(message) = self.raw_letter(&json!({ "seq": next, "next_by_subj": subject })).await? {
            if letters.len() == limit {
                return Ok((letters, true));
            }
            next = number(&message) + 1;
            match read(&message) {
                Some(letter) => letters.push(letter),
                None => tracing::warn!(number = number(&message), "what lies among the dead letters is none; it is left out"),
            }
        }
        Ok((letters, false))
    }

    /// Whoever has access to the stream can have put something there that the client library breaks at.
    async fn raw_letter(&self, request: &Value) -> Result<Option<Raw>, LogError> {
        self.require_connection()?;
        self.raw_of(&self.inner.names.dead_letters_stream(), request).await
    }

    async fn letters_stream(&self) -> Result<Stream<()>, LogError> {
        self.require_connection()?;
        self.jetstream().get_stream_no_info(self.inner.names.dead_letters_stream()).await.map_err(LogError::unavailable)
    }
}

/// Where it stands in its stream.
fn number(message: &Raw) -> u64 {
    message.position.get()
}

fn letter(message: &Raw) -> Option<Letter> {
    let headers = message.readable().ok()?;
    let header = |name: &str| headers.get(name).map(async_nats::HeaderValue::as_str);
    let by = Names::processor_of(&message.subject)?;
    Some(Letter {
        number: number(message),
        by: by.strip_prefix(PREFIX).unwrap_or(by).to_owned(),
        event: serde_json::from_slice(&message.payload).ok()?,
        reason: header(REASON).unwrap_or_default().to_owned(),
        parked_at: Timestamp::from_nanosecond(message.time_ns).ok()?,
        deliveries: header(DELIVERIES).and_then(|text| text.parse().ok()).unwrap_or_default(),
    })
}

fn replay(message: &Raw) -> Option<Replay> {
    let event: Event = serde_json::from_slice(&message.payload).ok()?;
    Some(Replay { number: number(message), position: event.position, aggregate_id: event.aggregate_id })
}

/// What it means that something failed when so many letters were, or may have been, moved or deleted before.
fn broke_off(moved: u32, error: LogError) -> LogError {
    if moved == 0 {
        return error;
    }
    tracing::warn!(%error, "moving or deleting dead letters broke off; the same again does the rest");
    LogError::Unknown
}

/// How many were, or may have been, deleted when the next deletion failed: only one that was refused has surely done nothing.
fn begun(deleted: u32, error: &LogError) -> u32 {
    deleted.saturating_add(u32::from(!matches!(error, LogError::Refused { .. })))
}

/// Whether nothing stands there any more. A server that refuses to delete, or cannot at the moment, has not deleted.
fn is_deleted(result: Result<bool, DeleteMessageError>) -> Result<(), LogError> {
    let error = match result {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    match error.kind() {
        DeleteMessageErrorKind::JetStream(refused) => match refused.error_code() {
            ErrorCode::SEQUENCE_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND => Ok(()),
            // One code for whatever is in the way of a deletion: only the text tells.
            _ if NO_SUCH_MESSAGE.iter().any(|text| refused.to_string().starts_with(text)) => Ok(()),
            _ if refused.code() == 503 => Err(LogError::unavailable(error)),
            code => Err(LogError::Refused { code: code.0, reason: format!("to delete a dead letter: {refused}") }),
        },
        DeleteMessageErrorKind::Request | DeleteMessageErrorKind::TimedOut => Err(LogError::unavailable(error)),
    }
}
