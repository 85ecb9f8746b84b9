//! What the disk takes for a small synced write, at this moment. Disks of shared machines change tenfold within minutes, so a
//! figure of synced appends means nothing without this beside it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::stats::Latency;

/// Writes of one probe, and their size: that of an event's data.
const WRITES: usize = 50;
const BYTES: usize = 256;

/// Writes and syncs in `dir`.
pub(crate) async fn probe(dir: &Path) -> Result<Latency> {
    let mut file = tempfile::tempfile_in(dir).with_context(|| format!("a file in {}", dir.display()))?;
    tokio::task::spawn_blocking(move || write(&mut file)).await?
}

fn write(file: &mut File) -> Result<Latency> {
    let mut taken = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&[b'.'; BYTES])?;
        file.sync_all()?;
        taken.push(start.elapsed());
    }
    Ok(Latency::of(taken))
}
