//! `causeway log verify`

use std::collections::BTreeMap;
use std::path::Path;

use causeway_event::Position;
use causeway_log::Log;
use causeway_proof::{Audit, Chain, Finding, Hash, Line, PublicKey, Severity, Summary, Trust};
use indicatif::ProgressBar;

use super::args::VerifyArgs;
use super::files::Lines;
use super::target::Target;
use super::{keys, progress, progress_bytes};
use crate::cli::Common;
use crate::config::{self, Section};
use crate::output::{Look, Output, clean};

/// The most findings of one answer in JSON; all of them are counted.
const FINDINGS_MAX: usize = 1000;

pub(super) async fn run(common: &Common, args: &VerifyArgs, out: &Output) -> anyhow::Result<()> {
    let trust = |keys: &[PublicKey]| -> anyhow::Result<Trust> {
        let leaves = args.against.as_deref().map(leaves).transpose()?.unwrap_or_default();
        Ok(Trust { keys: keys.to_vec(), heads: args.heads.clone(), leaves })
    };
    let mut told = Told::new(out);
    let (audit, keys) = match &args.from_export {
        Some(file) => {
            let loaded = config::read(common, &[], &[Section::Up])?;
            let keys = keys::trusted(&args.public_keys, &loaded.config.up.data)?;
            let mut audit = Audit::new(Chain::START, trust(&keys)?);
            of_export(file, &mut audit, &mut told, |_| {})?;
            (audit, keys)
        }
        None => {
            let target = Target::find(common, &args.target, out).await?;
            let keys = keys::trusted(&args.public_keys, target.data(&args.target))?;
            let mut audit = Audit::new(Chain::START, trust(&keys)?);
            let log = target.reach("opening the log", Log::open(&target.config), out).await?;
            of_log(&log, &mut audit, &mut told).await?;
            target.leave().await?;
            (audit, keys)
        }
    };
    let (findings, summary) = audit.finish();
    told.hear(findings)?;
    told.sum_up(&summary, !keys.is_empty())?;
    match summary.problems {
        0 => Ok(()),
        1 => anyhow::bail!("the log does not verify: there is a problem"),
        problems => anyhow::bail!("the log does not verify: there are {problems} problems"),
    }
}

/// Audits everything that stands on the log at this moment.
pub(super) async fn of_log(log: &Log, audit: &mut Audit, told: &mut Told<'_>) -> anyhow::Result<()> {
    let last = log.last_position().await?;
    told.bar = progress(told.out, "verifying", last.get());
    let mut walk = log.walk(Position::START, last);
    loop {
        let page = walk.page().await?;
        if page.is_empty() {
            break;
        }
        for entry in &page {
            audit.entry(entry);
        }
        told.hear(audit.findings())?;
        told.bar.set_position(audit.position().get());
    }
    if audit.position() < last {
        audit.line(&Line::Gap { first: audit.position().next(), last });
    }
    Ok(())
}

/// Audits every line of an export; `each` sees how far it has come behind each.
pub(super) fn of_export(file: &Path, audit: &mut Audit, told: &mut Told<'_>, mut each: impl FnMut(&Audit)) -> anyhow::Result<()> {
    let length = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let mut lines = Lines::open(file)?;
    told.bar = progress_bytes(told.out, "verifying", length);
    while let Some(line) = lines.next()? {
        match line {
            Ok(line) => audit.line(&line),
            Err(what) => audit.bad_line(what),
        }
        each(audit);
        told.hear(audit.findings())?;
        told.bar.set_position(lines.bytes);
    }
    audit.no_more_lines();
    told.hear(audit.findings())
}

/// What stands at each position of an export that was kept.
fn leaves(file: &Path) -> anyhow::Result<BTreeMap<Position, Hash>> {
    let mut leaves = BTreeMap::new();
    let mut lines = Lines::open(file)?;
    while let Some(line) = lines.next()? {
        if let Line::Entry { entry, .. } = line.map_err(|what| anyhow::anyhow!("{}: {what}", file.display()))? {
            leaves.insert(entry.position, entry.leaf());
        }
    }
    Ok(leaves)
}

/// What is told of an audit: to a person at once, to a program at the end.
pub(super) struct Told<'o> {
    out: &'o Output,
    bar: ProgressBar,
    findings: Vec<serde_json::Value>,
}

impl<'o> Told<'o> {
    pub(super) fn new(out: &'o Output) -> Self {
        Self { out, bar: ProgressBar::hidden(), findings: Vec::new() }
    }

    pub(super) fn hear(&mut self, findings: Vec<Finding>) -> anyhow::Result<()> {
        for finding in findings {
            if !self.out.json {
                let (look, word) = match finding.severity {
                    Severity::Problem => (Look::Bad, "problem"),
                    Severity::Warning => (Look::Accent, "warning"),
                };
                // The text may quote what anybody wrote.
                let text = format!("{}  {}", self.out.paint(look, word), clean(&finding.what));
                self.bar.suspend(|| self.out.line(&text))?;
            } else if self.findings.len() < FINDINGS_MAX {
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

    fn sum_up(mut self, summary: &Summary, with_keys: bool) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let Summary { chain, events, checkpoints, signed, vouched, problems, warnings } = *summary;
        if self.out.json {
            return self.out.json(&serde_json::json!({
                "verified": problems == 0,
                "problems": problems,
                "warnings": warnings,
                "findings": std::mem::take(&mut self.findings),
                "position": chain.position,
                "entries": chain.entries,
                "events": events,
                "checkpoints": checkpoints,
                "signed": signed,
                "vouched": vouched,
                "head": chain.head().to_string(),
            }));
        }
        let state = match problems {
            0 => self.out.paint(Look::Good, "verified"),
            _ => self.out.paint(Look::Bad, "not verified"),
        };
        self.out.line(&format!("{state}  {} entries up to position {}", chain.entries, chain.position))?;
        let signatures = match with_keys {
            true => format!("{signed} of them signed by a key that you trust"),
            false => "their signatures were not checked: give --public-key".to_owned(),
        };
        if checkpoints > 0 {
            self.out.line(&format!("          {checkpoints} checkpoints agree, {signatures}"))?;
        }
        match vouched {
            Position::START => self.out.line("          no checkpoint vouches for any of it")?,
            vouched => self.out.line(&format!("          vouched for up to position {vouched}"))?,
        }
        self.out.note("keep this elsewhere, and give it later with --checkpoint:");
        Ok(self.out.line(&chain.head().to_string())?)
    }
}
