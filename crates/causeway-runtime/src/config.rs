//! Configuration in layers: a TOML file, then the environment, then flags; each value knows where it came from.
//!
//! The result is one typed struct with `#[serde(default, deny_unknown_fields)]`. A key that the struct does not have is an
//! error that names the key, its source, and the key that was probably meant. Secrets can be given as a file: `api_key_file`
//! beside `api_key` (see [`Secret`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::de::DeserializeOwned;

pub mod bytes;
pub mod duration;
mod secret;

pub use secret::Secret;

/// The file that is read from the current folder when none is named.
pub const FILE: &str = "causeway.toml";

/// Variables that start so are configuration: `CAUSEWAY__SECTION__KEY`.
pub const ENV_PREFIX: &str = "CAUSEWAY__";

/// A configuration and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The typed values.
    pub config: T,
    /// For each value that is not a default, by dotted key: `ai_processor.model.provider` -> `environment variable ..`.
    pub sources: BTreeMap<String, String>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// A flag of the command line that sets a key.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As the user wrote it, for messages: `--listen`.
    pub name: &'static str,
    /// The dotted key that it sets.
    pub key: &'static str,
    /// Its value; a number or `true` is understood where the key wants one.
    pub value: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named is not there, or cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Not TOML.
    #[error("{origin} is not valid TOML: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Where and what.
        reason: String,
    },
    /// A key that nothing knows.
    #[error("unknown key `{key}` in {origin}{}", hint(suggestion.as_deref(), known))]
    Unknown {
        /// The dotted key.
        key: String,
        /// The file, variable or flag.
        origin: String,
        /// The key that was probably meant, dotted.
        suggestion: Option<String>,
        /// The keys that stand in its place.
        known: Vec<String>,
    },
    /// A value that its key cannot take.
    #[error("`{key}` in {origin}: {reason}")]
    Invalid {
        /// The dotted key.
        key: String,
        /// The file, variable or flag.
        origin: String,
        /// What is wrong.
        reason: String,
    },
}

fn hint(suggestion: Option<&str>, known: &[String]) -> String {
    match suggestion {
        Some(key) => format!("; did you mean `{key}`?"),
        None => format!("; known here: {}", known.join(", ")),
    }
}

/// Loads the configuration of this process: `file` (it must exist) or else [`FILE`] in the current folder (if it exists),
/// then the process's environment, then `flags`.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, flags: &[Flag]) -> Result<Loaded<T>, ConfigError> {
    // Variables that are not Unicode cannot be ours.
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(file, Path::new(FILE), environment, flags)
}

/// [`load`] with everything that is read from outside in plain sight.
pub fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    file_default: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Loaded<T>, ConfigError> {
    let file = match file {
        Some(path) => Some(path.to_owned()),
        None => file_default.exists().then(|| file_default.to_owned()),
    };
    let mut figment = Figment::new();
    if let Some(path) = &file {
        figment = figment.merge(Layer::of_file(path)?);
    }
    // Sorted, so that the same environment always gives the same message.
    let variables: BTreeMap<String, String> =
        environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX) && name.len() > ENV_PREFIX.len()).collect();
    for (name, value) in variables {
        let key = name[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        figment = figment.merge(Layer::of_one(format!("environment variable {name}"), &key, &value)?);
    }
    for flag in flags {
        figment = figment.merge(Layer::of_one(flag.name.to_owned(), flag.key, &flag.value)?);
    }
    let config = figment.extract_lossy().map_err(|error| explain(error, &figment))?;
    Ok(Loaded { config, sources: sources(&figment), file })
}

/// One source of values.
struct Layer {
    name: String,
    values: Dict,
}

