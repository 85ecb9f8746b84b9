//! What SQLite calls: its own file system for Unix, with a look at each page that is read and written.
//!
//! A file is SQLite's own, used by SQLite's own methods but for those below; what is known of it stands behind it, in the room that a
//! file system may ask for. <https://www.sqlite.org/vfs.html>
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::{ptr, slice};

use rusqlite::{Connection, Error, ffi};

use crate::sums::{self, FRAME, Frames, PAGE, SUM};

/// One process at a time, so the index of the write-ahead log need not be a file.
const BASE: &CStr = c"unix-excl";
const NAME: &CStr = c"causeway-pages";
/// Less is never read of a page.
const LEAST: c_int = 512;
/// Where the head of a database says how many bytes at the end of each page are left alone.
/// <https://www.sqlite.org/fileformat2.html#the_database_header>
const RESERVED: usize = 20;
/// What SQLite promises of the memory that it gives for a file.
const _: () = assert!(align_of::<File>() <= 8);

/// SQLite's file system.
struct Base {
    vfs: *mut ffi::sqlite3_vfs,
    /// Where our [`File`] stands behind SQLite's.
    behind: usize,
}

// SAFETY: SQLite's file systems may be used by all threads, and are never changed or given back.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

static REGISTERED: OnceLock<Option<Base>> = OnceLock::new();

/// What we know of an open file.
struct File {
    /// SQLite's own methods for it.
    theirs: &'static ffi::sqlite3_io_methods,
    /// Those with ours among them: what SQLite calls.
    ours: ffi::sqlite3_io_methods,
    holds: Holds,
}

enum Holds {
    /// Pages of a database.
    Pages,
    /// Frames of a write-ahead log, with what all who have it open know of its pages.
    Frames(Arc<Frames>),
}

/// The write-ahead logs that are open, by their paths. Whether a file was put in the place of an open one is for others to find out.
static LOGS: Mutex<Vec<(CString, Weak<Frames>)>> = Mutex::new(Vec::new());

/// The name of the file system, which SQLite knows from now on.
pub(crate) fn registered() -> rusqlite::Result<&'static CStr> {
    match REGISTERED.get_or_init(register) {
        Some(_) => Ok(NAME),
        None => Err(failure(ffi::SQLITE_MISUSE)),
    }
}

/// Asks for room at the end of each page, should the database be new.
pub(crate) fn reserve(conn: &Connection) -> rusqlite::Result<()> {
    let mut bytes = SUM as c_int;
    // SAFETY: the connection is open, and SQLite reads and writes one `int` here.
    let code = unsafe {
        let bytes = ptr::from_mut(&mut bytes).cast();
        ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_RESERVE_BYTES, bytes)
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(code)) }
}

fn failure(code: c_int) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), None)
}

fn register() -> Option<Base> {
    // SAFETY: `find` may be called at any time, and what it finds lives as long as the process does. `ours` is a copy of it, which no
    // one but SQLite uses once it is registered.
    unsafe {
        let base = ffi::sqlite3_vfs_find(BASE.as_ptr());
        let behind = usize::try_from(base.as_ref()?.szOsFile).ok()?.next_multiple_of(align_of::<File>());
        let ours = ffi::sqlite3_vfs {
            szOsFile: c_int::try_from(behind + size_of::<File>()).ok()?,
            pNext: ptr::null_mut(),
            zName: NAME.as_ptr(),
            xOpen: Some(open),
            ..*base
        };
        let code = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0);
        (code == ffi::SQLITE_OK).then_some(Base { vfs: base, behind })
    }
}

fn base() -> Option<&'static Base> {
    REGISTERED.get()?.as_ref()
}

/// What we know of a file.
///
/// # Safety
/// The file was opened by [`open`] with our methods, and is not closed yet.
unsafe fn behind(file: *mut ffi::sqlite3_file) -> *mut File {
    // There are no files of ours before it is registered.
    let behind = base().unwrap_or_else(|| std::process::abort()).behind;
    // SAFETY: `open` wrote it there, within the room that `szOsFile` asks for.
    unsafe { file.byte_add(behind).cast() }
}

unsafe extern "C" fn open(
    _ours: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(base) = base() else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: SQLite gives us what it gives its own file system, which takes less room than there is.
    unsafe {
        let Some(base_open) = (*base.vfs).xOpen else { return ffi::SQLITE_CANTOPEN };
        let code = base_open(base.vfs, name, file, flags, out_flags);
        let holds = match flags {
            _ if code != ffi::SQLITE_OK => return code,
            flags if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 => Holds::Pages,
            flags if flags & ffi::SQLITE_OPEN_WAL != 0 => Holds::Frames(frames_of(CStr::from_ptr(name))),
            // Journals of transactions and what is sorted have no checksums: they end with whoever wrote them.
            _ => return code,
        };
        let theirs = &*(*file).pMethods;
        let known = behind(file);
        known.write(File { theirs, ours: ours_among(theirs), holds });
        (*file).pMethods = &raw const (*known).ours;
        code
    }
}

