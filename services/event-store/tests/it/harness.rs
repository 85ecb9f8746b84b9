//! A gateway on a free port, over a nats-server of its own, and hands to use it with.

use std::path::Path;
use std::time::Duration;

use causeway_event_store::{Config, Error, ReadModelConfig};
use causeway_log::Log;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_testkit::{NatsServer, wait_until};
use reqwest::{Method, StatusCode};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// How long anything that must happen may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) dir: TempDir,
    pub(crate) gateway: Gateway,
}

impl World {
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(&nats, dir.path()).await;
        Self { nats, dir, gateway }
    }
}

/// The read model's file, beside a gateway or without one.
pub(crate) fn read_model(dir: &Path) -> rusqlite::Result<Connection> {
    causeway_pages::open(&dir.join("read-model.sqlite"), OpenFlags::SQLITE_OPEN_READ_WRITE)
}

pub(crate) struct Gateway {
    pub(crate) url: String,
    pub(crate) log: Log,
    http: reqwest::Client,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn created(&self) -> Value {
        assert_eq!(self.status, StatusCode::CREATED, "{self:?}");
        self.json()
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()
    }
}

impl Gateway {
    pub(crate) async fn start(nats: &NatsServer, dir: &Path) -> Self {
        let config = Config {
            read_model: ReadModelConfig { path: dir.join("read-model.sqlite"), ..ReadModelConfig::default() },
            heartbeat: Duration::from_millis(200),
            ..Config::default()
        };
        Self::start_with(nats, config).await
    }

    pub(crate) async fn start_with(nats: &NatsServer, config: Config) -> Self {
        Self::start_on(log_of(nats), config).await
    }

    pub(crate) async fn start_on(log: causeway_log::Config, config: Config) -> Self {
        let gateway = Self::launch(log, config).await;
        gateway.is_ready().await;
        gateway
    }

    /// One that will take a while to read a log of many events: each is committed by itself.
    pub(crate) async fn start_behind(nats: &NatsServer, dir: &Path) -> Self {
        let read_model = ReadModelConfig { path: dir.join("behind.sqlite"), ring_events_max: 1, ..ReadModelConfig::default() };
        let gateway = Self::launch(log_of(nats), Config { read_model, ..Config::default() }).await;
        wait_until("the gateway to be there", LIMIT, async || {
            gateway.get("/readyz").await.json()["target"].is_u64().then_some(())
        })
        .await;
        gateway
    }

    /// One that may not be ready.
    async fn launch(log: causeway_log::Config, config: Config) -> Self {
        causeway_runtime::install_crypto();
        Self::over(Log::connect(&log).await.unwrap(), config).await
    }

    /// One that may not even be there.
    pub(crate) async fn over(log: Log, config: Config) -> Self {
        Self::listening("127.0.0.1:0", log, config).await
    }

    pub(crate) async fn listening(address: &str, log: Log, config: Config) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(causeway_event_store::run(config, log.clone(), listener, shutdown.clone()));
        Self { url, log, http: http(), shutdown, running }
    }

    pub(crate) async fn is_ready(&self) {
        wait_until("the gateway to be ready", LIMIT, async || (self.get("/readyz").await.status == StatusCode::OK).then_some(()))
            .await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.running).await.expect("stops in time").unwrap().unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).timeout(LIMIT)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, body: &Value) -> Answer {
        self.send(self.request(Method::POST, "/events").json(body)).await
    }

    /// Appends a note and answers its receipt.
    pub(crate) async fn note(&self, aggregate: &str, number: usize) -> Value {
        self.post(&note(aggregate, number)).await.created()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url.clone()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn grpc(&self) -> EventStoreClient<Channel> {
        EventStoreClient::new(self.channel().await)
    }

    pub(crate) async fn last_position(&self) -> u64 {
        self.log.last_position().await.unwrap().get()
    }

    /// Positions of a list of events.
    pub(crate) async fn positions(&self, path: &str) -> Vec<u64> {
        let page = self.get(path).await.ok();
        page["events"].as_array().unwrap().iter().map(position).collect()
    }
}

pub(crate) fn log_of(nats: &NatsServer) -> causeway_log::Config {
    causeway_log::Config { url: nats.url().into(), ..causeway_log::Config::default() }
}

pub(crate) fn position(event: &Value) -> u64 {
    event["position"].as_u64().unwrap()
}

pub(crate) fn note(aggregate: &str, number: usize) -> Value {
    json!({ "type": "NoteTaken", "aggregate_id": aggregate, "data": { "number": number } })
}

pub(crate) fn message(aggregate: &str, content: &str) -> Value {
    json!({ "type": "MessageReceived", "aggregate_id": aggregate, "data": { "content": content } })
}

/// A client that does not wait for ever.
fn http() -> reqwest::Client {
    reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build().unwrap()
}

/// Makes the server forget the ids of all that was appended.
pub(crate) async fn forget_ids(nats: &mut NatsServer) {
    set_window(nats, Duration::from_millis(100)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    nats.restart().await.unwrap();
    set_window(nats, Duration::from_secs(120)).await;
}

/// How long the server remembers ids. It reads them again when it starts, as far back as that.
async fn set_window(nats: &NatsServer, window: Duration) {
    let client = nats.client().await.unwrap();
    let ask = async |what: &str, body: String| {
        let answer = client.request(format!("$JS.API.STREAM.{what}.causeway_EVENTS"), body.into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let mut config = ask("INFO", String::new()).await["config"].take();
    config["duplicate_window"] = json!(window.as_nanos());
    let updated = ask("UPDATE", config.to_string()).await;
    assert_eq!(updated["config"]["duplicate_window"], json!(window.as_nanos()), "{updated}");
}
