//! `causeway log backup` and `restore`: a folder with a snapshot of each stream and a manifest that was written last.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use causeway_event::format_timestamp;
use causeway_log::{Held, Log, Restoring, StreamFacts};
use causeway_proof::to_hex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::args::{BackupArgs, RestoreArgs};
use super::target::{NoLog, Target};
use super::{about, keys, progress_bytes};
use crate::cli::Common;
use crate::failure::Hinted;
use crate::output::{Look, Output};

const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;
/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 512 * 1024;

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    causeway: String,
    namespace: String,
    made: String,
    streams: Vec<Saved>,
}

/// One stream of it.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    file: String,
    file_bytes: u64,
    sha256: String,
    facts: StreamFacts,
    /// The stream's configuration and state in NATS's own words.
    description: Value,
}

pub(super) async fn backup(common: &Common, args: &BackupArgs, out: &Output) -> anyhow::Result<()> {
    let folder = &args.folder;
    let target = Target::find(common, &args.target, NoLog::Refuse, out).await?;
    let log = target.reach("opening the log", Log::open(&target.config), out).await?;
    std::fs::create_dir_all(folder).map_err(about(folder))?;
    let there: Vec<_> = std::fs::read_dir(folder).and_then(Iterator::collect).map_err(about(folder))?;
    if !there.is_empty() {
        let broke_off = there.iter().all(|entry| Path::new(&entry.file_name()).extension().is_some_and(|end| end == "snapshot"));
        let begun = if broke_off { ", and this is one that broke off: remove it first" } else { "" };
        bail!("{} is not empty: a backup wants a folder of its own{begun}", folder.display());
    }
    let mut streams = log.streams().await?;
    // The log first: whatever its events refer to is there by the time that the rest is copied.
    streams.sort_by_key(|stream| !stream.name.ends_with("_EVENTS"));
    let mut saved = Vec::new();
    for stream in streams {
        saved.push(save(&log, folder, &stream, out).await.with_context(|| format!("cannot back up {}", stream.name))?);
    }
    let manifest = Manifest {
        version: VERSION,
        causeway: env!("CARGO_PKG_VERSION").to_owned(),
        namespace: target.config.namespace.clone(),
        made: format_timestamp(jiff::Timestamp::now()),
        streams: saved,
    };
    let path = folder.join(MANIFEST);
    let mut file = File::create(&path).map_err(about(&path))?;
    file.write_all(serde_json::to_string_pretty(&manifest)?.as_bytes()).and_then(|()| file.sync_all()).map_err(about(&path))?;
    target.leave().await?;
    told(&manifest, "backed up", out)
}

async fn save(log: &Log, folder: &Path, stream: &StreamFacts, out: &Output) -> anyhow::Result<Saved> {
    let bar = progress_bytes(out, &stream.name, stream.bytes);
    let name = format!("{}.snapshot", stream.name);
    let path = folder.join(&name);
    let mut file = File::create(&path).map_err(about(&path))?;
    let mut snapshot = log.snapshot(&stream.name).await?;
    let (mut sum, mut bytes) = (Sha256::new(), 0_u64);
    while let Some(chunk) = snapshot.chunk().await? {
        file.write_all(&chunk).map_err(about(&path))?;
        sum.update(&chunk);
        bytes += chunk.len() as u64;
        bar.set_position(bytes);
    }
    file.sync_all().map_err(about(&path))?;
    bar.finish_and_clear();
    let description = snapshot.description().clone();
    Ok(Saved { file: name, file_bytes: bytes, sha256: to_hex(&sum.finalize()), facts: facts(stream, &description), description })
}

/// The stream as the snapshot has it: it may have grown since it was listed.
fn facts(listed: &StreamFacts, description: &Value) -> StreamFacts {
    let state = |name: &str, known: u64| description["state"][name].as_u64().unwrap_or(known);
    let messages = state("messages", listed.messages);
    StreamFacts {
        name: listed.name.clone(),
        messages,
        bytes: state("bytes", listed.bytes),
        first: if messages == 0 { 0 } else { state("first_seq", listed.first) },
        last: state("last_seq", listed.last),
        consumers: listed.consumers,
    }
}

