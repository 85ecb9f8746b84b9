//! The demo model with the real tools: what a newcomer sees.

use std::time::Duration;

use crate::model::{Model, ModelConfig};
use crate::tools::Toolbox;

use super::*;

#[tokio::test]
async fn a_newcomer_sees_the_whole_loop() {
    let config = ModelConfig { demo_delay: Duration::ZERO, ..ModelConfig::default() };
    let model = Model::from_config(&config).unwrap();
    assert_eq!((model.name(), model.provider()), ("demo", "demo"));
    let toolbox = Toolbox::default();
    let now = "2026-11-23T10:00:00Z".parse().unwrap();

    let mut prompt = Prompt {
        tools: toolbox.specs(),
        messages: vec![user("What is 15% of 80, and which day is it in Tokyo?")],
        ..Prompt::default()
    };
    let asked = answered(&model, &prompt).await;
    assert_eq!(asked.tool_calls.len(), 2);
    let mut results = Vec::new();
    for call in &asked.tool_calls {
        let content = toolbox.run(&call.tool, &call.arguments, &call.call_id, now).await.unwrap().to_string();
        results.push(ToolResult { call_id: call.call_id.clone(), tool: call.tool.clone(), content, is_error: false });
    }
    let thinking = asked.thinking.clone().into_iter().collect();
    prompt.messages.push(Message::Assistant { thinking, text: asked.text.clone(), tool_calls: asked.tool_calls.clone() });
    prompt.messages.push(Message::ToolResults(results));
    let answer = answered(&model, &prompt).await;
    assert_eq!(answer.finish_reason, "stop");
    insta::assert_snapshot!(answer.text, @r#"Hello! `calculate` says 15% of 80 = 12. `now` says it is Monday, 2026-11-23, 19:00 (Asia/Tokyo). I am Causeway's built-in demo model: a few rules and no neural network, so arithmetic, units and the time are all I know. But the way here was real: your message, my thinking, each tool call and this answer are events on the log. To talk with a real model, set provider = "openai" (or "anthropic"), model, api_key_file and, for any compatible server, base_url under [ai_processor.model] in causeway.toml."#);
    assert_eq!(answered(&model, &prompt).await, answer, "the same prompt, the same answer");
}
