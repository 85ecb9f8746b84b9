//! A chain drawn as text: one line for each event, the time since its cause beside it. No colours, no width of a terminal.

use std::fmt::Write as _;

use super::{Node, Tree};

/// The deepest level that is drawn with an indent of its own; below it lines stay there and name their depth.
const INDENT_DEPTH_MAX: usize = 24;

impl Tree {
    /// The lines of the drawing: a summary, then the events, then whether there are more.
    ///
    /// ```text
    /// chain 0af7651916cd43dd8448eb211c80319c: 4 events, 1.50 s, 150 tokens in, 10 out
    /// MessageReceived                       #1  web
    /// └─ AIProcessingStarted demo  +2.4 ms  #2  ai-processor  took 1.50 s
    ///    ├─ MessageGenerated demo  +1.49 s  #3  ai-processor  150 tokens in, 10 out
    ///    └─ AIProcessingCompleted  +1.50 s  #4  ai-processor  150 tokens in, 10 out
    /// ```
    pub fn render(&self) -> Vec<String> {
        let names: Vec<_> = self.branches().into_iter().zip(&self.nodes).map(|(branch, node)| branch + &name(node)).collect();
        let gaps: Vec<_> = self.nodes.iter().map(|node| node.gap_us.map_or(String::new(), gap_text)).collect();
        let width = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let (name_width, gap_width) = (width(&names), width(&gaps));
        let position_width = self.position.to_string().len() + 1;
        let mut lines = vec![self.summary()];
        for ((name, gap), node) in names.iter().zip(&gaps).zip(&self.nodes) {
            let position = format!("#{}", node.link.position);
            let source = printable(node.link.source.as_str());
            let mut line = format!("{name:<name_width$}  {gap:>gap_width$}  {position:>position_width$}  {source}");
            for note in notes(node) {
                let _ = write!(line, "  {note}");
            }
            lines.push(line);
        }
        lines.extend(self.cut().map(|cut| format!("... {cut}")));
        lines
    }

    /// What is said of events that the tree has no room for.
    pub(super) fn cut(&self) -> Option<String> {
        self.more.then(|| format!("more events, cut at {}", self.events))
    }

    fn summary(&self) -> String {
        let id = self.correlation_id.as_ref().map_or("of nothing", |id| id.as_str());
        let plural = if self.events == 1 { "" } else { "s" };
        let mut text = format!("chain {id}: {} event{plural}, {}", self.events, duration_text(self.duration_us));
        if self.usage != Default::default() {
            let _ = write!(text, ", {} tokens in, {} out", self.usage.input_tokens, self.usage.output_tokens);
        }
        if let Some(cost) = self.cost {
            let _ = write!(text, ", cost {}", cost_text(cost));
        }
        if !self.unpriced.is_empty() {
            let _ = write!(text, ", no price for {}", printable(&self.unpriced.join(", ")));
        }
        if self.model_unknown {
            text.push_str(", a model unknown");
        }
        for (count, what) in [(self.unfinished, "unfinished"), (self.orphans, "without their cause")] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }

    /// The lines that lead to each node. Whether a sibling follows is known only from behind.
    fn branches(&self) -> Vec<String> {
        let mut followed: Vec<bool> = Vec::new();
        let mut branches: Vec<_> = self
            .nodes
            .iter()
            .rev()
            .map(|node| {
                let depth = node.depth.min(INDENT_DEPTH_MAX);
                followed.resize(depth + 1, false);
                let mut branch: String =
                    followed.iter().take(depth).skip(1).map(|more| if *more { "│  " } else { "   " }).collect();
                if depth > 0 {
                    branch.push_str(if followed[depth] { "├─ " } else { "└─ " });
                }
                if node.depth > INDENT_DEPTH_MAX {
                    let _ = write!(branch, "({}) ", node.depth);
                }
                followed[depth] = true;
                branch
            })
            .collect();
        branches.reverse();
        branches
    }
}

pub(super) fn name(node: &Node) -> String {
    let what = node.link.tool.as_deref().or(node.link.model.as_deref());
    let attempt = node.link.attempt.filter(|attempt| *attempt > 1).map(|attempt| format!(" (attempt {attempt})"));
    let what = what.map_or(String::new(), |what| format!(" {}", printable(what)));
    format!("{}{what}{}", node.link.event_type, attempt.unwrap_or_default())
}

pub(super) fn notes(node: &Node) -> impl Iterator<Item = String> {
    let link = &node.link;
    let took = node.duration_us.map(|duration| format!("took {}", duration_text(duration)));
    let usage = link.usage.filter(|usage| *usage != Default::default());
    // The name says it but for a tool call, which has another.
    let model = link.model.as_ref().filter(|_| link.tool.is_some()).map(|model| format!(" ({})", printable(model)));
    let model = model.unwrap_or_default();
    let tokens = usage.map(|usage| format!("{} tokens in, {} out{model}", usage.input_tokens, usage.output_tokens));
    let cost = node.cost.map(|cost| format!("cost {}", cost_text(cost)));
    let error = link.error.as_ref().map(|error| format!("error: {}", printable(error)));
    let unfinished = node.unfinished.then(|| "unfinished".to_owned());
    let cause = link.causation_id.filter(|_| node.orphan);
    let orphan = cause.map(|cause| format!("its cause {cause} is not before it in this chain"));
    [took, tokens, cost, error, unfinished, orphan].into_iter().flatten()
}

/// One line without control characters: what came from outside may not write to a terminal by itself.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A cost without zeros that say nothing: `0.0123`.
fn cost_text(cost: f64) -> String {
    let text = format!("{cost:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "0" && cost > 0.0 { "< 0.000001".to_owned() } else { text.to_owned() }
}

pub(super) fn gap_text(micros: i64) -> String {
    if micros < 0 { format!("-{}", duration_text(micros)) } else { format!("+{}", duration_text(micros)) }
}

/// A time span in three digits or so, whatever its sign.
fn duration_text(micros: i64) -> String {
    let micros = micros.unsigned_abs();
    let (millis, seconds) = (micros / 1_000, micros / 1_000_000);
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    if micros < 1_000 {
        format!("{micros} µs")
    } else if millis < 10 {
        format!("{millis}.{} ms", micros % 1_000 / 100)
    } else if seconds < 1 {
        format!("{millis} ms")
    } else if seconds < 60 {
        format!("{seconds}.{:02} s", millis % 1_000 / 10)
    } else if hours < 1 {
        format!("{minutes} min {} s", seconds % 60)
    } else if hours < 48 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{} d {} h", hours / 24, hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (micros, text) in [
            (0, "0 µs"),
            (-999, "999 µs"),
            (1_240, "1.2 ms"),
            (12_900, "12 ms"),
            (1_999_000, "1.99 s"),
            (61_000_000, "1 min 1 s"),
            (3_600_000_000, "1 h 0 min"),
            (200_000_000_000, "2 d 7 h"),
            (i64::MIN, "106751991 d 4 h"),
        ] {
            assert_eq!(duration_text(micros), text);
        }
        assert_eq!([0.0, 1e-9, 0.0123, 12.0].map(cost_text), ["0", "< 0.000001", "0.0123", "12"]);
        assert_eq!((gap_text(5), gap_text(-5_000_000)), ("+5 µs".to_owned(), "-5.00 s".to_owned()));
    }
}