pub(super) async fn restore(common: &Common, args: &RestoreArgs, out: &Output) -> anyhow::Result<()> {
    let manifest = read(&args.folder, out)?;
    let target = Target::find(common, &args.target, NoLog::Begin, out).await?;
    let log = target.reach("reaching NATS", Log::reach(&target.config), out).await?;
    if manifest.namespace != target.config.namespace {
        return Err(Hinted {
            what: format!(
                "the backup is of the namespace {}, and the configuration says {}: nothing was restored",
                manifest.namespace, target.config.namespace
            ),
            hint: format!("restore it with log.namespace = {0:?} (CAUSEWAY__LOG__NAMESPACE={0})", manifest.namespace),
        }
        .into());
    }
    let broke_off = log.restoring().await?;
    if let Some(other) = broke_off.as_ref().filter(|other| other.made != manifest.made) {
        bail!(
            "a restore of another backup, of {}, broke off here: nothing was restored of this one, of {}; finish that one, or delete \
             what it made and the stream {}_RESTORE",
            other.made,
            manifest.made,
            manifest.namespace
        );
    }
    // Nothing is written before it is known that everything can be.
    let (mut missing, mut others, mut half) = (Vec::new(), Vec::new(), Vec::new());
    for saved in &manifest.streams {
        let name = saved.facts.name.as_str();
        let is_ours = broke_off.as_ref().is_some_and(|restoring| restoring.streams.iter().any(|stream| stream == name));
        match log.held_of(name, &saved.description).await? {
            None => missing.push(saved),
            Some(Held::Same) => {}
            // Whoever lives dispatches groups already. Of those before, the counts of deliveries under way are lost.
            Some(_) if log.is_of_leases(name) => {}
            // Whoever lives goes on as soon as the log is there.
            Some(Held::More) if is_ours => {}
            Some(Held::Other) if is_ours && is_less(saved, &log).await? => {
                half.push(name);
                missing.push(saved);
            }
            Some(Held::More | Held::Other) => others.push(name),
        }
    }
    // The log last: with it a gateway that lives through this goes on, and all that its events refer to is to be there.
    missing.sort_by_key(|saved| saved.facts.name.ends_with("_EVENTS"));
    if !others.is_empty() {
        let delete: Vec<String> = others.iter().map(|name| format!("`nats stream rm {name}`")).collect();
        return Err(Hinted {
            what: format!(
                "{} exist already and hold something else than the backup: nothing is overwritten, and nothing was restored",
                others.join(", ")
            ),
            hint: format!("restore into another NATS, or delete what is not wanted: {}", delete.join(", ")),
        }
        .into());
    }
    if missing.is_empty() && broke_off.is_none() {
        bail!("everything of the backup is there already: nothing is overwritten, and nothing was restored");
    }
    if broke_off.is_none() {
        let streams = missing.iter().map(|saved| saved.facts.name.clone()).collect();
        let restoring = Restoring { made: manifest.made.clone(), streams };
        log.begin_restore(&restoring, args.replicas.unwrap_or(target.config.replicas)).await?;
    }
    for name in half {
        log.delete_stream(name).await?;
    }
    for saved in missing {
        let name = &saved.facts.name;
        let restored = give_back(&log, &args.folder, saved, args.replicas, out).await;
        if let Err(error) = &restored
            && log.is_of_leases(name)
            && log.stream_facts(name).await?.is_some()
        {
            out.note(&format!("{name} was made anew meanwhile and stays as it is: {error:#}"));
            continue;
        }
        restored.with_context(|| format!("cannot restore {name}"))?;
        let found = log.stream_facts(name).await?.with_context(|| format!("{name} is not there behind its restore"))?;
        let is = |facts: &StreamFacts| (facts.messages, facts.first, facts.last);
        let has_grown = found.last > saved.facts.last || log.is_of_leases(name);
        if !has_grown && is(&found) != is(&saved.facts) {
            let (messages, first, last) = is(&found);
            bail!("{name} was restored with {messages} messages from {first} to {last}, which is not what was backed up");
        }
    }
    log.end_restore().await?;
    target.leave().await?;
    told(&manifest, "restored", out)?;
    if let Some(folder) = args.target.data.as_deref().filter(|folder| !out.json && !keys::is_there(folder)) {
        out.note(&format!(
            "a backup has no signing key: put the old one into {} before the start, or a new one is made and signs from there on",
            folder.display()
        ));
    }
    Ok(())
}

