//! Which model, where, and how long to wait for it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use causeway_runtime::config::{Secret, bytes, duration};
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ModelError;

/// The configuration of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// `demo` (built in, no key, no network), `openai` (any server that speaks chat completions) or `anthropic`.
    pub provider: Provider,
    /// The server. Default: `https://api.openai.com/v1`, `https://api.anthropic.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The key. `api_key_file` names a file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// The model's name as the server knows it.
    pub model: String,
    /// The most tokens of one answer. Default: what the server thinks right; for `anthropic`, which wants a number, 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How freely it chooses its words. Default: what the server thinks right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Extended thinking, for `anthropic`: `off`, `adaptive`, or a number of tokens for models that want a budget.
    pub thinking: ThinkingMode,
    /// How long to try to reach the server.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long the server may be silent, before its first byte and between two.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long the whole answer may take.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// The most bytes of an answer, thinking and tool arguments included. It has to fit into an event.
    #[serde(with = "bytes")]
    pub answer_bytes_max: usize,
    /// The most tools that one answer may ask for.
    pub tool_calls_max: usize,
    /// How long the demo model takes for a word.
    #[serde(with = "duration")]
    pub demo_delay: Duration,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            provider: Provider::Demo,
            base_url: None,
            api_key: None,
            model: String::new(),
            max_tokens: None,
            temperature: None,
            thinking: ThinkingMode::Off,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            request_timeout: Duration::from_secs(600),
            answer_bytes_max: 256 * 1024,
            tool_calls_max: 32,
            demo_delay: Duration::from_millis(15),
        }
    }
}

/// Who serves the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The built-in one: rules instead of a network of either kind.
    #[default]
    Demo,
    /// Any server that speaks OpenAI's chat completions.
    OpenAi,
    /// Any server that speaks Anthropic's messages.
    Anthropic,
}

/// Whether, and how, an Anthropic model thinks before it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkingMode {
    /// Not.
    #[default]
    Off,
    /// As much as it finds right; the only way for the newest models.
    Adaptive,
    /// At most so many tokens; the only way for older ones.
    Budget(u32),
}

/// The smallest thinking budget that the provider takes.
const THINKING_BUDGET_MIN: u32 = 1024;
/// The most that an answer may be configured to: twice this, escaped, still fits an event.
const ANSWER_BYTES_LIMIT: usize = causeway_event::DATA_BYTES_MAX;
/// How many tokens an Anthropic answer may have unless configured: each model on offer can.
const ANTHROPIC_MAX_TOKENS: u32 = 8192;

impl ModelConfig {
    /// The tokens that an Anthropic request names as its limit: beyond the thinking budget, which counts towards it.
    pub(crate) fn anthropic_max_tokens(&self) -> u32 {
        let thinking = if let ThinkingMode::Budget(budget) = self.thinking { budget } else { 0 };
        self.max_tokens.unwrap_or(ANTHROPIC_MAX_TOKENS.saturating_add(thinking))
    }

