//! Services, each alone in its process: the shape of production.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use causeway_client::{Client, Count};
use causeway_log::Log;
use causeway_runtime::config::{Flag, Loaded};
use causeway_runtime::shutdown::Signals;
use causeway_runtime::supervise::Services;
use causeway_runtime::telemetry;
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{Common, flags};
use crate::config::{self, Config, Section};
use crate::data_dir::DataDir;
use crate::failure::Hinted;
use crate::output::{Look, Output};

/// Between two looks at whether the gateway is ready.
const READY_POLL: Duration = Duration::from_millis(50);

/// The name of each service, the same everywhere.
pub(crate) const EVENT_STORE: &str = "event-store";
pub(crate) const AI_PROCESSOR: &str = "ai-processor";

#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Folder for the read model, which can always be rebuilt [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Address to serve at [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// The NATS to use [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
}

impl GatewayArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let mut all = flags([("--data", "up.data", self.data.clone()), ("--listen", "up.listen", self.listen.clone())]);
        all.extend(self.service.flags());
        all
    }
}

impl ServiceArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        flags([("--nats", "log.url", self.nats.clone())])
    }
}

/// `causeway event-store`
pub(crate) async fn event_store(common: &Common, args: &GatewayArgs, out: &Output) -> anyhow::Result<()> {
    let loaded = config::read(common, &args.flags(), &[Section::Up, Section::Log, Section::EventStore])?;
    // Taken out here: it is ours until the last of what is started has ended.
    let data = DataDir::take(&loaded.config.up.data)?;
    alone(EVENT_STORE, &loaded.config, out, async |services, shutdown| {
        let listener = listen(&loaded.config.up.listen).await?;
        let address = listener.local_addr()?;
        let Some(log) = or_shutdown(connect(&loaded.config.log, out), &shutdown).await? else { return Ok(None) };
        start_event_store(services, &loaded, &data, log, listener);
        if or_shutdown(until_ready(services, address, out), &shutdown).await?.is_none() {
            return Ok(None);
        }
        let gateway = http_url(address);
        let ready = serde_json::json!({ "gateway": gateway, "nats": loaded.config.log.url, "pid": std::process::id() });
        Ok(Some((ready, format!("event-store serves at {gateway}"))))
    })
    .await
}

/// `causeway ai-processor`
pub(crate) async fn ai_processor(common: &Common, args: &ServiceArgs, out: &Output) -> anyhow::Result<()> {
    let config = config::read(common, &args.flags(), &[Section::Up, Section::Log, Section::AiProcessor])?.config;
    alone(AI_PROCESSOR, &config, out, async |services, shutdown| {
        let Some(log) = or_shutdown(connect(&config.log, out), &shutdown).await? else { return Ok(None) };
        start_ai_processor(services, &config, log);
        let ready = serde_json::json!({ "nats": config.log.url, "pid": std::process::id() });
        Ok(Some((ready, format!("ai-processor works on {}", config.log.url))))
    })
    .await
}

/// What to say when a service is ready, to programs and to people.
type Ready = (serde_json::Value, String);

/// One service's whole life: telemetry, signals, start, word of readiness, run, drain. `start` gives nothing when it was
/// interrupted.
async fn alone(
    name: &'static str,
    config: &Config,
    out: &Output,
    start: impl AsyncFnOnce(&mut Services, CancellationToken) -> anyhow::Result<Option<Ready>>,
) -> anyhow::Result<()> {
    let telemetry = telemetry::init(name, &config.telemetry)?;
    let signals = Signals::watch();
    let mut services = Services::new(config.up.drain_timeout);
    let told = start(&mut services, signals.token()).await.and_then(|ready| match ready {
        Some((json, _)) if out.json => out.json(&json).map(Some),
        Some((_, text)) => Ok(Some(out.line(&out.paint(Look::Good, &text))?)),
        None => Ok(None),
    });
    let outcome = match told {
        Ok(Some(())) => services.run(signals.token()).await.map_err(Into::into),
        unready => stop(services, unready.map(drop)).await,
    };
    telemetry.shutdown().await;
    outcome
}

