//! Groups of consumers: what the server keeps of a group, and how its parts speak to each other.
//!
//! A group is a durable pull consumer on the log. The server knows its place in the log and what is not acknowledged; what else the
//! group is stands in the consumer's metadata, as its first start said it. One gateway at a time *dispatches* the group: who, says
//! a lease (`lease.rs`). Only the dispatcher pulls (`pull.rs`), and pulls headers only: the members' gateways have the events.
//! Dispatcher and members speak over core NATS (`mail.rs`): anything may be lost there, and whoever uses it must heal that.
//!
//! **Deleted and started again.** Whoever still works for the group that was deleted must not touch the next one of its name. So
//! each has a generation (`generation.rs`), which is part of its consumer's name, of its lease and of the subjects of its mail.
//!
//! This module knows nothing of order, members or retries: that is the gateway's.

mod generation;
mod lease;
mod mail;
mod pull;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, pull as js};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::ConsumerCreateStrictErrorKind;
use causeway_event::{AggregateId, Category, Invalid, Position};
use futures::TryStreamExt as _;

pub use lease::{Claim, Lease};
pub use mail::{Mail, Post};
pub use pull::{GroupPull, Hold, Pull, Pulled};

use crate::{Log, LogError};

/// Stands before a group's name in the name of its consumer, and in the subjects of its dead letters.
pub(crate) const PREFIX: &str = "group_";
/// Stands between a group's name and its generation.
const GENERATION: char = '=';
/// How often a group is opened that is deleted meanwhile.
const OPEN_ATTEMPTS_MAX: usize = 5;
/// Key of the terms in the consumer's metadata.
const TERMS: &str = "causeway-terms";

impl Log {
    /// A dispatcher that neither acknowledges nor keeps what it pulled for this long is gone, and the server gives it to the next.
    pub const GROUP_HOLD: Duration = Duration::from_secs(10);
    /// What one group's dispatcher holds at most: delivered to members, or waiting behind an earlier event of the aggregate.
    pub const GROUP_HELD_MAX: i64 = 2048;

    /// Creates the group unless it is there. Which one it is, and its terms: the given ones, or those of its first start.
    pub async fn open_group(&self, group: &Group) -> Result<(GroupName, String), LogError> {
        for _ in 0..OPEN_ATTEMPTS_MAX {
            let name = self.newest(&group.name).await?;
            let terms = self.create_group(&name, group).await?;
            if self.newest(&name).await? == name {
                return Ok((name, terms));
            }
            // It was deleted in between, and what was made anew would be one that nobody else finds.
            self.delete_consumer_of(&name).await?;
        }
        Err(LogError::unavailable("the group is deleted again and again"))
    }

