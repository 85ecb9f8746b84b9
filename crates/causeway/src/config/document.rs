//! The configuration as TOML: what is in force, and the example that names every key.
//!
//! Values come from the structs; what they mean for whoever sets them is written here, and a test holds the two together.

use std::collections::BTreeMap;

use causeway_runtime::config::Loaded;
use serde_json::Value;

use super::Config;

/// A key, in the order in which a person reads them.
struct Key {
    name: &'static str,
    meaning: &'static str,
    /// What it could be where nothing is its default.
    unset: Option<&'static str>,
}

const fn key(name: &'static str, meaning: &'static str) -> Key {
    Key { name, meaning, unset: None }
}

const fn optional(name: &'static str, unset: &'static str, meaning: &'static str) -> Key {
    Key { name, meaning, unset: Some(unset) }
}

const SECTIONS: &[(&str, &str)] = &[
    ("up", "Where this machine's Causeway keeps things and serves."),
    ("log", "The log. `causeway up` uses `up.nats` if it is set, else the url if it is set here, else a nats-server of its own."),
    ("ai_processor", "The assistant."),
    ("ai_processor.model", "The model that it asks."),
    ("ai_processor.tools", "The tools that it may call."),
    ("ai_processor.processing", "How it takes and holds its work."),
    ("event_store", "The gateway."),
    (
        "event_store.integrity",
        "Signed checkpoints of the log (docs/integrity.md). Without a key there are none; `causeway up` makes one in the data folder.",
    ),
    ("event_store.limits", "What the gateway takes on at most. Whoever hits a limit is told which."),
    ("event_store.read_model", "The gateway's local index of the log. It can be deleted at any time."),
    ("event_store.read_model.copies", "Copies of it beside the log, from which a new gateway starts."),
    ("telemetry", "Logs. Spans go to OTEL_EXPORTER_OTLP_ENDPOINT (gRPC) when that variable is set, and nowhere otherwise."),
];

