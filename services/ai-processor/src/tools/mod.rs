//! The tools that a model may call: what they are, whether they may run twice, and running them within limits.
//!
//! A model's arguments are outside input: whatever is wrong with them becomes an error in words for the model, never a panic
//! and never the end of the turn. These tools read no clock (the time comes as an argument), touch no network and no file.

mod calculate;
mod now;

use std::sync::Arc;
use std::time::Duration;

use causeway_event::payload::Effect;
use causeway_runtime::config::{bytes, duration};
use jiff::Timestamp;
use jsonschema::Validator;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::model::ToolSpec;

/// How many faults of one call's arguments are told.
const FAULTS_MAX: usize = 3;

/// Limits on the tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsConfig {
    /// How long one call may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The most bytes of a result that the model gets to see.
    #[serde(with = "bytes")]
    pub output_bytes_max: usize,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), output_bytes_max: 16 * 1024 }
    }
}

/// Why a call has no result, in words for the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// There is no such tool.
    #[error("there is no tool `{tool}`; there are {known}")]
    Unknown {
        /// What was asked for.
        tool: String,
        /// What could have been.
        known: String,
    },
    /// The arguments are not what the tool takes.
    #[error("the arguments are invalid: {reason}")]
    Arguments {
        /// Each fault with its JSON Pointer.
        reason: String,
    },
    /// The tool ran and could not do it.
    #[error("{reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error("the tool was stopped after {}", duration::format(*.after))]
    TimedOut {
        /// How long it had.
        after: Duration,
    },
}

impl ToolError {
    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into() }
    }
}

/// All tools. Keep one: it holds the compiled schemas.
#[derive(Debug)]
pub struct Toolbox {
    config: ToolsConfig,
    tools: Vec<Tool>,
    /// Room for calculations, which cost a whole core each.
    calculations: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tool {
    kind: Kind,
    effect: Effect,
    spec: ToolSpec,
    schema: Validator,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Think,
    Now,
    Calculate,
}

/// A note to yourself.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Think {
    /// What you want to keep in mind.
    #[serde(rename = "thought")]
    #[schemars(length(min = 1))]
    _thought: String,
}

impl Default for Toolbox {
    fn default() -> Self {
        Self::new(ToolsConfig::default())
    }
}

impl Toolbox {
    /// All tools that there are.
    pub fn new(config: ToolsConfig) -> Self {
        let tools = vec![
            Tool::new::<Think>(
                Kind::Think,
                "think",
                "Note a thought before you go on, when a task has several steps or results must be weighed. It changes nothing \
                 and fetches nothing.",
            ),
            Tool::new::<now::Arguments>(
                Kind::Now,
                "now",
                "The current date, time and weekday in a time zone. Use it whenever the answer depends on what time it is.",
            ),
            Tool::new::<calculate::Arguments>(
                Kind::Calculate,
                "calculate",
                "Calculates an expression exactly: arithmetic, powers, percent, functions such as sqrt and sin, and units \
                 (`5 km to miles`). Use it for every calculation instead of doing it in your head.",
            ),
        ];
        Self { config, tools, calculations: Arc::new(Semaphore::new(calculate::CONCURRENT_MAX)) }
    }

    /// What the model is told about them.
    pub fn specs(&self) -> Vec<ToolSpec> {
        self.tools.iter().map(|tool| tool.spec.clone()).collect()
    }

    /// What happens when this tool runs twice; none if there is no such tool.
    pub fn effect(&self, name: &str) -> Option<Effect> {
        self.find(name).map(|tool| tool.effect)
    }

    /// Runs a tool. `key` is the same for each try of the same call: what a tool with an effect outside hands on, so that it
    /// happens once. `now` is the time that the call sees.
    pub async fn run(&self, name: &str, arguments: &Value, key: &str, now: Timestamp) -> Result<Value, ToolError> {
        let Some(tool) = self.find(name) else {
            let known: Vec<&str> = self.tools.iter().map(|tool| tool.spec.name.as_str()).collect();
            let tool: String = name.chars().take(64).collect();
            return Err(ToolError::Unknown { tool, known: known.join(", ") });
        };
        tracing::debug!(tool = name, key, "tool runs");
        let arguments = tool.checked(arguments)?;
        let run = async {
            match tool.kind {
                Kind::Think => parse::<Think>(arguments).map(|_| json!({ "noted": true })),
                Kind::Now => now::run(&parse(arguments)?, now),
                Kind::Calculate => calculate::run(parse(arguments)?, &self.calculations, self.config.timeout).await,
            }
        };
        let result = tokio::time::timeout(self.config.timeout, run).await;
        let result = result.unwrap_or(Err(ToolError::TimedOut { after: self.config.timeout }))?;
        Ok(capped(result, self.config.output_bytes_max))
    }

    fn find(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.spec.name == name)
    }
}