    /// The server's address, without a slash at its end.
    pub(crate) fn url(&self) -> Result<Url, ModelError> {
        let text = match (&self.base_url, self.provider) {
            (Some(text), _) => text.trim(),
            (None, Provider::Anthropic) => "https://api.anthropic.com",
            (None, Provider::OpenAi | Provider::Demo) => "https://api.openai.com/v1",
        };
        let invalid = |reason: String| ModelError::config("base_url", reason);
        let mut url = Url::parse(text).map_err(|error| invalid(format!("is not a URL such as https://host/v1: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(invalid("must be an http or https URL".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("must not carry a user or password; the key belongs into api_key".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("must have no query and no fragment".to_owned()));
        }
        let mut path = url.path().trim_end_matches('/').to_owned();
        // What the two providers' own clients are given differs by just this, and everybody mixes it up.
        if self.provider == Provider::Anthropic {
            path.truncate(path.strip_suffix("/v1").unwrap_or(&path).len());
        }
        url.set_path(&path);
        Ok(url)
    }

    /// The key without the white space that a paste brings; none if there is nothing else.
    pub(crate) fn key(&self) -> Option<&str> {
        self.api_key.as_ref().map(|key| key.expose().trim()).filter(|key| !key.is_empty())
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let invalid = |key, reason: &str| Err(ModelError::config(key, reason));
        for (key, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("idle_timeout", self.idle_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if timeout.is_zero() {
                return invalid(key, "must be longer than 0s");
            }
        }
        if self.answer_bytes_max == 0 || ANSWER_BYTES_LIMIT < self.answer_bytes_max {
            let most = bytes::format(ANSWER_BYTES_LIMIT as u64);
            return invalid("answer_bytes_max", &format!("must be at least 1B and at most {most}, what an event can hold"));
        }
        if self.tool_calls_max == 0 {
            return invalid("tool_calls_max", "must be at least 1");
        }
        if self.demo_delay > Duration::from_secs(1) {
            return invalid("demo_delay", "must be at most 1s");
        }
        match self.provider {
            Provider::Demo => Ok(()),
            Provider::OpenAi | Provider::Anthropic => self.check_remote(),
        }
    }

    fn check_remote(&self) -> Result<(), ModelError> {
        let invalid = |key, reason: &str| Err(ModelError::config(key, reason));
        let url = self.url()?;
        if self.model.trim().is_empty() {
            return invalid("model", "must name the model to ask");
        }
        if self.max_tokens == Some(0) {
            return invalid("max_tokens", "must be at least 1");
        }
        if self.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            return invalid("temperature", "must be between 0 and 2");
        }
        match self.key() {
            None if is_public(&url) => {
                return invalid("api_key", &format!("is needed for {}", url.host_str().unwrap_or_default()));
            }
            Some("***") => return invalid("api_key", "is the mask that stands for a key, not a key"),
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return invalid("api_key", "has characters that no key has (a space, a line end, a letter with an accent)");
            }
            _ => {}
        }
        match (self.thinking, self.provider) {
            (ThinkingMode::Off, _) => Ok(()),
            (_, Provider::OpenAi | Provider::Demo) => invalid("thinking", "is for the provider anthropic only"),
            (_, Provider::Anthropic) if self.temperature.is_some() => {
                invalid("temperature", "cannot be chosen for a model that thinks")
            }
            (ThinkingMode::Budget(budget), Provider::Anthropic) if budget < THINKING_BUDGET_MIN => {
                invalid("thinking", &format!("must be a budget of at least {THINKING_BUDGET_MIN} tokens"))
            }
            (ThinkingMode::Budget(budget), Provider::Anthropic) if self.anthropic_max_tokens() <= budget => {
                invalid("max_tokens", "must be more than the thinking budget, which counts towards it")
            }
            (ThinkingMode::Adaptive | ThinkingMode::Budget(_), Provider::Anthropic) => Ok(()),
        }
    }
}

/// The providers' own servers, which answer nobody without a key.
fn is_public(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.parse::<IpAddr>().is_err() && ["openai.com", "anthropic.com"].iter().any(|domain| within(host, domain))
}

fn within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Serialize for ThinkingMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Adaptive => serializer.serialize_str("adaptive"),
            Self::Budget(tokens) => serializer.serialize_u32(*tokens),
        }
    }
}

