//! Whether a configuration can work: what the types of its values do not say. `causeway config check` asks it of everything,
//! each start of what it starts.
//!
//! Knows no server and no network: what can only be seen by trying is for the start to find.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_ai_processor::model::{Model, ModelError};
use causeway_runtime::config::Loaded;

use super::{Config, Up};

/// Half of the silence after which a subscription of `causeway-client` connects anew.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);

/// A part of the configuration that a process may use or not. Logs are everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Up,
    Log,
    EventStore,
    AiProcessor,
}

impl Section {
    pub(crate) const ALL: [Self; 4] = [Self::Up, Self::Log, Self::EventStore, Self::AiProcessor];
}

/// A value with which nothing can be started.
#[derive(Debug, thiserror::Error)]
#[error("`{key}`{origin}: {reason}")]
pub(crate) struct Unworkable {
    /// The dotted key.
    key: String,
    /// ` in` and the file, variable or flag; nothing for a default.
    origin: String,
    reason: String,
}

/// A key and what is wrong with its value.
struct Fault(String, String);

type Checked = Result<(), Fault>;

/// Finds the first value of these sections that cannot work.
pub(crate) fn check(loaded: &Loaded<Config>, sections: &[Section]) -> Result<(), Unworkable> {
    let named = |Fault(key, reason): Fault| {
        let origin = loaded.sources.get(&key).map(|origin| format!(" in {origin}")).unwrap_or_default();
        Unworkable { key, origin, reason }
    };
    let config = &loaded.config;
    for section in sections {
        let checked = match section {
            Section::Up => up(&config.up),
            Section::Log => config.log.check().map_err(|invalid| Fault(format!("log.{}", invalid.field), invalid.reason)),
            Section::EventStore => event_store(&config.event_store).and_then(|()| {
                let needs = config.event_store.drain_timeout.saturating_add(causeway_event_store::CLOSE_MAX);
                drained("event_store.drain_timeout", needs, config.up.drain_timeout)
            }),
            Section::AiProcessor => ai_processor(&config.ai_processor).and_then(|()| {
                let needs = config.ai_processor.processing.drain_timeout;
                drained("ai_processor.processing.drain_timeout", needs, config.up.drain_timeout)
            }),
        };
        checked.map_err(named)?;
    }
    config.telemetry.check().map_err(|error| named(fault("telemetry.level", &error.to_string())))
}

fn up(up: &Up) -> Checked {
    if !is_address(&up.listen) {
        return Err(fault("up.listen", "must be an address and a port such as 127.0.0.1:8470"));
    }
    lasting("up.drain_timeout", up.drain_timeout)
}

/// A service that takes longer is cut off.
fn drained(key: &str, needs: Duration, may_take: Duration) -> Checked {
    match needs < may_take {
        true => Ok(()),
        false => Err(fault(key, &format!("takes up to {needs:?} in all; up.drain_timeout, {may_take:?}, must be longer"))),
    }
}

fn event_store(config: &causeway_event_store::Config) -> Checked {
    let (limits, read_model) = (&config.limits, &config.read_model);
    lasting("event_store.request_timeout", config.request_timeout)?;
    lasting("event_store.heartbeat", config.heartbeat)?;
    if HEARTBEAT_MAX < config.heartbeat {
        let reason = format!("must be at most {HEARTBEAT_MAX:?}: clients give up a stream that is silent for twice as long");
        return Err(fault("event_store.heartbeat", &reason));
    }
    lasting("event_store.drain_timeout", config.drain_timeout)?;
    lasting("event_store.integrity.every", config.integrity.every)?;
    some("event_store.integrity.every_events", usize::try_from(config.integrity.every_events).unwrap_or(usize::MAX))?;
    config.integrity.signer().map_err(|error| fault("event_store.integrity.signing_key", &error.to_string()))?;
    lasting("event_store.read_model.read_timeout", read_model.read_timeout)?;
    // None may wait for a turn, and not at all: such a gateway refuses what it cannot take at once.
    some("event_store.limits.body_bytes_max", limits.body_bytes_max)?;
    some("event_store.limits.message_bytes_max", limits.message_bytes_max)?;
    some("event_store.limits.appends_max", limits.appends_max)?;
    some("event_store.limits.stream_appends_max", limits.stream_appends_max)?;
    some("event_store.limits.streams_max", limits.streams_max)?;
    some("event_store.limits.connections_max", limits.connections_max)?;
    lasting("event_store.read_model.copies.look_every", read_model.copies.look_every)?;
    some("event_store.read_model.copies.every_events", usize::try_from(read_model.copies.every_events).unwrap_or(usize::MAX))?;
    some("event_store.read_model.readers", read_model.readers)?;
    some("event_store.read_model.ring_events_max", read_model.ring_events_max)?;
    some("event_store.read_model.ring_bytes_max", read_model.ring_bytes_max)?;
    if let Some(host) = config.hosts.iter().find(|host| !is_host(host)) {
        let reason = format!("{host:?} is not a name such as causeway.example.com, without a scheme or a port");
        return Err(fault("event_store.hosts", &reason));
    }
    match config.cors_origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => {
            let reason = format!("{origin:?} is not an origin such as https://example.com, without a path");
            Err(fault("event_store.cors_origins", &reason))
        }
        None => Ok(()),
    }
}

