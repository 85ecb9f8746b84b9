//! A link that is slow in one direction: from a server to its clients.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What goes over the link in one piece: connections take turns after each.
const PIECE: usize = 4 * 1024;
/// What the link takes in before it has passed it on. The system doubles it.
const BUFFER: u32 = 32 * 1024;

/// A proxy that passes so many bytes per second, of all its connections together. Dropping it cuts them.
#[derive(Debug)]
pub struct SlowLink {
    port: u16,
    running: JoinHandle<()>,
}

impl SlowLink {
    /// A link to this port of 127.0.0.1.
    pub async fn to(server: u16, bytes_per_second: u32) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for a slow link")?;
        let port = listener.local_addr()?.port();
        let free_at = Arc::new(Mutex::new(Instant::now()));
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, server, bytes_per_second, free_at.clone()));
            }
        });
        Ok(Self { port, running })
    }

    /// Where clients of NATS connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// One connection, until either side ends it.
async fn pass(client: TcpStream, server: u16, bytes_per_second: u32, free_at: Arc<Mutex<Instant>>) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    let (mut down, mut up) = socket.connect(SocketAddr::from(([127, 0, 0, 1], server))).await?.into_split();
    let (mut from, mut to) = client.into_split();
    let slowly = async {
        let mut piece = vec![0; PIECE];
        loop {
            let length = down.read(&mut piece).await?;
            if length == 0 {
                return anyhow::Ok(());
            }
            let takes = Duration::from_secs_f64(length as f64 / f64::from(bytes_per_second));
            let turn = {
                let mut free_at = free_at.lock().unwrap_or_else(PoisonError::into_inner);
                *free_at = (*free_at).max(Instant::now()) + takes;
                *free_at
            };
            tokio::time::sleep_until(turn).await;
            to.write_all(&piece[..length]).await?;
        }
    };
    tokio::select! {
        ended = slowly => ended,
        ended = tokio::io::copy(&mut from, &mut up) => Ok(ended.map(drop)?),
    }
}
