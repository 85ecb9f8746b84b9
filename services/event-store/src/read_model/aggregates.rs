//! The aggregates that have events, in the order of their ids' bytes.

use causeway_event::{AggregateId, Position};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::ModelError;
use super::reader::Reader;
use super::row::{self, number};

/// An aggregate as far as its events are known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) id: AggregateId,
    pub(crate) first: Position,
    pub(crate) last: Position,
    /// When its last event was stored.
    pub(crate) last_timestamp: Timestamp,
}

/// A page of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregates {
    pub(crate) aggregates: Vec<Aggregate>,
    /// Whether there is one behind the last.
    pub(crate) more: bool,
}

impl Aggregates {
    /// Behind which id the next page begins.
    pub(crate) fn next(&self) -> Option<&AggregateId> {
        self.aggregates.last().map(|aggregate| &aggregate.id).filter(|_| self.more)
    }
}

impl Reader {
    /// The first `limit` aggregates behind `after` whose ids start with `prefix`, and their events up to `last`.
    pub(crate) fn aggregates(
        &mut self,
        prefix: &str,
        after: Option<&AggregateId>,
        limit: usize,
        last: Position,
    ) -> Result<Aggregates, ModelError> {
        let mut page = Aggregates { aggregates: Vec::new(), more: false };
        // One bound: of two the database would seek to the first and read from there to the other.
        let (begins, from) = match after.map(AggregateId::as_str).filter(|after| prefix <= *after) {
            Some(after) => (">", after),
            None => (">=", prefix),
        };
        let sql = format!("SELECT id, name FROM aggregates WHERE name {begins} ?1 ORDER BY name");
        let mut found = Vec::new();
        {
            let mut select = self.conn.prepare_cached(&sql)?;
            let mut rows = select.query(params![from])?;
            while let Some(row) = rows.next()? {
                let name = row.get_ref(1)?.as_str().map_err(ModelError::corrupt)?;
                if !name.starts_with(prefix) {
                    break;
                }
                let aggregate: i64 = row.get(0)?;
                // One that came after `last` is not there yet.
                let Some(first) = end(&self.conn, aggregate, last, "")? else { continue };
                if found.len() >= limit {
                    page.more = true;
                    break;
                }
                let newest = end(&self.conn, aggregate, last, " DESC")?.unwrap_or(first);
                found.push((name.parse::<AggregateId>().map_err(ModelError::corrupt)?, first, newest));
            }
        }
        for (id, first, newest) in found {
            let event = self.by_position(newest)?.filter(|event| event.aggregate_id == id);
            let event = event.ok_or_else(|| ModelError::corrupt(format!("{newest} is not an event of {id}")))?;
            page.aggregates.push(Aggregate { id, first, last: newest, last_timestamp: event.timestamp });
        }
        Ok(page)
    }
}

/// The first or last position of an aggregate.
fn end(conn: &Connection, aggregate: i64, last: Position, order: &str) -> Result<Option<Position>, ModelError> {
    let sql = format!(
        "SELECT position FROM events INDEXED BY events_by_aggregate WHERE aggregate = ?1 AND position <= ?2 \
         ORDER BY position{order} LIMIT 1"
    );
    let found: Option<i64> =
        conn.prepare_cached(&sql)?.query_row(params![aggregate, number(last)], |row| row.get(0)).optional()?;
    found.map(row::position).transpose()
}
