use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use tempfile::TempDir;

use super::sums::{self, FRAME, Frames, PAGE};
use super::{is_damage, open};

/// Rows: some within a page of many, some that overflow into pages of their own.
const ROWS: i64 = 300;

struct Database(TempDir);

impl Database {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("a.sqlite")
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("a.sqlite-wal")
    }

    fn writer(&self) -> Connection {
        let conn = open(&self.path(), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn
    }

    fn filled(&self) -> Connection {
        let mut conn = self.writer();
        conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT, data TEXT); CREATE INDEX words ON t (word)")
            .unwrap();
        for rows in (1..=ROWS).collect::<Vec<_>>().chunks(30) {
            let tx = conn.transaction().unwrap();
            for row in rows {
                tx.execute("INSERT INTO t VALUES (?1, ?2, ?3)", params![row, word(*row), data(*row)]).unwrap();
            }
            tx.commit().unwrap();
        }
        conn
    }

    /// Reads everything, through the index and not, over a connection that has cached nothing.
    fn read(&self) -> rusqlite::Result<()> {
        let conn = open(&self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        for third in 0..3 {
            let count: i64 = conn.query_row("SELECT count(*) FROM t WHERE word = ?1", [word(third)], |row| row.get(0))?;
            assert_eq!(count, ROWS / 3, "an answer that is wrong");
        }
        let mut rows = conn.prepare("SELECT id, word, data FROM t")?;
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(i64, String, String)> = rows.collect::<rusqlite::Result<_>>()?;
        assert_eq!(rows, (1..=ROWS).map(|row| (row, word(row), data(row))).collect::<Vec<_>>(), "an answer that is wrong");
        Ok(())
    }

    /// Right, or damaged.
    fn is_damaged(&self) -> bool {
        match self.read() {
            Ok(()) => false,
            Err(error) => {
                // A file that ends too early SQLite may notice by itself.
                let own = error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt);
                assert!(is_damage(&error) || own, "{error}");
                true
            }
        }
    }
}

fn word(row: i64) -> String {
    format!("word {}", row % 3)
}

fn data(row: i64) -> String {
    format!("{row} ").repeat(if row % 20 == 0 { 4000 } else { 20 })
}

/// Alters one byte and gives back what stood there.
fn flip(file: &File, at: u64, bits: u8) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
}

