//! The built-in model: a few rules, no network, no key.
//!
//! It exists so that a newcomer sees the whole loop (thinking, tools, results, answer) within a minute, and it never claims to
//! be more than it is. Deterministic: the same prompt gives the same answer to the letter, ids included. No clock, no chance.
//!
//! ```text
//! message ─ wishes ─┬─ arithmetic ─ calculate ┐
//!                   ├─ the time ─── now ──────┤ both at once if it has both      ─ results ─ answer
//!                   └─ neither ──── think ────┘
//! ```

mod wishes;

use std::time::Duration;

use causeway_event::DeltaKind;
use causeway_event::payload::Usage;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Generated, Message, ModelConfig, Prompt, Sink, Thought, ToolRequest, ToolResult};
use wishes::Wishes;

/// Its name unless the configuration gives another.
const NAME: &str = "demo";
/// What to set to talk with a real model.
const HOW_TO_GO_ON: &str = "To talk with a real model, set provider = \"openai\" (or \"anthropic\"), model, api_key_file and, for \
                            any compatible server, base_url under [ai_processor.model] in causeway.toml.";

/// The built-in model.
#[derive(Debug)]
pub struct Demo {
    name: String,
    delay: Duration,
}

impl Demo {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let name = if config.model.trim().is_empty() { NAME } else { config.model.trim() };
        Self { name: name.to_owned(), delay: config.demo_delay }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Speaks word by word, as other models do.
    pub(crate) async fn generate(&self, prompt: &Prompt, sink: &mut Sink<'_>) -> Generated {
        let generated = compose(&self.name, prompt);
        let thinking = generated.thinking.as_ref().map_or("", |thought| thought.text.as_str());
        for (kind, text) in [(DeltaKind::Thinking, thinking), (DeltaKind::Text, generated.text.as_str())] {
            for word in text.split_inclusive(char::is_whitespace) {
                if !self.delay.is_zero() {
                    tokio::time::sleep(self.delay).await;
                }
                sink(kind, word);
            }
        }
        generated
    }
}

/// The answer to a prompt.
fn compose(name: &str, prompt: &Prompt) -> Generated {
    let talk = Talk::of(prompt);
    let (thinking, text, tool_calls) = match talk.results.is_empty() {
        true => ask_tools(prompt, &talk),
        false => (None, talk.answer(), Vec::new()),
    };
    let written = thinking.as_deref().map_or(0, words) + words(&text) + 5 * tool_calls.len() as u64;
    Generated {
        finish_reason: if tool_calls.is_empty() { "stop" } else { "tool_calls" }.to_owned(),
        thinking: thinking.map(|text| Thought { text, signature: None }),
        text,
        tool_calls,
        usage: Usage { input_tokens: read(prompt), output_tokens: written },
        model: name.to_owned(),
    }
}

/// What the conversation has come to.
struct Talk<'p> {
    /// What was said since the assistant last answered.
    said: String,
    /// The first message ever.
    first: &'p str,
    /// How many messages there were.
    messages: usize,
    /// How somebody said they are called.
    name: Option<String>,
    /// What the tools gave for this message.
    results: Vec<&'p ToolResult>,
}

impl<'p> Talk<'p> {
    fn of(prompt: &'p Prompt) -> Self {
        let texts: Vec<&str> = prompt
            .messages
            .iter()
            .filter_map(|message| match message {
                Message::User { text } => Some(text.as_str()),
                Message::Assistant { .. } | Message::ToolResults(_) => None,
            })
            .collect();
        let mut said = Vec::new();
        let mut results = Vec::new();
        for message in &prompt.messages {
            match message {
                Message::User { text } => {
                    said.push(text.as_str());
                    results.clear();
                }
                Message::Assistant { tool_calls, .. } if tool_calls.is_empty() => said.clear(),
                Message::Assistant { .. } => {}
                Message::ToolResults(given) => results.extend(given),
            }
        }
        Self {
            said: said.join("\n"),
            first: texts.first().copied().unwrap_or_default(),
            messages: texts.len(),
            name: texts.iter().rev().find_map(|text| wishes::name(text)),
            results,
        }
    }

    fn answer(&self) -> String {
        let mut sentences = vec![self.greeting()];
        sentences.extend(self.results.iter().map(|result| tell(result)));
        let said = self.said.to_lowercase();
        if 1 < self.messages
            && ["remember", "did i say", "did i ask", "my first message"].iter().any(|words| said.contains(words))
        {
            sentences.push(format!("Your first message, as the log has it, was: \"{}\".", excerpt(self.first)));
        }
        sentences.push(match self.messages {
            0 | 1 => format!(
                "I am Causeway's built-in demo model: a few rules and no neural network, so arithmetic, units and the time are \
                 all I know. But the way here was real: your message, my thinking, each tool call and this answer are events on \
                 the log. {HOW_TO_GO_ON}"
            ),
            count => format!("(Still the built-in demo model; this was message {count} of our conversation.)"),
        });
        sentences.retain(|sentence| !sentence.is_empty());
        sentences.join(" ")
    }

