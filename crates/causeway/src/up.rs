//! `causeway up`: a private nats-server and every service in one process.
//!
//! ```text
//! lock the data folder -> bind the gateway -> nats-server -> log -> event-store -> ai-processor -> ready
//! stop: ai-processor -> event-store -> nats-server
//! ```

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use causeway_log::NatsUrl;
use causeway_runtime::config::{Flag, Loaded};
use causeway_runtime::shutdown::Signals;
use causeway_runtime::supervise::Services;
use causeway_runtime::telemetry;
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::{Common, DEFAULT_SERVER, flags};
use crate::config::{self, Config, Section};
use crate::data_dir::DataDir;
use crate::log::keys;
use crate::nats::{self, Durability, Server, Settings};
use crate::output::{self, Look, Output};
use crate::services::{connect, http_url, listen, or_shutdown, start_ai_processor, start_event_store, stop, taken, until_ready};

#[derive(Debug, Default, Args)]
#[command(after_help = "\
Examples:
  causeway up
  causeway up --data /var/lib/causeway --listen 0.0.0.0:8470
  causeway up --nats nats://nats.example:4222     use a NATS that runs already
  causeway up --listen 127.0.0.1:0 --json         free ports, told in one line of JSON")]
pub(crate) struct UpArgs {
    /// Folder that keeps everything [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Address of the gateway; NATS takes the next port; port 0 takes free ones [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Use this NATS instead of a private one [default: log.url, if it is set]
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// Acknowledge before the disk has it: faster, but a power cut may lose the last two minutes
    #[arg(long)]
    pub(crate) relaxed_durability: bool,
    /// The nats-server to start (2.12.2 or newer) [default: CAUSEWAY_NATS_SERVER, from PATH, or what `make nats` installed]
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_server: Option<String>,
}

impl UpArgs {
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let relaxed = self.relaxed_durability.then(|| "true".to_owned());
        flags([
            ("--data", "up.data", self.data.clone()),
            ("--listen", "up.listen", self.listen.clone()),
            ("--nats", "up.nats", self.nats.clone()),
            ("--relaxed-durability", "up.relaxed_durability", relaxed),
            ("--nats-server", "up.nats_server", self.nats_server.clone()),
        ])
    }
}

/// Everything that is up, as it is told to whoever started it.
struct Ready {
    gateway: String,
    nats: NatsUrl,
    data: PathBuf,
}

/// `causeway up`
pub(crate) async fn run(common: &Common, args: &UpArgs, out: &Output) -> anyhow::Result<()> {
    let mut loaded = config::read(common, &args.flags(), &Section::ALL)?;
    if out.person() && !loaded.sources.contains_key("telemetry.level") {
        // A person is told in words below, and wants to see what goes wrong.
        loaded.config.telemetry.level = "warn".to_owned();
    }
    // Ours until the last of what is started has ended.
    let data = DataDir::take(&loaded.config.up.data)?;
    let integrity = &mut loaded.config.event_store.integrity;
    if integrity.signing_key.is_none() {
        integrity.signing_key = Some(keys::of_folder(&data, out)?);
    }
    let telemetry = telemetry::init("causeway", &loaded.config.telemetry)?;
    let signals = Signals::watch();
    let mut services = Services::new(loaded.config.up.drain_timeout);
    let started = start(&loaded, &data, &mut services, &signals.token(), out).await;
    let told = started.and_then(|ready| ready.map(|ready| tell(&ready, &loaded.config, out)).transpose());
    let outcome = match told {
        Ok(Some(())) => serve(&data, services, &signals.token(), out).await,
        unready => stop(services, unready.map(drop)).await,
    };
    telemetry.shutdown().await;
    outcome
}

/// Runs everything until it is to stop.
async fn serve(data: &DataDir, services: Services, shutdown: &CancellationToken, out: &Output) -> anyhow::Result<()> {
    let running = services.run(shutdown.clone());
    tokio::pin!(running);
    let stopped = tokio::select! {
        stopped = &mut running => stopped,
        () = shutdown.cancelled() => {
            if out.person() {
                out.note("stopping ... (again to leave at once)");
            }
            running.await
        }
    };
    stopped?;
    if out.person() {
        out.note(&format!("stopped; everything is in {}", shown(data.path())));
    }
    Ok(())
}