/// Whether what there is of a stream is less than what was saved of it: its restore broke off, and nobody has written to it since.
async fn is_less(saved: &Saved, log: &Log) -> anyhow::Result<bool> {
    Ok(log.stream_facts(&saved.facts.name).await?.is_none_or(|found| found.last < saved.facts.last))
}

/// The manifest, once every file is known to be what it says.
fn read(folder: &Path, out: &Output) -> anyhow::Result<Manifest> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read: a backup that was not finished has none", path.display()))?;
    let manifest: Manifest = serde_json::from_str(&text).with_context(|| format!("{} is not a manifest", path.display()))?;
    if manifest.version != VERSION {
        bail!("{} is of version {}; this program knows version {VERSION}", path.display(), manifest.version);
    }
    for saved in &manifest.streams {
        let path = folder.join(file_name(&saved.file)?);
        let bar = progress_bytes(out, &format!("checking {}", saved.file), saved.file_bytes);
        let mut file = File::open(&path).map_err(about(&path))?;
        let (mut sum, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
        loop {
            let read = file.read(&mut buffer).map_err(about(&path))?;
            if read == 0 {
                break;
            }
            sum.update(&buffer[..read]);
            bar.inc(read as u64);
        }
        bar.finish_and_clear();
        if to_hex(&sum.finalize()) != saved.sha256 {
            bail!("{} is not what was backed up: its SHA-256 differs", path.display());
        }
    }
    Ok(manifest)
}

/// A name without a way to another folder.
fn file_name(name: &str) -> anyhow::Result<&str> {
    let plain = Path::new(name).file_name().is_some_and(|file| file == name);
    if plain { Ok(name) } else { bail!("{name:?} is no name of a file in the backup") }
}

async fn give_back(log: &Log, folder: &Path, saved: &Saved, replicas: Option<usize>, out: &Output) -> anyhow::Result<()> {
    let bar = progress_bytes(out, &saved.facts.name, saved.file_bytes);
    let path = folder.join(file_name(&saved.file)?);
    let mut file = File::open(&path).map_err(about(&path))?;
    let mut description = saved.description.clone();
    if let Some(replicas) = replicas {
        description["config"]["num_replicas"] = replicas.into();
    }
    let mut buffer = vec![0; READ_BYTES];
    log.restore(&saved.facts.name, &description, async || -> anyhow::Result<Option<Bytes>> {
        let read = file.read(&mut buffer).map_err(about(&path))?;
        bar.inc(read as u64);
        Ok((read > 0).then(|| Bytes::copy_from_slice(&buffer[..read])))
    })
    .await?;
    bar.finish_and_clear();
    Ok(())
}

fn told(manifest: &Manifest, what: &str, out: &Output) -> anyhow::Result<()> {
    if out.json {
        let streams: Vec<_> = manifest.streams.iter().map(|saved| &saved.facts).collect();
        return out.json(&serde_json::json!({ "namespace": manifest.namespace, "made": manifest.made, "streams": streams }));
    }
    for Saved { facts, file_bytes, .. } in &manifest.streams {
        let size = indicatif::HumanBytes(*file_bytes);
        out.line(&format!("{:>10} messages  {:>10}  {}", facts.messages, size.to_string(), facts.name))?;
    }
    Ok(out.line(&out.paint(Look::Good, what))?)
}