fn file(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn no_page_is_believed_that_is_not_what_was_written() {
    let database = Database::new();
    // Closing the last connection leaves one file.
    drop(database.filled());
    assert!(!database.journal().exists() && !database.is_damaged());
    let (found, length) = (file(&database.path()), fs::metadata(database.path()).unwrap().len());
    assert!(length > 50 * PAGE as u64, "{length}");
    for page in 0..length / PAGE as u64 {
        // One place in each part of a page, the checksum among them, and each page at other places.
        for part in 0..8 {
            let at = page * PAGE as u64 + part * 512 + (page * 37 + part * 11) % 512;
            flip(&found, at, 1 << (at % 8));
            assert!(database.is_damaged(), "byte {at} of {length}");
            flip(&found, at, 1 << (at % 8));
        }
    }
    assert!(!database.is_damaged());
}

#[test]
fn no_page_of_a_write_ahead_log_is_believed_that_is_not_what_was_written() {
    let database = Database::new();
    let _writer = database.filled();
    assert!(!database.is_damaged());
    let (found, length) = (file(&database.journal()), fs::metadata(database.journal()).unwrap().len());
    let frames = (length - 32) / FRAME as u64;
    assert!(frames > 50, "{frames}");
    let mut damaged = 0;
    for frame in 0..frames {
        for part in 0..8 {
            let at = 32 + 24 + frame * FRAME as u64 + part * 512 + (frame * 37 + part * 11) % 512;
            flip(&found, at, 1 << (at % 8));
            // Of a page that was written again later only the last is read.
            damaged += u64::from(database.is_damaged());
            flip(&found, at, 1 << (at % 8));
        }
    }
    assert!(damaged > frames, "{damaged} of {frames}");
    assert!(!database.is_damaged());
}

#[test]
fn a_page_in_the_place_of_another_a_file_that_ends_and_one_without_checksums_are_damage() {
    let database = Database::new();
    drop(database.filled());
    let sound = fs::read(database.path()).unwrap();
    let mut swapped = sound.clone();
    swapped[5 * PAGE..7 * PAGE].rotate_left(PAGE);
    fs::write(database.path(), &swapped).unwrap();
    assert!(database.is_damaged(), "two pages in each other's place");
    for length in [sound.len() - PAGE, sound.len() - 100, sound.len() / 2 + 7, PAGE, 600] {
        fs::write(database.path(), &sound[..length]).unwrap();
        assert!(database.is_damaged(), "{length} of {}", sound.len());
    }
    // SQLite finds its page size in the head.
    let mut larger = sound;
    larger[16..18].copy_from_slice(&8192_u16.to_be_bytes());
    fs::write(database.path(), &larger).unwrap();
    assert!(database.is_damaged(), "pages of another size");

    let plain = Database::new();
    Connection::open(plain.path()).unwrap().execute_batch("CREATE TABLE t (id, word, data)").unwrap();
    assert!(plain.is_damaged(), "pages without checksums");
}

#[test]
fn a_checkpoint_takes_no_damaged_page_over() {
    let database = Database::new();
    let writer = database.filled();
    let (journal, length) = (file(&database.journal()), fs::metadata(database.journal()).unwrap().len());
    // The last frame of all is the newest of its page.
    flip(&journal, length - 1000, 4);
    let error = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap_err();
    assert!(is_damage(&error), "{error}");
    assert!(database.is_damaged());
    flip(&journal, length - 1000, 4);
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    assert!(!database.is_damaged());
}

/// More than the cache holds: SQLite writes pages of a transaction that is not done yet, again and again, and sums up later.
#[test]
fn a_transaction_larger_than_the_cache_comes_back_whole_also_after_a_crash() {
    let database = Database::new();
    let mut writer = database.filled();
    writer.pragma_update(None, "cache_size", 10).unwrap();
    let tx = writer.transaction().unwrap();
    for round in ["x", ""] {
        for row in 1..=ROWS {
            tx.execute("UPDATE t SET word = ?2 || ?3 WHERE id = ?1", params![row, word(row), round]).unwrap();
        }
    }
    tx.commit().unwrap();
    assert!(!database.is_damaged());
    // What a killed process leaves.
    let left = Database::new();
    fs::copy(database.path(), left.path()).unwrap();
    fs::copy(database.journal(), left.journal()).unwrap();
    let recovered = left.writer();
    assert!(!left.is_damaged());
    let (journal, length) = (file(&left.journal()), fs::metadata(left.journal()).unwrap().len());
    flip(&journal, length - 1000, 1);
    assert!(left.is_damaged(), "what recovery found is known too");
    flip(&journal, length - 1000, 1);
    drop(recovered);
    assert!(!left.is_damaged());
}

#[test]
fn a_copy_has_checksums_too() {
    let database = Database::new();
    let _writer = database.filled();
    let copy = Database::new();
    let reader = open(&database.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader.execute("VACUUM INTO ?1", [copy.path().to_str().unwrap()]).unwrap();
    assert!(!copy.is_damaged());
    flip(&file(&copy.path()), 6 * PAGE as u64 + 1000, 1);
    assert!(copy.is_damaged());
}

/// Pages that were taken, freed before they were written, and are taken again: SQLite wants zeros for them.
#[test]
fn a_transaction_without_a_write_ahead_log_may_read_what_it_never_wrote() {
    let database = Database::new();
    let conn = open(&database.path(), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).unwrap();
    conn.pragma_update(None, "journal_mode", "DELETE").unwrap();
    conn.pragma_update(None, "cache_size", 5).unwrap();
    conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT, data TEXT); CREATE INDEX words ON t (word)").unwrap();
    for _ in 0..30 {
        conn.execute_batch("BEGIN").unwrap();
        for row in 1..=ROWS {
            conn.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2, ?3)", params![row, word(row), data(row)]).unwrap();
            if row % 7 == 0 {
                conn.execute("DELETE FROM t WHERE id > ?1 - 5", [row]).unwrap();
            }
        }
        conn.execute_batch("DELETE FROM t").unwrap();
        for row in 1..=ROWS {
            conn.execute("INSERT INTO t VALUES (?1, ?2, ?3)", params![row, word(row), data(row)]).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
    }
    drop(conn);
    assert!(!database.is_damaged());
}

#[test]
fn a_database_without_room_for_checksums_is_not_written() {
    let (database, other) = (Database::new(), Database::new());
    let conn = database.writer();
    // Only the database that was opened is asked to leave room.
    conn.execute("ATTACH ?1 AS other", [other.path().to_str().unwrap()]).unwrap();
    let written = conn.execute_batch("CREATE TABLE other.t (a); INSERT INTO other.t VALUES (1)").unwrap_err();
    assert!(is_damage(&written), "{written}");
}

#[test]
fn the_index_of_the_write_ahead_log_is_no_file() {
    let database = Database::new();
    let _writer = database.filled();
    assert!(!database.is_damaged());
    let mut names: Vec<_> = fs::read_dir(database.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.sqlite", "a.sqlite-wal"]);
}

proptest! {
    #[test]
    fn any_change_of_a_page_shows(content: [u8; 32], page in 0_u64..1 << 30, at in 0..PAGE, bits in 1_u8..) {
        let mut bytes = [0; PAGE];
        bytes[..32].copy_from_slice(&content);
        let place = page * PAGE as u64;
        let sealed = sums::sealed(&bytes, place);
        prop_assert!(sums::is_sealed(&sealed, place));
        prop_assert!(!sums::is_sealed(&sealed, place + PAGE as u64));
        let mut altered = sealed;
        altered[at] ^= bits;
        prop_assert!(!sums::is_sealed(&altered, place));
    }
}

#[test]
fn a_frame_nobody_wrote_is_not_believed() {
    let frames = Frames::default();
    let (page, other) = ([1; PAGE], [2; PAGE]);
    let place = |frame: u64| 32 + 24 + frame * FRAME as u64;
    assert!(!frames.is_written(&page, place(3)));
    frames.written(&page, place(3));
    assert!(frames.is_written(&page, place(3)) && !frames.is_written(&other, place(3)));
    assert!(
        !frames.is_written(&page, place(2)) && !frames.is_written(&page, place(4)) && !frames.is_written(&page, place(3) + 1)
    );
    // Written again, as within one transaction.
    frames.written(&other, place(3));
    assert!(frames.is_written(&other, place(3)));
    let mut frame = [0; FRAME];
    frame[24..].copy_from_slice(&page);
    assert!(!frames.recovers(&frame, place(3) - 24), "it is known to be another");
    assert!(frames.recovers(&frame, place(9) - 24) && frames.is_written(&page, place(9)));
}
