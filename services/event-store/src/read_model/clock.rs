//! From times to positions.
//!
//! Events stand in the order of their positions, and their times nearly so: a server's clock may have been set back, or the
//! stream's leader moved to a server whose clock is behind. `skew` is the most that any event's time lies behind the
//! latest time before it (0 on most logs). With it a time is turned into a border between positions by bisection, without an
//! index over times: whatever lies beyond a border is known to be out of range, the few between are filtered.

use causeway_event::Position;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::ModelError;
use super::row::{self, AllNames, COLUMNS, micros};

/// How far times run ahead of positions, as far as the model has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The latest time seen, in microseconds.
    pub(super) latest: i64,
    /// See the module.
    pub(super) skew: i64,
}

impl Clock {
    /// Takes in the time of the next event.
    pub(super) fn see(&mut self, time: Timestamp) {
        let time = micros(time);
        self.skew = self.skew.max(self.latest.saturating_sub(time));
        self.latest = self.latest.max(time);
    }
}

/// All events before this position were stored before `from`.
pub(super) fn first(rows: &mut Rows<'_>, skew: i64, from: Timestamp) -> Result<i64, ModelError> {
    rows.border(micros(from).saturating_sub(skew))
}

/// All events at this position and behind it were stored at `until` or later.
pub(super) fn end(rows: &mut Rows<'_>, skew: i64, until: Timestamp) -> Result<i64, ModelError> {
    rows.border(micros(until).saturating_add(1).saturating_add(skew))
}

/// All events at this position and behind it were stored at `from` or later.
pub(super) fn surely_from(rows: &mut Rows<'_>, skew: i64, from: Timestamp) -> Result<i64, ModelError> {
    // A time within a microsecond: what is stored has none of its rest.
    rows.border(micros(from).saturating_add(1).saturating_add(skew))
}

/// All events before this position were stored before `until`.
pub(super) fn surely_until(rows: &mut Rows<'_>, skew: i64, until: Timestamp) -> Result<i64, ModelError> {
    rows.border(micros(until).saturating_sub(skew))
}

/// The last event that was stored at `time` or before.
pub(super) fn position_at(rows: &mut Rows<'_>, skew: i64, time: Timestamp) -> Result<Position, ModelError> {
    let end = end(rows, skew, time)?;
    let Rows { conn, names, .. } = rows;
    let sql = format!("SELECT {COLUMNS} FROM events WHERE position < ?1 ORDER BY position DESC");
    let mut downwards = conn.prepare_cached(&sql)?;
    let mut found = downwards.query([end])?;
    while let Some(row) = found.next()? {
        let event = row::event(conn, names, row)?;
        if event.timestamp <= time {
            return Ok(event.position);
        }
    }
    Ok(Position::START)
}

/// The events up to `last`. Each that is looked at is read in full, so that a damaged time cannot lead astray.
pub(super) struct Rows<'r> {
    pub(super) conn: &'r Connection,
    pub(super) names: &'r mut AllNames,
    pub(super) last: Position,
}

impl Rows<'_> {
    /// Where events stop to be older than `time`, as bisection sees it.
    fn border(&mut self, time: i64) -> Result<i64, ModelError> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE position >= ?1 AND position < ?2 ORDER BY position LIMIT 1");
        let mut probe = self.conn.prepare_cached(&sql)?;
        let (mut low, mut high) = (1, row::number(self.last).saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut found = probe.query(params![middle, high])?;
            let event = found.next()?.map(|row| row::event(self.conn, self.names, row)).transpose()?;
            match event {
                Some(event) if micros(event.timestamp) < time => low = row::number(event.position).saturating_add(1),
                _ => high = middle,
            }
        }
        Ok(low)
    }
}
