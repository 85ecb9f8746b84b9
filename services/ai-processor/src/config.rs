//! The agent: who it is, what it may use, and where it stops.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::ModelConfig;
use crate::tools::ToolsConfig;

/// Configuration of the AI processor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agent's name, as traces and events show it.
    pub agent: String,
    /// What the agent is told about itself before everything else.
    pub system_prompt: String,
    /// How many earlier turns of the session the model is told.
    pub history_turns: usize,
    /// The most model calls of one turn.
    pub steps_max: u32,
    /// The most claims of one turn: how often an input may bring its processor down.
    pub attempts_max: u32,
    /// How often a model call that failed for a passing reason is made again.
    pub model_retries_max: u32,
    /// The shortest pause before a model call is made again; it doubles each time. The provider's `Retry-After` wins.
    #[serde(with = "causeway_runtime::config::duration")]
    pub model_retry_min: Duration,
    /// The longest pause before a model call is made again; a provider that asks for more has failed.
    #[serde(with = "causeway_runtime::config::duration")]
    pub model_retry_max: Duration,
    /// Whether spans may hold what people and the model say.
    pub trace_content: bool,
    /// The model to ask.
    pub model: ModelConfig,
    /// Limits of the tools.
    pub tools: ToolsConfig,
    /// How work is taken and held.
    pub processing: causeway_processor::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent: "assistant".into(),
            system_prompt: "You are a helpful assistant. Use the tools where they help; be brief and honest.".into(),
            history_turns: 20,
            steps_max: 20,
            attempts_max: 5,
            model_retries_max: 4,
            model_retry_min: Duration::from_secs(1),
            model_retry_max: Duration::from_secs(60),
            trace_content: false,
            model: ModelConfig::default(),
            tools: ToolsConfig::default(),
            processing: causeway_processor::Config::default(),
        }
    }
}

impl Config {
    /// Names this configuration in events: what an answer depended on. Secrets are not part of it.
    pub(crate) fn hash(&self) -> String {
        // The struct serializes without its secrets; it cannot fail to (no map with keys other than strings).
        let json = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