const KEYS: &[Key] = &[
    key("up.data", "Folder that keeps everything. The gateway alone keeps its read model there."),
    key("up.listen", "Address of the gateway. NATS takes the next port; port 0 takes free ones."),
    optional("up.nats", "\"nats://127.0.0.1:4222\"", "A NATS to use instead of a private one."),
    key("up.relaxed_durability", "Acknowledge before the disk has it: faster, but a power cut may lose the last two minutes."),
    optional(
        "up.nats_server",
        "\"/usr/local/bin/nats-server\"",
        "The nats-server to start, 2.12.2 or newer. Otherwise CAUSEWAY_NATS_SERVER, or looked for on the PATH and below .causeway.",
    ),
    key("up.drain_timeout", "How long each service may take to end what it has begun."),
    key(
        "log.url",
        "The NATS server, or several with commas between them; with user and password: nats://user:password@host:4222.",
    ),
    key("log.namespace", "Prefix of every subject, stream and consumer: several Causeways share one NATS."),
    key("log.replicas", "Copies of each stream: 1 on a single server, 3 in production."),
    optional("log.credentials", "\"/etc/causeway/nats.creds\"", "A NATS credentials file."),
    key("log.request_timeout", "How long to wait for one answer of the server."),
    key(
        "log.append_timeout",
        "How long an append is sent again before it is reported as unknown. A cluster that lost a leader is back after 4 to 7 seconds.",
    ),
    key(
        "log.group_commit",
        "Whether appends that wait for the disk at the same time share one write to it: auto (where it was measured to be faster), always or never.",
    ),
    key("ai_processor.agent", "The assistant's name, as events and traces show it."),
    key("ai_processor.system_prompt", "What the model is told before everything else."),
    key("ai_processor.history_turns", "How many earlier turns of the session the model is told."),
    key("ai_processor.steps_max", "The most model calls of one turn."),
    key("ai_processor.attempts_max", "How often an input may bring its processor down before it is given up."),
    key("ai_processor.model_retries_max", "How often a model call that failed for a passing reason is made again."),
    key("ai_processor.model_retry_min", "The shortest pause before that; it doubles each time. The provider's Retry-After wins."),
    key("ai_processor.model_retry_max", "The longest pause; a provider that asks for more has failed."),
    key("ai_processor.trace_content", "Whether spans may hold what people and the model say."),
    key(
        "ai_processor.model.provider",
        "demo (built in: no key, no network), openai (any server that speaks chat completions) or anthropic.",
    ),
    key("ai_processor.model.model", "The model's name, as the server knows it."),
    optional(
        "ai_processor.model.api_key",
        "\"...\"",
        "The key. Better: api_key_file, which names a file that holds it, or the environment.",
    ),
    optional("ai_processor.model.base_url", "\"http://127.0.0.1:11434/v1\"", "The server. Otherwise the provider's own."),
    optional("ai_processor.model.max_tokens", "8192", "The most tokens of one answer. Otherwise what the server thinks right."),
    optional("ai_processor.model.temperature", "0.7", "How freely it chooses its words. Otherwise what the server thinks right."),
    key(
        "ai_processor.model.thinking",
        "Extended thinking, for anthropic: off, adaptive, or a number of tokens for models that want a budget.",
    ),
    key("ai_processor.model.connect_timeout", "How long to try to reach the server."),
    key("ai_processor.model.idle_timeout", "How long the server may be silent, before its first byte and between two."),
    key("ai_processor.model.request_timeout", "How long the whole answer may take."),
    key("ai_processor.model.answer_bytes_max", "The most bytes of an answer; it has to fit into an event."),
    key("ai_processor.model.tool_calls_max", "The most tools that one answer may ask for."),
    key("ai_processor.model.demo_delay", "How long the demo model takes for a word."),
    key("ai_processor.tools.timeout", "How long one call may take."),
    key("ai_processor.tools.output_bytes_max", "The most bytes of a result that the model gets to see."),
    key(
        "ai_processor.processing.ack_wait",
        "After this long without a sign of its owner, work is taken over by another replica.",
    ),
    key(
        "ai_processor.processing.in_flight_max",
        "The most events in hand at a time, over all replicas: at work, or waiting behind one of their session.",
    ),
    key("ai_processor.processing.actions_max", "The most actions for one event, against work that never comes to rest."),
    key("ai_processor.processing.retry_min", "The shortest pause before a failed event is taken up again; it doubles each time."),
    key("ai_processor.processing.retry_max", "The longest pause."),
    key("ai_processor.processing.drain_timeout", "How long work that has begun may go on after the order to stop."),
    key("ai_processor.processing.cache_max", "How many sessions' states are kept in memory."),
    key("event_store.request_timeout", "How long a read, and the arrival of a request's body, may take."),
    key("event_store.heartbeat", "A subscriber to whom nothing was sent for this long hears that the stream lives. At most 30s."),
    key(
        "event_store.drain_timeout",
        "At shutdown, how long requests that were begun may take to end. With 4 s more for the read model it must stay below up.drain_timeout.",
    ),
    key("event_store.cors_origins", "Web origins whose pages may use the API from a browser."),
    key(
        "event_store.hosts",
        "Names that the gateway may be called by, beside addresses, names without a dot, *.localhost and *.internal: such as that of a proxy before it. On loopback no other is answered in any case, elsewhere if there is one here.",
    ),
    optional(
        "event_store.integrity.signing_key",
        "\"...\"",
        "The seed of the Ed25519 key: 32 random bytes, in hex digits or base64. Better: signing_key_file, which names a file.",
    ),
    key("event_store.integrity.every_events", "After so many new events a checkpoint is due."),
    key("event_store.integrity.every", "So long after the last one, or the start, a checkpoint is due, if anything is new."),
    key(
        "event_store.pricing",
        "What models cost, a million tokens each: [{ model = \"NAME\", input = 2.5, output = 10.0 }, ..]. Without a price there is no cost.",
    ),
    optional(
        "event_store.trace_url",
        "\"https://jaeger.example/trace/{trace_id}\"",
        "Where the tracing tool shows a trace: chains are given with this link.",
    ),
    key("event_store.limits.body_bytes_max", "A request's body over HTTP."),
    key("event_store.limits.message_bytes_max", "A request's message over gRPC."),
    key(
        "event_store.limits.appends_max",
        "Appends of one event that wait for the log at once; one of several takes the room of 64, and of one more for each 8 events, and goes alone where there is less.",
    ),
    key(
        "event_store.limits.stream_appends_max",
        "Appends of one stream in hand at once, until their answers are taken; further requests are not read.",
    ),
    key("event_store.limits.appends_waiting_max", "Appends that wait for their turn beyond those."),
    key("event_store.limits.append_wait", "How long an append may wait for its turn."),
    key(
        "event_store.limits.streams_max",
        "Streams at once: subscriptions, watches, members of groups, streamed reads and appends.",
    ),
    key(
        "event_store.limits.connections_max",
        "Connections at once; further ones wait to be accepted. Never more than the files that the process may have open (`ulimit -Hn`) less 64, or half of them where they are few: then it says so at its start.",
    ),
    key(
        "event_store.limits.views_bytes_max",
        "Memory for views that were looked at: the next look costs only what is new. A state whose JSON is longer than a quarter of it is not kept.",
    ),
    key(
        "event_store.limits.watched_bytes_max",
        "Memory for views that are watched, which stay there as long as somebody watches; a further one is refused.",
    ),
    key("event_store.read_model.path", "The database file. Unless it is set here it lies in the data folder."),
    key("event_store.read_model.readers", "Connections that read at once, and as many that count; further reads wait."),
    key(
        "event_store.read_model.read_timeout",
        "How long a read waits for the model to be as fresh as the log, and for a free connection.",
    ),
    key("event_store.read_model.ring_events_max", "The newest events kept in memory for subscribers, at most so many ..."),
    key("event_store.read_model.ring_bytes_max", "... and at most so many bytes of them."),
    key(
        "event_store.read_model.check_bytes_max",
        "The largest file that is checked in full at the start; a larger one that was left in order serves while it is checked.",
    ),
    key("event_store.read_model.copies.enabled", "Whether to make copies, and to start from one where there is no read model."),
    key(
        "event_store.read_model.copies.every_events",
        "A copy is made when the log has this many events, and this many more (at least a tenth).",
    ),
    key("event_store.read_model.copies.look_every", "How often it is looked whether one is due."),
    key(
        "telemetry.level",
        "error, warn, info, debug, trace, or directives: info,causeway_log=debug,causeway::each_event=info. RUST_LOG wins.",
    ),
    key("telemetry.format", "text for people, json for collectors."),
];

