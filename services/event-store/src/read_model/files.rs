//! The database file: its format, what makes it believable, and what happens to one that is not.
//!
//! A file is believed when it is of this schema, its checks pass, and its own account of itself (one row of `meta`, written in
//! the same transaction as the events) agrees with its content. Whether it belongs to *this* log is the caller's question.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use causeway_event::{EventId, Position};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use uuid::Uuid;

use super::clock::Clock;
use super::pool::Until;
use super::row::{self, Checksum, number};
use super::{ModelError, Reader};

/// Changed with every change of the tables or of what their columns mean: a file of another version is made again.
pub(crate) const SCHEMA: u32 = 5;
/// Marks the file as ours ("cwrm"): what is not ours is never deleted.
const APPLICATION: i64 = 0x6377_726d;
/// Damaged files that are kept for whoever wants to know why.
const SET_ASIDE_MAX: usize = 3;
/// How long SQLite waits for a lock of another connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 64;
/// What is next to the database under the same name; `-shm` if somebody else opened it, or an older version did.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];
/// What says beside the database how the last process left it.
const CLOSED: &str = ".closed";

const TABLES: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    identity TEXT NOT NULL,
    position INTEGER NOT NULL,
    events INTEGER NOT NULL,
    clock BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE times (
    level INTEGER NOT NULL,
    block INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (level, block)
) STRICT, WITHOUT ROWID;
CREATE TABLE types (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE aggregates (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    time INTEGER NOT NULL,
    type INTEGER NOT NULL,
    aggregate INTEGER NOT NULL,
    source INTEGER NOT NULL,
    correlation ANY NOT NULL,
    causation BLOB,
    key TEXT,
    traceparent BLOB,
    labels TEXT,
    schema_version INTEGER,
    checksum INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE TABLE snapshots (
    view TEXT NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX snapshots_by_view ON snapshots (view, id, version, position);
";

/// What finds events by something else than their position. Made after the events where there are many of them: sorting them once
/// costs far less than keeping eight orders while they come.
pub(crate) const INDEXES: [(&str, &str); 8] = [
    ("events_by_id", "(id)"),
    ("events_by_aggregate", "(aggregate)"),
    ("events_by_aggregate_type", "(aggregate, type)"),
    ("events_by_type", "(type)"),
    ("events_by_source", "(source)"),
    ("events_by_correlation", "(correlation)"),
    ("events_by_causation", "(causation) WHERE causation IS NOT NULL"),
    // The key first: processors make keys that rise with time, and such an index grows at its end.
    ("events_by_key", "(key, aggregate) WHERE key IS NOT NULL"),
];

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    /// The log that it copies.
    pub(crate) identity: String,
    /// All of the log up to here is in it.
    pub(crate) position: Position,
    pub(super) events: i64,
    pub(super) clock: Clock,
}

/// A file that can be believed.
pub(crate) struct Loaded {
    pub(crate) conn: Connection,
    pub(crate) meta: Meta,
    /// The last event in it.
    pub(crate) last: Option<(Position, EventId)>,
    /// Whether it has its indexes; without them it takes events but answers nothing.
    pub(crate) indexed: bool,
    /// Too large to have been checked in full so far.
    pub(crate) unchecked: bool,
    /// Unchecked, and not as the last process left it in order: it must be checked before it answers anything.
    pub(crate) doubted: bool,
}

/// The files of one read model, held by this process alone.
pub(crate) struct Files {
    path: PathBuf,
    /// Which file it is that was opened last: device and number. Another may be put in its place at any time.
    opened: Mutex<Option<(u64, u64)>>,
    _lock: File,
}

impl Files {
    /// Takes the files. Another process that has them is an error.
    pub(crate) fn lock(path: &Path) -> Result<Self, ModelError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ModelError::File { what, path, source }
        };
        make_folder(path)?;
        let lock = beside(path, ".lock");
        let file = File::create(&lock).map_err(failed("cannot open the lock file", &lock))?;
        file.try_lock().map_err(|error| failed("another process holds", &lock)(error.into()))?;
        Ok(Self { path: path.to_owned(), opened: Mutex::default(), _lock: file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what is there. Nothing there, or of another schema version, is `None`. Damage is an error.
    pub(crate) fn load(&self, check_bytes_max: u64) -> Result<Option<Loaded>, ModelError> {
        let untouched = self.is_as_it_was_closed();
        self.open(check_bytes_max, untouched).map_err(|error| match error {
            ModelError::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => ModelError::File {
                what: "another process has opened",
                path: self.path.clone(),
                source: ErrorKind::ResourceBusy.into(),
            },
            error => error,
        })
    }

    fn open(&self, check_bytes_max: u64, untouched: bool) -> Result<Option<Loaded>, ModelError> {
        let Ok(found) = fs::metadata(&self.path) else {
            return Ok(None);
        };
        // Before SQLite looks at it: pages of another version may not be ours to read.
        if schema_at_rest(&self.path).is_some_and(is_another) {
            return Ok(None);
        }
        let conn = self.connect()?;
        let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (application, schema) = (pragma("application_id")?, pragma("user_version")?);
        if application != APPLICATION {
            let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            return match tables {
                // It broke off while it was being made.
                0 => Ok(None),
                _ => Err(ModelError::corrupt("the file is not a read model")),
            };
        }
        if is_another(schema) {
            return Ok(None);
        }
        let unchecked = check_bytes_max < found.len();
        if !unchecked {
            check(&conn)?;
        }
        let (meta, last) = Meta::read(&conn)?;
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'events'";
        let indexes: usize = conn.query_row(sql, [], |row| row.get::<_, i64>(0))?.try_into().unwrap_or_default();
        let doubted = unchecked && !untouched;
        Ok(Some(Loaded { conn, meta, last, indexed: indexes == INDEXES.len(), unchecked, doubted }))
    }

    /// A database without events or indexes, in the place of whatever is there.
    pub(crate) fn create(&self, identity: &str) -> Result<Loaded, ModelError> {
        make_folder(&self.path)?;
        for path in SUFFIXES.map(|suffix| beside(&self.path, suffix)) {
            remove(&path)?;
        }
        let mut conn = self.connect()?;
        let meta = Meta { identity: identity.to_owned(), position: Position::START, events: 0, clock: Clock::default() };
        let tx = conn.transaction()?;
        tx.execute_batch(TABLES)?;
        tx.pragma_update(None, "application_id", APPLICATION)?;
        tx.pragma_update(None, "user_version", SCHEMA)?;
        meta.write(&tx)?;
        tx.commit()?;
        Ok(Loaded { conn, meta, last: None, indexed: false, unchecked: false, doubted: false })
    }

    /// Opens the database for writing, and remembers which file that is.
    fn connect(&self) -> Result<Connection, ModelError> {
        let conn = connect(&self.path, Access::Write)?;
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = self.there()?;
        Ok(conn)
    }

    /// Opens the same file for reading.
    pub(crate) fn reader(&self) -> Result<Reader, ModelError> {
        let reader = Reader::open(&self.path)?;
        match self.is_replaced()? {
            true => Err(ModelError::corrupt("another file was put in its place")),
            false => Ok(reader),
        }
    }

    fn is_replaced(&self) -> Result<bool, ModelError> {
        Ok(*self.opened.lock().unwrap_or_else(PoisonError::into_inner) != self.there()?)
    }

    /// Which file is at the path.
    fn there(&self) -> Result<Option<(u64, u64)>, ModelError> {
        match fs::metadata(&self.path) {
            Ok(found) => Ok(Some((found.dev(), found.ino()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ModelError::File { what: "cannot look at", path: self.path.clone(), source }),
        }
    }

    /// Where a copy of the database lies while it comes or goes.
    pub(crate) fn copy_path(&self) -> PathBuf {
        beside(&self.path, ".copy")
    }

    /// Puts a copy in the place of whatever is there, and opens it. No connection may be open.
    pub(crate) fn adopt(&self, copy: &Path, check_bytes_max: u64) -> Result<Option<Loaded>, ModelError> {
        for path in SUFFIXES.map(|suffix| beside(&self.path, suffix)) {
            remove(&path)?;
        }
        fs::rename(copy, &self.path).map_err(|source| ModelError::File { what: "cannot move", path: copy.to_owned(), source })?;
        // Its bytes were compared with their sum, and it was checked in full when it was made.
        self.open(check_bytes_max, true)
    }

    /// Says beside the database how it was left. No connection may be open for writing.
    pub(crate) fn closed(&self) -> Result<(), ModelError> {
        if self.is_replaced()? {
            tracing::warn!(path = %self.path.display(), "the read model's file is gone, or another was put in its place");
            return Ok(());
        }
        let Some(seal) = self.seal() else { return Ok(()) };
        let path = beside(&self.path, CLOSED);
        fs::write(&path, seal).map_err(|source| ModelError::File { what: "cannot write", path, source })
    }

    /// Whether nobody has written to the database since it was closed in order. From now on somebody may.
    fn is_as_it_was_closed(&self) -> bool {
        let path = beside(&self.path, CLOSED);
        let sealed = fs::read_to_string(&path).ok();
        // What cannot be removed could be believed once too often.
        let removed = remove(&path).is_ok();
        let journal = fs::metadata(beside(&self.path, "-wal")).map_or(0, |found| found.len());
        removed && journal == 0 && sealed.is_some() && sealed == self.seal()
    }

    /// What every write to the database changes.
    fn seal(&self) -> Option<String> {
        let found = fs::metadata(&self.path).ok()?;
        let changed = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{} bytes, last written at {}\n", found.len(), changed.as_nanos()))
    }

    /// Moves a damaged database out of the way. No connection may be open. Returns where it went.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, ModelError> {
        let aside = |number: u64| beside(&self.path, &format!(".corrupt-{number}"));
        let mut numbers = self.numbers_aside();
        let number = numbers.last().map_or(1, |last| last + 1);
        for suffix in SUFFIXES {
            let from = beside(&self.path, suffix);
            let moved = fs::rename(&from, beside(&aside(number), suffix));
            ignore_missing(moved).map_err(|source| ModelError::File { what: "cannot set aside", path: from, source })?;
        }
        numbers.push(number);
        for old in numbers.iter().rev().skip(SET_ASIDE_MAX) {
            for suffix in SUFFIXES {
                remove(&beside(&aside(*old), suffix))?;
            }
        }
        Ok(aside(number))
    }

    /// The numbers of what was set aside, the oldest first.
    fn numbers_aside(&self) -> Vec<u64> {
        let prefix = beside(&self.path, ".corrupt-");
        let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut numbers: Vec<u64> = names.filter_map(|name| name.to_str()?.strip_prefix(&prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Meta {
    /// What a copy says of itself, once all of it has been checked.
    pub(super) fn of_copy(path: &Path, until: Option<&Until>) -> Result<Self, ModelError> {
        let mut conn = connect(path, Access::Read)?;
        if let Some(until) = until {
            until.watch(&mut conn)?;
        }
        check(&conn)?;
        Ok(Self::read(&conn)?.0)
    }

    /// What it says of itself.
    pub(super) fn account(conn: &Connection) -> Result<Self, ModelError> {
        let sql = "SELECT identity, position, events, clock, checksum FROM meta";
        let (identity, position, events, clock, checksum) = conn.prepare_cached(sql)?.query_row([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, Clock::from_bytes(row.get(3)?), row.get::<_, i64>(4)?))
        })?;
        let meta = Self { identity, position: row::position(position)?, events, clock };
        match checksum == meta.checksum() {
            true => Ok(meta),
            false => Err(ModelError::corrupt("its account of itself is damaged")),
        }
    }

    /// Reads it, and the last event, which it must know of.
    fn read(conn: &Connection) -> Result<(Self, Option<(Position, EventId)>), ModelError> {
        let meta = Self::account(conn)?;
        let sql = "SELECT position, id FROM events ORDER BY position DESC LIMIT 1";
        let last = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let last = last
            .map(|(at, id)| Ok::<_, ModelError>((row::position(at)?, EventId::from_uuid(Uuid::from_bytes(id)))))
            .transpose()?;
        match last {
            Some((last, _)) if meta.position < last => Err(ModelError::corrupt("it holds events that it does not know of")),
            _ => Ok((meta, last)),
        }
    }

    pub(super) fn write(&self, conn: &Connection) -> Result<(), ModelError> {
        let sql = "INSERT OR REPLACE INTO meta (one, identity, position, events, clock, checksum) VALUES (1, ?1, ?2, ?3, ?4, ?5)";
        let (position, clock) = (number(self.position), self.clock.to_bytes());
        conn.prepare_cached(sql)?.execute(params![self.identity, position, self.events, clock, self.checksum()])?;
        Ok(())
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        sum.bytes(self.identity.as_bytes());
        sum.word(self.position.get());
        sum.word(self.events.cast_unsigned());
        sum.bytes(&self.clock.to_bytes());
        sum.finish()
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Opens a connection. WAL: readers and the writer do not wait for each other, and after a crash the file holds a prefix
/// of what was committed, which is all that is asked of it: the log has the rest.
pub(super) fn connect(path: &Path, access: Access) -> Result<Connection, ModelError> {
    let flags = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    // A connection is used by one thread at a time.
    let conn = causeway_pages::open(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    if access == Access::Write {
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
    }
    Ok(conn)
}

/// Reads all of the file: structure, indexes against rows, and the number of events and the blocks of times against the file's own
/// account.
pub(super) fn check(conn: &Connection) -> Result<(), ModelError> {
    // One snapshot for both: the writer goes on meanwhile.
    let tx = conn.unchecked_transaction()?;
    let found: String = tx.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(ModelError::Corrupt(found));
    }
    let meta = Meta::account(&tx)?;
    meta.clock.check(&tx)?;
    let events: i64 = tx.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
    match meta.events - events {
        0 => Ok(()),
        missing => Err(ModelError::corrupt(format!("{missing} events are missing"))),
    }
}

/// The schema of a read model, by the head of its file alone: nothing of what its journal may hold. No connection may be open.
/// <https://www.sqlite.org/fileformat2.html#the_database_header>
fn schema_at_rest(path: &Path) -> Option<i64> {
    let mut head = [0; 72];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let word = |at: usize| Some(i64::from(u32::from_be_bytes(*head[at..].first_chunk()?)));
    (word(68)? == APPLICATION).then(|| word(60))?
}

fn is_another(schema: i64) -> bool {
    let another = schema != i64::from(SCHEMA);
    if another {
        tracing::info!(schema, wanted = SCHEMA, "the read model is of another version and will be made again from the log");
    }
    another
}

/// Makes the folder of a file.
fn make_folder(path: &Path) -> Result<(), ModelError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder).map_err(|source| ModelError::File {
        what: "cannot make the folder",
        path: folder.to_owned(),
        source,
    })
}

/// `path` with something behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn remove(path: &Path) -> Result<(), ModelError> {
    ignore_missing(fs::remove_file(path)).map_err(|source| ModelError::File {
        what: "cannot remove",
        path: path.to_owned(),
        source,
    })
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