/// Their methods with ours among them.
fn ours_among(theirs: &ffi::sqlite3_io_methods) -> ffi::sqlite3_io_methods {
    ffi::sqlite3_io_methods {
        // The third version brought files that are mapped into memory, past `read`.
        iVersion: theirs.iVersion.min(2),
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xDeviceCharacteristics: Some(characteristics),
        ..*theirs
    }
}

/// What is known of the pages in this write-ahead log.
fn frames_of(path: &CStr) -> Arc<Frames> {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.retain(|(_, frames)| frames.strong_count() > 0);
    if let Some(frames) = logs.iter().find_map(|(of, frames)| (of.as_c_str() == path).then(|| frames.upgrade())?) {
        return frames;
    }
    let frames = Arc::new(Frames::default());
    logs.push((path.to_owned(), Arc::downgrade(&frames)));
    frames
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: nobody uses the file any more, and SQLite's own method closes what SQLite's own opened.
    unsafe {
        let known = behind(file).read();
        known.theirs.xClose.map_or(ffi::SQLITE_IOERR_CLOSE, |close| close(file))
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: the file is one of ours, and SQLite wants `amount` bytes in `buffer`.
    let (known, code) = unsafe {
        let known = &*behind(file);
        (known, known.theirs.xRead.map_or(ffi::SQLITE_IOERR_READ, |read| read(file, buffer, amount, offset)))
    };
    if amount < LEAST || !(code == ffi::SQLITE_OK || code == ffi::SQLITE_IOERR_SHORT_READ) {
        return code;
    }
    // SAFETY: they are there now: SQLite's own method fills with zeros what was not there to be read.
    let bytes = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(amount).unwrap_or_default()) };
    let place = offset.cast_unsigned();
    let believed = match (&known.holds, bytes.len()) {
        // What ends too early.
        _ if code != ffi::SQLITE_OK => false,
        (Holds::Pages, PAGE) => sums::is_sealed(bytes, place),
        (Holds::Frames(frames), PAGE) => frames.is_written(bytes, place),
        (Holds::Frames(frames), FRAME) => frames.recovers(bytes, place),
        // Pages of another size.
        _ => false,
    };
    match believed || (is_writing(known, file) && bytes.iter().all(|byte| *byte == 0)) {
        true => code,
        false => ffi::SQLITE_IOERR_DATA,
    }
}

/// Whether a transaction writes to a database without a write-ahead log, as `VACUUM INTO` does. It may read what it never wrote, pages
/// that it took and freed again, and wants zeros.
fn is_writing(known: &File, file: *mut ffi::sqlite3_file) -> bool {
    let (Holds::Pages, Some(control)) = (&known.holds, known.theirs.xFileControl) else { return false };
    let mut lock = ffi::SQLITE_LOCK_NONE;
    // SAFETY: SQLite's own method is asked of what SQLite's own opened, and writes one `int`.
    let code = unsafe { control(file, ffi::SQLITE_FCNTL_LOCKSTATE, ptr::from_mut(&mut lock).cast()) };
    code == ffi::SQLITE_OK && ffi::SQLITE_LOCK_RESERVED <= lock
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, buffer: *const c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: the file is one of ours, and SQLite has `amount` bytes in `buffer`.
    let (known, bytes) =
        unsafe { (&*behind(file), slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(amount).unwrap_or_default())) };
    let place = offset.cast_unsigned();
    let sealed;
    let bytes = match (&known.holds, bytes.as_array::<PAGE>()) {
        // One that has no room for checksums: there is data where they would be written.
        (Holds::Pages, Some(head)) if place == 0 && usize::from(head[RESERVED]) != SUM => return ffi::SQLITE_IOERR_DATA,
        (Holds::Pages, Some(page)) => {
            sealed = sums::sealed(page, place);
            &sealed
        }
        (Holds::Frames(frames), Some(page)) => {
            frames.written(page, place);
            bytes
        }
        (_, None) => bytes,
    };
    // SAFETY: SQLite's own method is given as many bytes as SQLite has.
    known.theirs.xWrite.map_or(ffi::SQLITE_IOERR_WRITE, |write| unsafe { write(file, bytes.as_ptr().cast(), amount, offset) })
}

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the file is one of ours, and SQLite's own method is asked of what SQLite's own opened.
    let theirs = unsafe { (*behind(file)).theirs.xDeviceCharacteristics.map_or(0, |theirs| theirs(file)) };
    // A part of a page has no checksum: none is read, and none written to fill a sector.
    (theirs & !ffi::SQLITE_IOCAP_SUBPAGE_READ) | ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
