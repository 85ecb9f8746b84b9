//! The gateway: gRPC, HTTP/JSON and server-sent events over the log, with a local read model.
//!
//! The write side is JetStream; the read side is a disposable index beside each gateway, as fresh with every answer as the log
//! was when it was asked. The gateway holds no state but caches.
//!
//! ```text
//! grpc ─┐          ┌─> append ───────────────────────────────> Log
//!       ├─ parse ──┼─> range, subscribe, project ─> store <─ follow
//! http ─┘          └─> problem: one mapping of every error      (read_model: SQLite)
//! ```

mod aggregates;
mod append;
mod arrivals;
mod chains;
mod checkpoint;
mod config;
mod consume;
mod copies;
mod cursor;
mod follow;
mod front;
mod gateway;
mod grpc;
mod hosts;
mod http;
mod problem;
mod project;
mod range;
mod read_model;
mod ready;
mod refresh;
mod seldom;
mod serve;
mod store;
mod subscribe;
mod trace;
mod types;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use causeway_log::Log;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use checkpoint::IntegrityConfig;
pub use config::{Config, Limits, TraceUrl};
pub use read_model::{CopiesConfig, ReadModelConfig};

use crate::front::Front;
use crate::gateway::Gateway;
use crate::store::{Store, StoreError};
use crate::types::Types;

/// How long the read side may take to end in order, at shutdown, behind [`Config::drain_timeout`].
pub const CLOSE_MAX: Duration = Duration::from_secs(4);

/// Why the gateway could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be what was meant.
    #[error("{0}")]
    Config(String),
    /// The read model cannot be used.
    #[error("the read model failed")]
    ReadModel(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The port cannot be served.
    #[error("the port cannot be served")]
    Serve(#[source] std::io::Error),
    /// A task of the gateway ended before its time: a defect.
    #[error("a task of the gateway ended: {0}")]
    Ended(String),
}

/// Serves until `shutdown`, then finishes what was begun.
///
/// The port answers as soon as this is called; `/readyz` says when the read model is there and has caught up with the log.
pub async fn run(config: Config, log: Log, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
    // The read side outlives the server, so that requests under way can be answered.
    let end = CancellationToken::new();
    let _end_in_any_case = end.clone().drop_guard();
    let stop = shutdown.child_token();
    let front = Front::new();
    let mut port = serve::with_cors(front.router(), &config.cors_origins)?;
    // Whoever lists names means it, also where a container's loopback is not its own.
    if !config.hosts.is_empty() || listener.local_addr().map_err(Error::Serve)?.ip().to_canonical().is_loopback() {
        port = hosts::only(port, &config.hosts);
    }
    let mut serving = pin!(serve::serve(port, listener, config.clone(), stop.clone()));
    let (leaves, incoming) = checkpoint::leaves::leaves();
    let opening = async {
        let (store, feeding) = Store::open(log.clone(), &config.read_model, leaves, end.clone()).await?;
        let types = store::answered(|| Types::open(&log)).await?;
        Ok::<_, StoreError>((store, feeding, types))
    };
    let (store, feeding, types) = tokio::select! {
        served = &mut serving => return served.map_err(Error::Serve),
        opened = opening => opened.map_err(read_model_failed)?,
    };
    let drain_timeout = config.drain_timeout;
    let (integrity, signed) = (config.integrity.clone(), log.clone());
    let gateway = Arc::new(Gateway::new(log, store, types, config, stop.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    front.open(serve::router(gateway.clone(), health_service)?);

    let mut tasks = JoinSet::new();
    tasks.spawn(async move { feeding.await.map_err(read_model_failed) });
    let until_the_end = |work: BoxFuture<'static, ()>| {
        let end = end.clone();
        async move {
            end.run_until_cancelled_owned(work).await;
            Ok(())
        }
    };
    let [watched, following, refreshed, copied] = [(); 4].map(|()| gateway.clone());
    tasks.spawn(until_the_end(async move { ready::watch(&watched, health).await }.boxed()));
    tasks.spawn(until_the_end(async move { types::follow(&following).await }.boxed()));
    tasks.spawn(until_the_end(async move { refresh::run(&refreshed).await }.boxed()));
    let signing = end.clone();
    tasks.spawn(checkpoint::run(integrity, signed, incoming, signing));
    let end_of_copies = end.clone();
    tasks.spawn(async move {
        let config = &copied.config.read_model.copies;
        copies::keep(&copied.log, &copied.store, config, &end_of_copies).await;
        end_of_copies.cancelled().await;
        Ok(())
    });
    let ended = tokio::select! {
        served = &mut serving => Some(served.map_err(Error::Serve)),
        ended = tasks.join_next() => Some(Err(ended.map_or_else(|| Error::Ended("all".into()), before_its_time))),
        () = stop.cancelled() => None,
    };
    // Members leave also when it was a task that ended.
    stop.cancel();
    let drained = Instant::now() + drain_timeout;
    let served = match ended {
        Some(ended) => ended,
        None => serving.await.map_err(Error::Serve),
    };
    if tokio::time::timeout_at(drained, gateway.groups.closed()).await.is_err() {
        tracing::warn!("groups were not handed over in time; others take them over a little later");
    }
    end.cancel();
    // Whatever does not end by itself now is cut off when the set is dropped.
    let closed = tokio::time::timeout(CLOSE_MAX, async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Error::Ended(error.to_string()))??;
        }
        Ok(())
    });
    served.and(closed.await.unwrap_or(Ok(())))
}

fn before_its_time(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::Ended("by itself".into()),
        Ok(Err(error)) => error,
        Err(panicked) => Error::Ended(panicked.to_string()),
    }
}

fn read_model_failed(error: StoreError) -> Error {
    Error::ReadModel(Box::new(error))
}
