//! `causeway log import`: check the export, take it up where the log ends, compare the two at the end.

use std::path::Path;

use anyhow::bail;
use causeway_event::Position;
use causeway_log::{Import, Log, LogError};
use causeway_proof::{Audit, Chain, Fault, Finding, Line, Severity, Trust};

use super::args::ImportArgs;
use super::files::Lines;
use super::target::{NoLog, Target};
use super::verify::{Kept, Told, of_export};
use super::{keys, progress, progress_bytes};
use crate::cli::Common;
use crate::failure::Usage;
use crate::output::{Look, Output};

pub(super) async fn run(common: &Common, args: &ImportArgs, out: &Output) -> anyhow::Result<()> {
    if args.file.as_os_str() == "-" {
        return Err(Usage("an import reads its file twice: it cannot come from standard input".to_owned()).into());
    }
    let target = Target::find(common, &args.target, NoLog::Begin, out).await?;
    let last = match target.reach("opening the log", Log::open(&target.config), out).await {
        Ok(log) => log.last_position().await?,
        Err(error) if matches!(error.downcast_ref(), Some(LogError::Mismatch { .. })) => Position::START,
        Err(error) => return Err(error),
    };
    let keys = keys::trusted(&args.public_keys, target.data(&args.target), out)?;
    let export = check(args, last, Trust { keys, ..Trust::default() }, &target.config.namespace, out)?;
    // A log is begun only for an export that can be imported.
    let log = target.reach("opening the log", Log::connect(&target.config), out).await?;
    let here = chain_of(&log, last, out).await?;
    if export.at_last.map(|chain| chain.hash) != Some(here.hash) {
        bail!("the log holds {} entries up to position {last}, and they are not the beginning of this export", here.entries);
    }
    put(&args.file, &log, &export, out).await?;
    let now = chain_of(&log, export.whole.position, out).await?;
    if now.hash != export.whole.hash {
        bail!("the log differs from the export behind the import; `causeway log verify --against` names where");
    }
    target.leave().await?;
    let imported = export.whole.entries - here.entries;
    match out.json {
        true => out.json(&serde_json::json!({
            "imported": imported, "entries": export.whole.entries, "position": export.whole.position,
            "vouched": export.vouched, "head": export.whole.head().to_string(),
        })),
        false => {
            let state = out.paint(Look::Good, "imported");
            Ok(out
                .line(&format!("{state} {imported} entries up to position {}, the same as the export", export.whole.position))?)
        }
    }
}

/// What is known of an export that can be imported.
struct Export {
    whole: Chain,
    /// The chain at the log's last position; none if the export begins behind it or ends before it.
    at_last: Option<Chain>,
    /// The last position up to which a checkpoint of a trusted key vouches for it.
    vouched: Position,
}

/// What no import can carry over. Everything else that an audit finds was on the log that the export was made of.
fn forbids(finding: &Finding) -> bool {
    let fault = matches!(
        finding.fault,
        Fault::Missing
            | Fault::OutOfOrder
            | Fault::BadLine
            | Fault::CutOff
            | Fault::Altered
            | Fault::Checkpoint
            | Fault::Signature
    );
    // A gap that a checkpoint vouches for is still a gap: a stream gives every message the next position.
    fault && (finding.severity == Severity::Problem || finding.fault == Fault::Missing)
}

fn check(args: &ImportArgs, last: Position, trust: Trust, namespace: &str, out: &Output) -> anyhow::Result<Export> {
    let mut audit = Audit::new(Chain::START, trust);
    let mut at_last = (last == Position::START).then_some(Chain::START);
    // Only what forbids the import is told.
    let mut told = Told::progress_of(out, forbids);
    let (mut refused, mut start) = (None, Position::START);
    of_export(&args.file, &mut audit, &mut Kept::open(None)?, &mut told, |audit, line| {
        match line {
            Line::Entry { entry, .. } if refused.is_none() => refused = Import::check(namespace, entry).err(),
            Line::Start(chain) => start = chain.position,
            _ => {}
        }
        if audit.position() == last {
            at_last = Some(audit.chain());
        }
    })?;
    let (rest, summary) = audit.finish();
    told.hear(rest)?;
    let found = told.aside();
    if let Some(first) = found.first() {
        let more = found.len() - 1;
        for finding in found.iter().take(20) {
            out.note(&finding.what);
        }
        let others = if more > 0 { format!(", and {more} more") } else { String::new() };
        let why = match first.fault {
            Fault::Missing => ", and the server leaves no position out",
            _ => "",
        };
        bail!("the export cannot be imported: {}{why}{others}", first.what);
    }
    if let Some(refused) = refused {
        bail!("the export cannot be imported: {refused}");
    }
    if last < start {
        bail!("the export cannot be imported: it begins behind position {start}, and the log ends at {last}");
    }
    // Whoever names a key wants its word. That of the folder may be new, and for what comes behind the import.
    if !args.public_keys.is_empty() && summary.vouched == Position::START && summary.seen > 0 {
        bail!("the export cannot be imported: no checkpoint of a key that --public-key names vouches for any of it");
    }
    Ok(Export { whole: summary.chain, at_last, vouched: summary.vouched })
}

/// The chain of what stands on the log up to here.
async fn chain_of(log: &Log, up_to: Position, out: &Output) -> anyhow::Result<Chain> {
    let bar = progress(out, "comparing", up_to.get());
    let mut chain = Chain::START;
    let mut walk = log.walk(Position::START, up_to);
    loop {
        let page = walk.page().await?;
        if page.is_empty() {
            break;
        }
        for entry in &page {
            chain.push(entry);
        }
        bar.set_position(chain.position.get());
    }
    bar.finish_and_clear();
    Ok(chain)
}

async fn put(file: &Path, log: &Log, export: &Export, out: &Output) -> anyhow::Result<()> {
    let bar = progress_bytes(out, "importing", std::fs::metadata(file).map_or(0, |metadata| metadata.len()));
    let mut import = log.import().await?;
    let mut lines = Lines::open(file)?;
    while let Some(line) = lines.next()? {
        if let Ok(Line::Entry { entry, .. }) = line
            && import.position() < entry.position
            && entry.position <= export.whole.position
        {
            import.put(&entry).await?;
        }
        bar.set_position(lines.bytes);
    }
    import.finish().await?;
    bar.finish_and_clear();
    Ok(())
}