impl Layer {
    fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::File { path: path.to_owned(), reason: error.to_string() })?;
        let name = path.display().to_string();
        let syntax = |reason: String| ConfigError::Syntax { origin: name.clone(), reason: without_source(&reason) };
        let mut profiles = Toml::string(&text).data().map_err(|error| syntax(error.to_string()))?;
        let values = profiles.remove(&Profile::Default).unwrap_or_default();
        let values = secret_files(values, &name, "")?;
        Ok(Self { name, values })
    }

    fn of_one(name: String, key: &str, text: &str) -> Result<Self, ConfigError> {
        // Only lists and tables are read as TOML: a key that is all digits must stay a string, to the last zero.
        let value = match text.trim_start().starts_with(['[', '{']) {
            true => text.parse::<Value>().unwrap_or_else(|_| Value::from(text)),
            false => Value::from(text),
        };
        let nested = figment::util::nest(key, value);
        let values = secret_files(nested.into_dict().unwrap_or_default(), &name, "")?;
        Ok(Self { name, values })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone()).source(Source::Custom(self.name.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// A complaint about TOML in one line, without the line of the file that it shows: that may hold a secret.
fn without_source(reason: &str) -> String {
    let is_source = |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    reason.lines().filter(|line| !line.trim().is_empty() && !is_source(line)).collect::<Vec<_>>().join(": ")
}

/// Names of secrets end so; each may be given as a file under the same name and `_file`.
const SECRET_ENDINGS: [&str; 4] = ["key", "token", "password", "secret"];

/// Turns `api_key_file = "path"` into `api_key = { file = "path" }`, which [`Secret`] reads.
fn secret_files(values: Dict, origin: &str, parent: &str) -> Result<Dict, ConfigError> {
    let mut renamed = Dict::new();
    for (key, value) in values {
        let dotted = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
        let value = match value {
            Value::Dict(tag, inner) => Value::Dict(tag, secret_files(inner, origin, &dotted)?),
            value => value,
        };
        let secret = key.strip_suffix("_file").filter(|stem| SECRET_ENDINGS.iter().any(|ending| stem.ends_with(ending)));
        let (key, value) = match secret {
            Some(stem) => (stem.to_owned(), Value::from(Dict::from([("file".to_owned(), value)]))),
            None => (key, value),
        };
        if renamed.insert(key.clone(), value).is_some() {
            let reason = format!("is given twice, as `{key}` and as `{key}_file`");
            return Err(ConfigError::Invalid { key: dotted, origin: origin.to_owned(), reason });
        }
    }
    Ok(renamed)
}

fn explain(error: figment::Error, figment: &Figment) -> ConfigError {
    use figment::error::Kind;
    let key = error.path.join(".");
    let origin =
        error.metadata.as_ref().or_else(|| figment.find_metadata(&key)).map_or("the configuration", |metadata| &metadata.name);
    let origin = origin.to_owned();
    match error.kind {
        Kind::UnknownField(field, known) => {
            let parent = error.path.split_last().map(|(_, parent)| parent.join(".")).unwrap_or_default();
            let dotted = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
            let suggestion = closest(&field, known).map(dotted);
            let known = known.iter().map(|&name| name.to_owned()).collect();
            ConfigError::Unknown { key: dotted(&field), origin, suggestion, known }
        }
        Kind::UnknownVariant(found, known) => {
            let reason = match closest(&found, known) {
                Some(near) => format!("`{found}` is not one of {}; did you mean `{near}`?", known.join(", ")),
                None => format!("`{found}` is not one of {}", known.join(", ")),
            };
            ConfigError::Invalid { key, origin, reason }
        }
        kind => ConfigError::Invalid { key, origin, reason: kind.to_string() },
    }
}

/// The known name that `name` is probably a slip of the hand for.
pub fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |candidate: &str| strsim::osa_distance(&name.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
    let (distance, nearest) = known.iter().map(|&candidate| (distance(candidate), candidate)).min()?;
    // A third of the letters may be wrong: `provder` is `provider`, `colour` is nothing of ours.
    (distance <= name.chars().count().max(3) / 3).then_some(nearest)
}

/// Where each value that somebody gave came from.
fn sources(figment: &Figment) -> BTreeMap<String, String> {
    fn walk(figment: &Figment, key: &str, value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            // The file of a secret counts as the secret.
            Value::Dict(_, inner) if !(inner.len() == 1 && inner.contains_key("file")) => {
                for (name, value) in inner {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    walk(figment, &key, value, found);
                }
            }
            value => {
                let tag = match value {
                    Value::Dict(_, inner) => inner.values().next().map_or(value.tag(), Value::tag),
                    value => value.tag(),
                };
                if let Some(metadata) = figment.get_metadata(tag) {
                    found.insert(key.to_owned(), metadata.name.to_string());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(values) = figment.extract::<Value>() {
        walk(figment, "", &values, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        gateway: Gateway,
        model: Model,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Gateway {
        #[serde(with = "duration")]
        read_timeout: Duration,
        #[serde(with = "bytes")]
        body_bytes_max: usize,
        workers: u16,
    }

    impl Default for Gateway {
        fn default() -> Self {
            Self { read_timeout: Duration::from_secs(5), body_bytes_max: 512 * 1024, workers: 2 }
        }
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Model {
        provider: Provider,
        name: String,
        api_key: Option<Secret>,
        tools: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Provider {
        #[default]
        Demo,
        OpenAi,
    }

    /// Loads with `toml` as the file and these variables.
    fn load(toml: &str, environment: &[(&str, &str)], flags: &[Flag]) -> Result<Loaded<Config>, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("causeway.toml");
        std::fs::write(&file, toml.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        std::fs::write(folder.path().join("key"), "from-a-file\n").unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_from(Some(&file), Path::new("unused"), environment, flags)
    }

    #[track_caller]
    fn refused(toml: &str, environment: &[(&str, &str)]) -> String {
        let message = load(toml, environment, &[]).unwrap_err().to_string();
        // The temporary folder's name is different each time.
        match message.find("/") {
            Some(start) => {
                let end = message.find("causeway.toml").unwrap();
                format!("{}{}", &message[..start], &message[end..])
            }
            None => message,
        }
    }

    #[test]
    fn without_anything_the_defaults_hold() {
        let loaded: Loaded<Config> = load_from(None, Path::new("no-such-file"), [], &[]).unwrap();
        assert_eq!(loaded.config.gateway.workers, 2);
        assert!(loaded.sources.is_empty() && loaded.file.is_none());
    }

    #[test]
    fn the_environment_beats_the_file_and_a_flag_beats_both() {
        let toml = "gateway = { workers = 3, read_timeout = '250ms', body_bytes_max = '1MiB' }\nmodel.name = 'a'";
        let environment = [("CAUSEWAY__GATEWAY__WORKERS", "4"), ("CAUSEWAY__MODEL__NAME", "007"), ("CAUSEWAY_SERVER", "x")];
        let flag = Flag { name: "--workers", key: "gateway.workers", value: "5".into() };
        let loaded = load(toml, &environment, &[flag]).unwrap();
        assert_eq!(loaded.config.gateway.workers, 5);
        assert_eq!(loaded.config.gateway.read_timeout, Duration::from_millis(250));
        assert_eq!(loaded.config.gateway.body_bytes_max, 1024 * 1024);
        assert_eq!(loaded.config.model.name, "007");
        assert_eq!(loaded.sources["gateway.workers"], "--workers");
        assert_eq!(loaded.sources["model.name"], "environment variable CAUSEWAY__MODEL__NAME");
        assert!(loaded.sources["gateway.read_timeout"].ends_with("causeway.toml"));
        assert_eq!(loaded.sources.len(), 4);
    }

    #[test]
    fn lists_come_from_the_environment_too() {
        let loaded = load("", &[("CAUSEWAY__MODEL__TOOLS", r#"["think", "now"]"#)], &[]).unwrap();
        assert_eq!(loaded.config.model.tools, ["think", "now"]);
    }

    #[test]
    fn a_secret_comes_from_a_value_or_a_file_and_never_shows() {
        for (toml, environment, expected) in [
            ("model.api_key = 'plain'", &[][..], "plain"),
            ("model.api_key_file = 'FOLDER/key'", &[], "from-a-file"),
            ("model.api_key_file = 'FOLDER/key'", &[("CAUSEWAY__MODEL__API_KEY", "0042")], "0042"),
        ] {
            let loaded = load(toml, environment, &[]).unwrap();
            let key = loaded.config.model.api_key.as_ref().unwrap();
            assert_eq!(key.expose(), expected);
            assert!(loaded.sources.contains_key("model.api_key"), "{:?}", loaded.sources);
            assert_eq!(serde_json::to_value(&loaded.config).unwrap()["model"]["api_key"], "***");
            assert!(!format!("{loaded:?}").contains(expected));
        }
        assert!(refused("model.api_key_file = 'no-such-file'", &[]).contains("no-such-file"));
        assert!(refused("model = { api_key_file = 'a', api_key = 'b' }", &[]).contains("given twice"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_source_and_the_one_that_was_meant() {
        assert_eq!(
            refused("model.provder = 'demo'", &[]),
            "unknown key `model.provder` in causeway.toml; did you mean `model.provider`?"
        );
        assert_eq!(
            refused("", &[("CAUSEWAY__GATEWAI__WORKERS", "1")]),
            "unknown key `gatewai` in environment variable CAUSEWAY__GATEWAI__WORKERS; did you mean `gateway`?"
        );
        assert_eq!(
            refused("gateway.colour = 1", &[]),
            "unknown key `gateway.colour` in causeway.toml; known here: read_timeout, body_bytes_max, workers"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_its_source() {
        assert_eq!(
            refused("gateway.read_timeout = '5 parsecs'", &[]),
            "`gateway.read_timeout` in causeway.toml: `5 parsecs` is not a duration such as 250ms, 5s or 2m"
        );
        assert_eq!(
            refused("", &[("CAUSEWAY__GATEWAY__WORKERS", "many")]),
            "`gateway.workers` in environment variable CAUSEWAY__GATEWAY__WORKERS: invalid type: found string \"many\", expected u16"
        );
        assert_eq!(
            refused("model.provider = 'opnai'", &[]),
            "`model.provider` in causeway.toml: `opnai` is not one of demo, openai; did you mean `openai`?"
        );
        assert!(refused("gateway = [", &[]).starts_with("causeway.toml is not valid TOML: "));
        let cut = refused("model.name = 'a'\nmodel.api_key = \"sk-very-secret\n", &[]);
        assert!(cut.contains("line 2") && !cut.contains("very-secret") && cut.lines().count() == 1, "{cut}");
        let missing = load_from::<Config>(Some(Path::new("no-such-file")), Path::new(""), [], &[]).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read the configuration file no-such-file: "));
    }

    #[test]
    fn slips_of_the_hand_are_near() {
        assert_eq!(closest("ab", &["ba"]), Some("ba"), "two that changed places are one slip");
        assert_eq!(closest("LISTN", &["listen", "data"]), Some("listen"));
        assert_eq!(closest("x", &["listen", "data"]), None);
    }
}
