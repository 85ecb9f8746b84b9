//! Exports as files: read line by line, and written so that a half one is never mistaken for a whole one.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use causeway_proof::{Line, LineError};
use tempfile::NamedTempFile;

use super::about;
use crate::failure::{Hinted, Usage};

/// The longest line: the largest message that any NATS takes, 64 MiB, in base64, with room for its envelope.
const LINE_BYTES_MAX: u64 = 96 * 1024 * 1024;

/// The lines of an export.
pub(super) struct Lines {
    source: Box<dyn BufRead>,
    path: PathBuf,
    number: u64,
    /// Bytes that have been read.
    pub(super) bytes: u64,
    /// The last line breaks off.
    pub(super) broke_off: bool,
    buffer: Vec<u8>,
}

impl Lines {
    /// Of this file; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let source: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => {
                let file = File::open(path).map_err(|error| Usage(format!("cannot read {}: {error}", path.display())))?;
                Box::new(BufReader::with_capacity(1 << 20, file))
            }
        };
        Ok(Self { source, path: path.to_owned(), number: 0, bytes: 0, broke_off: false, buffer: Vec::new() })
    }

    /// The next line; none at the end. What is no line of an export is told with its number.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Result<Line, String>>> {
        self.buffer.clear();
        let read = (&mut self.source).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer).map_err(about(&self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        let number = self.number;
        let Some(line) = self.buffer.strip_suffix(b"\n") else {
            if self.buffer.len() as u64 == LINE_BYTES_MAX {
                bail!("line {number} of {} has more than {LINE_BYTES_MAX} bytes", self.path.display());
            }
            self.broke_off = true;
            return Ok(Some(Err(format!("line {number} breaks off"))));
        };
        Ok(Some(Line::read(line).map_err(|error: LineError| format!("line {number} {error}"))))
    }
}

/// Where an export goes.
pub(super) enum Sink {
    Stdout(BufWriter<io::Stdout>),
    /// While it is not whole it has another name, and goes if nothing comes of it, unless the process is killed.
    File(BufWriter<NamedTempFile>, PathBuf),
}

impl Sink {
    /// To this file, which must not be there yet; `-` is standard output.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout(BufWriter::new(io::stdout())));
        }
        if path.exists() {
            return Err(exists(path));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Like any new file, for whom the umask lets.
        let permissions = Permissions::from_mode(0o666);
        let part = tempfile::Builder::new().prefix(&name).suffix(".part").permissions(permissions).tempfile_in(folder);
        Ok(Self::File(BufWriter::with_capacity(1 << 20, part.map_err(about(path))?), path.to_owned()))
    }

    pub(super) fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = line.write();
        text.push('\n');
        // Unwrapped, so that a reader who has gone is told from a failure.
        let to: &mut dyn io::Write = match self {
            Self::Stdout(to) => to,
            Self::File(to, _) => to,
        };
        Ok(to.write_all(text.as_bytes())?)
    }

    /// Nothing more comes.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let (to, path) = match self {
            Self::Stdout(mut to) => return Ok(to.flush()?),
            Self::File(to, path) => (to, path),
        };
        let part = to.into_inner().map_err(io::IntoInnerError::into_error).map_err(about(&path))?;
        part.as_file().sync_all().map_err(about(&path))?;
        match part.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            // A file system that knows neither way of replacing nothing.
            Err(failed) if !path.exists() => failed.file.persist(&path).map(drop).map_err(|failed| about(&path)(failed.error)),
            Err(failed) => Err(about(&path)(failed.error)),
        }
    }
}

/// What was kept is what one can compare with later.
fn exists(path: &Path) -> anyhow::Error {
    Hinted {
        what: format!("{} exists: nothing is overwritten", path.display()),
        hint: "give another name, or remove it first".to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use causeway_event::{Invalid, Position};
    use causeway_proof::{Content, Entry, Foreign, Hash};

    use super::*;

    fn line(bytes: usize) -> Line {
        let foreign = Foreign {
            subject: "ev.a.custom".to_owned(),
            headers: vec![],
            payload: vec![7; bytes].into(),
            reason: Invalid::new("", "ce-specversion: is missing"),
        };
        Line::Entry {
            entry: Box::new(Entry { position: Position::new(1), content: Content::Foreign(foreign) }),
            hash: Hash::ZERO,
        }
    }

    #[test]
    fn two_that_write_the_same_export_do_not_spoil_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        let [mut one, mut other, mut third] = [(); 3].map(|()| Sink::open(&path).unwrap());
        // A line may be as large as any NATS takes.
        one.line(&line(8 << 20)).unwrap();
        other.line(&line(1)).unwrap();
        third.line(&line(1)).unwrap();
        drop(third);
        one.finish().unwrap();
        let refused = other.finish().unwrap_err().to_string();
        assert!(refused.ends_with("log.ndjson exists: nothing is overwritten"), "{refused}");
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.next().unwrap(), Some(Ok(line(8 << 20))));
        assert_eq!(lines.next().unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of the others");
        assert!(Sink::open(&path).is_err());
    }
}
