//! A subscriber that comes back whenever its stream breaks, and remembers everything that it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::append::Wire;
use crate::gateways::Client;
use crate::grpc::{Update, v1};

/// The pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a subscriber asks for. Everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of these types; a trailing `*` makes a prefix.
    pub types: Vec<&'static str>,
    /// Of this aggregate, whose name is a simple one.
    pub aggregate: Option<&'static str>,
}

impl Wanted {
    /// Whether an event is among what was asked for.
    pub fn holds(&self, event: &Value) -> bool {
        let event_type = event["type"].as_str().unwrap_or_default();
        let named = |name: &&str| name.strip_suffix('*').map_or(event_type == *name, |start| event_type.starts_with(start));
        (self.types.is_empty() || self.types.iter().any(named))
            && self.aggregate.is_none_or(|aggregate| event["aggregate_id"] == aggregate)
    }

    fn query(&self) -> String {
        let types = self.types.iter().map(|name| format!("type={name}"));
        types.chain(self.aggregate.map(|aggregate| format!("aggregate_id={aggregate}"))).collect::<Vec<_>>().join("&")
    }

    fn filter(&self) -> v1::Filter {
        v1::Filter {
            types: self.types.iter().map(|name| (*name).to_owned()).collect(),
            aggregate_id: self.aggregate.unwrap_or_default().to_owned(),
            ..Default::default()
        }
    }
}

/// All that a subscriber was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The events, in the order in which they came.
    pub events: Vec<Value>,
    /// How many streams it took.
    pub streams: usize,
    /// How many of them said that they had caught up.
    pub caught_up: usize,
}

/// A subscriber at work.
#[derive(Debug)]
pub struct Follower {
    caught_up: Arc<AtomicUsize>,
    task: JoinHandle<Result<Told>>,
}

impl Follower {
    /// Follows from behind a position until an event of type `last` has come.
    pub fn start(client: Client, wire: Wire, wanted: Wanted, after: u64, last: &'static str) -> Self {
        let caught_up = Arc::new(AtomicUsize::new(0));
        let mut following =
            Following { client, wanted, last, position: after, caught_up: caught_up.clone(), told: Told::default() };
        let task = tokio::spawn(async move {
            loop {
                let done = match wire {
                    Wire::Http => following.over_http().await?,
                    Wire::Grpc | Wire::Stream => following.over_grpc().await?,
                };
                if done {
                    return Ok(following.told);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { caught_up, task }
    }

    /// How often it was told that it has caught up.
    pub fn caught_up(&self) -> usize {
        self.caught_up.load(Ordering::SeqCst)
    }

    /// Waits for the last event.
    pub async fn end(self) -> Result<Told> {
        self.task.await?
    }
}

struct Following {
    client: Client,
    wanted: Wanted,
    last: &'static str,
    position: u64,
    caught_up: Arc<AtomicUsize>,
    told: Told,
}

impl Following {
    async fn over_http(&mut self) -> Result<bool> {
        let resume = (self.position != 0).then_some(self.position);
        let Ok(mut stream) = self.client.http.stream(&self.wanted.query(), resume).await else { return Ok(false) };
        self.told.streams += 1;
        let mut marks = 0;
        while let Some(seen) = stream.next().await? {
            if seen.is_event() {
                ensure!(seen.id.parse().ok() == seen.data["position"].as_u64(), "{seen:?}");
                if self.hear(seen.data)? {
                    return Ok(true);
                }
            } else if seen.kind == "caught_up" {
                self.mark(&mut marks)?;
            }
            // Marks carry positions too: whatever came last is where a browser would resume.
            self.position = self.position.max(seen.id.parse().unwrap_or(0));
        }
        Ok(false)
    }

    async fn over_grpc(&mut self) -> Result<bool> {
        let Ok(mut stream) = self.client.grpc.subscribe(self.wanted.filter(), self.position).await else { return Ok(false) };
        self.told.streams += 1;
        let mut marks = 0;
        while let Some(update) = stream.next().await? {
            match update {
                Update::Event(event) if self.hear(event.clone())? => return Ok(true),
                Update::Event(event) => self.position = event["position"].as_u64().unwrap_or(0),
                Update::CaughtUp => self.mark(&mut marks)?,
                Update::Passed(position) => {
                    ensure!(self.position <= position, "it went back from {} to {position}", self.position);
                    self.position = position;
                }
            }
        }
        Ok(false)
    }

    fn hear(&mut self, event: Value) -> Result<bool> {
        let done = event["type"] == self.last;
        self.told.events.push(event);
        Ok(done)
    }

    fn mark(&mut self, marks: &mut usize) -> Result<()> {
        *marks += 1;
        ensure!(*marks == 1, "caught_up comes once in a stream");
        self.told.caught_up += 1;
        self.caught_up.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