    async fn create_group(&self, name: &GroupName, group: &Group) -> Result<String, LogError> {
        let names = &self.inner.names;
        let durable = name.consumer(self);
        let config = js::Config {
            durable_name: Some(durable.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: group.after.next().get() },
            ack_policy: AckPolicy::Explicit,
            ack_wait: Self::GROUP_HOLD,
            // Unlimited: the dispatcher decides when an event is parked.
            max_deliver: -1,
            max_ack_pending: Self::GROUP_HELD_MAX,
            filter_subjects: match (&group.aggregate_id, group.categories.as_slice()) {
                (None, []) => vec![names.all_events()],
                (None, categories) => categories.iter().map(|category| names.category(*category)).collect(),
                (Some(aggregate), []) => vec![names.aggregate(aggregate)],
                (Some(aggregate), categories) => categories.iter().map(|category| names.event(aggregate, *category)).collect(),
            },
            headers_only: true,
            metadata: HashMap::from([(TERMS.to_owned(), group.terms.clone())]),
            ..js::Config::default()
        };
        let created = self.jetstream().create_consumer_strict_on_stream(config, names.events_stream()).await;
        match created {
            Ok(consumer) => Ok(terms(consumer.cached_info())),
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                let info = self.group_info(name).await?;
                info.map(|info| terms(&info)).ok_or_else(|| LogError::unavailable("the group was deleted meanwhile"))
            }
            Err(error) => match error.kind() {
                ConsumerCreateStrictErrorKind::JetStream(refused) if refused.code() != 503 => {
                    Err(LogError::Refused { code: refused.error_code().0, reason: format!("consumer {durable}: {refused}") })
                }
                _ => Err(LogError::unavailable(format!("consumer {durable}: {error}"))),
            },
        }
    }

    /// The group that has this name now; none if there is none.
    pub async fn group_named(&self, name: &GroupName) -> Result<Option<GroupState>, LogError> {
        self.group(&self.newest(name).await?).await
    }

    /// What the server knows of the group that [`open_group`](Self::open_group) gave; none if it was deleted.
    pub async fn group(&self, name: &GroupName) -> Result<Option<GroupState>, LogError> {
        Ok(self.group_info(name).await?.and_then(|info| state(self, &info)))
    }

    /// The groups that there are, by name.
    pub async fn groups(&self) -> Result<Vec<GroupState>, LogError> {
        let mut groups = self.all_generations().await?;
        // The end of an older one may have broken off.
        groups.sort_by(|one, other| other.name.cmp(&one.name));
        groups.dedup_by(|older, newer| older.name.name == newer.name.name);
        groups.reverse();
        Ok(groups)
    }

    async fn all_generations(&self) -> Result<Vec<GroupState>, LogError> {
        self.require_connection()?;
        let stream = self.jetstream().get_stream_no_info(self.inner.names.events_stream()).await;
        let stream = stream.map_err(LogError::unavailable)?;
        let consumers = stream.consumers();
        let all: Vec<Info> = consumers.try_collect().await.map_err(LogError::unavailable)?;
        Ok(all.iter().filter_map(|info| state(self, info)).collect())
    }

    /// Ends a group; says whether it was there. Its letters stay, those that are on their way back to it do not.
    /// [`LogError::Unknown`] if it broke off when it may have been ended: the same again does the rest.
    pub async fn delete_group(&self, name: &GroupName) -> Result<bool, LogError> {
        let started = self.all_generations().await?.into_iter().map(|state| state.name);
        let started: Vec<_> = started.filter(|started| started.name == name.name).collect();
        let is_there = !started.is_empty();
        let ended = async {
            if let Some(last) = started.iter().max() {
                self.pass(last).await?;
            }
            for started in &started {
                // First, so that the same again finds it if this breaks off; and once more, if its dispatcher renewed it meanwhile.
                self.drop_lease(started).await?;
                self.delete_consumer_of(started).await?;
                self.drop_lease(started).await?;
            }
            // Also of a group that is gone: its end may have broken off here, and the next of its name must not get them.
            self.drop_replays(name).await
        };
        match ended.await {
            Ok(()) => Ok(is_there),
            Err(error) if is_there => {
                tracing::warn!(%error, group = %name, "ending a group broke off; the same again does the rest");
                Err(LogError::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_consumer_of(&self, group: &GroupName) -> Result<(), LogError> {
        let stream = self.inner.names.events_stream();
        match self.jetstream().delete_consumer_from_stream(group.consumer(self), stream).await {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(_) if self.group_info(group).await?.is_none() => Ok(()),
            Err(error) => Err(LogError::unavailable(error)),
        }
    }

    async fn group_info(&self, name: &GroupName) -> Result<Option<Info>, LogError> {
        self.require_connection()?;
        let stream = self.jetstream().get_stream_no_info(self.inner.names.events_stream()).await;
        let stream = stream.map_err(LogError::unavailable)?;
        match stream.consumer_info(name.consumer(self)).await {
            Ok(info) => Ok(Some(info)),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound => Ok(None),
                ConsumerInfoErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
                _ => Err(LogError::unavailable(format!("group {name}: {error}"))),
            },
        }
    }
}

/// A group that is to be started.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Only events of this aggregate.
    pub aggregate_id: Option<AggregateId>,
    /// Only events of these categories; all without any.
    pub categories: Vec<Category>,
    /// Only events behind this one.
    pub after: Position,
    /// Whatever else the group is, in the words of whoever starts it.
    pub terms: String,
}

/// What the server knows of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupState {
    /// Its name.
    pub name: GroupName,
    /// What it is, as it was started.
    pub terms: String,
    /// Everything up to here is acknowledged.
    pub acknowledged: Position,
    /// Nothing behind this one was ever given to a dispatcher.
    pub delivered: Position,
    /// Events that its dispatcher got and that are not acknowledged.
    pub unacknowledged: u64,
    /// Events that its dispatcher has not got yet.
    pub undelivered: u64,
}

/// Names a group: `[a-zA-Z0-9_-]{1,64}`. One that [`Log::open_group`] gave names just that one, not the next of its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    name: String,
    generation: u64,
}

impl GroupName {
    const BYTES_MAX: usize = 64;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The name with its generation, which is no name that a client could give.
    pub(crate) fn key(&self) -> Cow<'_, str> {
        match self.generation {
            0 => Cow::Borrowed(&self.name),
            generation => format!("{}{GENERATION}{generation}", self.name).into(),
        }
    }

    fn of_key(key: &str) -> Option<Self> {
        let (name, generation) = key.split_once(GENERATION).unwrap_or((key, "0"));
        Some(Self { generation: generation.parse().ok()?, ..name.parse().ok()? })
    }

    /// How dead letters name it.
    pub(crate) fn as_processor(&self) -> String {
        format!("{PREFIX}{self}")
    }

    fn consumer(&self, log: &Log) -> String {
        log.inner.names.consumer(&format!("{PREFIX}{}", self.key()))
    }
}

impl FromStr for GroupName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if fits {
            Ok(Self { name: text.to_owned(), generation: 0 })
        } else {
            Err(Invalid::new("", "must be 1 to 64 letters, digits, - or _"))
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.key(), f)
    }
}

fn terms(info: &Info) -> String {
    info.config.metadata.get(TERMS).cloned().unwrap_or_default()
}

fn state(log: &Log, info: &Info) -> Option<GroupState> {
    let name = GroupName::of_key(info.name.strip_prefix(&log.inner.names.consumer(PREFIX))?)?;
    Some(GroupState {
        name,
        terms: terms(info),
        acknowledged: Position::new(info.ack_floor.stream_sequence),
        delivered: Position::new(info.delivered.stream_sequence),
        unacknowledged: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
        undelivered: info.num_pending,
    })
}
