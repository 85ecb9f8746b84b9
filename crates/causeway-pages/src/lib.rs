//! SQLite files of which no page is believed that is not what was written.
//!
//! SQLite itself looks at its journal's checksums only after a crash, and has none for the pages of the database: a page of an index that
//! went bad answers wrongly without a word. Here each page of the database ends in a checksum, as with SQLite's own extension
//! `cksumvfs`; and since that extension leaves the write-ahead log alone, the checksums of what stands there are kept in memory for as
//! long as it is open. The index of that log is kept in memory too (SQLite's `unix-excl`): no other process can use a database that this one
//! has open for writing.
//!
//! This crate knows nothing of what is in a file, and is the only one of the workspace with `unsafe` code: what SQLite calls is in
//! [`vfs`], and decides nothing that [`sums`] does not decide.

mod sums;
mod vfs;

use std::path::Path;

use rusqlite::{Connection, Error, OpenFlags, ffi};

/// Opens a database of pages with checksums. A new one is given room for them; one that was made without them is damaged
/// ([`is_damage`]) as soon as anything is read from it.
///
/// Where other processes are to be kept out, the first connection to a database is the one that writes, and those that only read come later. As long as any is open, this process opens
/// none of its files in another way: closing them would end the lock that keeps other processes out (POSIX), and nothing else does.
///
/// # Errors
/// Whatever SQLite says to opening that file.
pub fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags_and_vfs(path, flags, vfs::registered()?)?;
    vfs::reserve(&conn)?;
    Ok(conn)
}

/// Whether a page was not what had been written.
#[must_use]
pub fn is_damage(error: &Error) -> bool {
    matches!(error, Error::SqliteFailure(failure, _) if failure.extended_code == ffi::SQLITE_IOERR_DATA)
}

#[cfg(test)]
mod tests;