    fn greeting(&self) -> String {
        match (&self.name, self.messages) {
            (Some(name), 0 | 1) => format!("Hello {name}!"),
            (Some(name), _) => format!("Here you go, {name}."),
            (None, 0 | 1) => "Hello!".to_owned(),
            (None, _) => String::new(),
        }
    }
}

/// Thinks a sentence, and asks for the tools that the message is about.
fn ask_tools(prompt: &Prompt, talk: &Talk<'_>) -> (Option<String>, String, Vec<ToolRequest>) {
    let wishes = Wishes::of(&talk.said);
    let mut wanted: Vec<(&str, Value)> = Vec::new();
    if let Some(expression) = &wishes.expression {
        wanted.push(("calculate", json!({ "expression": expression })));
    }
    if let Some(zone) = &wishes.time {
        wanted.push(("now", zone.as_ref().map_or(json!({}), |zone| json!({ "zone": zone }))));
    }
    if wanted.is_empty() {
        let note = format!("The message \"{}\" has nothing to calculate and does not ask for the time.", excerpt(&talk.said));
        wanted.push(("think", json!({ "thought": note })));
    }
    wanted.retain(|(tool, _)| prompt.tools.iter().any(|spec| spec.name == *tool));
    let names: Vec<String> = wanted.iter().map(|(tool, _)| format!("`{tool}`")).collect();
    let thought = match (names.as_slice(), &wishes.expression, &wishes.time) {
        ([], ..) => return (None, format!("{} {HOW_TO_GO_ON}", talk.answer()), Vec::new()),
        (tools, Some(_), Some(_)) => {
            format!("There is arithmetic in this, and a question about the time: {} at the same time.", tools.join(" and "))
        }
        (tools, Some(_), None) => {
            format!("There is arithmetic in this. I should not do it in my head: {}.", tools.join(", "))
        }
        (tools, None, Some(_)) => format!("This asks for the time, which I cannot know by myself: {}.", tools.join(", ")),
        (tools, None, None) => format!("None of my rules fits this, so I take a note: {}.", tools.join(", ")),
    };
    let seed = Sha256::digest(serde_json::to_vec(&prompt.messages).unwrap_or_default());
    let calls = wanted.into_iter().enumerate().map(|(ordinal, (tool, arguments))| {
        let id: String = seed.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        ToolRequest { call_id: format!("demo_{id}_{ordinal}"), tool: tool.to_owned(), arguments }
    });
    (Some(thought), String::new(), calls.collect())
}

/// One tool's result in a sentence.
fn tell(result: &ToolResult) -> String {
    let json: Value = serde_json::from_str(&result.content).unwrap_or_default();
    let word = |name: &str| json[name].as_str();
    let tool = &result.tool;
    match tool.as_str() {
        _ if result.is_error => format!("The tool `{tool}` could not do it: {}.", excerpt(&result.content)),
        "calculate" => match (word("expression"), word("result")) {
            (Some(expression), Some(result)) => format!("`calculate` says {expression} = {result}."),
            _ => format!("`calculate` says {}.", excerpt(&result.content)),
        },
        "now" => match (word("weekday"), word("date"), word("clock"), word("zone")) {
            (Some(weekday), Some(date), Some(clock), Some(zone)) => {
                format!("`now` says it is {weekday}, {date}, {clock} ({zone}).")
            }
            _ => format!("`now` says {}.", excerpt(&result.content)),
        },
        "think" => "None of my rules fits your message, so I only took a note with `think`. \
                    Try \"what is 17 * 23, and what time is it in Oslo?\"."
            .to_owned(),
        _ => format!("`{tool}` says {}.", excerpt(&result.content)),
    }
}

