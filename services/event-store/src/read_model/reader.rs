//! Questions to the read model, over one connection that only reads.
//!
//! Every answer is for the log up to the position `last` that the caller says is committed, whatever is committed meanwhile.

use std::path::Path;
use std::sync::Arc;

use causeway_event::{AggregateId, Event, EventId, IdempotencyKey, Position};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

use super::clock::{self, Rows};
use super::lanes::{self, Merge, Plan, Range};
use super::row::{self, AllNames, COLUMNS, Checksum, number};
use super::{ModelError, Page, Query, files};

/// A page ends early when its events have this many bytes of data.
const PAGE_BYTES_MAX: usize = 2 << 20;
/// Pages of the database that each reading connection caches, in KiB.
const CACHE_KIB: i64 = 8 << 10;

/// A connection that reads.
pub(crate) struct Reader {
    conn: Connection,
    names: AllNames,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let conn = files::connect(path, files::Access::Read)?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        Ok(Self { conn, names: AllNames::new() })
    }

    /// Checks all of the file; what is wrong is an error.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        files::check(&self.conn)
    }

    pub(crate) fn page(&mut self, query: &Query, last: Position) -> Result<Page, ModelError> {
        let mut page = Page { events: Vec::new(), more: false, last_position: last };
        let range = self.range(query, last)?;
        if range.before.saturating_sub(range.after) <= 1 {
            return Ok(page);
        }
        let Self { conn, names } = self;
        let mut bytes = 0;
        // Takes an event unless the page is full; says whether to go on.
        let mut take = |event: Arc<Event>| {
            if !query.filter.matches(&event) {
                return true;
            }
            if page.events.len() >= query.limit || bytes >= PAGE_BYTES_MAX {
                page.more = true;
                return false;
            }
            bytes += event.data.as_bytes().len();
            page.events.push(event);
            true
        };
        match lanes::plan(conn, names, &query.filter)? {
            Plan::Nothing => {}
            Plan::Direct(lane) => {
                let mut select = conn.prepare_cached(&lane.sql(COLUMNS, query.order))?;
                let mut rows = select.query(lane.parameters(range))?;
                while let Some(found) = rows.next()? {
                    if !take(row::event(conn, names, found)?) {
                        break;
                    }
                }
            }
            Plan::Merged(lanes) => {
                let mut merge = Merge::new(lanes, range, query.order, query.limit);
                while let Some(position) = merge.next(conn)? {
                    let event = one(conn, names, "position = ?1", &position)?;
                    let event =
                        event.ok_or_else(|| ModelError::corrupt(format!("an index names {position}, which is not there")))?;
                    if !take(event) {
                        break;
                    }
                }
            }
        }
        Ok(page)
    }

    pub(crate) fn by_position(&mut self, position: Position) -> Result<Option<Arc<Event>>, ModelError> {
        one(&self.conn, &mut self.names, "position = ?1", &number(position))
    }

    /// The first event with this id: a log that foreign hands wrote to may have several.
    pub(crate) fn by_id(&mut self, id: EventId) -> Result<Option<Arc<Event>>, ModelError> {
        let found = one(&self.conn, &mut self.names, "id = ?1 ORDER BY position LIMIT 1", id.uuid().as_bytes())?;
        match found {
            Some(other) if other.id != id => Err(ModelError::corrupt(format!("{id} leads to {}", other.id))),
            found => Ok(found),
        }
    }

    /// The events of the first append under this key: `count` of them, as far as they stand there.
    pub(crate) fn by_key(
        &mut self,
        aggregate: &AggregateId,
        key: &IdempotencyKey,
        count: usize,
        last: Position,
    ) -> Result<Option<Vec<Arc<Event>>>, ModelError> {
        let Some(aggregate) = self.names.aggregates.find(&self.conn, aggregate)? else {
            return Ok(None);
        };
        let sql = "SELECT min(position) FROM events WHERE aggregate = ?1 AND key = ?2 AND position <= ?3";
        let first: Option<i64> =
            self.conn.prepare_cached(sql)?.query_row(params![aggregate, key.as_str(), number(last)], |row| row.get(0))?;
        let Some(first) = first else {
            return Ok(None);
        };
        // An atomic append stands in one piece, so its positions follow each other.
        let after = row::position(first)?.previous();
        let before = Position::new(after.get().saturating_add(count as u64).saturating_add(1));
        let mut query = Query { after: Some(after), before: Some(before), limit: count, ..Query::default() };
        let mut events = Vec::new();
        loop {
            let page = self.page(&query, last)?;
            query.after = page.events.last().map(|event| event.position).or(query.after);
            events.extend(page.events);
            if !page.more {
                return Ok(Some(events));
            }
        }
    }

    pub(crate) fn position_at(&mut self, time: Timestamp, last: Position) -> Result<Position, ModelError> {
        let skew = self.skew()?;
        clock::position_at(&mut self.rows(last), skew, time)
    }

    pub(crate) fn snapshot(
        &self,
        view: &str,
        version: u32,
        id: &str,
        at_most: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, ModelError> {
        let sql = "SELECT position, state, checksum FROM snapshots \
            WHERE view = ?1 AND version = ?2 AND id = ?3 AND position <= ?4 ORDER BY position DESC LIMIT 1";
        let found = self
            .conn
            .prepare_cached(sql)?
            .query_row(params![view, version, id, number(at_most)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((at, state, checksum)): Option<(i64, Vec<u8>, i64)> = found else {
            return Ok(None);
        };
        match snapshot_checksum(at, &state) == checksum {
            true => Ok(Some((row::position(at)?, state))),
            false => Err(ModelError::corrupt(format!("the snapshot of {view} {id} at {at} is not what was stored"))),
        }
    }

    /// The positions that can hold an answer: the caller's, and what its times leave of them.
    fn range(&mut self, query: &Query, last: Position) -> Result<Range, ModelError> {
        let mut after = query.after.map_or(0, number);
        let mut before = query.before.map_or(i64::MAX, number).min(number(last).saturating_add(1));
        if let Some(from) = query.filter.from {
            let skew = self.skew()?;
            after = after.max(clock::first(&mut self.rows(last), skew, from)? - 1);
        }
        if let Some(until) = query.filter.until {
            let skew = self.skew()?;
            before = before.min(clock::end(&mut self.rows(last), skew, until)?);
        }
        Ok(Range { after, before })
    }

    fn rows(&mut self, last: Position) -> Rows<'_> {
        Rows { conn: &self.conn, names: &mut self.names, last }
    }

    fn skew(&self) -> Result<i64, ModelError> {
        Ok(self.conn.prepare_cached("SELECT skew FROM meta")?.query_row([], |row| row.get(0))?)
    }
}

fn one(conn: &Connection, names: &mut AllNames, which: &str, value: &dyn ToSql) -> Result<Option<Arc<Event>>, ModelError> {
    let mut select = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE {which}"))?;
    let mut rows = select.query([value])?;
    rows.next()?.map(|found| row::event(conn, names, found)).transpose()
}

pub(super) fn snapshot_checksum(position: i64, state: &[u8]) -> i64 {
    let mut sum = Checksum::default();
    sum.word(position.cast_unsigned());
    sum.bytes(state);
    sum.finish()
}
