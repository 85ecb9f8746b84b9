//! `causeway view`: a fold of the log, for a person or a program.

mod changes;

use std::collections::BTreeMap;

use anyhow::Context as _;
use causeway_client::{Client, Project, Projection};
use causeway_event::{Data, Position};
use causeway_view::Time;
use causeway_view::chain::Tree;
use causeway_view::conversation::{Conversation, Message, Role, ToolCall, ToolStatus, Turn, TurnStatus};
use causeway_view::state::State;
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::{ServerArgs, place_or_ago};
use crate::events;
use crate::output::{Look, Output, clean, one_line};
use crate::trace;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway view                                        which views there are
  causeway view conversation me
  causeway view conversation me --as-of 10m            time travel: as it was ten minutes ago
  causeway view conversation me --as-of 42             as it was at that position
  causeway view state order-7 --diff 2026-11-23T10:00:00Z
  causeway view state order-7 --watch")]
pub(crate) struct ViewArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The view: conversation, chain or state [default: list them]
    #[arg(requires = "id")]
    pub(crate) view: Option<String>,
    /// Of what: a session or another aggregate; of a chain its correlation id
    pub(crate) id: Option<String>,
    /// The moment: a position, an event id, an RFC 3339 time, or so long ago (10m) [default: now]
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) as_of: Option<String>,
    /// What changed between two moments, and by which events [default of the second: now]
    #[arg(long, value_names = ["FROM", "TO"], num_args = 1..=2, value_parser = place_or_ago, conflicts_with = "as_of")]
    pub(crate) diff: Option<Vec<String>>,
    /// Stay, and show each change as it comes
    #[arg(long, conflicts_with_all = ["as_of", "diff"])]
    pub(crate) watch: bool,
    /// Wait until this position is taken account of
    #[arg(long, value_name = "POSITION", conflicts_with = "diff")]
    pub(crate) min_position: Option<Position>,
}

/// `causeway view VIEW ID`
pub(crate) async fn run(args: ViewArgs, out: &Output) -> anyhow::Result<()> {
    let client = events::client(&args.server)?;
    let ViewArgs { view, id, as_of, diff, watch, min_position, .. } = args;
    let Some((view, id)) = view.zip(id) else {
        return list(&client, out).await;
    };
    if let Some(moments) = diff {
        return changes::diff(&client, view, id, moments, out).await;
    }
    if watch {
        return changes::watch(&client, view, id, min_position, out).await;
    }
    let projection = client.project(Project { view, id, as_of, min_position }).await?;
    if out.json {
        let state: &RawValue = projection.state.read()?;
        let Projection { view, id, position, .. } = &projection;
        return out.json(&ViewJson { view, id, position: *position, state });
    }
    show(&projection, out)
}

async fn list(client: &Client, out: &Output) -> anyhow::Result<()> {
    let views = client.views().await?;
    if out.json {
        let view = |view: &causeway_client::View| {
            serde_json::json!({
                "name": view.name, "version": view.version, "description": view.description, "id_kind": view.id_kind,
            })
        };
        return out.json(&views.iter().map(view).collect::<Vec<_>>());
    }
    let width = views.iter().map(|view| view.name.len()).max().unwrap_or(0);
    for view in views {
        let name = out.paint(Look::Strong, &format!("{:width$}", one_line(&view.name, None)));
        let of = out.paint(Look::Dim, &format!("by {} id", one_line(&view.id_kind, None)));
        out.line(&format!("{name}  {}  {of}", one_line(&view.description, None)))?;
    }
    Ok(())
}

/// What a program gets; the state as the gateway wrote it.
#[derive(Serialize)]
struct ViewJson<'a> {
    view: &'a str,
    id: &'a str,
    position: Position,
    state: &'a RawValue,
}

