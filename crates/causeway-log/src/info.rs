//! What can be said of the log without reading it.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use causeway_event::{AggregateId, Category, Position};
use futures::TryStreamExt as _;
use jiff::Timestamp;

use crate::snapshot::StreamFacts;
use crate::{Log, LogError, Stored};

/// The log at a moment.
#[derive(Clone, Debug)]
pub struct LogInfo {
    /// Its stream.
    pub stream: StreamFacts,
    /// When the stream was made.
    pub created: Option<Timestamp>,
    /// When its first message was stored.
    pub first_time: Option<Timestamp>,
    /// When its last message was stored.
    pub last_time: Option<Timestamp>,
    /// Copies of it, each on another server.
    pub replicas: usize,
    /// Events by category.
    pub categories: BTreeMap<&'static str, u64>,
    /// Its durable consumers, by name.
    pub consumers: Vec<ConsumerInfo>,
}

/// A durable consumer, and how far behind it is.
#[derive(Clone, Debug)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// Events that it has not been given yet.
    pub pending: u64,
    /// Events that it was given and has not acknowledged.
    pub unacknowledged: u64,
    /// Of those, how many were given more than once.
    pub redelivered: u64,
    /// Everything up to here has been acknowledged.
    pub acknowledged: Position,
}

impl Log {
    /// The log as it is now.
    pub async fn info(&self) -> Result<LogInfo, LogError> {
        let info = self.events_info().await?;
        let is_empty = info.state.messages == 0;
        let time = |at: i128| Timestamp::from_nanosecond(at).ok();
        Ok(LogInfo {
            created: time(info.created.unix_timestamp_nanos()),
            first_time: if is_empty { None } else { time(info.state.first_timestamp.unix_timestamp_nanos()) },
            last_time: if is_empty { None } else { time(info.state.last_timestamp.unix_timestamp_nanos()) },
            replicas: info.config.num_replicas,
            categories: self.categories().await?,
            consumers: self.consumers().await?,
            stream: StreamFacts::of(&info),
        })
    }

    /// The last event of this aggregate in this category.
    pub async fn last_event(&self, aggregate: &AggregateId, category: Category) -> Result<Option<Stored>, LogError> {
        match self.last_of(aggregate, category).await? {
            Position::START => Ok(None),
            position => self.get(position).await,
        }
    }

    /// How many events each category has: what a consumer of it alone would have before it.
    async fn categories(&self) -> Result<BTreeMap<&'static str, u64>, LogError> {
        let mut counts = BTreeMap::new();
        for category in Category::ALL {
            let config = pull::Config {
                filter_subject: self.inner.names.category(category),
                ack_policy: AckPolicy::None,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: std::time::Duration::from_secs(5),
                ..pull::Config::default()
            };
            let stream = self.inner.names.events_stream();
            let consumer = self.jetstream().create_consumer_on_stream(config, &stream).await;
            let consumer = consumer.map_err(LogError::unavailable)?;
            let info = consumer.cached_info();
            counts.insert(category.as_str(), info.num_pending);
            // It would be gone by itself a little later.
            let _ = self.api(&format!("$JS.API.CONSUMER.DELETE.{stream}.{}", info.name), &serde_json::json!({})).await;
        }
        Ok(counts)
    }

    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError> {
        let stream = self.inner.names.events_stream();
        let stream = self.jetstream().get_stream(stream).await.map_err(LogError::unavailable)?;
        let mut consumers: Vec<ConsumerInfo> = stream
            .consumers()
            .try_filter(|info| std::future::ready(info.config.durable_name.is_some()))
            .map_ok(|info| ConsumerInfo {
                name: info.name,
                pending: info.num_pending,
                unacknowledged: info.num_ack_pending as u64,
                redelivered: info.num_redelivered as u64,
                acknowledged: Position::new(info.ack_floor.stream_sequence),
            })
            .try_collect()
            .await
            .map_err(LogError::unavailable)?;
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(consumers)
    }
}