/// A quotation of bounded length on one line.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// How much there was to read, in words.
fn read(prompt: &Prompt) -> u64 {
    let messages = prompt.messages.iter().map(|message| match message {
        Message::User { text } => words(text),
        Message::Assistant { text, tool_calls, .. } => words(text) + 5 * tool_calls.len() as u64,
        Message::ToolResults(results) => results.iter().map(|result| words(&result.content)).sum(),
    });
    words(&prompt.system) + messages.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Toolbox;

    fn prompt(texts: &[&str]) -> Prompt {
        let said = |text: &&str| Message::User { text: (*text).to_owned() };
        let mut messages = Vec::new();
        for text in texts {
            messages.push(said(text));
            messages.push(Message::Assistant { thinking: vec![], text: "answered".into(), tool_calls: vec![] });
        }
        messages.pop();
        Prompt { messages, tools: Toolbox::default().specs(), ..Prompt::default() }
    }

    fn with_results(mut prompt: Prompt, results: &[(&str, Value)]) -> Prompt {
        let calls = compose("demo", &prompt).tool_calls;
        let results = calls.iter().zip(results).map(|(call, (tool, content))| {
            assert_eq!(call.tool, *tool);
            ToolResult { call_id: call.call_id.clone(), tool: call.tool.clone(), content: content.to_string(), is_error: false }
        });
        let results = results.collect();
        prompt.messages.push(Message::Assistant { thinking: vec![], text: String::new(), tool_calls: calls });
        prompt.messages.push(Message::ToolResults(results));
        prompt
    }

    #[test]
    fn it_asks_for_two_tools_at_once_and_answers_with_what_they_gave() {
        let asked = prompt(&["My name is Ada. What is 17 * 23, and what time is it in Oslo?"]);
        let first = compose("demo", &asked);
        assert_eq!(first.finish_reason, "tool_calls");
        assert!(first.thinking.unwrap().text.contains("at the same time"));
        let calls: Vec<_> = first.tool_calls.iter().map(|call| (call.tool.as_str(), call.arguments.clone())).collect();
        assert_eq!(calls, [("calculate", json!({"expression": "17 * 23"})), ("now", json!({"zone": "Europe/Oslo"}))]);

        let results = [
            ("calculate", json!({"expression": "17 * 23", "result": "391"})),
            ("now", json!({"weekday": "Monday", "date": "2026-11-23", "clock": "11:00", "zone": "Europe/Oslo"})),
        ];
        let second = compose("demo", &with_results(asked, &results));
        insta::assert_snapshot!(second.text, @r#"Hello Ada! `calculate` says 17 * 23 = 391. `now` says it is Monday, 2026-11-23, 11:00 (Europe/Oslo). I am Causeway's built-in demo model: a few rules and no neural network, so arithmetic, units and the time are all I know. But the way here was real: your message, my thinking, each tool call and this answer are events on the log. To talk with a real model, set provider = "openai" (or "anthropic"), model, api_key_file and, for any compatible server, base_url under [ai_processor.model] in causeway.toml."#);
        assert_eq!((second.finish_reason.as_str(), second.thinking), ("stop", None));
    }

    #[test]
    fn a_message_without_a_wish_still_shows_a_tool() {
        let asked = prompt(&["Hi there"]);
        let first = compose("demo", &asked);
        assert_eq!(first.tool_calls[0].tool, "think");
        insta::assert_snapshot!(compose("demo", &with_results(asked, &[("think", json!({}))])).text, @r#"Hello! None of my rules fits your message, so I only took a note with `think`. Try "what is 17 * 23, and what time is it in Oslo?". I am Causeway's built-in demo model: a few rules and no neural network, so arithmetic, units and the time are all I know. But the way here was real: your message, my thinking, each tool call and this answer are events on the log. To talk with a real model, set provider = "openai" (or "anthropic"), model, api_key_file and, for any compatible server, base_url under [ai_processor.model] in causeway.toml."#);
    }

    #[test]
    fn it_counts_and_remembers() {
        let asked = prompt(&["I am called Bob and like 42", "Do you remember my first message?"]);
        insta::assert_snapshot!(compose("demo", &with_results(asked, &[("think", json!({}))])).text, @r#"Here you go, Bob. None of my rules fits your message, so I only took a note with `think`. Try "what is 17 * 23, and what time is it in Oslo?". Your first message, as the log has it, was: "I am called Bob and like 42". (Still the built-in demo model; this was message 2 of our conversation.)"#);
    }

    #[test]
    fn the_same_prompt_gives_the_same_answer_and_another_one_other_ids() {
        let (one, other) = (prompt(&["2 + 2?"]), prompt(&["hm", "2 + 2?"]));
        assert_eq!(compose("demo", &one), compose("demo", &one));
        assert_ne!(compose("demo", &one).tool_calls[0].call_id, compose("demo", &other).tool_calls[0].call_id);
    }

    #[test]
    fn without_tools_it_answers_at_once() {
        let bare = Prompt { tools: vec![], ..prompt(&["2 + 2?"]) };
        let generated = compose("demo", &bare);
        assert!(generated.tool_calls.is_empty());
        assert!(generated.text.contains("demo model"));
    }

    #[tokio::test]
    async fn its_pieces_are_its_answer() {
        let demo = Demo { name: "demo".into(), delay: Duration::ZERO };
        let (mut thinking, mut text) = (String::new(), String::new());
        let asked = with_results(prompt(&["2 + 2?"]), &[("calculate", json!({"expression": "2 + 2", "result": "4"}))]);
        let generated = demo
            .generate(&asked, &mut |kind, piece| match kind {
                DeltaKind::Text => text.push_str(piece),
                DeltaKind::Thinking => thinking.push_str(piece),
                DeltaKind::Reset => unreachable!("a model says nothing twice"),
            })
            .await;
        assert_eq!(text, generated.text);
        assert_eq!(thinking, "");
    }
}
