//! `causeway log verify`

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use causeway_event::Position;
use causeway_log::Log;
use causeway_proof::{Audit, Chain, Fault, Finding, FirstCheckpoint, Hash, Line, PublicKey, Severity, Summary, Trust};
use indicatif::ProgressBar;
use jiff::Timestamp;

use super::args::VerifyArgs;
use super::files::Lines;
use super::target::{NoLog, Target};
use super::{keys, progress, progress_bytes};
use crate::cli::Common;
use crate::config::{self, Section};
use crate::output::{Look, Output, one_line, reader_gone};

/// The most problems, and the most warnings, of one answer in JSON; all of them are counted ...
const FINDINGS_MAX: usize = 1000;
/// ... and those that a person is told of one kind.
const TOLD_MAX: usize = 20;
/// A log that NATS began to store within this many seconds need not have a checkpoint: gateways sign after a minute.
const YOUNG_SECONDS: i64 = 120;

pub(super) async fn run(common: &Common, args: &VerifyArgs, out: &Output) -> anyhow::Result<()> {
    let trust = |keys: &[PublicKey]| Trust { keys: keys.to_vec(), heads: args.heads.clone(), ..Trust::default() };
    let mut kept = Kept::open(args.against.as_deref())?;
    let mut told = Told::new(out);
    let (audit, keys) = match &args.from_export {
        Some(file) => {
            let loaded = config::read(common, &[], &[Section::Up])?;
            let keys = keys::trusted(&args.public_keys, Some(&loaded.config.up.data), out)?;
            let mut audit = Audit::new(Chain::START, trust(&keys));
            of_export(file, &mut audit, &mut kept, &mut told, |_, _| {})?;
            (audit, keys)
        }
        None => {
            let target = Target::find(common, &args.target, NoLog::Refuse, out).await?;
            let keys = keys::trusted(&args.public_keys, target.data(&args.target), out)?;
            let log = target.reach("opening the log", Log::open(&target.config), out).await?;
            // Whoever names a key wants its word.
            let first_checkpoint = match args.public_keys.is_empty() && is_young(&log).await? {
                true => FirstCheckpoint::StillToCome,
                false => FirstCheckpoint::Due,
            };
            let mut audit = Audit::new(Chain::START, Trust { first_checkpoint, ..trust(&keys) });
            of_log(&log, &mut audit, &mut kept, &mut told).await?;
            target.leave().await?;
            (audit, keys)
        }
    };
    let (findings, summary) = audit.finish();
    told.hear(findings)?;
    unless_gone(told.sum_up(&summary, !keys.is_empty(), &kept))?;
    match summary.problems {
        0 => Ok(()),
        1 => anyhow::bail!("the log does not verify: there is a problem"),
        problems => anyhow::bail!("the log does not verify: there are {problems} problems"),
    }
}

/// That nobody reads any more is no failure, and no end of the audit.
fn unless_gone<E: Into<anyhow::Error>>(written: Result<(), E>) -> anyhow::Result<()> {
    written.map_err(Into::into).or_else(|error| if reader_gone(&error) { Ok(()) } else { Err(error) })
}

/// By the server's own clock and files: nothing that stands on the log says so.
async fn is_young(log: &Log) -> anyhow::Result<bool> {
    let since = log.info().await?.first_time.map(|first| Timestamp::now().as_second() - first.as_second());
    Ok(since.is_some_and(|seconds| (0..YOUNG_SECONDS).contains(&seconds)))
}

/// Audits everything that stands on the log at this moment.
pub(super) async fn of_log(log: &Log, audit: &mut Audit, kept: &mut Kept, told: &mut Told<'_>) -> anyhow::Result<()> {
    let last = log.last_position().await?;
    told.bar = progress(told.out, "verifying", last.get());
    let mut walk = log.walk(Position::START, last);
    loop {
        let page = walk.page().await?;
        if page.is_empty() {
            break;
        }
        for entry in &page {
            kept.tell(entry.position, audit)?;
            audit.entry(entry);
        }
        told.hear(audit.findings())?;
        told.bar.set_position(audit.position().get());
    }
    if audit.position() < last {
        kept.tell(last, audit)?;
        audit.line(&Line::Gap { first: audit.position().next(), last });
    }
    kept.tell_the_end(audit)
}

