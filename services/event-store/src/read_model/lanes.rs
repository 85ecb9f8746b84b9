//! Which index answers a filter, and one order out of several index ranges.
//!
//! A lane is a range of one index in which rows stand by position. A filter over one lane is read directly. A filter over
//! several (some types; a category, which is the types of that category) merges its lanes, each read a piece at a time. Either
//! way a page costs what it returns, whatever the length of the log.

use std::collections::VecDeque;

use causeway_event::EventType;
use rusqlite::types::Value;
use rusqlite::{Connection, ToSql, params_from_iter};

use super::row::{AllNames, Chain};
use super::{Filter, ModelError, Order};

/// More lanes than this are not merged: the lane around them is read and filtered instead.
const LANES_MAX: usize = 256;
/// Positions that are read from a lane at a time.
const PIECE_MIN: usize = 8;
const PIECE_MAX: usize = 1024;

/// How to find what passes a filter.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing can pass.
    Nothing,
    /// One range of one index (or the table itself), filtered.
    Direct(Lane),
    /// Several ranges, merged.
    Merged(Vec<Lane>),
}

/// Rows that are equal in `columns`, by position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lane {
    /// Named in the query: without statistics SQLite may take a range of the whole table for the better way.
    index: &'static str,
    columns: &'static [&'static str],
    values: Vec<Value>,
}

/// The positions strictly between two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) after: i64,
    pub(super) before: i64,
}

/// Chooses the narrowest index.
pub(super) fn plan(conn: &Connection, names: &mut AllNames, filter: &Filter) -> Result<Plan, ModelError> {
    // A chain is short, compared with anything else that a filter may name.
    if let Some(chain) = &filter.correlation_id {
        let value = Chain(chain);
        let value = match value.to_sql()? {
            rusqlite::types::ToSqlOutput::Owned(value) => value,
            _ => Value::Text(chain.as_str().to_owned()),
        };
        return Ok(Plan::Direct(Lane {
            index: "INDEXED BY events_by_correlation",
            columns: &["correlation"],
            values: vec![value],
        }));
    }
    let aggregate = match &filter.aggregate_id {
        None => None,
        Some(aggregate) => match names.aggregates.find(conn, aggregate)? {
            None => return Ok(Plan::Nothing),
            number => number,
        },
    };
    let around = match aggregate {
        None => Lane { index: "NOT INDEXED", columns: &[], values: vec![] },
        Some(number) => Lane { index: "INDEXED BY events_by_aggregate", columns: &["aggregate"], values: vec![number.into()] },
    };
    if filter.types.is_empty() && filter.category.is_none() {
        return Ok(Plan::Direct(around));
    }
    let (wanted, others) = types(conn, filter)?;
    let lane = |number: i64| match aggregate {
        None => Lane { index: "INDEXED BY events_by_type", columns: &["type"], values: vec![number.into()] },
        Some(aggregate) => Lane {
            index: "INDEXED BY events_by_aggregate_type",
            columns: &["aggregate", "type"],
            values: vec![aggregate.into(), number.into()],
        },
    };
    Ok(match wanted.as_slice() {
        [] => Plan::Nothing,
        _ if others == 0 || wanted.len() > LANES_MAX => Plan::Direct(around),
        [one] => Plan::Direct(lane(*one)),
        some => Plan::Merged(some.iter().copied().map(lane).collect()),
    })
}

/// The types that can pass, and how many cannot.
fn types(conn: &Connection, filter: &Filter) -> Result<(Vec<i64>, usize), ModelError> {
    let mut select = conn.prepare_cached("SELECT id, name FROM types")?;
    let mut rows = select.query([])?;
    let (mut wanted, mut others) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let name: EventType = row.get_ref(1)?.as_str().map_err(ModelError::corrupt)?.parse().map_err(ModelError::corrupt)?;
        match filter.wants_type(&name) {
            true => wanted.push(row.get(0)?),
            false => others += 1,
        }
    }
    Ok((wanted, others))
}

impl Lane {
    /// The query for `columns` of the rows in this lane; its parameters are those of [`Self::parameters`].
    pub(super) fn sql(&self, columns: &str, order: Order) -> String {
        let equal: String = self.columns.iter().zip(3..).map(|(column, index)| format!(" AND {column} = ?{index}")).collect();
        let order = match order {
            Order::Forwards => "",
            Order::Backwards => " DESC",
        };
        let index = self.index;
        format!("SELECT {columns} FROM events {index} WHERE position > ?1 AND position < ?2{equal} ORDER BY position{order}")
    }

    pub(super) fn parameters(&self, range: Range) -> impl rusqlite::Params {
        params_from_iter([range.after.into(), range.before.into()].into_iter().chain(self.values.iter().cloned()))
    }
}

/// Several lanes as one order of positions.
pub(super) struct Merge {
    order: Order,
    sql: String,
    piece: usize,
    heads: Vec<Head>,
}

struct Head {
    lane: Lane,
    /// What of the lane has not been read.
    rest: Option<Range>,
    ready: VecDeque<i64>,
}

impl Merge {
    pub(super) fn new(lanes: Vec<Lane>, range: Range, order: Order, wanted: usize) -> Self {
        let piece = (wanted / lanes.len().max(1)).clamp(PIECE_MIN, PIECE_MAX);
        let sql = lanes.first().map(|lane| lane.sql("position", order)).unwrap_or_default();
        let heads = lanes.into_iter().map(|lane| Head { lane, rest: Some(range), ready: VecDeque::new() }).collect();
        Self { order, sql, piece, heads }
    }

    /// The next position of all lanes.
    pub(super) fn next(&mut self, conn: &Connection) -> Result<Option<i64>, ModelError> {
        for head in &mut self.heads {
            if let (true, Some(range)) = (head.ready.is_empty(), head.rest) {
                head.fill(conn, &self.sql, range, self.order, self.piece)?;
            }
        }
        let ready = self.heads.iter_mut().filter(|head| !head.ready.is_empty());
        let next = match self.order {
            Order::Forwards => ready.min_by_key(|head| head.ready.front().copied()),
            Order::Backwards => ready.max_by_key(|head| head.ready.front().copied()),
        };
        Ok(next.and_then(|head| head.ready.pop_front()))
    }
}

impl Head {
    fn fill(&mut self, conn: &Connection, sql: &str, range: Range, order: Order, piece: usize) -> Result<(), ModelError> {
        let mut select = conn.prepare_cached(sql)?;
        let mut rows = select.query(self.lane.parameters(range))?;
        while self.ready.len() < piece
            && let Some(row) = rows.next()?
        {
            self.ready.push_back(row.get(0)?);
        }
        self.rest = match (self.ready.len() < piece, self.ready.back(), order) {
            (false, Some(last), Order::Forwards) => Some(Range { after: *last, ..range }),
            (false, Some(last), Order::Backwards) => Some(Range { before: *last, ..range }),
            _ => None,
        };
        Ok(())
    }
}
