//! Which log a command means, and how it is reached.

use std::path::Path;

use anyhow::Context as _;
use causeway_log::{Config as LogConfig, LogError};
use causeway_runtime::config::{Flag, Loaded};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::args::TargetArgs;
use crate::cli::Common;
use crate::config::{self, Config, Section};
use crate::data_dir::{self, DataDir};
use crate::failure::{Hinted, Usage};
use crate::nats::{self, Durability, Server, Settings};
use crate::output::Output;

/// What is to become of a folder that holds no log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLog {
    Refuse,
    Begin,
}

/// Where a log is. A server that was started for it lives as long as this.
pub(super) struct Target {
    pub(super) config: LogConfig,
    pub(super) loaded: Loaded<Config>,
    server: Option<Started>,
    /// Whether nobody said which log: then it is that of this configuration's own `causeway up`.
    is_own: bool,
}

struct Started {
    stop: DropGuard,
    running: JoinHandle<anyhow::Result<()>>,
    _data: DataDir,
}

impl Target {
    /// Finds it, and starts its server if it is to be.
    pub(super) async fn find(common: &Common, args: &TargetArgs, no_log: NoLog, out: &Output) -> anyhow::Result<Self> {
        let nats = args.nats.clone().filter(|url| !url.is_empty());
        let flags: Vec<Flag> = nats.map(|value| Flag { name: "--nats", key: "log.url", value }).into_iter().collect();
        let loaded = config::read(common, &flags, &[Section::Up, Section::Log])?;
        let mut config = loaded.config.log.clone();
        let (mut server, mut is_own) = (None, false);
        if let Some(folder) = &args.data {
            if no_log == NoLog::Refuse && !folder.join(data_dir::LOG).is_dir() {
                return Err(Usage(format!("--data {}: there is no log in it", folder.display())).into());
            }
            let (started, url) = start(&loaded.config, folder, out).await?;
            (config.url, server) = (url.as_str().into(), Some(started));
        } else if !loaded.sources.contains_key("log.url") {
            config.url = match &loaded.config.up.nats {
                Some(url) => url.clone(),
                None => beside_gateway(&loaded.config.up.listen).as_str().into(),
            };
            is_own = true;
        }
        Ok(Self { config, loaded, server, is_own })
    }

    /// The folder whose key signs the log's checkpoints; that of a log elsewhere is not known.
    pub(super) fn data<'d>(&'d self, args: &'d TargetArgs) -> Option<&'d Path> {
        let up = &self.loaded.config.up;
        // A private NATS whose folder nobody has is one that was started with another folder.
        let own = || (self.is_own && (up.nats.is_some() || data_dir::is_in_use(&up.data))).then_some(up.data.as_path());
        args.data.as_deref().or_else(own)
    }

    /// Awaits what was asked of the log, with a hint where it cannot be reached.
    pub(super) async fn reach<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, LogError>>,
        out: &Output,
    ) -> anyhow::Result<T> {
        out.during(what, work).await.map_err(|error| {
            let unreachable = matches!(error, LogError::Unavailable { .. });
            let failed = anyhow::Error::from(error);
            if !unreachable {
                return failed;
            }
            failed.context(Hinted {
                what: format!("cannot reach the NATS at {}", self.config.url),
                hint: "start it with `causeway up`, name another with --nats, or the folder of one that is stopped with --data"
                    .to_owned(),
            })
        })
    }

    /// Ends the server that was started, if one was.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        let Some(Started { stop, running, _data }) = self.server else { return Ok(()) };
        drop(stop);
        running.await.context("the private nats-server")?
    }
}

/// The NATS of a `causeway up` has the port after its gateway's.
fn beside_gateway(listen: &str) -> String {
    let port = listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).and_then(|port| port.checked_add(1));
    format!("nats://127.0.0.1:{}", port.unwrap_or(8471))
}

async fn start(config: &Config, folder: &Path, out: &Output) -> anyhow::Result<(Started, String)> {
    let data = DataDir::take(folder)?;
    let binary = nats::find(config.up.nats_server.as_deref())?;
    // Only a look: the server binds it itself in a moment, and says so if somebody was faster.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    // It writes everything to the disk when it stops, and what broke off before that is done again.
    let settings = Settings { binary, port, durability: Durability::Relaxed };
    let server = Server::start(settings, &data, out).await?;
    let url = server.url();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    Ok((Started { stop: stop.drop_guard(), running, _data: data }, url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nats_of_up_is_beside_its_gateway() {
        assert_eq!(beside_gateway("127.0.0.1:8470"), "nats://127.0.0.1:8471");
        assert_eq!(beside_gateway("0.0.0.0:9000"), "nats://127.0.0.1:9001");
    }
}