impl Tool {
    /// None of today's tools changes anything outside.
    fn new<A: JsonSchema>(kind: Kind, name: &str, description: &str) -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            // Providers take a plain object; some stumble over references and over the dialect's name.
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let mut schema = settings.into_generator().into_root_schema_for::<A>().to_value();
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("title");
            schema.remove("description");
        }
        let validator = jsonschema::validator_for(&schema).expect("a schema derived from one of our structs is valid");
        let spec = ToolSpec { name: name.to_owned(), description: description.to_owned(), schema };
        Self { kind, effect: Effect::Pure, spec, schema: validator }
    }

    /// The arguments, if they are what the schema wants.
    fn checked(&self, arguments: &Value) -> Result<Value, ToolError> {
        let invalid = |reason: String| Err(ToolError::Arguments { reason });
        let mut arguments = match arguments {
            Value::Null => json!({}),
            Value::Object(_) => arguments.clone(),
            Value::String(_) => return invalid("they are not JSON; give an object".to_owned()),
            _ => return invalid("they must be an object".to_owned()),
        };
        // Models say `null` for what they leave out.
        if let Some(members) = arguments.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        let faults: Vec<String> = self
            .schema
            .iter_errors(&arguments)
            .take(FAULTS_MAX)
            .map(|fault| match fault.instance_path().as_str() {
                "" => shorten(&fault.to_string()),
                path => format!("{path}: {}", shorten(&fault.to_string())),
            })
            .collect();
        if faults.is_empty() { Ok(arguments) } else { invalid(faults.join("; ")) }
    }
}

/// A fault quotes the value, which may be long.
fn shorten(fault: &str) -> String {
    const CHARS_MAX: usize = 200;
    let middle = |at: usize| fault.char_indices().nth(at).map_or(fault.len(), |(at, _)| at);
    match fault.chars().count() {
        count if CHARS_MAX < count => format!("{} ... {}", &fault[..middle(80)], &fault[middle(count - 100)..]),
        _ => fault.to_owned(),
    }
}

fn parse<A: DeserializeOwned>(arguments: Value) -> Result<A, ToolError> {
    serde_json::from_value(arguments).map_err(|error| ToolError::Arguments { reason: error.to_string() })
}

/// The result, or its beginning and a note.
fn capped(result: Value, bytes_max: usize) -> Value {
    let text = result.to_string();
    if text.len() <= bytes_max {
        return result;
    }
    let start = &text[..text.floor_char_boundary(bytes_max)];
    let note = format!("the result has {} bytes; only its first {} are here", text.len(), start.len());
    json!({ "truncated": true, "note": note, "start": start })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolbox() -> Toolbox {
        Toolbox::default()
    }

    async fn run(tool: &str, arguments: Value) -> Result<Value, String> {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        toolbox().run(tool, &arguments, "key", now).await.map_err(|error| error.to_string())
    }

    #[test]
    fn the_model_is_told_this() {
        insta::assert_json_snapshot!(toolbox().specs());
    }

    #[test]
    fn each_tool_says_what_happens_when_it_runs_twice() {
        for spec in toolbox().specs() {
            assert_eq!(toolbox().effect(&spec.name), Some(Effect::Pure), "{}", spec.name);
        }
        assert_eq!(toolbox().effect("rm"), None);
    }

    #[tokio::test]
    async fn good_arguments_give_a_result() {
        assert_eq!(run("think", json!({"thought": "hm"})).await, Ok(json!({"noted": true})));
        assert_eq!(
            run("calculate", json!({"expression": "17 * 23"})).await,
            Ok(json!({"expression": "17 * 23", "result": "391"}))
        );
        let oslo = json!({
            "time": "2026-11-23T11:00:00+01:00", "date": "2026-11-23", "clock": "11:00", "weekday": "Monday",
            "iso_week": "2026-W48", "zone": "Europe/Oslo",
        });
        assert_eq!(run("now", json!({"zone": "Europe/Oslo"})).await, Ok(oslo));
        for arguments in [json!({}), json!(null), json!({"zone": null})] {
            assert_eq!(run("now", arguments).await.unwrap()["zone"], "UTC");
        }
    }

    #[tokio::test]
    async fn bad_arguments_give_an_error_that_a_model_can_act_on() {
        for (tool, arguments, words) in [
            ("calc", json!({}), "there is no tool `calc`; there are think, now, calculate"),
            ("calculate", json!("{\"expression\":"), "not JSON"),
            ("calculate", json!([1]), "must be an object"),
            ("calculate", json!({}), "\"expression\" is a required property"),
            ("calculate", json!({"expression": 5}), "/expression: 5 is not of type \"string\""),
            ("calculate", json!({"expression": "1", "digits": 3}), "'digits' was unexpected"),
            ("calculate", json!({"expression": ""}), "/expression: "),
            ("calculate", json!({"expression": "1".repeat(5000)}), "/expression: "),
            ("now", json!({"zone": ["UTC"]}), "/zone: "),
            ("now", json!({"zone": "Mars/Olympus"}), "Mars/Olympus"),
            ("think", json!({"thought": null}), "required"),
        ] {
            let error = run(tool, arguments.clone()).await.unwrap_err();
            assert!(error.contains(words), "{tool} {arguments}: {error}");
            assert!(error.len() < 700, "{tool}: {error}");
        }
    }

    #[test]
    fn a_long_result_is_cut_with_a_note() {
        let cut = capped(json!({"text": "é".repeat(1000)}), 100);
        assert_eq!(cut["truncated"], true);
        assert!(cut["note"].as_str().unwrap().contains("2011 bytes"), "{cut}");
        assert!(cut.to_string().len() < 300);
        assert_eq!(capped(json!("short"), 100), json!("short"));
    }

    #[tokio::test]
    async fn a_tool_that_dawdles_is_stopped() {
        let config = ToolsConfig { timeout: Duration::from_millis(50), ..ToolsConfig::default() };
        let endless = json!({"expression": "9^9^9^9"});
        let result = Toolbox::new(config).run("calculate", &endless, "key", Timestamp::UNIX_EPOCH).await;
        // Who sees it first, the engine or the clock, is a matter of luck.
        assert!(matches!(result, Err(ToolError::TimedOut { .. } | ToolError::Failed { .. })), "{result:?}");
    }
}
