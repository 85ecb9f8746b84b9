//! `causeway trace`: what caused what.

use causeway_client::{Filter, Read};
use causeway_event::{CorrelationId, EventId};
use causeway_view::chain::{self, Chain, Tree};
use futures::TryStreamExt as _;

use crate::cli::{Common, TraceArgs};
use crate::events;
use crate::failure::Usage;
use crate::output::{Look, Output};

/// `causeway trace CORRELATION_ID`
pub(crate) async fn run(_common: &Common, args: TraceArgs, out: &Output) -> anyhow::Result<()> {
    let telemetry = events::telemetry()?;
    let outcome = trace(&args, out).await;
    telemetry.shutdown().await;
    outcome
}

async fn trace(args: &TraceArgs, out: &Output) -> anyhow::Result<()> {
    let client = events::client(&args.server)?;
    let correlation: CorrelationId = match args.id.parse::<EventId>() {
        Ok(id) => match client.get(&id.to_string()).await? {
            Some(event) => event.metadata.correlation_id,
            None => anyhow::bail!("there is no event {id}"),
        },
        Err(_) => args.id.parse().map_err(|invalid| Usage(format!("CORRELATION_ID {invalid}")))?,
    };
    let filter = Filter { correlation_id: Some(correlation.clone()), ..Filter::default() };
    let events = client.read(Read { filter, ..Read::default() }).await?;
    let chain = events.try_fold(Chain::default(), async |chain, event| Ok(chain::fold(chain, &event))).await?;
    if chain.links.is_empty() {
        anyhow::bail!("there is no event in the chain {correlation}");
    }
    let tree = chain.tree();
    if out.json {
        return out.json(&tree);
    }
    for line in lines(&tree) {
        let painted: String = line.iter().map(|(look, text)| out.paint(*look, text)).collect();
        out.line(&painted)?;
    }
    Ok(())
}

/// The drawing with looks: branches, times and places beside the point, failures not.
fn lines(tree: &Tree) -> Vec<Vec<(Look, String)>> {
    let mut rendered = tree.render().into_iter();
    let heading = rendered.next().map(|summary| vec![(Look::Strong, summary)]);
    let events = rendered.zip(&tree.nodes).map(|(line, node)| {
        let name_begins = line.find(|c: char| c.is_ascii_uppercase()).unwrap_or(0);
        let (branch, rest) = line.split_at(name_begins);
        let name_ends = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(name_ends);
        let look = if node.link.error.is_some() || node.orphan { Look::Bad } else { Look::Plain };
        let rest_look = if node.link.error.is_some() || node.unfinished { Look::Plain } else { Look::Dim };
        vec![(Look::Dim, branch.to_owned()), (look, name.to_owned()), (rest_look, rest.to_owned())]
    });
    heading.into_iter().chain(events).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_a_tree_with_times() {
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
        let chain = events.iter().fold(Chain::default(), chain::fold);
        let drawn: String = lines(&chain.tree())
            .into_iter()
            .map(|line| line.into_iter().map(|(look, text)| format!("<{look:?}|{text}>")).collect::<String>() + "\n")
            .collect();
        insta::assert_snapshot!(drawn);
    }
}
