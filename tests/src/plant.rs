//! A long log within seconds: events as the log lays them out, written straight to NATS with many on the way at once.
//!
//! An append through the gateway costs a round trip each; a test of what a long log costs should not wait for that. What is planted is what
//! the documentation says of an event on the log: CloudEvents in binary mode on the subject of its aggregate and category.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// Messages between two acknowledgements. The server keeps 10,000 waiting for a stream and drops further ones: two of these are under way.
const CHUNK: usize = 2000;
/// Where the acknowledgements come.
const INBOX: &str = "planted";

/// An event to be planted.
#[derive(Clone, Debug)]
pub struct Plant {
    /// Which event of all: its id is made of this.
    pub number: u64,
    /// Its type ...
    pub event_type: &'static str,
    /// ... and the category of that.
    pub category: &'static str,
    /// What it happened to.
    pub aggregate_id: String,
    /// Who says so.
    pub source: &'static str,
    /// Its chain.
    pub correlation_id: String,
    /// The number of the event that caused it.
    pub cause: Option<u64>,
    /// JSON: an object of strings.
    pub labels: Option<String>,
    /// JSON.
    pub data: String,
}

impl Plant {
    /// A small one, of one of a hundred aggregates.
    pub fn note(number: u64) -> Self {
        Self {
            number,
            event_type: "NoteTaken",
            category: "custom",
            aggregate_id: format!("notes-{}", number % 100),
            source: "test",
            correlation_id: format!("chain-{number}"),
            cause: None,
            labels: None,
            data: "{}".to_owned(),
        }
    }
}

/// The id of the event of this number: a UUIDv7 in base32, after `evt_`.
pub fn planted_id(number: u64) -> String {
    const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let uuid = (0x0193_5f00_0000_u128 + u128::from(number)) << 80 | 7 << 76 | 0b10 << 62 | u128::from(number);
    let digits = (0..26).rev().map(|digit| char::from(BASE32[(uuid >> (5 * digit)) as usize % 32]));
    "evt_".chars().chain(digits).collect()
}

/// Writes the events behind what stands on the log of the default namespace, which a gateway has made. Nobody else may write meanwhile.
/// Returns where the log ends then.
pub async fn plant(port: u16, events: impl IntoIterator<Item = Plant>) -> Result<u64> {
    let (read, mut write) = TcpStream::connect(("127.0.0.1", port)).await?.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(format!("CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB {INBOX} 1\r\n").as_bytes()).await?;
    let mut events = events.into_iter().peekable();
    let (mut last, mut on_the_way) = (None::<u64>, std::collections::VecDeque::new());
    while events.peek().is_some() || !on_the_way.is_empty() {
        let chunk: Vec<Plant> = events.by_ref().take(CHUNK).collect();
        if let Some((end, others)) = chunk.split_last() {
            let mut text = String::new();
            others.iter().for_each(|event| message(&mut text, event, ""));
            message(&mut text, end, INBOX);
            write.write_all(text.as_bytes()).await?;
            on_the_way.push_back(chunk.len() as u64);
        }
        if on_the_way.len() > 1 || events.peek().is_none() {
            let count = on_the_way.pop_front().context("a chunk")?;
            let sequence = acknowledged(&mut lines, &mut write).await?;
            ensure!(last.is_none_or(|last| sequence == last + count), "{sequence} is not {count} behind {last:?}");
            last = Some(sequence);
        }
    }
    last.context("nothing to plant")
}

/// The sequence of the next acknowledgement.
async fn acknowledged(
    lines: &mut Lines<BufReader<OwnedReadHalf>>,
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<u64> {
    loop {
        let line = lines.next_line().await?.context("the connection ended")?;
        if line.starts_with("PING") {
            write.write_all(b"PONG\r\n").await?;
        }
        ensure!(!line.starts_with("-ERR"), "{line}");
        if line.starts_with("MSG") {
            let answer = lines.next_line().await?.context("an acknowledgement")?;
            let sequence = serde_json::from_str::<Value>(&answer)?["seq"].as_u64();
            return sequence.with_context(|| answer);
        }
    }
}

fn message(text: &mut String, event: &Plant, reply: &str) {
    let (id, aggregate, chain) = (planted_id(event.number), quoted(&event.aggregate_id), quoted(&event.correlation_id));
    let mut headers = format!(
        "NATS/1.0\r\nce-specversion: 1.0\r\nce-id: {id}\r\nce-type: {}\r\nce-source: {}\r\nce-subject: {aggregate}\r\n\
         ce-partitionkey: {aggregate}\r\nce-correlationid: {chain}\r\ncontent-type: application/json\r\n",
        event.event_type, event.source
    );
    // Writing to a String cannot fail.
    if let Some(cause) = event.cause {
        let _ = write!(headers, "ce-causationid: {}\r\n", planted_id(cause));
    }
    if let Some(labels) = &event.labels {
        let _ = write!(headers, "ce-labels: {}\r\n", quoted(labels));
    }
    headers.push_str("\r\n");
    let (head, total) = (headers.len(), headers.len() + event.data.len());
    let token = escaped(&event.aggregate_id, |byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let _ = write!(text, "HPUB causeway.ev.{token}.{} {reply} {head} {total}\r\n{headers}{}\r\n", event.category, event.data);
}

/// As CloudEvents wants a header's value.
fn quoted(text: &str) -> String {
    escaped(text, |byte| matches!(byte, 0x21..=0x7e) && !b"\"%".contains(&byte))
}

fn escaped(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match plain(byte) {
            true => escaped.push(char::from(byte)),
            false => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}