impl<'de> Deserialize<'de> for ThinkingMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mode;
        impl de::Visitor<'_> for Mode {
            type Value = ThinkingMode;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `adaptive` or a number of tokens")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ThinkingMode, E> {
                match text {
                    "off" => Ok(ThinkingMode::Off),
                    "adaptive" => Ok(ThinkingMode::Adaptive),
                    // From the environment a number comes as text.
                    text => match text.parse() {
                        Ok(tokens) => Ok(ThinkingMode::Budget(tokens)),
                        Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                    },
                }
            }
            fn visit_u64<E: de::Error>(self, tokens: u64) -> Result<ThinkingMode, E> {
                let tokens = u32::try_from(tokens).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(tokens), &self))?;
                Ok(ThinkingMode::Budget(tokens))
            }
            fn visit_i64<E: de::Error>(self, tokens: i64) -> Result<ThinkingMode, E> {
                u64::try_from(tokens)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(tokens), &self))
                    .and_then(|tokens| self.visit_u64(tokens))
            }
        }
        deserializer.deserialize_any(Mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn openai() -> ModelConfig {
        ModelConfig {
            provider: Provider::OpenAi,
            base_url: Some("http://127.0.0.1:1/v1".into()),
            model: "m".into(),
            ..ModelConfig::default()
        }
    }

    fn anthropic() -> ModelConfig {
        ModelConfig { provider: Provider::Anthropic, ..openai() }
    }

    #[track_caller]
    fn refused(config: &ModelConfig, key: &str, words: &str) {
        match Model::from_config(config) {
            Err(ModelError::Config { key: named, reason }) => {
                assert_eq!(named, key, "{reason}");
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_default_needs_nothing() {
        assert!(matches!(Model::from_config(&ModelConfig::default()), Ok(Model::Demo(_))));
    }

    #[test]
    fn a_bad_value_is_named_with_its_reason() {
        let with_url = |url: &str| ModelConfig { base_url: Some(url.into()), ..openai() };
        refused(&with_url("localhost:8080/v1"), "base_url", "http");
        refused(&with_url("not a url"), "base_url", "not a URL");
        refused(&with_url("ftp://host/v1"), "base_url", "http or https");
        refused(&with_url("https://me:secret@host/v1"), "base_url", "api_key");
        refused(&with_url("https://host/v1?version=1"), "base_url", "query");
        refused(&ModelConfig { base_url: None, ..openai() }, "api_key", "api.openai.com");
        refused(&ModelConfig { base_url: None, ..anthropic() }, "api_key", "api.anthropic.com");
        refused(&ModelConfig { api_key: Some("***".into()), ..openai() }, "api_key", "mask");
        refused(&ModelConfig { api_key: Some("sk-a b".into()), ..openai() }, "api_key", "characters");
        refused(&ModelConfig { model: " ".into(), ..openai() }, "model", "name");
        refused(&ModelConfig { max_tokens: Some(0), ..openai() }, "max_tokens", "at least");
        refused(&ModelConfig { temperature: Some(f64::NAN), ..openai() }, "temperature", "between");
        refused(&ModelConfig { idle_timeout: Duration::ZERO, ..openai() }, "idle_timeout", "longer");
        refused(&ModelConfig { answer_bytes_max: usize::MAX, ..openai() }, "answer_bytes_max", "512KiB");
        refused(&ModelConfig { tool_calls_max: 0, ..ModelConfig::default() }, "tool_calls_max", "at least");
        refused(&ModelConfig { thinking: ThinkingMode::Adaptive, ..openai() }, "thinking", "anthropic");
        refused(&ModelConfig { thinking: ThinkingMode::Budget(5), ..anthropic() }, "thinking", "1024");
        let crowded = ModelConfig { thinking: ThinkingMode::Budget(4096), max_tokens: Some(4096), ..anthropic() };
        refused(&crowded, "max_tokens", "budget");
        let hot = ModelConfig { thinking: ThinkingMode::Adaptive, temperature: Some(0.5), ..anthropic() };
        refused(&hot, "temperature", "thinks");
    }

    #[test]
    fn a_local_server_needs_no_key() {
        assert!(Model::from_config(&openai()).is_ok());
        assert!(Model::from_config(&anthropic()).is_ok());
    }

    #[test]
    fn a_key_is_never_shown() {
        let config = ModelConfig { api_key: Some("sk-very-secret".into()), ..openai() };
        let model = Model::from_config(&config).unwrap();
        let shown = format!("{config:?} {model:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("very-secret"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }

    #[test]
    fn thinking_reads_what_people_write() {
        let read = |json: &str| serde_json::from_str::<ThinkingMode>(json).ok();
        assert_eq!(read("\"off\""), Some(ThinkingMode::Off));
        assert_eq!(read("\"adaptive\""), Some(ThinkingMode::Adaptive));
        assert_eq!(read("2048"), Some(ThinkingMode::Budget(2048)));
        assert_eq!(read("\"2048\""), Some(ThinkingMode::Budget(2048)));
        for bad in ["-1", "\"much\"", "99999999999", "true"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_anthropic_address_may_end_as_an_openai_one() {
        for text in ["https://host", "https://host/", "https://host/v1", "https://host/v1/"] {
            let config = ModelConfig { base_url: Some(text.into()), ..anthropic() };
            assert_eq!(config.url().unwrap().as_str(), "https://host/", "{text}");
        }
    }

    #[test]
    fn the_whole_configuration_reads_back() {
        let config = ModelConfig { thinking: ThinkingMode::Budget(2048), max_tokens: Some(9000), ..anthropic() };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        assert!(serde_json::from_str::<ModelConfig>(r#"{"modle": "x"}"#).is_err());
    }
}