/// Ends what has begun in its order, after a start that failed or was interrupted. The failure that led to it counts first.
pub(crate) async fn stop(services: Services, cause: anyhow::Result<()>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = services.run(stop).await;
    cause.and(stopped.map_err(Into::into))
}

/// `work`, unless the process is asked to stop before it is done.
pub(crate) async fn or_shutdown<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        done = work => done.map(Some),
        () = shutdown.cancelled() => Ok(None),
    }
}

/// Binds the gateway's address.
pub(crate) async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(taken(address, "--listen")),
        Err(error) => Err(error).with_context(|| format!("cannot listen at {address}")),
    }
}

/// The refusal of an address that somebody else has.
pub(crate) fn taken(address: &str, flag: &str) -> anyhow::Error {
    let hint = format!("another causeway may be running there; choose another address with {flag} (port 0 takes a free one)");
    Hinted { what: format!("{address} is in use by another program"), hint }.into()
}

/// Connects to the log and sees to its streams.
pub(crate) async fn connect(config: &causeway_log::Config, out: &Output) -> anyhow::Result<Log> {
    out.during("opening the log", Log::connect(config)).await.with_context(|| format!("cannot use the log at {}", config.url))
}

/// Adds the gateway to the group. Its read model lies in the data folder unless the configuration says where.
pub(crate) fn start_event_store(
    services: &mut Services,
    loaded: &Loaded<Config>,
    data: &DataDir,
    log: Log,
    listener: TcpListener,
) {
    let mut config = loaded.config.event_store.clone();
    if !loaded.sources.contains_key("event_store.read_model.path") {
        config.read_model.path = read_model(data);
    }
    services.start(EVENT_STORE, |stop| causeway_event_store::run(config, log, listener, stop));
}

fn read_model(data: &DataDir) -> PathBuf {
    data.join("event-store").join("read-model.sqlite")
}

/// Adds the AI processor to the group.
pub(crate) fn start_ai_processor(services: &mut Services, config: &Config, log: Log) {
    let config = config.ai_processor.clone();
    services.start(AI_PROCESSOR, |stop| causeway_ai_processor::run(config, log, stop));
}

/// Waits until the gateway is ready. Fails as soon as one of the services does.
pub(crate) async fn until_ready(services: &mut Services, gateway: SocketAddr, out: &Output) -> anyhow::Result<()> {
    tokio::select! {
        ready = out.during("bringing the read model up to date", gateway_ready(gateway)) => ready,
        stopped = services.ended() => Err(stopped.into()),
    }
}

/// Waits until the gateway counts the events: then its read model is as fresh as the log. (An event alone it may have at hand before.)
async fn gateway_ready(address: SocketAddr) -> anyhow::Result<()> {
    let client = Client::connect(&http_url(address))?;
    loop {
        match client.count(Count::default()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() => tokio::time::sleep(READY_POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where clients of this machine find a gateway that listens at `address`.
pub(crate) fn http_url(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_start_that_fails_ends_what_it_had_started_before_it_says_why() {
        let ended = Arc::new(AtomicBool::new(false));
        let mut services = Services::new(Duration::from_secs(5));
        let end = ended.clone();
        services.start(EVENT_STORE, |stop| async move {
            stop.cancelled().await;
            // Work that takes its time; a service that is cut off never gets behind it.
            tokio::task::yield_now().await;
            end.store(true, Ordering::SeqCst);
            Ok::<_, std::io::Error>(())
        });
        let outcome = stop(services, Err(anyhow::anyhow!("no luck"))).await;
        assert_eq!(outcome.unwrap_err().to_string(), "no luck");
        assert!(ended.load(Ordering::SeqCst));
        stop(Services::new(Duration::ZERO), Ok(())).await.unwrap();
    }
}
