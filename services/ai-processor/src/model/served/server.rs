//! A model server that says exactly what a test wants, also what no HTTP library would say.

use std::time::Duration;

use crate::model::{Model, ModelConfig, Provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What to do after the last byte.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Then {
    /// End the response in order.
    End,
    /// Close the connection in the middle of the response.
    Cut,
    /// Be silent until the client goes.
    Hang,
}

/// A server for one request.
pub(crate) struct Server {
    pub(crate) address: String,
    /// The request as it came; ends when the client has gone.
    pub(crate) request: JoinHandle<String>,
}

impl Server {
    /// Answers 200 with these chunks, a moment apart.
    pub(crate) async fn says(content_type: &str, chunks: &[&str], then: Then) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut bytes = vec![head.into_bytes()];
        bytes.extend(chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()).into_bytes()));
        if then == Then::End {
            bytes.push(b"0\r\n\r\n".to_vec());
        }
        Self::sends(bytes, then).await
    }

    /// Sends these bytes.
    pub(crate) async fn sends(pieces: Vec<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let request = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            client.set_nodelay(true).unwrap();
            let request = read_request(&mut client).await;
            for piece in pieces {
                // The client may have heard enough.
                if client.write_all(&piece).await.is_err() {
                    return request;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if then == Then::Hang {
                while let Ok(1..) = client.read(&mut [0; 1024]).await {}
            }
            request
        });
        Self { address, request }
    }

    pub(crate) fn model(&self, provider: Provider) -> Model {
        Model::from_config(&self.config(provider)).unwrap()
    }

    pub(crate) fn config(&self, provider: Provider) -> ModelConfig {
        super::config(provider, &self.address)
    }
}

/// Head and body of one request.
async fn read_request(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let length = client.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let wanted =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            if wanted.is_none_or(|wanted| wanted <= body.len()) || length == 0 {
                return text;
            }
        }
    }
}