/// A file that names every key, its meaning and its default. All of it is commented out: it changes nothing.
pub(super) fn example() -> String {
    let values = values(&Config::default());
    let mut text = String::from(
        "# Every key of Causeway's configuration, its meaning and its default. Copy it to causeway.toml and uncomment what you\n\
         # change. Each key can also be set by the environment: up.listen is CAUSEWAY__UP__LISTEN. Flags win over both.\n\
         # This file is what `causeway config example` prints.\n",
    );
    for (section, meaning) in SECTIONS {
        text.push_str(&format!("\n# {meaning}\n[{section}]\n"));
        for key in KEYS.iter().filter(|key| section_of(key.name) == *section) {
            let value = values.get(key.name).map(toml).or(key.unset.map(str::to_owned)).unwrap_or_default();
            text.push_str(&format!("# {}\n# {} = {value}\n", key.meaning, last(key.name)));
        }
    }
    text
}

/// What is in force, by section; what is not a default says where it comes from.
pub(super) fn in_force(loaded: &Loaded<Config>) -> String {
    let values = values(&loaded.config);
    let mut text = String::new();
    for (section, _) in SECTIONS {
        text.push_str(&format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" }));
        for key in KEYS.iter().filter(|key| section_of(key.name) == *section) {
            let Some(value) = values.get(key.name) else { continue };
            let source = match loaded.sources.get(key.name) {
                Some(source) => format!("  # from {source}"),
                None if key.name == "log.url" => "  # not for `causeway up`: up.nats, or a NATS of its own".to_owned(),
                None => String::new(),
            };
            text.push_str(&format!("{} = {}{source}\n", last(key.name), toml(value)));
        }
    }
    text
}

/// Every value by its dotted key; those that are not set are absent.
fn values(config: &Config) -> BTreeMap<String, Value> {
    fn walk(key: &str, value: Value, found: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(inner) => {
                for (name, value) in inner {
                    let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                    walk(&key, value, found);
                }
            }
            Value::Null => {}
            value => {
                found.insert(key.to_owned(), value);
            }
        }
    }
    let mut found = BTreeMap::new();
    // The structs have nothing that JSON cannot say; a test would see it.
    walk("", serde_json::to_value(config).unwrap_or_default(), &mut found);
    found
}