/// Audits every line of an export; `each` sees it, and how far the audit has come behind it.
pub(super) fn of_export(
    file: &Path,
    audit: &mut Audit,
    kept: &mut Kept,
    told: &mut Told<'_>,
    mut each: impl FnMut(&Audit, &Line),
) -> anyhow::Result<()> {
    let length = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let mut lines = Lines::open(file)?;
    told.bar = progress_bytes(told.out, "verifying", length);
    while let Some(line) = lines.next()? {
        match line {
            Ok(line) => {
                kept.tell(reach(&line), audit)?;
                audit.line(&line);
                each(audit, &line);
            }
            Err(what) => audit.bad_line(what),
        }
        told.hear(audit.findings())?;
        told.bar.set_position(lines.bytes);
    }
    audit.no_more_lines();
    kept.tell_the_end(audit)?;
    told.hear(audit.findings())?;
    told.bar.finish_and_clear();
    Ok(())
}

/// How far a line goes.
fn reach(line: &Line) -> Position {
    match line {
        Line::Start(chain) | Line::End(chain) => chain.position,
        Line::Entry { entry, .. } => entry.position,
        Line::Gap { last, .. } => *last,
    }
}

/// An export that was kept, read in step with what is audited: it may be larger than memory.
pub(super) struct Kept {
    lines: Option<Lines>,
    path: PathBuf,
    /// The leaf that was read and not told yet.
    ahead: Option<(Position, Hash)>,
    /// And the gaps.
    gaps: Vec<(Position, Position)>,
    /// What it begins behind, and up to where it says what stands there.
    start: Position,
    up_to: Position,
    /// What its lines come to, and what its last line says that they do.
    chain: Chain,
    end: Option<Hash>,
}

impl Kept {
    /// With no path, nothing was kept.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let lines = path.map(Lines::open).transpose()?;
        let path = path.map(Path::to_owned).unwrap_or_default();
        let (start, up_to) = (Position::START, Position::START);
        let mut kept = Self { lines, path, ahead: None, gaps: Vec::new(), start, up_to, chain: Chain::START, end: None };
        kept.read()?;
        Ok(kept)
    }

    /// Tells the audit what was kept up to this position, which comes next in it.
    fn tell(&mut self, position: Position, audit: &mut Audit) -> anyhow::Result<()> {
        while let Some((at, leaf)) = self.ahead.filter(|(at, _)| *at <= position) {
            audit.keep(at, leaf);
            self.read()?;
        }
        self.gaps.drain(..).for_each(|(first, last)| audit.keep_gap(first, last));
        Ok(())
    }

    /// Tells the audit how far what was kept goes on.
    fn tell_the_end(&mut self, audit: &mut Audit) -> anyhow::Result<()> {
        let mut last = self.ahead;
        while self.ahead.is_some() {
            last = self.ahead;
            self.read()?;
        }
        if let Some((position, leaf)) = last {
            audit.keep(position, leaf);
        }
        let (path, up_to) = (self.path.display(), self.up_to);
        match self.end {
            _ if self.is_whole() => {}
            None => audit.kept_in_part(up_to, format!("{path} breaks off behind position {up_to}: its end is missing")),
            Some(_) => audit.kept_in_part(up_to, format!("the lines of {path} are not those that it was made of")),
        }
        Ok(())
    }

    /// Whether all that it was made of is there. What was not kept is.
    fn is_whole(&self) -> bool {
        self.lines.is_none() || self.end == Some(self.chain.hash)
    }

    fn read(&mut self) -> anyhow::Result<()> {
        self.ahead = None;
        let Some(lines) = &mut self.lines else { return Ok(()) };
        while let Some(line) = lines.next()? {
            let line = match line {
                Ok(line) => line,
                // Told with the end that is missing.
                Err(_) if lines.broke_off => return Ok(()),
                Err(what) => anyhow::bail!("{}: {what}", self.path.display()),
            };
            let behind = self.up_to;
            self.up_to = behind.max(reach(&line));
            match line {
                Line::Start(chain) => (self.start, self.chain) = (chain.position, chain),
                Line::Gap { first, last } => self.gaps.push((first, last)),
                Line::End(chain) => self.end = Some(chain.hash),
                Line::Entry { entry, .. } => {
                    if entry.position <= behind {
                        let (path, position) = (self.path.display(), entry.position);
                        anyhow::bail!("{path}: position {position} does not stand behind the one before it");
                    }
                    let leaf = entry.leaf();
                    self.chain.link(entry.position, &leaf);
                    self.end = None;
                    self.ahead = Some((entry.position, leaf));
                    break;
                }
            }
        }
        Ok(())
    }

    /// How far the comparison reached, for a program.
    fn json(&self) -> Option<serde_json::Value> {
        self.lines.as_ref()?;
        let (start, position, whole) = (self.start, self.up_to, self.is_whole());
        Some(serde_json::json!({ "file": self.path, "start": start, "position": position, "whole": whole }))
    }
}

