//! Questions to the read model, over one connection that only reads.
//!
//! Every answer is for the log up to the position `last` that the caller says is committed, whatever is committed meanwhile.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_event::{AggregateId, Event, EventId, IdempotencyKey, Position};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use uuid::Uuid;

use super::clock::{self, Piece, Window};
use super::descent::{DESCENDANTS_MAX, Descendants, TooMany};
use super::lanes::{self, Join, Plan, Range, Step};
use super::pool::Until;
use super::row::{self, AllNames, COLUMNS, Checksum, number};
use super::{Filter, Meta, ModelError, Order, Page, Query, files};

/// Pages of the database that each reading connection caches, in KiB.
const CACHE_KIB: i64 = 8 << 10;

/// A connection that reads.
pub(crate) struct Reader {
    pub(super) conn: Connection,
    pub(super) names: AllNames,
    until: Option<Until>,
}

/// What a visit comes by.
pub(super) enum Visited {
    /// An event that passes.
    Event(Arc<Event>),
    /// Nothing up to here (backwards: down to here) since then.
    Nothing(i64),
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        // A file that was deleted behind our back is as good as a damaged one: it has to be made again.
        let conn = files::connect(path, files::Access::Read).map_err(|error| match path.exists() {
            true => error,
            false => ModelError::corrupt("the file is gone"),
        })?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        Ok(Self { conn, names: AllNames::new(), until: None })
    }

    /// Answers until then.
    pub(super) fn watch(&mut self, until: Until) -> Result<(), ModelError> {
        until.watch(&mut self.conn)?;
        self.until = Some(until);
        Ok(())
    }

    /// Checks all of the file; what is wrong is an error.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        files::check(&self.conn)
    }

    /// Writes all of the database as of one moment into a new file, and checks that file in full.
    pub(crate) fn copy_into(&self, path: &Path) -> Result<Meta, ModelError> {
        let text = path.to_str().ok_or_else(|| ModelError::File {
            what: "SQLite wants UTF-8, which is not the name of",
            path: path.to_owned(),
            source: std::io::ErrorKind::InvalidFilename.into(),
        })?;
        // What an attempt wrote that broke off: SQLite writes into no file that has something in it.
        files::remove(path)?;
        let copied = self.conn.execute("VACUUM INTO ?1", [text]).map_err(ModelError::from);
        match copied.and_then(|_| Meta::of_copy(path, self.until.as_ref())) {
            // Of the two, the one that is believed no longer should be the one that is damaged.
            Err(ModelError::Corrupt(reason)) => self.check().and(Err(ModelError::Copy(reason))),
            copied => copied,
        }
    }

    /// A page. When `time` is over it ends with the next event that does not pass.
    pub(crate) fn page(&mut self, query: &Query, last: Position, time: Duration) -> Result<Page, ModelError> {
        let descendants = self.descent(query, last)?;
        let last = descendants.as_ref().map_or(last, |descendants| descendants.reached().min(last));
        let range = range(query, last);
        let pieces = self.pieces(query, range)?;
        let mut page = Page { events: Vec::new(), next: None, last_position: last };
        let (mut bytes, mut reached, begun) = (0, None, Instant::now());
        let ended = self.visit(query, descendants.as_deref(), &pieces, &mut |visited| match visited {
            Visited::Event(_) if page.events.len() >= query.limit => ControlFlow::Break(()),
            Visited::Event(event) => {
                bytes += event.data.as_bytes().len();
                if bytes > query.bytes_max && !page.events.is_empty() {
                    return ControlFlow::Break(());
                }
                reached = Some(number(event.position));
                page.events.push(event);
                ControlFlow::Continue(())
            }
            Visited::Nothing(up_to) => {
                reached = Some(up_to);
                if begun.elapsed() < time { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
        })?;
        if ended.is_break() {
            // Before the first event of a page without any room the page begins again.
            let start = match query.order {
                Order::Forwards => range.after,
                Order::Backwards => range.before,
            };
            page.next = Some(row::position(reached.unwrap_or(start))?);
        }
        Ok(page)
    }

    /// Tells `take` what it comes by in the pieces, in order, until it has enough.
    pub(super) fn visit(
        &mut self,
        query: &Query,
        descendants: Option<&Descendants>,
        pieces: &[Piece],
        take: &mut dyn FnMut(Visited) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        let Self { conn, names, .. } = self;
        let show = |event: Arc<Event>, take: &mut dyn FnMut(Visited) -> ControlFlow<()>| match query.filter.matches(&event) {
            true => take(Visited::Event(event)),
            false => take(Visited::Nothing(number(event.position))),
        };
        let mut flow = ControlFlow::Continue(());
        let mut pieces = pieces.iter().map(|piece| piece.range);
        if let Some(descendants) = descendants {
            let mut listed = pieces.flat_map(|range| {
                let listed = within(descendants.positions(), range).iter();
                let listed: Box<dyn Iterator<Item = &Position>> = match query.order {
                    Order::Forwards => Box::new(listed),
                    Order::Backwards => Box::new(listed.rev()),
                };
                listed
            });
            while flow.is_continue()
                && let Some(position) = listed.next()
            {
                flow = show(indexed(conn, names, number(*position))?, take);
            }
            return Ok(flow);
        }
        let plan = lanes::plan(conn, names, &query.filter)?;
        while flow.is_continue()
            && let Some(range) = pieces.next()
        {
            match &plan {
                Plan::Nothing => break,
                Plan::Direct(lane, _) => {
                    let mut select = conn.prepare_cached(&lane.sql(COLUMNS, query.order))?;
                    let mut rows = select.query(lane.parameters(range))?;
                    while flow.is_continue()
                        && let Some(found) = rows.next()?
                    {
                        flow = show(row::event(conn, names, found)?, take);
                    }
                }
                Plan::Joined(sets, _) => {
                    let mut join = Join::new(sets.clone(), range, query.order, query.limit);
                    while flow.is_continue()
                        && let Some(step) = join.next(conn)?
                    {
                        flow = match step {
                            Step::Found(position) => show(indexed(conn, names, position)?, take),
                            Step::Leapt(up_to) => take(Visited::Nothing(up_to)),
                        };
                    }
                }
            }
        }
        Ok(flow)
    }

    /// The descendants that a query asks for, if it does: those that it brings along, or all up to now.
    pub(super) fn descent(&self, query: &Query, last: Position) -> Result<Option<Arc<Descendants>>, ModelError> {
        match (query.filter.descendants_of, &query.descendants) {
            (None, _) => Ok(None),
            (Some(_), Some(known)) => Ok(Some(known.clone())),
            (Some(of), None) => Ok(Some(Arc::new(self.descendants(of, last)?))),
        }
    }

    /// All that an event has caused up to `last`.
    pub(crate) fn descendants(&self, of: EventId, last: Position) -> Result<Descendants, ModelError> {
        match self.effects(of, last, DESCENDANTS_MAX, true)? {
            (all, false) => Ok(all),
            (_, true) => Err(TooMany.into()),
        }
    }

    /// The first that an event has caused up to `last`, at most `max`, and whether there are more.
    pub(crate) fn first_descendants(&self, of: EventId, last: Position, max: usize) -> Result<(Descendants, bool), ModelError> {
        self.effects(of, last, max, false)
    }

    /// By the index of causes, which has the effects of a cause in the order of the log. An effect that stands before its cause is none;
    /// so whoever always goes on with the earliest that is known comes by all of them in the order of the log, and needs to know
    /// no more of them than are still wanted. Who wants all or none is done as soon as there are more.
    fn effects(&self, of: EventId, last: Position, max: usize, or_none: bool) -> Result<(Descendants, bool), ModelError> {
        let sql = "SELECT id, position FROM events INDEXED BY events_by_causation \
            WHERE causation = ?1 AND position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4";
        let mut effects = self.conn.prepare_cached(sql)?;
        let (mut found, mut causes, mut more) = (Vec::new(), BTreeSet::from([(0, of)]), false);
        while let Some((behind, cause)) = causes.pop_first() {
            if behind > 0 {
                found.push((cause, row::position(behind)?));
            }
            let wanted = max.saturating_sub(found.len());
            let limit = i64::try_from(wanted + 1).unwrap_or(i64::MAX);
            let mut rows = effects.query(params![cause.uuid().as_bytes(), behind, number(last), limit])?;
            while let Some(row) = rows.next()? {
                causes.insert((row.get(1)?, EventId::from_uuid(Uuid::from_bytes(row.get(0)?))));
                while causes.len() > wanted {
                    causes.pop_last();
                    more = true;
                }
                if more && or_none {
                    break;
                }
            }
            if more && or_none {
                break;
            }
        }
        let reached = found.last().filter(|_| more).map_or(last, |(_, at): &(EventId, Position)| *at);
        Ok((Descendants::found(of, found, reached), more))
    }

    /// A statement that has no end.
    #[cfg(test)]
    pub(crate) fn count_for_ever(&self) -> Result<i64, ModelError> {
        let sql = "WITH RECURSIVE more(one) AS (SELECT 1 UNION ALL SELECT one FROM more) SELECT count(*) FROM more";
        Ok(self.conn.query_row(sql, [], |row| row.get(0))?)
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
            // All of it passes.
            let page = self.page(&query, last, Duration::MAX)?;
            events.extend(page.events);
            match page.next {
                None => return Ok(Some(events)),
                next => query.after = next,
            }
        }
    }

    /// The last event that was stored at `time` or before.
    pub(crate) fn position_at(&mut self, time: Timestamp, last: Position) -> Result<Position, ModelError> {
        // No time is stored that is later than the latest there is.
        let until = Timestamp::from_microsecond(row::micros(time).saturating_add(1)).ok();
        let filter = Filter { until, ..Filter::default() };
        let query = Query { filter, order: Order::Backwards, limit: 1, ..Query::default() };
        let page = self.page(&query, last, Duration::MAX)?;
        Ok(page.events.first().map_or(Position::START, |event| event.position))
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

    /// The ids of a view that have only snapshots of versions before this one, behind `after`.
    pub(crate) fn outdated(&self, view: &str, version: u32, after: &str, limit: usize) -> Result<Vec<String>, ModelError> {
        let sql = "SELECT DISTINCT id FROM snapshots AS old WHERE view = ?1 AND id > ?2 AND version < ?3 AND NOT EXISTS \
            (SELECT 1 FROM snapshots WHERE view = ?1 AND id = old.id AND version >= ?3) ORDER BY id LIMIT ?4";
        let mut select = self.conn.prepare_cached(sql)?;
        let ids = select.query_map(params![view, after, version, limit as i64], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// The parts of a range that can hold an answer, by its times.
    pub(super) fn pieces(&self, query: &Query, range: Range) -> Result<Vec<Piece>, ModelError> {
        match Window::of(&query.filter) {
            _ if range.is_empty() => Ok(Vec::new()),
            None => Ok(vec![Piece { range, surely: true }]),
            Some(window) => clock::pieces(&self.conn, window, range, query.order),
        }
    }
}

/// The positions that a query asks about.
pub(super) fn range(query: &Query, last: Position) -> Range {
    let before = query.before.map_or(i64::MAX, number).min(number(last).saturating_add(1));
    Range { after: query.after.map_or(0, number), before }
}

/// What of the ascending positions is in the range.
pub(super) fn within(positions: &[Position], range: Range) -> &[Position] {
    let start = positions.partition_point(|position| number(*position) <= range.after);
    let end = positions.partition_point(|position| number(*position) < range.before);
    positions.get(start..end).unwrap_or_default()
}

/// The event at a position that an index named.
fn indexed(conn: &Connection, names: &mut AllNames, position: i64) -> Result<Arc<Event>, ModelError> {
    let event = one(conn, names, "position = ?1", &position)?;
    event.ok_or_else(|| ModelError::corrupt(format!("an index names {position}, which is not there")))
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