/// A value as TOML: the same as JSON but for tables.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(values) => {
            let pairs: Vec<_> = values.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        value => value.to_string(),
    }
}

fn section_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use causeway_runtime::config::{ConfigError, load_from};

    use super::*;

    /// The keys that a section's struct has, by its own words: it lists them when it is given one that it has not.
    fn known(section: &str) -> Vec<String> {
        let variable = format!("CAUSEWAY__{}__XYZZY_PLUGH", section.to_uppercase().replace('.', "__"));
        let error = load_from::<Config>(None, Path::new("no-such-file"), [(variable, "1".to_owned())], &[]).unwrap_err();
        match error {
            ConfigError::Unknown { known, .. } => known.iter().map(|name| format!("{section}.{name}")).collect(),
            other => panic!("{section}: {other}"),
        }
    }

    #[test]
    fn every_key_of_the_structs_is_explained_and_no_other() {
        let sections: BTreeSet<String> = SECTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let explained: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        let existing: BTreeSet<String> =
            sections.iter().flat_map(|section| known(section)).filter(|key| !sections.contains(key)).collect();
        let missing: Vec<_> = existing.difference(&explained).collect();
        let stale: Vec<_> = explained.difference(&existing).collect();
        assert!(missing.is_empty() && stale.is_empty(), "explain {missing:?}, remove {stale:?}");
        assert_eq!(explained.len(), KEYS.len(), "a key is explained twice");
    }

    fn load(toml: &str) -> Loaded<Config> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("causeway.toml");
        std::fs::write(&file, toml).unwrap();
        load_from(Some(&file), Path::new(""), [], &[]).unwrap()
    }

    #[test]
    fn the_example_is_valid_and_states_the_defaults() {
        let bare = load(&example());
        assert_eq!(values(&bare.config), values(&Config::default()));
        let is_value = |line: &str| {
            line.strip_prefix("# ").is_some_and(|rest| {
                rest.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            })
        };
        let uncommented: String = example()
            .lines()
            .map(|line| if is_value(line) { format!("{}\n", &line[2..]) } else { format!("{line}\n") })
            .collect();
        let full = load(&uncommented);
        assert_eq!(full.sources.len(), KEYS.len());
        let optional: BTreeSet<&str> = KEYS.iter().filter(|key| key.unset.is_some()).map(|key| key.name).collect();
        let stated: BTreeMap<_, _> =
            values(&full.config).into_iter().filter(|(key, _)| !optional.contains(key.as_str())).collect();
        assert_eq!(stated, values(&Config::default()));
    }

    /// `causeway config example > causeway.example.toml` mends it.
    #[test]
    fn the_example_in_the_repository_is_the_one_that_is_printed() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../causeway.example.toml");
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        if std::env::var_os("CAUSEWAY_WRITE_EXAMPLE").is_some() {
            std::fs::write(&file, example()).unwrap();
        } else {
            assert!(stored == example(), "run `causeway config example > causeway.example.toml`");
        }
    }
}
