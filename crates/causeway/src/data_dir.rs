//! The folder that keeps everything, and the lock that makes it one process's own.
//!
//! ```text
//! DIR/lock             held as long as the process lives; says its pid
//! DIR/nats/            JetStream: the log itself
//! DIR/nats.conf        written anew at each start
//! DIR/nats-server.log  what nats-server says
//! DIR/nats-server.pid
//! DIR/signing-key      what checkpoints of the log are signed with; only its owner can read it
//! DIR/signing-key.pub  what anybody can check them with
//! DIR/event-store/     the gateway's index of the log; can be deleted at any time
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::failure::Hinted;

/// The folder of the log within it.
pub(crate) const LOG: &str = "nats";

/// Whether a process has this folder at the moment.
pub(crate) fn is_in_use(path: &Path) -> bool {
    File::open(path.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// A data folder that is ours until this is dropped, or the process dies in whatever way.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if need be, and takes it. Refuses if another process has it.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the data folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot use the data folder {}", path.display()))?;
        let file = path.join("lock");
        let cannot = || format!("cannot lock the data folder: {}", file.display());
        // Not truncated: until the lock is ours the file says whose it is.
        let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).with_context(cannot)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.read_to_string(&mut owner);
                let owner = owner.trim();
                let owner = if owner.is_empty() { String::new() } else { format!(" (pid {owner})") };
                return Err(Hinted {
                    what: format!("{} is in use by another causeway{owner}", path.display()),
                    hint: "stop that one, or choose another folder with --data".to_owned(),
                }
                .into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).with_context(cannot)?;
        writeln!(lock, "{}", std::process::id()).with_context(cannot)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_with_the_pid_of_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        assert!(!is_in_use(&path), "it is not there");
        let first = DataDir::take(&path).unwrap();
        assert!(is_in_use(&path));
        let refused = DataDir::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
        drop(first);
        assert!(!is_in_use(&path));
        DataDir::take(&path).unwrap();
    }
}
