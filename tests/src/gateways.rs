//! Several gateways over one NATS, each at an address that outlives it, and a client for each.

use std::time::Duration;

use anyhow::Result;
use causeway_testkit::{free_port, wait_until};
use futures::future::try_join_all;
use reqwest::StatusCode;

use crate::api::Api;
use crate::append::{Append, Outcome, Wire};
use crate::grpc::Grpc;
use crate::process::{Causeway, Setup};

/// How long a gateway may take until it serves: a cluster may have to elect a leader first.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A gateway alone, at an address that stays the same when it is killed and started again.
pub fn gateway(nats: &str) -> Result<Setup> {
    Ok(Setup::event_store_at(nats, &format!("127.0.0.1:{}", free_port()?)))
}

/// Several of them, with a stream of so many replicas.
pub async fn gateways(count: usize, nats: &str, replicas: usize) -> Result<Vec<Causeway>> {
    let started = (0..count).map(|_| async {
        let setup = gateway(nats)?.env("CAUSEWAY__LOG__REPLICAS", replicas.to_string());
        let gateway = setup.start().await?;
        Client::of(&gateway)?.wait_ready().await;
        Ok(gateway)
    });
    try_join_all(started).await
}

/// Both ways to talk to one gateway.
#[derive(Clone, Debug)]
pub struct Client {
    /// HTTP.
    pub http: Api,
    /// gRPC.
    pub grpc: Grpc,
}

impl Client {
    /// The gateway at this address.
    pub fn new(base: &str) -> Result<Self> {
        Ok(Self { http: Api::new(base), grpc: Grpc::new(base)? })
    }

    /// This gateway, in all its lives.
    pub fn of(gateway: &Causeway) -> Result<Self> {
        Self::new(&gateway.ready().gateway)
    }

    /// Appends once.
    pub async fn try_append(&self, wire: Wire, append: &Append) -> Result<Outcome> {
        match wire {
            Wire::Http => self.http.try_append(append).await,
            Wire::Grpc => self.grpc.try_append(append).await,
            Wire::Stream => self.grpc.try_append_streamed(append).await,
        }
    }

    /// Appends under its key, again and again until the outcome is known.
    pub async fn settle(&self, wire: Wire, append: &Append) -> Result<Outcome> {
        assert!(append.key.is_some(), "only a key settles an unknown outcome: {append:?}");
        wait_until(&format!("the outcome of {append:?}"), READY_LIMIT, async || match self.try_append(wire, append).await {
            Ok(Outcome::Unknown(_)) => None,
            Ok(refused) if refused.is_passing() => None,
            settled => Some(settled),
        })
        .await
    }

    /// Whether it says that it can serve.
    pub async fn ready(&self) -> bool {
        self.http.get("/readyz").await.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    /// Waits until it can serve.
    pub async fn wait_ready(&self) {
        wait_until("the gateway to be ready", READY_LIMIT, async || self.ready().await.then_some(())).await;
    }
}