/// Starts everything, one after the other. `None` if it was asked to stop meanwhile.
async fn start(
    loaded: &Loaded<Config>,
    data: &DataDir,
    services: &mut Services,
    shutdown: &CancellationToken,
    out: &Output,
) -> anyhow::Result<Option<Ready>> {
    let up = &loaded.config.up;
    let listener = listen(&up.listen).await?;
    let address = listener.local_addr()?;
    let mut log_config = loaded.config.log.clone();
    match named_nats(loaded) {
        Some(url) => log_config.url = url.clone(),
        None => {
            let Some(server) = or_shutdown(start_nats(&loaded.config, &listener, data, out), shutdown).await? else {
                return Ok(None);
            };
            log_config.url = server.url().into();
            services.start("nats-server", |stop| async { server.run(stop).await });
        }
    }
    let Some(log) = or_shutdown(connect(&log_config, out), shutdown).await? else { return Ok(None) };
    start_event_store(services, loaded, data, log.clone(), listener);
    start_ai_processor(services, &loaded.config, log);
    if or_shutdown(until_ready(services, address, out), shutdown).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(Ready { gateway: http_url(address), nats: log_config.url, data: data.path().to_owned() }))
}

/// The NATS that is to be used instead of a private one: whoever says where the log is does not mean another.
fn named_nats(loaded: &Loaded<Config>) -> Option<&NatsUrl> {
    let config = &loaded.config;
    let log = loaded.sources.contains_key("log.url").then_some(&config.log.url);
    config.up.nats.as_ref().or(log)
}

async fn start_nats(config: &Config, gateway: &TcpListener, data: &DataDir, out: &Output) -> anyhow::Result<Server> {
    let binary = nats::find(config.up.nats_server.as_deref())?;
    tracing::debug!(path = %binary.path.display(), version = binary.version, "nats-server found");
    let durability = if config.up.relaxed_durability { Durability::Relaxed } else { Durability::Synced };
    let port = nats_port(&config.up.listen, gateway.local_addr()?)?;
    Server::start(Settings { binary, port, durability }, data, out).await
}

