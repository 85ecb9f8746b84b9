//! `causeway trace`: what caused what.

use anyhow::Context as _;
use causeway_client::{Kind, Scope, Trace, Traced};
use causeway_view::chain::{Drawn, Tree};
use clap::{Args, ValueEnum};
use serde_json::value::RawValue;

use crate::cli::{ServerArgs, place_or_ago};
use crate::events;
use crate::failure::{Hinted, Usage};
use crate::output::{self, Look, Output, clean};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway trace 0af7651916cd43dd8448eb211c80319c
  causeway trace evt_01k9x3m5v8e7rs2q4n6p8t0w1y --why
  causeway trace 42 --effects --format mermaid > effects.mmd")]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The chain's correlation id, or the id or position of any of its events
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Why this event happened: its causes up to the root
    #[arg(long)]
    pub(crate) why: bool,
    /// What this event led to
    #[arg(long, conflicts_with = "why")]
    pub(crate) effects: bool,
    /// The moment: a position, an event id, an RFC 3339 time, or so long ago (10m) [default: now]
    #[arg(long, value_name = "MOMENT", value_parser = place_or_ago)]
    pub(crate) as_of: Option<String>,
    /// A drawing for a terminal, JSON for programs, or a Mermaid flowchart (of at most 400 events)
    #[arg(long, default_value = "tree")]
    pub(crate) format: TraceFormat,
}

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum TraceFormat {
    Tree,
    Json,
    Mermaid,
}

/// `causeway trace ID`
pub(crate) async fn run(args: TraceArgs, out: &Output) -> anyhow::Result<()> {
    let scope = match (args.why, args.effects) {
        (true, _) => Scope::Ancestors,
        (false, true) => Scope::Descendants,
        (false, false) => Scope::Chain,
    };
    let hint = format!(
        "if that is an aggregate, trace one of its events: `{} events read --aggregate {}` tells their positions",
        output::program(),
        output::shell_word(&args.id)
    );
    if out.json && args.format == TraceFormat::Mermaid {
        return Err(Usage("--json and --format mermaid exclude each other".to_owned()).into());
    }
    let drawn = if args.why { Drawn::Last } else { Drawn::First };
    let trace = Trace { id: args.id, scope, as_of: args.as_of };
    let traced = events::client(&args.server)?.trace(trace).await;
    let Traced { tree: json, url, .. } = traced.map_err(|error| match error.kind() {
        Some(Kind::NotFound) => anyhow::Error::from(error).context(Hinted { what: "nothing to trace".to_owned(), hint }),
        _ => error.into(),
    })?;
    if out.json || args.format == TraceFormat::Json {
        let tree: &RawValue = serde_json::from_slice(&json).context("the tree is not JSON")?;
        return out.json(&tree);
    }
    let tree: Tree = serde_json::from_slice(&json).context("the gateway's trees are of another version")?;
    if args.format == TraceFormat::Mermaid {
        return Ok(out.line(clean(&tree.mermaid(drawn)).trim_end())?);
    }
    if tree.events == 0 {
        return Ok(out.line("no events")?);
    }
    for line in lines(&tree) {
        let painted: String = line.iter().map(|(look, text)| out.paint(*look, &clean(text))).collect();
        out.line(&painted)?;
    }
    match url {
        Some(url) => Ok(out.line(&out.paint(Look::Accent, &clean(&url)))?),
        None => Ok(()),
    }
}

/// The drawing with looks: branches, times and places beside the point, failures not.
pub(crate) fn lines(tree: &Tree) -> Vec<Vec<(Look, String)>> {
    let mut rendered = tree.render().into_iter();
    let heading = rendered.next().map(|summary| vec![(Look::Strong, summary)]);
    let mut events = Vec::with_capacity(tree.nodes.len());
    for (node, line) in tree.nodes.iter().zip(rendered.by_ref()) {
        let name_begins = line.find(|c: char| c.is_ascii_uppercase()).unwrap_or(0);
        let (branch, rest) = line.split_at(name_begins);
        let name_ends = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(name_ends);
        let look = if node.link.error.is_some() || node.orphan { Look::Bad } else { Look::Plain };
        let rest_look = if node.link.error.is_some() || node.unfinished { Look::Plain } else { Look::Dim };
        events.push(vec![(Look::Dim, branch.to_owned()), (look, name.to_owned()), (rest_look, rest.to_owned())]);
    }
    let cut = rendered.map(|cut| vec![(Look::Strong, cut)]);
    heading.into_iter().chain(events).chain(cut).collect()
}

#[cfg(test)]
mod tests {
    use causeway_view::Prices;
    use causeway_view::chain::{Chain, fold};

    use super::*;

    #[test]
    fn a_chain_is_a_tree_with_times_that_says_where_it_was_cut() {
        let event = |number: u32, event_type: &str, cause: Option<u32>, data: &str| {
            let id = |number: u32| format!("evt_01k9x3m5v8e7rs2q4n6p8t0w{number:02}");
            let cause = cause.map_or(String::new(), |cause| format!(r#""causation_id":"{}","#, id(cause)));
            let json = format!(
                r#"{{"id":"{}","position":{number},"timestamp":"2026-11-23T10:00:00.0{number}Z","type":"{event_type}","aggregate_id":"me","data":{data},"metadata":{{"source":"cli",{cause}"correlation_id":"0af7651916cd43dd8448eb211c80319c"}}}}"#,
                id(number)
            );
            serde_json::from_str(&json).unwrap()
        };
        let failed = r#"{"turn":"t","reason":"model_error","message":"no key"}"#;
        let events = [
            event(10, "MessageReceived", None, r#"{"content":"hi"}"#),
            event(11, "NoteTaken", Some(10), "{}"),
            event(12, "AIProcessingFailed", Some(10), failed),
        ];
        let mut chain = events.iter().fold(Chain::default(), fold);
        chain.more = true;
        let drawn: String = lines(&chain.tree(&Prices::default()))
            .into_iter()
            .map(|line| line.into_iter().map(|(look, text)| format!("<{look:?}|{text}>")).collect::<String>() + "\n")
            .collect();
        insta::assert_snapshot!(drawn);
    }
}
