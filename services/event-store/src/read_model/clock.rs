//! From times to positions.
//!
//! Events stand in the order of their positions, and their times mostly so. Nothing relies on it: a clock may have been wrong for a
//! while, and what was imported has any time. Instead blocks of positions are kept with the earliest and the latest time in each,
//! and blocks of blocks likewise:
//!
//! ```text
//!   level 2   |                  0 .. 4096                  |  4096 .. open
//!   level 1   | 0 .. 64 | 64 .. 128 | ..
//! ```
//!
//! A search for times starts at the highest level and looks into a block only if some, but not all, of it can be within. So wrong
//! times cost the blocks in which they stand, and nothing else. A block is written when the first event behind it comes; until then
//! it is part of the file's account of itself.

use causeway_event::Position;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::files::Meta;
use super::lanes::Range;
use super::row::{Checksum, micros, number};
use super::{Filter, ModelError, Order};

/// A block has 2^6 positions, or as many blocks of the level below.
const BITS: u32 = 6;
const LEVELS: usize = 4;
/// Bytes of a clock as it is stored.
pub(super) const BYTES: usize = 8 * (2 + 2 * LEVELS);
/// More pieces than this are not looked for, nor in more blocks: the rest of the range is looked at event by event.
const PIECES_MAX: usize = 1024;
const BLOCKS_MAX: usize = 4096;

/// What is known of the blocks that are still open: of each level the one in which the last event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The last event.
    at: i64,
    /// Blocks that have been written.
    written: i64,
    open: [Span; LEVELS],
}

/// The earliest and the latest time of some events, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    earliest: i64,
    latest: i64,
}

impl Span {
    const EMPTY: Self = Self { earliest: i64::MAX, latest: i64::MIN };
}

impl Default for Clock {
    fn default() -> Self {
        Self { at: 0, written: 0, open: [Span::EMPTY; LEVELS] }
    }
}

impl Clock {
    /// Takes in the time of the next event, and writes the blocks that end before it.
    pub(super) fn see(&mut self, conn: &Connection, position: Position, time: Timestamp) -> Result<(), ModelError> {
        let (at, time) = (number(position), micros(time));
        for (level, open) in (1..).zip(&mut self.open) {
            let block = self.at >> (BITS * level);
            if block != at >> (BITS * level) && *open != Span::EMPTY {
                conn.prepare_cached("INSERT INTO times (level, block, earliest, latest, checksum) VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![level, block, open.earliest, open.latest, checksum(level, block, *open)])?;
                self.written += 1;
                *open = Span::EMPTY;
            }
            *open = Span { earliest: open.earliest.min(time), latest: open.latest.max(time) };
        }
        self.at = at;
        Ok(())
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let spans = self.open.iter().flat_map(|open| [open.earliest, open.latest]);
        [self.at, self.written].into_iter().chain(spans).flat_map(i64::to_le_bytes).collect()
    }

    pub(super) fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| i64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        let (at, written) = (next(), next());
        Self { at, written, open: std::array::from_fn(|_| Span { earliest: next(), latest: next() }) }
    }

    /// Looks at every block that was written.
    pub(super) fn check(&self, conn: &Connection) -> Result<(), ModelError> {
        let mut select = conn.prepare("SELECT block, earliest, latest, checksum, level FROM times")?;
        let (mut rows, mut found) = (select.query([])?, 0);
        while let Some(row) = rows.next()? {
            block(row, row.get(4)?)?;
            found += 1;
        }
        match found == self.written {
            true => Ok(()),
            false => Err(ModelError::corrupt(format!("{found} blocks of times are there, and {} were written", self.written))),
        }
    }
}

/// The times that are wanted, as they are stored: `from` or later, and before `until`.
#[derive(Clone, Copy)]
pub(super) struct Window {
    from: i64,
    until: i64,
}

impl Window {
    /// None where a filter wants all times.
    pub(super) fn of(filter: &Filter) -> Option<Self> {
        // What is stored has no rest of a microsecond: it is at a time or later if it is so at the next whole one.
        let whole = |time: Timestamp| micros(time).saturating_add(i64::from(time.as_nanosecond().rem_euclid(1000) > 0));
        match (filter.from, filter.until) {
            (None, None) => None,
            (from, until) => Some(Self { from: from.map_or(i64::MIN, whole), until: until.map_or(i64::MAX, whole) }),
        }
    }
}

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) range: Range,
    /// Whether the time of every event in it is wanted, or only may be.
    pub(super) surely: bool,
}

/// All parts of the range that hold events of the window, in order.
pub(super) fn pieces(conn: &Connection, window: Window, range: Range, order: Order) -> Result<Vec<Piece>, ModelError> {
    // One snapshot: a block that is open in the account of itself has not been written.
    let tx = conn.unchecked_transaction()?;
    let clock = Meta::account(&tx)?.clock;
    Search { conn: &tx, clock, window, order, looked_at: 0, pieces: Vec::new() }.pieces(range)
}

