//! The one connection that writes.

use bytes::Bytes;
use causeway_event::Position;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio_util::sync::CancellationToken;

use super::files::{INDEXES, Loaded, Meta};
use super::pool::STEPS;
use super::reader::snapshot_checksum;
use super::row::{self, AllNames, number};
use super::{Batch, ModelError};

/// Pages of the database that the writer caches, in KiB: the inner pages of all indexes fit.
const CACHE_KIB: i64 = 64 << 10;
/// The write-ahead log is copied into the file when it has this many pages (4 KiB each) ...
const CHECKPOINT_PAGES: i32 = 16384;
/// ... and cut to this size afterwards.
const JOURNAL_BYTES_MAX: i64 = 64 << 20;
/// Snapshots of one view of one id. Beyond them every second one goes, so that what is left spans the whole history.
const SNAPSHOTS_MAX: i64 = 16;

/// A snapshot of a view, to be kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) view: String,
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) position: Position,
    pub(crate) state: Bytes,
}

pub(crate) struct Writer {
    conn: Connection,
    meta: Meta,
    names: AllNames,
    indexed: bool,
}

impl Writer {
    pub(crate) fn new(loaded: Loaded) -> Result<Self, ModelError> {
        let Loaded { mut conn, meta, indexed, .. } = loaded;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.wal_hook(Some(copy_journal))?;
        conn.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX)?;
        Ok(Self { conn, meta, names: AllNames::new(), indexed })
    }

    /// Writes a batch and how far it goes, both or neither.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Result<(), ModelError> {
        let mut meta = self.meta.clone();
        meta.position = batch.end;
        meta.events += batch.arrived.len() as i64;
        let written = write(&mut self.conn, &mut self.names, batch, &mut meta);
        match written {
            Ok(()) => self.meta = meta,
            // Numbers given in what was rolled back are free again.
            Err(_) => self.names.forget(),
        }
        written
    }

    pub(crate) fn is_indexed(&self) -> bool {
        self.indexed
    }

    /// Makes the indexes that are missing: each by itself, so that the journal stays small and a crash, or `stop`, loses one of them.
    /// Tells before each how many there are.
    pub(crate) fn index(&mut self, stop: &CancellationToken, mut tell: impl FnMut(usize)) -> Result<(), ModelError> {
        let stop = stop.clone();
        self.conn.progress_handler(STEPS, Some(move || stop.is_cancelled()))?;
        let made = INDEXES.into_iter().enumerate().try_for_each(|(made, (name, what))| {
            tell(made);
            self.conn.execute_batch(&format!("CREATE INDEX IF NOT EXISTS {name} ON events {what}"))
        });
        self.conn.progress_handler(STEPS, None::<fn() -> bool>)?;
        self.indexed = made.is_ok();
        Ok(made?)
    }

    /// Keeps a snapshot, drops those of older versions, and thins out the others. One that is ahead of the events is left out: a
    /// log that loses its end would leave it standing for events that never were.
    pub(crate) fn keep(&mut self, snapshot: &Snapshot) -> Result<(), ModelError> {
        let Snapshot { view, version, id, position, state } = snapshot;
        if *position > self.meta.position {
            return Ok(());
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let checksum = snapshot_checksum(number(*position), state);
        tx.prepare_cached(
            "INSERT OR REPLACE INTO snapshots (view, version, id, position, checksum, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![view, version, id, number(*position), checksum, state.as_ref()])?;
        tx.prepare_cached("DELETE FROM snapshots WHERE view = ?1 AND id = ?2 AND version < ?3")?
            .execute(params![view, id, version])?;
        let kept: i64 = tx
            .prepare_cached("SELECT count(*) FROM snapshots WHERE view = ?1 AND id = ?2 AND version = ?3")?
            .query_row(params![view, id, version], |row| row.get(0))?;
        if kept > SNAPSHOTS_MAX {
            // The newest is the first of the numbered, and stays.
            tx.prepare_cached(
                "DELETE FROM snapshots WHERE rowid IN (SELECT rowid FROM (SELECT rowid, \
                 row_number() OVER (ORDER BY position DESC) AS place FROM snapshots WHERE view = ?1 AND id = ?2 AND version = ?3) WHERE place % 2 = 0)",
            )?
            .execute(params![view, id, version])?;
        }
        Ok(tx.commit()?)
    }

    /// Leaves one file behind, without a journal beside it.
    pub(crate) fn close(self) -> Result<(), ModelError> {
        // SQLite does this by itself when the last connection closes; readers are still open.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.conn.close().map_err(|(_, error)| error.into())
    }
}

/// What SQLite would do by itself, but for what it would keep to itself: that the write-ahead log is damaged, which else would grow until
/// somebody reads what it lost. Whatever else hinders it (no space, say) may pass.
fn copy_journal(journal: &mut Wal, pages: i32) -> rusqlite::Result<()> {
    match pages >= CHECKPOINT_PAGES {
        true => journal.checkpoint().or_else(|error| if causeway_pages::is_damage(&error) { Err(error) } else { Ok(()) }),
        false => Ok(()),
    }
}

fn write(conn: &mut Connection, names: &mut AllNames, batch: &Batch, meta: &mut Meta) -> Result<(), ModelError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut insert = tx.prepare_cached(row::INSERT)?;
    for arrived in &batch.arrived {
        row::insert(&tx, &mut insert, names, &arrived.event, arrived.key.as_ref())?;
        meta.clock.see(&tx, arrived.event.position, arrived.event.timestamp)?;
    }
    drop(insert);
    meta.write(&tx)?;
    Ok(tx.commit()?)
}