/// A view for a person.
fn show(projection: &Projection, out: &Output) -> anyhow::Result<()> {
    const OTHER: &str = "the gateway's view is of another version";
    let state = &projection.state;
    let (nothing, pieces) = match projection.view.as_str() {
        "conversation" => {
            let conversation: Conversation = state.read().context(OTHER)?;
            (conversation.position == Position::START, render(&projection.id, projection.position, &conversation))
        }
        "chain" => {
            let tree: Tree = state.read().context(OTHER)?;
            let line = |line: Vec<_>| line.into_iter().chain([(Look::Plain, "\n".to_owned())]);
            (tree.events == 0, trace::lines(&tree).into_iter().flat_map(line).collect())
        }
        "state" => {
            let state: State = state.read().context(OTHER)?;
            (state.events == 0, document(&projection.id, projection.position, &state)?)
        }
        // A view that this version does not know is shown as it is.
        _ => return Ok(out.line(&clean(&String::from_utf8_lossy(state)))?),
    };
    if nothing {
        let at = projection.position;
        return Ok(out.line(&format!("no events of {} up to position {at}", one_line(&projection.id, None)))?);
    }
    for (look, text) in pieces {
        out.piece(look, &text)?;
    }
    Ok(())
}

type Pieces = Vec<(Look, String)>;

/// The state of an aggregate as readable JSON.
fn document(id: &str, position: Position, state: &State) -> anyhow::Result<Pieces> {
    let plural = if state.events == 1 { "" } else { "s" };
    let mut summary = format!(": {} event{plural}, as of position {position}", state.events);
    if let Some((last, time)) = state.last.as_ref().zip(state.updated_at) {
        summary.push_str(&format!(", last {} {}", last.event_type, clock(time)));
    }
    let json = serde_json::to_string_pretty(&state.state)?;
    Ok(vec![(Look::Strong, one_line(id, None)), (Look::Dim, summary + "\n"), (Look::Plain, format!("{}\n", clean(&json)))])
}

/// A conversation as a page: who said what when, and between question and answer what was thought and done.
fn render(id: &str, position: Position, conversation: &Conversation) -> Pieces {
    let mut pieces = Pieces::new();
    let count = conversation.messages.len();
    let plural = if count == 1 { "" } else { "s" };
    pieces.push((Look::Strong, clean(id).into_owned()));
    let mut summary = format!(": {count} message{plural}, as of position {position}");
    if conversation.usage != Default::default() {
        let usage = conversation.usage;
        summary.push_str(&format!(", {} tokens in, {} out", usage.input_tokens, usage.output_tokens));
    }
    pieces.push((Look::Dim, summary + "\n"));
    // By position: thoughts and tool calls stand between the message that caused them and the answer.
    let mut parts: BTreeMap<(Position, u8), Pieces> = BTreeMap::new();
    for said in &conversation.messages {
        parts.insert((said.position, 0), message(said));
    }
    for turn in &conversation.turns {
        for thought in &turn.thinking {
            let text = format!("  · {}\n", clean(&thought.text).replace('\n', "\n    "));
            parts.insert((thought.position, 0), vec![(Look::Dim, text)]);
        }
        for call in &turn.tool_calls {
            parts.insert((call.position, 0), tool_call(call));
        }
        let inputs = conversation.messages.iter().filter(|said| turn.inputs.contains(&said.event_id)).map(|said| said.position);
        let last = turn.thinking.iter().map(|thought| thought.position).chain(turn.tool_calls.iter().map(|call| call.position));
        let last = last.chain(inputs).max().unwrap_or_default();
        if let Some(end) = end(turn) {
            parts.entry((last, 1)).or_default().extend(end);
        }
    }
    pieces.extend(parts.into_values().flatten());
    pieces
}

fn message(said: &Message) -> Pieces {
    let who = match said.role {
        Role::User => said.user_id.as_deref().unwrap_or("user"),
        Role::Assistant => "assistant",
    };
    let through = match said.role {
        Role::User => said.source.as_str(),
        Role::Assistant => said.model.as_deref().unwrap_or(said.source.as_str()),
    };
    let text = clean(&said.text).replace('\n', "\n  ");
    vec![
        (Look::Strong, format!("\n{}", one_line(who, None))),
        (Look::Dim, format!(" ({}) {}\n", one_line(through, None), clock(said.timestamp))),
        (Look::Plain, format!("  {text}\n")),
    ]
}

