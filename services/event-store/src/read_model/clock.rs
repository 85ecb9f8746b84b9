//! From times to positions.
//!
//! Events stand in the order of their positions, and their times nearly so: a server's clock may have been set back, or the
//! stream's leader moved to a server whose clock is behind. `skew` is the most that any event's time lies behind the
//! latest time before it (0 on most logs). With it a time is turned into a border between positions by bisection, without an
//! index over times: whatever lies beyond a border is known to be out of range, the few between are filtered.

use causeway_event::Position;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::ModelError;
use super::row::{self, micros};

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
pub(super) fn first(conn: &Connection, skew: i64, from: Timestamp, last: Position) -> Result<i64, ModelError> {
    border(conn, micros(from).saturating_sub(skew), last)
}

/// All events at this position and behind it were stored at `until` or later.
pub(super) fn end(conn: &Connection, skew: i64, until: Timestamp, last: Position) -> Result<i64, ModelError> {
    border(conn, micros(until).saturating_add(1).saturating_add(skew), last)
}

/// The last event up to `last` that was stored at `time` or before.
pub(super) fn position_at(conn: &Connection, skew: i64, time: Timestamp, last: Position) -> Result<Position, ModelError> {
    let end = end(conn, skew, time, last)?;
    let mut downwards = conn.prepare_cached("SELECT position, time FROM events WHERE position < ?1 ORDER BY position DESC")?;
    let mut rows = downwards.query([end])?;
    while let Some(found) = rows.next()? {
        if found.get::<_, i64>(1)? <= micros(time) {
            return row::position(found.get(0)?);
        }
    }
    Ok(Position::START)
}

/// Where events stop to be older than `time`, as bisection sees it.
fn border(conn: &Connection, time: i64, last: Position) -> Result<i64, ModelError> {
    let mut probe = conn
        .prepare_cached("SELECT position, time FROM events WHERE position >= ?1 AND position < ?2 ORDER BY position LIMIT 1")?;
    let (mut low, mut high) = (1, row::number(last).saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        let found = probe.query_row(params![middle, high], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((position, stored)) if i64::lt(&stored, &time) => low = i64::saturating_add(position, 1),
            _ => high = middle,
        }
    }
    Ok(low)
}