/// What is told of an audit: to a person at once, to a program at the end.
pub(super) struct Told<'o> {
    out: &'o Output,
    bar: ProgressBar,
    findings: Vec<serde_json::Value>,
    /// How many of a kind a person was told, and a program of either severity.
    told: HashMap<(Severity, Option<Fault>), usize>,
    /// Which findings are set aside, for whoever asked for them, and none told.
    set_aside: Option<fn(&Finding) -> bool>,
    aside: Vec<Finding>,
}

impl<'o> Told<'o> {
    fn new(out: &'o Output) -> Self {
        Self { out, bar: ProgressBar::hidden(), findings: Vec::new(), told: HashMap::new(), set_aside: None, aside: Vec::new() }
    }

    /// Tells only how far it has come. Findings of these are set aside, the others forgotten.
    pub(super) fn progress_of(out: &'o Output, findings: fn(&Finding) -> bool) -> Self {
        Self { set_aside: Some(findings), ..Self::new(out) }
    }

    /// What was set aside.
    pub(super) fn aside(self) -> Vec<Finding> {
        self.aside
    }

    /// Which one of these it is.
    fn count(&mut self, severity: Severity, fault: Option<Fault>) -> usize {
        let told = self.told.entry((severity, fault)).or_default();
        *told += 1;
        *told
    }

    pub(super) fn hear(&mut self, findings: Vec<Finding>) -> anyhow::Result<()> {
        for finding in findings {
            if let Some(these) = self.set_aside {
                self.aside.extend(Some(finding).filter(these));
            } else if !self.out.json {
                let (look, word) = match finding.severity {
                    Severity::Problem => (Look::Bad, "problem"),
                    Severity::Warning => (Look::Accent, "warning"),
                };
                // The text may quote what anybody wrote.
                let what = match self.count(finding.severity, Some(finding.fault)).cmp(&TOLD_MAX) {
                    Ordering::Less => one_line(&finding.what, None),
                    Ordering::Equal => format!("{}; further ones of this kind are only counted", one_line(&finding.what, None)),
                    Ordering::Greater => continue,
                };
                let text = format!("{}  {what}", self.out.paint(look, word));
                // Whoever has heard enough gets the exit code all the same: that is what a script goes by.
                unless_gone(self.bar.suspend(|| self.out.line(&text)))?;
            } else if self.count(finding.severity, None) <= FINDINGS_MAX {
                self.findings.push(serde_json::json!({
                    "severity": match finding.severity { Severity::Problem => "problem", Severity::Warning => "warning" },
                    "fault": finding.fault.as_str(),
                    "position": finding.position,
                    "last": finding.last,
                    "what": finding.what,
                }));
            }
        }
        Ok(())
    }

