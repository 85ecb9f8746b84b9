//! Three nats-servers as one cluster, for what only replication can break.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::join_all;

use crate::nats::{Durability, NatsServer, free_port};
use crate::wait::wait_until;

const NODES: usize = 3;
/// How often the whole cluster is started again when somebody else took one of its ports in between.
const START_ATTEMPTS: usize = 3;
/// How long the election of a leader may take.
const ELECTION_LIMIT: Duration = Duration::from_secs(60);

/// Three servers, one JetStream. Dropping it kills them all.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts the cluster and waits until every node takes clients.
    pub async fn start() -> Result<Self> {
        for _ in 0..START_ATTEMPTS {
            let ports = (0..NODES).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
            let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            let routes = routes.join(", ");
            let mut nodes = (0..NODES)
                .map(|n| {
                    let port = ports[n];
                    let block = format!("cluster {{\n  name: test\n  listen: \"127.0.0.1:{port}\"\n  routes: [{routes}]\n}}\n");
                    NatsServer::spawned(format!("node-{n}"), Durability::Relaxed, block)
                })
                .collect::<Result<Vec<_>>>()?;
            if join_all(nodes.iter_mut().map(NatsServer::answers)).await.into_iter().all(|answers| answers) {
                return Ok(Self { nodes });
            }
        }
        bail!("the nats-server cluster did not start")
    }

    /// The addresses of all nodes, comma separated.
    pub fn url(&self) -> String {
        self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// One of the three nodes: `0`, `1` or `2`.
    pub fn node(&mut self, n: usize) -> &mut NatsServer {
        &mut self.nodes[n]
    }

    /// Which node leads a stream. Waits for an election.
    pub async fn leader_of(&self, stream: &str) -> usize {
        wait_until(&format!("a leader of stream {stream}"), ELECTION_LIMIT, async || self.leader(stream).await.ok()).await
    }

    /// Waits until no node leads a stream.
    pub async fn no_leader_of(&self, stream: &str) {
        let what = format!("the leader of stream {stream} to step down");
        wait_until(&what, ELECTION_LIMIT, async || self.leader(stream).await.is_err().then_some(())).await;
    }

    /// SIGKILL of the node that leads a stream. Which one it was.
    pub async fn kill_leader(&mut self, stream: &str) -> usize {
        let leader = self.leader_of(stream).await;
        self.node(leader).kill();
        leader
    }

    /// Waits until another node than this one leads a stream. Which one.
    pub async fn successor_of(&self, former: usize, stream: &str) -> usize {
        wait_until(&format!("another leader of stream {stream}"), ELECTION_LIMIT, async || {
            self.leader(stream).await.ok().filter(|leader| *leader != former)
        })
        .await
    }

    async fn leader(&self, stream: &str) -> Result<usize> {
        let addresses: Vec<String> = self.nodes.iter().filter(|node| node.pid().is_some()).map(NatsServer::url).collect();
        let client = async_nats::connect(addresses).await?;
        let stream = async_nats::jetstream::new(client).get_stream(stream).await?;
        let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        let leader = leader.context("no leader")?;
        leader.strip_prefix("node-").and_then(|n| n.parse().ok()).context("a leader that is not ours")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_node_leads_after_the_leader_was_killed() {
        let mut cluster = NatsCluster::start().await.unwrap();
        let js = async_nats::jetstream::new(cluster.node(0).client().await.unwrap());
        js.create_stream(async_nats::jetstream::stream::Config {
            name: "S".into(),
            subjects: vec!["s.>".into()],
            num_replicas: 3,
            ..Default::default()
        })
        .await
        .unwrap();
        let first = cluster.kill_leader("S").await;
        assert!(cluster.node(first).pid().is_none());
        let second = cluster.successor_of(first, "S").await;
        assert_ne!(first, second);
        cluster.node(first).restart().await.unwrap();
    }
}
