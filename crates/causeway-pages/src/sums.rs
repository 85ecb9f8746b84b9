//! The checksum of a page, and where it is.

use std::sync::{PoisonError, RwLock};

use twox_hash::XxHash3_64;

/// Bytes of a page: SQLite's default. Files with others are not read.
pub(crate) const PAGE: usize = 4096;
/// Of those, at its end, the ones that SQLite leaves to the checksum.
pub(crate) const SUM: usize = 8;
/// Bytes before the first frame of a write-ahead log, and before the page in each frame.
/// <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Bytes of a frame.
pub(crate) const FRAME: usize = FRAME_HEADER + PAGE;

/// What is written for a page at this place in the database: the page with its checksum. The place counts, so that pages that
/// changed places are noticed.
pub(crate) fn sealed(page: &[u8; PAGE], offset: u64) -> [u8; PAGE] {
    let mut sealed = *page;
    let (content, sum) = sealed.split_at_mut(PAGE - SUM);
    sum.copy_from_slice(&XxHash3_64::oneshot_with_seed(offset, content).to_le_bytes());
    sealed
}

/// Whether that is what was written there.
pub(crate) fn is_sealed(page: &[u8], offset: u64) -> bool {
    let Some((content, sum)) = page.split_last_chunk::<SUM>() else { return false };
    XxHash3_64::oneshot_with_seed(offset, content).to_le_bytes() == *sum
}

/// The checksums of the pages in a write-ahead log. SQLite sums up a frame before it is written, so a page there cannot carry its own.
///
/// Every page in it was written, or found by recovery (which compares SQLite's own checksums), while the log was open.
#[derive(Default)]
pub(crate) struct Frames(RwLock<Vec<Option<u64>>>);

impl Frames {
    /// Remembers a page that is written at this place in the log.
    pub(crate) fn written(&self, page: &[u8], offset: u64) {
        let Some(frame) = frame_of_page(offset) else { return };
        let sum = XxHash3_64::oneshot(page);
        let mut sums = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if sums.len() <= frame {
            sums.resize(frame + 1, None);
        }
        sums[frame] = Some(sum);
    }

    /// Whether that is the page that was written there.
    pub(crate) fn is_written(&self, page: &[u8], offset: u64) -> bool {
        self.known(offset).is_some_and(|sum| sum == XxHash3_64::oneshot(page))
    }

    /// What recovery reads, at the place of a whole frame: of a log that another process left it is all that can be known.
    /// Whether it is no other than what was written.
    pub(crate) fn recovers(&self, frame: &[u8], offset: u64) -> bool {
        let (page, offset) = (&frame[FRAME_HEADER..], offset + FRAME_HEADER as u64);
        if self.known(offset).is_none() {
            self.written(page, offset);
        }
        self.is_written(page, offset)
    }

    fn known(&self, offset: u64) -> Option<u64> {
        let sums = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sums.get(frame_of_page(offset)?).copied()?
    }
}

/// Which frame has its page there.
fn frame_of_page(offset: u64) -> Option<usize> {
    let frames = usize::try_from(offset).ok()?.checked_sub(LOG_HEADER + FRAME_HEADER)?;
    frames.is_multiple_of(FRAME).then_some(frames / FRAME)
}