    fn sum_up(mut self, summary: &Summary, with_keys: bool, kept: &Kept) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let Summary { start, chain, seen, events, without_data, checkpoints, signed, vouched, unvouched, .. } = *summary;
        let Summary { problems, warnings, .. } = *summary;
        if self.out.json {
            return self.out.json(&serde_json::json!({
                "verified": problems == 0,
                "problems": problems,
                "warnings": warnings,
                "findings": std::mem::take(&mut self.findings),
                "start": start.position,
                "position": chain.position,
                "entries": chain.entries,
                "seen": seen,
                "events": events,
                "without_data": without_data,
                "checkpoints": checkpoints,
                "signed": signed,
                "vouched": vouched,
                "unvouched": unvouched,
                "against": kept.json(),
                "head": chain.head().to_string(),
            }));
        }
        let state = match problems {
            0 => self.out.paint(Look::Good, "verified"),
            _ => self.out.paint(Look::Bad, "not verified"),
        };
        let range = match start.position {
            Position::START => format!("up to position {}", chain.position),
            before => format!("behind position {before}, up to {}: what stands before is not in the export", chain.position),
        };
        let blank = if without_data > 0 { format!(", {without_data} of them without their data") } else { String::new() };
        self.out.line(&format!("{state}  {seen} entries {range}{blank}"))?;
        if kept.lines.is_some() {
            let (path, first, up_to) = (kept.path.display(), kept.start.next(), kept.up_to);
            let rest = if up_to < chain.position { "; what stands behind was not compared" } else { "" };
            self.out.line(&format!("          compared with {path}: positions {first} to {up_to}{rest}"))?;
        }
        let signatures = match with_keys {
            true => format!("{signed} of them signed by a key that you trust"),
            false => "without a look at signatures: give --public-key".to_owned(),
        };
        if checkpoints > 0 {
            let agree = if checkpoints == 1 { "checkpoint agrees" } else { "checkpoints agree" };
            self.out.line(&format!("          {checkpoints} {agree}, {signatures}"))?;
        }
        let whose = if with_keys { "a trusted key or a kept head" } else { "a kept head" };
        match vouched <= start.position {
            true => self.out.line(&format!("          nothing of it is vouched for by {whose}"))?,
            false => self.out.line(&format!("          vouched for by {whose} up to position {vouched}"))?,
        }
        if start.position < vouched && unvouched > 0 {
            let last = if unvouched == 1 { "the last entry".to_owned() } else { format!("the last {unvouched} entries") };
            let text = format!("          not vouched for: {last}, behind position {vouched}");
            self.out.line(&self.out.paint(Look::Accent, &text))?;
        }
        if problems > 0 {
            return Ok(());
        }
        self.out.note("keep this elsewhere, and give it later with --checkpoint:");
        Ok(self.out.line(&chain.head().to_string())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_warnings_there_are_problems_are_told() {
        let finding = |severity, position| {
            let position = Position::new(position);
            Finding { severity, fault: Fault::Missing, position, last: position, what: "nothing stands there".to_owned() }
        };
        let out = Output::new(true);
        let mut told = Told::new(&out);
        told.hear((1..3000).map(|position| finding(Severity::Warning, position)).collect()).unwrap();
        told.hear(vec![finding(Severity::Problem, 3000)]).unwrap();
        assert_eq!(told.findings.len(), FINDINGS_MAX + 1);
        assert_eq!(told.findings.last().unwrap()["position"], 3000);
        assert_eq!(told.count(Severity::Problem, Some(Fault::Missing)), 1, "of a kind, problems are counted apart from warnings");
    }
}
