//! A chain drawn as a Mermaid flowchart, for pages and pull requests.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::render::{gap_text, name, notes};
use super::{Node, Tree};

/// Which events are drawn of a tree with too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// The root and what follows it.
    First,
    /// Those at the end: of the causes of an event the nearest, and the event.
    Last,
}

/// Events that are drawn: Mermaid refuses a drawing of more than 500 arrows.
const NODES_MAX: usize = 400;

impl Tree {
    /// The flowchart: an arrow from each cause to its effect with the time between.
    ///
    /// ```text
    /// flowchart TD
    ///     n1["MessageReceived<br/>#35;1 web"]
    ///     n2["AIProcessingStarted demo<br/>#35;2 ai-processor<br/>took 1.50 s"]
    ///     n1 -->|"+2.4 ms"| n2
    /// ```
    pub fn mermaid(&self, drawn_part: Drawn) -> String {
        let mut text = String::from("flowchart TD\n");
        let mut drawn = HashMap::new();
        let left = self.nodes.len().saturating_sub(NODES_MAX);
        let shown = match drawn_part {
            Drawn::First => &self.nodes[..self.nodes.len() - left],
            Drawn::Last => &self.nodes[left..],
        };
        for node in shown {
            let at = node.link.position;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    n{at}[\"{}\"]", label(node));
            drawn.insert(node.link.id, at);
        }
        for node in shown.iter().filter(|node| node.depth > 0) {
            let cause = node.link.causation_id.and_then(|cause| drawn.get(&cause));
            if let Some(cause) = cause {
                let gap = node.gap_us.map(gap_text).unwrap_or_default();
                let _ = writeln!(text, "    n{cause} -->|\"{}\"| n{}", escape(&gap), node.link.position);
            }
        }
        let left = (left > 0).then(|| format!("{left} more events"));
        let left: Vec<_> = left.into_iter().chain(self.cut().map(|cut| format!("... {cut}"))).collect();
        if !left.is_empty() {
            let _ = writeln!(text, "    more[\"{}\"]", left.join("<br/>"));
        }
        for (class, style, is_of) in CLASSES {
            let of: Vec<_> = shown.iter().filter(|node| is_of(node)).map(|node| format!("n{}", node.link.position)).collect();
            if !of.is_empty() {
                let _ = writeln!(text, "    classDef {class} {style}\n    class {} {class}", of.join(","));
            }
        }
        text
    }
}

type Class = (&'static str, &'static str, fn(&Node) -> bool);

const CLASSES: [Class; 3] = [
    ("failed", "stroke:#c00", |node| node.link.error.is_some()),
    ("orphan", "stroke:#c00,stroke-dasharray:4", |node| node.orphan),
    ("unfinished", "stroke-dasharray:4", |node| node.unfinished),
];

fn label(node: &Node) -> String {
    let place = format!("#{} {}", node.link.position, node.link.source);
    let lines = [name(node), place].into_iter().chain(notes(node));
    lines.map(|line| escape(&line)).collect::<Vec<_>>().join("<br/>")
}

/// Text between quotes: what Mermaid or HTML would read as something else goes by its number.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        match c {
            '"' | '#' | '&' | '<' | '>' | '`' | '\\' | ';' | '%' => _ = write!(escaped, "#{};", u32::from(c)),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
        escaped
    })
}