struct Search<'c> {
    conn: &'c Connection,
    clock: Clock,
    window: Window,
    order: Order,
    /// Blocks so far: where the times are mixed most of them are in one piece, or in none.
    looked_at: usize,
    pieces: Vec<Piece>,
}

impl Search<'_> {
    fn pieces(mut self, range: Range) -> Result<Vec<Piece>, ModelError> {
        if let Some(rest) = self.level(LEVELS as u32, range)? {
            self.push(rest, false);
        }
        Ok(self.pieces)
    }

    /// Finds the pieces of a range at a level and below. Returns what is left when that is too much.
    fn level(&mut self, level: u32, range: Range) -> Result<Option<Range>, ModelError> {
        for (block, span) in self.blocks(level, range)? {
            self.looked_at += 1;
            let first = block << (BITS * level);
            let behind = first.saturating_add(1 << (BITS * level));
            let part = Range { after: range.after.max(first - 1), before: range.before.min(behind) };
            let Window { from, until } = self.window;
            if span.latest < from || until <= span.earliest {
                continue;
            }
            if self.pieces.len() >= PIECES_MAX || self.looked_at > BLOCKS_MAX {
                return Ok(Some(self.rest(part, range)));
            }
            if from <= span.earliest && span.latest < until {
                self.push(part, true);
            } else if level == 1 {
                self.push(part, false);
            } else if let Some(rest) = self.level(level - 1, part)? {
                return Ok(Some(self.rest(rest, range)));
            }
        }
        Ok(None)
    }

    /// From the beginning of a part to the end of the range around it.
    fn rest(&self, part: Range, around: Range) -> Range {
        match self.order {
            Order::Forwards => Range { before: around.before, ..part },
            Order::Backwards => Range { after: around.after, ..part },
        }
    }

    /// The blocks of a level that meet the range, in order.
    fn blocks(&self, level: u32, range: Range) -> Result<Vec<(i64, Span)>, ModelError> {
        let (first, last) = ((range.after + 1) >> (BITS * level), (range.before - 1) >> (BITS * level));
        let sql =
            "SELECT block, earliest, latest, checksum FROM times WHERE level = ?1 AND block BETWEEN ?2 AND ?3 ORDER BY block";
        let mut select = self.conn.prepare_cached(sql)?;
        let (mut rows, mut blocks) = (select.query(params![level, first, last])?, Vec::new());
        while let Some(row) = rows.next()? {
            blocks.push(block(row, level)?);
        }
        let open = (self.clock.at >> (BITS * level), self.clock.open.get(level as usize - 1));
        if let (number, Some(span)) = open
            && (first..=last).contains(&number)
        {
            blocks.push((number, *span));
        }
        if self.order == Order::Backwards {
            blocks.reverse();
        }
        Ok(blocks)
    }

    /// One more piece, or a longer one.
    fn push(&mut self, range: Range, surely: bool) {
        let order = self.order;
        match self.pieces.last_mut().filter(|last| last.surely == surely) {
            Some(last) if order == Order::Forwards && last.range.before == range.after + 1 => last.range.before = range.before,
            Some(last) if order == Order::Backwards && range.before == last.range.after + 1 => last.range.after = range.after,
            _ => self.pieces.push(Piece { range, surely }),
        }
    }
}

/// A block as it was written.
fn block(row: &rusqlite::Row<'_>, level: u32) -> Result<(i64, Span), ModelError> {
    let (number, span) = (row.get(0)?, Span { earliest: row.get(1)?, latest: row.get(2)? });
    match row.get::<_, i64>(3)? == checksum(level, number, span) {
        true => Ok((number, span)),
        false => Err(ModelError::corrupt(format!("the times of block {number} of level {level} are not what was stored"))),
    }
}

fn checksum(level: u32, block: i64, span: Span) -> i64 {
    let mut sum = Checksum::default();
    sum.word(level.into());
    for word in [block, span.earliest, span.latest] {
        sum.word(word.cast_unsigned());
    }
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_ends_after_so_many_blocks_whether_or_not_they_are_pieces_of_their_own() {
        let conn = Connection::open_in_memory().unwrap();
        let times = "CREATE TABLE times (level, block, earliest, latest, checksum, PRIMARY KEY (level, block))";
        conn.execute_batch(times).unwrap();
        let mut clock = Clock::default();
        // In the first half every other event is within the window, in the second half none.
        for position in 1..64 * 80 {
            let second = if position < 64 * 40 { position % 2 } else { 0 };
            clock.see(&conn, Position::new(position as u64), Timestamp::from_second(second).unwrap()).unwrap();
        }
        let window = Window { from: 500_000, until: i64::MAX };
        let all = Range { after: 0, before: 64 * 80 };
        for (looked_at, before) in [(0, 64 * 40), (BLOCKS_MAX - 20, 64 * 80)] {
            let search = Search { conn: &conn, clock, window, order: Order::Forwards, looked_at, pieces: Vec::new() };
            assert_eq!(search.pieces(all).unwrap(), [Piece { range: Range { before, ..all }, surely: false }]);
        }
    }
}