fn tool_call(call: &ToolCall) -> Pieces {
    let arguments =
        call.arguments.as_ref().map_or(String::new(), |arguments| format!(" {}", one_line(arguments.as_str(), Some(200))));
    let mut pieces = vec![(Look::Accent, format!("  → {}", one_line(&call.tool, None))), (Look::Dim, arguments)];
    let (look, outcome) = match call.status {
        ToolStatus::Running => (Look::Dim, "running".to_owned()),
        ToolStatus::Completed => {
            // A text is shown without its quotes.
            let text = |result: &Data| result.parse::<String>().unwrap_or_else(|_| result.as_str().to_owned());
            (Look::Good, call.result.as_ref().map_or(String::new(), |result| one_line(&text(result), Some(200))))
        }
        ToolStatus::Failed => (Look::Bad, format!("failed: {}", one_line(call.error.as_deref().unwrap_or_default(), None))),
        ToolStatus::Unknown => (Look::Bad, "outcome unknown".to_owned()),
    };
    pieces.push((Look::Dim, " ← ".to_owned()));
    pieces.push((look, outcome));
    pieces.push((Look::Plain, "\n".to_owned()));
    pieces
}

/// What is to be said of a turn that gave no answer, or not yet.
fn end(turn: &Turn) -> Option<Pieces> {
    match (turn.status, &turn.failure) {
        // Somebody's words for a turn that nobody has claimed: nobody is working on it.
        (TurnStatus::Running, _) if turn.attempts == 0 => None,
        (TurnStatus::Completed, _) => None,
        (TurnStatus::Running, _) => Some(vec![(Look::Dim, "  (working on it)\n".to_owned())]),
        (TurnStatus::Failed, failure) => {
            let why = failure.as_ref().map_or(String::new(), |failure| match failure.message.as_str() {
                "" => failure.reason.clone(),
                message => message.to_owned(),
            });
            Some(vec![(Look::Bad, "  no answer: ".to_owned()), (Look::Plain, format!("{}\n", clean(&why)))])
        }
    }
}

/// To the second, without the T and the Z that a person does not read.
pub(crate) fn clock(time: Time) -> String {
    let text = String::from(time);
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use causeway_event::Event;
    use causeway_view::conversation::fold;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_is_a_page() {
        let mut position = 0;
        let mut event = |event_type: &str, data: serde_json::Value| -> Event {
            position += 1;
            let json = json!({
                "id": format!("evt_01k9x3m5v8e7rs2q4n6p8t0w{position:02}"), "position": position,
                "timestamp": format!("2026-11-23T10:00:{position:02}Z"), "type": event_type, "aggregate_id": "me", "data": data,
                "metadata": { "source": "cli", "correlation_id": "c" },
            });
            serde_json::from_str(&json.to_string()).unwrap()
        };
        let input = |number: u32| format!("evt_01k9x3m5v8e7rs2q4n6p8t0w{number:02}");
        let claim = |turn: &str, input: String| json!({ "turn": turn, "inputs": [input], "owner": "o", "attempt": 1, "agent": "a", "model": "demo" });
        let events = [
            event("MessageReceived", json!({ "content": "What is 6 * 7?\u{1b}[2J", "user_id": "ada" })),
            event("AIProcessingStarted", claim("t1", input(1))),
            event("ThinkingGenerated", json!({ "turn": "t1", "step": 1, "text": "I need a calculator." })),
            event(
                "ToolCalled",
                json!({ "turn": "t1", "step": 1, "call_id": "c", "tool": "calculate", "arguments": { "expression": "6*7" }, "effect": "pure" }),
            ),
            event("ToolCompleted", json!({ "turn": "t1", "step": 1, "call_id": "c", "tool": "calculate", "result": "42" })),
            event("MessageGenerated", json!({ "turn": "t1", "content": "It is 42.\nSure.", "model": "demo" })),
            event("AIProcessingCompleted", json!({ "turn": "t1" })),
            event("MessageReceived", json!({ "content": "And now?" })),
            event("AIProcessingStarted", claim("t2", input(8))),
            event("AIProcessingFailed", json!({ "turn": "t2", "reason": "model_error", "message": "the key was refused" })),
            event("MessageReceived", json!({ "content": "Still there?" })),
            event("AIProcessingStarted", claim("t3", input(11))),
        ];
        let conversation = events.iter().fold(Conversation::default(), fold);
        let page: String = render("me", Position::new(12), &conversation).into_iter().map(|(_, text)| text).collect();
        insta::assert_snapshot!(page);
    }
}