/// The port after the gateway's; a free one where the gateway's was left to chance.
fn nats_port(listen: &str, gateway: SocketAddr) -> anyhow::Result<u16> {
    let by_chance = listen.rsplit_once(':').is_some_and(|(_, port)| port == "0");
    let port = if by_chance { 0 } else { gateway.port().checked_add(1).context("there is no port after the gateway's")? };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Only a look: nats-server binds it itself in a moment, and says so if somebody was faster.
    match StdTcpListener::bind(address) {
        Ok(free) => Ok(free.local_addr()?.port()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(taken(&format!("{address} (for NATS, the port after the gateway's)"), "--listen"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen at {address}")),
    }
}

fn tell(ready: &Ready, config: &Config, out: &Output) -> anyhow::Result<()> {
    if out.json {
        return out.json(&serde_json::json!({
            "gateway": ready.gateway,
            "nats": ready.nats,
            "data": ready.data,
            "pid": std::process::id(),
        }));
    }
    let model = serde_json::to_value(&config.ai_processor.model)?;
    for (look, text) in welcome(&output::program(), ready, &shown(&ready.data), &model) {
        out.piece(look, &text)?;
    }
    Ok(())
}

/// A path as a person would write it here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    below.unwrap_or_else(|| path.to_owned()).display().to_string()
}

/// What a newcomer needs next.
fn welcome(program: &str, ready: &Ready, data: &str, model: &serde_json::Value) -> Vec<(Look, String)> {
    use Look::{Accent, Dim, Plain, Strong};
    let Ready { gateway, nats, .. } = ready;
    let provider = model["provider"].as_str().unwrap_or_default();
    let name = model["model"].as_str().unwrap_or_default();
    let server = if gateway == DEFAULT_SERVER { String::new() } else { format!(" --server {gateway}") };
    let mut text = vec![
        (Strong, format!("\nCauseway {} is up.\n\n", env!("CARGO_PKG_VERSION"))),
        (Dim, "  gateway  ".to_owned()),
        (Accent, gateway.clone()),
        (Dim, "   HTTP and gRPC\n".to_owned()),
        (Dim, "  log      ".to_owned()),
        (Plain, format!("{nats}\n")),
        (Dim, "  data     ".to_owned()),
        (Plain, format!("{data}\n")),
        (Dim, "  model    ".to_owned()),
    ];
    if provider == "demo" {
        text.push((Plain, "demo".to_owned()));
        text.push((Dim, "   no network, no key: it shows the way. For a real one, put into causeway.toml\n".to_owned()));
        for line in [
            "[ai_processor.model]",
            "provider = \"anthropic\"    # or \"openai\", with base_url for any server like it",
            "model = \"...\"",
            "api_key_file = \"...\"      # or CAUSEWAY__AI_PROCESSOR__MODEL__API_KEY in the environment",
        ] {
            text.push((Dim, format!("             {line}\n")));
        }
    } else {
        text.push((Plain, format!("{name} ({provider})\n")));
    }
    text.extend([
        (Strong, "\nTalk to it\n".to_owned()),
        (Accent, format!("  {program} chat{server}\n")),
        (Strong, "\nor from any program\n".to_owned()),
        (
            Accent,
            format!(
                "  curl {gateway}/events -H 'content-type: application/json' -d \\\n    '{{\"type\": \"MessageReceived\", \
                 \"aggregate_id\": \"me\", \"data\": {{\"content\": \"What is 6 * 7?\"}}}}'\n"
            ),
        ),
        (Accent, format!("  curl {gateway}/projections/conversation/me\n")),
        (Strong, "\nand watch what happens\n".to_owned()),
        (Accent, format!("  {program} events tail{server}\n")),
        (Dim, "\nCtrl-C stops everything; the data stays.\n\n".to_owned()),
    ]);
    text
}

#[cfg(test)]
mod tests {
    use causeway_runtime::config::load_from;

    use super::*;

    fn welcomed(gateway: &str, model: &serde_json::Value) -> String {
        let ready = Ready { gateway: gateway.to_owned(), nats: "nats://127.0.0.1:8471".into(), data: "data".into() };
        welcome("causeway", &ready, "data", model).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn the_welcome_says_where_to_go_next() {
        insta::assert_snapshot!("welcome_demo", welcomed("http://127.0.0.1:8470", &serde_json::json!({ "provider": "demo" })));
        let model = serde_json::json!({ "provider": "anthropic", "model": "claude" });
        insta::assert_snapshot!("welcome_real_elsewhere", welcomed("http://127.0.0.1:9000", &model));
    }

    #[test]
    fn the_log_is_where_somebody_said_it_is() {
        let named = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (format!("CAUSEWAY__{name}"), (*value).to_owned()));
            let loaded = load_from(None, Path::new("no-such-file"), variables, &[]).unwrap();
            named_nats(&loaded).map(ToString::to_string)
        };
        assert_eq!(named(&[]), None, "a private one");
        assert_eq!(named(&[("LOG__URL", "nats://b")]), Some("nats://b".to_owned()));
        assert_eq!(named(&[("UP__NATS", "nats://a"), ("LOG__URL", "nats://b")]), Some("nats://a".to_owned()));
    }

    #[test]
    fn nats_takes_the_next_port_or_a_free_one() {
        let gateway = StdTcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_ne!(nats_port("127.0.0.1:0", gateway).unwrap(), 0);
        let next = StdTcpListener::bind(("127.0.0.1", gateway.port() + 1));
        if next.is_ok() {
            let refused = nats_port(&gateway.to_string(), gateway).unwrap_err().to_string();
            assert!(refused.contains(&(gateway.port() + 1).to_string()), "{refused}");
        }
    }
}
