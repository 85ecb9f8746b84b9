//! Exports as files: read line by line, and written so that a half one is never mistaken for a whole one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use causeway_proof::{Line, LineError};

use super::about;
use crate::failure::Hinted;

/// The longest line: the largest message that NATS takes by default, in base64, with room for its envelope.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The lines of an export.
pub(super) struct Lines {
    source: Box<dyn BufRead>,
    path: PathBuf,
    number: u64,
    /// Bytes that have been read.
    pub(super) bytes: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Of this file; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let source: Box<dyn BufRead> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(io::stdin())),
            false => Box::new(BufReader::with_capacity(1 << 20, File::open(path).map_err(about(path))?)),
        };
        Ok(Self { source, path: path.to_owned(), number: 0, bytes: 0, buffer: Vec::new() })
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
            return Ok(Some(Err(format!("line {number} breaks off"))));
        };
        Ok(Some(Line::read(line).map_err(|error: LineError| format!("line {number} {error}"))))
    }
}

/// Where an export goes.
pub(super) struct Sink {
    to: BufWriter<Box<dyn Write>>,
    /// The file while it is not whole, and its name when it is.
    names: Option<(PathBuf, PathBuf)>,
}

impl Sink {
    /// To this file, which must not be there yet; `-` is standard output.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { to: BufWriter::new(Box::new(io::stdout())), names: None });
        }
        if path.exists() {
            // What was kept is what one can compare with later.
            return Err(Hinted {
                what: format!("{} exists: nothing is overwritten", path.display()),
                hint: "give another name, or remove it first".to_owned(),
            }
            .into());
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(about(&part))?;
        Ok(Self { to: BufWriter::with_capacity(1 << 20, Box::new(file)), names: Some((part, path.to_owned())) })
    }

    pub(super) fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = line.write();
        text.push('\n');
        // Unwrapped, so that a reader who has gone is told from a failure.
        Ok(self.to.write_all(text.as_bytes())?)
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.to.flush()?;
        let Some((part, path)) = self.names else { return Ok(()) };
        drop(self.to);
        File::open(&part).and_then(|file| file.sync_all()).map_err(about(&part))?;
        std::fs::rename(&part, &path).with_context(|| format!("cannot rename {} to {}", part.display(), path.display()))
    }
}
