//! Walking the log: everything that stands on it, in order, with what an export and a proof need of it.
//!
//! Reads in pages of direct gets, without state on the server. It hands over what it finds and judges nothing: gaps are for
//! the caller to see.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_event::{Invalid, Position};
use causeway_proof::{Content, Entry, Foreign, Payload, Recorded, is_of_nats};
use serde_json::json;

use crate::direct;
use crate::message::{self, Place, Record, imported};
use crate::raw::Raw;
use crate::{Log, LogError};

/// What one page has at most: bounds what is held in memory.
const PAGE_MESSAGES_MAX: u64 = 1000;
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Pause before a replica that has not got everything yet is asked again.
const LAG_PAUSE: Duration = Duration::from_millis(50);
/// After this long the stream's leader is asked whether there is more.
const LAG_MAX: Duration = Duration::from_secs(2);

/// Stands for the headers that no client can read, in base64. The space keeps it from being the name of one.
const RAW_HEADERS: &str = "raw headers";

/// A walk from one position to another.
pub struct Walk {
    log: Log,
    seen: Position,
    up_to: Position,
}

impl Log {
    /// Everything behind `after`, up to `up_to`.
    pub fn walk(&self, after: Position, up_to: Position) -> Walk {
        Walk { log: self.clone(), seen: after, up_to }
    }

    /// What stands on the log as a message.
    fn entry(&self, place: &Place<'_>, headers: Option<&HeaderMap>, payload: &Bytes) -> Entry {
        self.entry_of(message::record(&self.inner.names, place, headers, payload), place, headers, payload)
    }

    /// What stands on the log as a message that was read as this.
    pub(crate) fn entry_of(&self, record: Record, place: &Place<'_>, headers: Option<&HeaderMap>, payload: &Bytes) -> Entry {
        let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str);
        let content = match record {
            Record::Event(stored) => Content::Event(Box::new(Recorded {
                id: stored.event.id,
                timestamp: stored.event.timestamp,
                event_type: stored.event.event_type,
                aggregate_id: stored.event.aggregate_id,
                metadata: stored.event.metadata,
                key: stored.key,
                expected: header(imported::EXPECTED)
                    .or_else(|| header("Nats-Expected-Last-Subject-Sequence"))
                    .and_then(|position| position.parse().ok()),
                payload: Payload::Bytes(payload.clone()),
            })),
            Record::Unreadable { reason, .. } => Content::Foreign(Foreign {
                subject: self.inner.names.relative(place.subject).to_owned(),
                headers: headers.map(foreign_headers).unwrap_or_default(),
                payload: payload.clone(),
                reason,
            }),
        };
        Entry { position: Position::new(place.sequence), content }
    }

    /// What stands on the log as a message that was read by itself.
    pub(crate) fn raw_entry(&self, raw: &Raw) -> Entry {
        match raw.readable() {
            Ok(headers) => self.entry(&raw.place(), Some(&headers), &raw.payload),
            Err(reason) => self.unreadable(raw, Invalid::new("headers", reason)),
        }
    }

    /// A message whose headers cannot be told apart: they are kept as they came, under a name that no header can have.
    fn unreadable(&self, raw: &Raw, reason: Invalid) -> Entry {
        let content = Content::Foreign(Foreign {
            subject: self.inner.names.relative(&raw.subject).to_owned(),
            headers: vec![(RAW_HEADERS.to_owned(), STANDARD.encode(&raw.headers))],
            payload: raw.payload.clone(),
            reason,
        });
        Entry { position: raw.position, content }
    }
}

impl Walk {
    /// The next entries; none at the end. After an error the same page is read again.
    pub async fn page(&mut self) -> Result<Vec<Entry>, LogError> {
        let give_up = tokio::time::Instant::now() + LAG_MAX;
        while self.seen < self.up_to {
            let mut page = Vec::new();
            let request = json!({
                "seq": self.seen.next().get(),
                "next_by_subj": self.log.inner.names.all_events(),
                "batch": (self.up_to.get() - self.seen.get()).min(PAGE_MESSAGES_MAX),
                "max_bytes": PAGE_BYTES_MAX,
            });
            let begun = tokio::time::Instant::now();
            let read = self.log.batch(&request, |message| {
                let entry = self.read(message)?;
                page.push(entry);
                Ok(())
            });
            match read.await {
                // What came before it broke is sound. What comes next may be what broke it.
                Err(error)
                    if error.is_transient() && page.is_empty() && begun.elapsed() < self.log.inner.config.request_timeout =>
                {
                    return self.by_itself().await;
                }
                // Silence, of which going on one by one would make an endless walk.
                Err(error) if page.is_empty() => return Err(error),
                Err(error) if error.is_transient() => {}
                read => drop(read?),
            }
            let goes_on = page.last().is_some_and(|entry| self.up_to < entry.position);
            page.retain(|entry| entry.position <= self.up_to);
            if let Some(last) = page.last() {
                self.seen = last.position;
                return Ok(page);
            }
            if goes_on {
                self.seen = self.up_to;
            } else if give_up < tokio::time::Instant::now() {
                // By the word of the stream's leader: a replica may lag.
                return self.by_itself().await;
            } else {
                tokio::time::sleep(LAG_PAUSE).await;
            }
        }
        Ok(Vec::new())
    }

    fn read(&self, message: &Message) -> Result<Entry, LogError> {
        // Older servers keep a status that somebody published. A subscription cannot read such a message, and it has one leaf.
        if message.status.is_some() {
            return Err(LogError::unavailable("a message has a status"));
        }
        let place = direct::place(message)?;
        Ok(self.log.entry(&place, message.headers.as_ref(), &message.payload))
    }

    /// The next entries one by one, up to the first that a page can hold.
    async fn by_itself(&mut self) -> Result<Vec<Entry>, LogError> {
        let mut page = Vec::new();
        while (page.len() as u64) < PAGE_MESSAGES_MAX {
            let next = match self.log.raw_behind(self.seen, &self.log.inner.names.all_events()).await {
                Err(_) if !page.is_empty() => break,
                next => next?,
            };
            let Some(raw) = next.filter(|raw| raw.position <= self.up_to) else {
                self.seen = self.up_to;
                break;
            };
            self.seen = raw.position;
            page.push(self.log.raw_entry(&raw));
            if raw.readable().is_ok() {
                break;
            }
        }
        Ok(page)
    }
}

/// Sorted by name, without what is of NATS itself.
fn foreign_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = headers
        .iter()
        .filter(|(name, _)| !is_of_nats(name.as_ref()))
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}
