//! The whole configuration: one section for each part, and the commands that show it.

use std::path::PathBuf;
use std::time::Duration;

use causeway_log::NatsUrl;
use causeway_runtime::config::{Flag, Loaded, duration, load};
use causeway_runtime::telemetry;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::cli::Common;
use crate::output::{Look, Output};

mod check;
mod document;

pub(crate) use check::{Section, Unworkable};

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show what is in force, and where each value comes from
    Show,
    /// Check the file and the environment
    Check,
    /// Print a file that names every key, its meaning and its default
    Example,
}

/// Everything that can be set, by section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// `[up]`
    pub(crate) up: Up,
    /// `[log]`
    pub(crate) log: causeway_log::Config,
    /// `[event_store]`
    pub(crate) event_store: causeway_event_store::Config,
    /// `[ai_processor]`
    pub(crate) ai_processor: causeway_ai_processor::Config,
    /// `[telemetry]`
    pub(crate) telemetry: telemetry::Config,
}

/// Where this process keeps things and serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Up {
    pub(crate) data: PathBuf,
    pub(crate) listen: String,
    pub(crate) nats: Option<NatsUrl>,
    pub(crate) relaxed_durability: bool,
    pub(crate) nats_server: Option<PathBuf>,
    #[serde(with = "duration")]
    pub(crate) drain_timeout: Duration,
}

impl Default for Up {
    fn default() -> Self {
        Self {
            data: "data".into(),
            listen: "127.0.0.1:8470".to_owned(),
            nats: None,
            relaxed_durability: false,
            nats_server: None,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

/// File, environment and flags; the sections that are used are checked.
pub(crate) fn read(common: &Common, flags: &[Flag], used: &[Section]) -> anyhow::Result<Loaded<Config>> {
    let loaded = load(common.config.as_deref(), flags)?;
    check::check(&loaded, used)?;
    Ok(loaded)
}

/// `causeway config ..`
pub(crate) fn run(common: &Common, args: &ConfigArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Example if out.json => out.json(&serde_json::json!({ "example": document::example() })),
        ConfigCommand::Example => Ok(out.line(document::example().trim_end())?),
        // What cannot work is shown too: that is how one finds out why.
        ConfigCommand::Show => show(&load(common.config.as_deref(), &[])?, out),
        ConfigCommand::Check => checked(&read(common, &[], &Section::ALL)?, out),
    }
}

fn show(loaded: &Loaded<Config>, out: &Output) -> anyhow::Result<()> {
    if out.json {
        return out.json(&serde_json::json!({ "config": loaded.config, "sources": loaded.sources, "file": loaded.file }));
    }
    for line in document::in_force(loaded).lines() {
        let look = if line.starts_with('[') { Look::Strong } else { Look::Plain };
        match line.split_once("  # from ") {
            Some((value, source)) => {
                let source = out.paint(Look::Dim, &format!("  # from {source}"));
                out.line(&format!("{value}{source}"))?;
            }
            None => out.line(&out.paint(look, line))?,
        }
    }
    Ok(())
}

fn checked(loaded: &Loaded<Config>, out: &Output) -> anyhow::Result<()> {
    let file = loaded.file.as_ref().map(|file| file.display().to_string());
    let set = loaded.sources.len();
    if out.json {
        return out.json(&serde_json::json!({ "valid": true, "file": file, "set": set }));
    }
    let read = file.unwrap_or_else(|| "no causeway.toml here, defaults".to_owned());
    let plural = if set == 1 { "" } else { "s" };
    Ok(out.line(&format!("{} {read}: {set} key{plural} set", out.paint(Look::Good, "valid")))?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use causeway_runtime::config::load_from;

    use super::*;

    fn load_env(environment: &[(&str, &str)]) -> Result<Loaded<Config>, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_from(None, Path::new("no-such-file"), environment, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn every_section_is_reached_from_the_environment() {
        let loaded = load_env(&[
            ("CAUSEWAY__UP__LISTEN", "127.0.0.1:9000"),
            ("CAUSEWAY__UP__RELAXED_DURABILITY", "true"),
            ("CAUSEWAY__LOG__NAMESPACE", "blue"),
            ("CAUSEWAY__TELEMETRY__FORMAT", "json"),
        ])
        .unwrap();
        assert_eq!(loaded.config.up.listen, "127.0.0.1:9000");
        assert!(loaded.config.up.relaxed_durability);
        assert_eq!(loaded.config.log.namespace, "blue");
        assert_eq!(loaded.config.telemetry.format, telemetry::Format::Json);
    }

    #[test]
    fn a_slip_of_the_hand_is_told() {
        assert_eq!(
            load_env(&[("CAUSEWAY__UP__LISTN", "x")]).unwrap_err(),
            "unknown key `up.listn` in environment variable CAUSEWAY__UP__LISTN; did you mean `up.listen`?"
        );
        assert_eq!(
            load_env(&[("CAUSEWAY__AI_PROCESOR__X", "x")]).unwrap_err(),
            "unknown key `ai_procesor` in environment variable CAUSEWAY__AI_PROCESOR__X; did you mean `ai_processor`?"
        );
    }

    #[test]
    fn a_model_key_never_shows() {
        let loaded = load_env(&[("CAUSEWAY__AI_PROCESSOR__MODEL__API_KEY", "sk-very-secret")]).unwrap();
        let shown = document::in_force(&loaded);
        assert!(
            shown.contains("api_key = \"***\"  # from environment variable CAUSEWAY__AI_PROCESSOR__MODEL__API_KEY"),
            "{shown}"
        );
        assert!(!format!("{shown}{loaded:?}").contains("very-secret"));
    }

    #[test]
    fn a_password_of_nats_never_shows() {
        for key in ["LOG__URL", "UP__NATS"] {
            let loaded = load_env(&[(&format!("CAUSEWAY__{key}"), "nats://me:very-secret@host:4222")]).unwrap();
            let shown = document::in_force(&loaded);
            assert!(shown.contains("= \"nats://***@host:4222\"  # from"), "{shown}");
            let json = serde_json::to_string(&loaded.config).unwrap();
            assert!(!format!("{shown}{json}{loaded:?}").contains("very-secret"));
        }
        let refused = load_env(&[("CAUSEWAY__LOG__URL", "http://me:very-secret@host")]).unwrap_err();
        assert!(refused.starts_with("`log.url` in environment variable CAUSEWAY__LOG__URL: must be an address"), "{refused}");
    }
}