fn ai_processor(config: &causeway_ai_processor::Config) -> Checked {
    let (tools, processing) = (&config.tools, &config.processing);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    some("ai_processor.steps_max", count(config.steps_max))?;
    some("ai_processor.attempts_max", count(config.attempts_max))?;
    lasting("ai_processor.model_retry_min", config.model_retry_min)?;
    lasting("ai_processor.model_retry_max", config.model_retry_max)?;
    lasting("ai_processor.tools.timeout", tools.timeout)?;
    some("ai_processor.tools.output_bytes_max", tools.output_bytes_max)?;
    lasting("ai_processor.processing.ack_wait", processing.ack_wait)?;
    some("ai_processor.processing.in_flight_max", processing.in_flight_max.into())?;
    some("ai_processor.processing.actions_max", count(processing.actions_max))?;
    lasting("ai_processor.processing.retry_min", processing.retry_min)?;
    lasting("ai_processor.processing.retry_max", processing.retry_max)?;
    lasting("ai_processor.processing.drain_timeout", processing.drain_timeout)?;
    Model::from_config(&config.model).map(drop).map_err(|error| match error {
        ModelError::Config { key, reason } => fault(&format!("ai_processor.model.{key}"), &reason),
        other => fault("ai_processor.model", &other.to_string()),
    })
}

fn fault(key: &str, reason: &str) -> Fault {
    Fault(key.to_owned(), reason.to_owned())
}

fn lasting(key: &str, duration: Duration) -> Checked {
    if duration.is_zero() { Err(fault(key, "must be longer than 0s")) } else { Ok(()) }
}

fn some(key: &str, number: usize) -> Checked {
    if number == 0 { Err(fault(key, "must be more than 0")) } else { Ok(()) }
}

/// Numbers or a name, and a port.
fn is_address(text: &str) -> bool {
    let named = |(host, port): (&str, &str)| {
        let host_fits = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        host_fits && port.parse::<u16>().is_ok()
    };
    text.parse::<SocketAddr>().is_ok() || text.rsplit_once(':').is_some_and(named)
}

/// What a browser sends as `Origin`: a scheme, a host, perhaps a port, and nothing behind it. `*` is none.
fn is_origin(text: &str) -> bool {
    let fits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*,".contains(&byte));
    text.split_once("://").is_some_and(|(scheme, host)| fits(scheme) && fits(host))
}

/// What may stand in a `Host` header before the port.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use causeway_runtime::config::load_from;

    use super::*;

    fn checked(environment: &[(&str, &str)], sections: &[Section]) -> Result<(), String> {
        causeway_runtime::install_crypto();
        let environment = environment
            .iter()
            .map(|(key, value)| (format!("CAUSEWAY__{}", key.to_uppercase().replace('.', "__")), (*value).to_owned()));
        let loaded = load_from(None, Path::new("no-such-file"), environment, &[]).unwrap();
        check(&loaded, sections).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_can_work() {
        checked(&[], &Section::ALL).unwrap();
    }

    #[test]
    fn a_value_that_cannot_work_is_named_with_its_source() {
        for (key, value) in [
            ("up.listen", "8470"),
            ("up.drain_timeout", "0s"),
            ("event_store.drain_timeout", "11s"),
            ("ai_processor.processing.drain_timeout", "15s"),
            ("log.namespace", "a.b"),
            ("log.request_timeout", "0s"),
            ("event_store.heartbeat", "0s"),
            ("event_store.heartbeat", "31s"),
            ("event_store.request_timeout", "0s"),
            ("event_store.cors_origins", "[\"*\"]"),
            ("event_store.cors_origins", "[\"https://example.com/\"]"),
            ("event_store.hosts", "[\"https://example.com\"]"),
            ("event_store.hosts", "[\"example.com:443\"]"),
            ("event_store.limits.appends_max", "0"),
            ("event_store.limits.stream_appends_max", "0"),
            ("event_store.read_model.copies.look_every", "0s"),
            ("event_store.read_model.copies.every_events", "0"),
            ("event_store.limits.body_bytes_max", "0B"),
            ("event_store.read_model.read_timeout", "0s"),
            ("ai_processor.steps_max", "0"),
            ("ai_processor.tools.timeout", "0s"),
            ("ai_processor.processing.ack_wait", "0s"),
            ("ai_processor.processing.in_flight_max", "0"),
            ("ai_processor.model.idle_timeout", "0s"),
            ("telemetry.level", "=loud"),
        ] {
            let error = checked(&[(key, value)], &Section::ALL).unwrap_err();
            let variable = format!("CAUSEWAY__{}", key.to_uppercase().replace('.', "__"));
            assert!(error.starts_with(&format!("`{key}` in environment variable {variable}: ")), "{key}: {error}");
        }
    }

    #[test]
    fn a_model_without_its_name_is_refused_where_it_is_used() {
        let model = [("ai_processor.model.provider", "openai"), ("ai_processor.model.base_url", "http://127.0.0.1:1/v1")];
        assert_eq!(checked(&model, &Section::ALL).unwrap_err(), "`ai_processor.model.model`: must name the model to ask");
        checked(&model, &[Section::Up, Section::Log, Section::EventStore]).unwrap();
    }

    #[test]
    fn what_has_a_meaning_is_taken() {
        for (key, value) in [
            ("event_store.heartbeat", "30s"),
            ("up.listen", "localhost:0"),
            ("up.listen", "[::1]:8470"),
            ("event_store.limits.appends_waiting_max", "0"),
            ("event_store.cors_origins", "[\"http://localhost:5173\"]"),
            ("event_store.hosts", "[\"causeway.example.com\"]"),
            ("ai_processor.history_turns", "0"),
            ("ai_processor.model.demo_delay", "0s"),
        ] {
            checked(&[(key, value)], &Section::ALL).unwrap();
        }
    }
}
