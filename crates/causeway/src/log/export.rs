//! `causeway log export`

use causeway_event::Position;
use causeway_log::Log;
use causeway_proof::{Chain, Entry, Line};
use causeway_runtime::shutdown::Signals;

use super::args::ExportArgs;
use super::files::Sink;
use super::progress;
use super::target::{NoLog, Target};
use crate::cli::Common;
use crate::failure::{Interrupted, Usage};
use crate::output::Output;

pub(super) async fn run(common: &Common, args: &ExportArgs, out: &Output) -> anyhow::Result<()> {
    let target = Target::find(common, &args.target, NoLog::Refuse, out).await?;
    let log = target.reach("opening the log", Log::open(&target.config), out).await?;
    let last = target.reach("opening the log", log.last_position(), out).await?;
    let up_to = args.before.map_or(last, |before| last.min(before.previous()));
    let after = args.after.unwrap_or(Position::START);
    if up_to < after {
        let end = if up_to < last { format!("the export is to end at {up_to}") } else { format!("the log ends at {last}") };
        return Err(Usage(format!("nothing stands behind position {after}: {end}")).into());
    }
    let mut sink = Sink::open(&args.file)?;
    let to_stdout = args.file.as_os_str() == "-";
    let bar = progress(out, "exporting", up_to.get());
    let mut writing = Writing { chain: Chain::START, seen: Position::START, after };
    if after == Position::START {
        writing.begin(&mut sink)?;
    }
    // What a signal ends leaves no part of a file behind. Who reads what goes to standard output ends that.
    let signals = (!to_stdout).then(Signals::watch);
    let walked = async {
        let mut walk = log.walk(Position::START, up_to);
        loop {
            let page = walk.page().await?;
            let Some(end) = page.last().map(|entry| entry.position) else { return anyhow::Ok(()) };
            for entry in page {
                writing.entry(entry, &mut sink)?;
            }
            bar.set_position(end.get());
        }
    };
    let walked = match &signals {
        Some(signals) => signals.token().run_until_cancelled(walked).await,
        None => Some(walked.await),
    };
    let Some(walked) = walked else {
        bar.finish_and_clear();
        drop(sink);
        target.leave().await?;
        return Err(Interrupted.into());
    };
    walked?;
    writing.end(up_to, &mut sink)?;
    sink.finish()?;
    bar.finish_and_clear();
    target.leave().await?;
    let Chain { position, entries, .. } = writing.chain;
    match (to_stdout, out.json) {
        (true, _) => Ok(()),
        (false, true) => out.json(&serde_json::json!({
            "file": args.file, "position": position, "entries": entries, "head": writing.chain.head().to_string(),
        })),
        (false, false) => Ok(out.line(&format!("exported up to position {position} to {}", args.file.display()))?),
    }
}

/// An export under way. The chain begins with the log, wherever the export does.
struct Writing {
    chain: Chain,
    seen: Position,
    after: Position,
}

impl Writing {
    /// What comes next is part of the export.
    fn begin(&self, sink: &mut Sink) -> anyhow::Result<()> {
        match self.after == Position::START {
            true => Ok(()),
            // As if the chain's last entry stood there: what is behind it is what counts.
            false => sink.line(&Line::Start(Chain { position: self.after, ..self.chain })),
        }
    }

    fn entry(&mut self, entry: Entry, sink: &mut Sink) -> anyhow::Result<()> {
        self.gap(entry.position.previous(), sink)?;
        self.chain.push(&entry);
        if entry.position > self.after {
            sink.line(&Line::Entry { entry: Box::new(entry), hash: self.chain.hash })?;
        }
        self.pass(self.chain.position, sink)
    }

    /// Nothing stands up to here.
    fn gap(&mut self, last: Position, sink: &mut Sink) -> anyhow::Result<()> {
        if self.seen < self.after && self.after <= last {
            self.pass(self.after, sink)?;
        }
        if self.seen < last {
            if self.after < last {
                sink.line(&Line::Gap { first: self.seen.next(), last })?;
            }
            self.seen = last;
        }
        Ok(())
    }

    /// Marks the beginning as it goes by.
    fn pass(&mut self, position: Position, sink: &mut Sink) -> anyhow::Result<()> {
        let before = self.seen < self.after;
        self.seen = position;
        if before && self.after <= position { self.begin(sink) } else { Ok(()) }
    }

    fn end(&mut self, up_to: Position, sink: &mut Sink) -> anyhow::Result<()> {
        self.gap(up_to, sink)?;
        sink.line(&Line::End(self.chain))
    }
}
