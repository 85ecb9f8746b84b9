//! Which index answers a filter, and one order out of several index ranges.
//!
//! A lane is a range of one index in which rows stand by position. A filter over one lane is read directly. Some types (a
//! category is the types of that category) are a set of lanes, merged; what else is asked for is another set, and the sets are
//! joined by leaping from the one to the next position that the other has. Each lane is read a piece at a time. So a page costs
//! what it returns and leaps over, whatever the length of the log.

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
/// Leaps in a row that find nothing before the join says how far it is.
const LEAPS_MAX: usize = 64;

/// How to find what passes a filter, its times and its descent aside.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing can pass.
    Nothing,
    /// One range of one index (or the table itself).
    Direct(Lane, Fit),
    /// What stands in some lane of each set.
    Joined(Vec<Vec<Lane>>, Fit),
}

/// Whether all that a plan finds passes, or has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Exact,
    Loose,
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

impl Range {
    pub(super) fn is_empty(self) -> bool {
        self.before.saturating_sub(self.after) <= 1
    }
}

/// Chooses the narrowest index.
pub(super) fn plan(conn: &Connection, names: &mut AllNames, filter: &Filter) -> Result<Plan, ModelError> {
    // What one event caused, or a chain, is short, compared with anything else that a filter may name.
    if let Some(cause) = filter.caused_by {
        let lane = Lane::new("INDEXED BY events_by_causation", &["causation"], vec![cause.uuid().as_bytes().to_vec().into()]);
        return Ok(Plan::Direct(lane, filter.fit_of(Filter { caused_by: Some(cause), ..Filter::default() })));
    }
    if let Some(chain) = &filter.correlation_id {
        let value = Chain(chain);
        let value = match value.to_sql()? {
            rusqlite::types::ToSqlOutput::Owned(value) => value,
            _ => Value::Text(chain.as_str().to_owned()),
        };
        let lane = Lane::new("INDEXED BY events_by_correlation", &["correlation"], vec![value]);
        return Ok(Plan::Direct(lane, filter.fit_of(Filter { correlation_id: Some(chain.clone()), ..Filter::default() })));
    }
    let aggregate = match &filter.aggregate_id {
        None => None,
        Some(aggregate) => match names.aggregates.find(conn, aggregate)? {
            None => return Ok(Plan::Nothing),
            number => number,
        },
    };
    let (types, fit) = match filter.types.is_empty() && filter.category.is_none() {
        true => (None, Fit::Exact),
        false => match wanted_types(conn, filter)? {
            (wanted, _) if wanted.is_empty() => return Ok(Plan::Nothing),
            (_, 0) => (None, Fit::Exact),
            (wanted, _) if wanted.len() > LANES_MAX => (None, Fit::Loose),
            (wanted, _) => (Some(wanted), Fit::Exact),
        },
    };
    let mut sets = Vec::new();
    match (aggregate, types) {
        (None, None) => {}
        (Some(aggregate), None) => {
            sets.push(vec![Lane::new("INDEXED BY events_by_aggregate", &["aggregate"], vec![aggregate.into()])]);
        }
        (None, Some(types)) => sets.push(types.into_iter().map(Lane::of_type).collect()),
        (Some(aggregate), Some(types)) => {
            let lane = |number: i64| {
                let values = vec![aggregate.into(), number.into()];
                Lane::new("INDEXED BY events_by_aggregate_type", &["aggregate", "type"], values)
            };
            sets.push(types.into_iter().map(lane).collect());
        }
    }
    if let Some(source) = &filter.source {
        let Some(source) = names.sources.find(conn, source)? else { return Ok(Plan::Nothing) };
        sets.push(vec![Lane::new("INDEXED BY events_by_source", &["source"], vec![source.into()])]);
    }
    Ok(match sets.as_slice() {
        [] => Plan::Direct(Lane::new("NOT INDEXED", &[], vec![]), fit),
        [set] if set.len() == 1 => Plan::Direct(set[0].clone(), fit),
        _ => Plan::Joined(sets, fit),
    })
}

/// The types that can pass, and how many cannot.
fn wanted_types(conn: &Connection, filter: &Filter) -> Result<(Vec<i64>, usize), ModelError> {
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

/// Lanes that have every event once, without its data.
pub(super) fn all(conn: &Connection) -> Result<Vec<Lane>, ModelError> {
    let (types, _) = wanted_types(conn, &Filter::default())?;
    Ok(types.into_iter().map(Lane::of_type).collect())
}

impl Filter {
    /// Whether it asks for this and nothing else.
    fn fit_of(&self, only: Self) -> Fit {
        let asked = Self { descendants_of: None, from: None, until: None, ..self.clone() };
        if asked == only { Fit::Exact } else { Fit::Loose }
    }
}

impl Lane {
    fn new(index: &'static str, columns: &'static [&'static str], values: Vec<Value>) -> Self {
        Self { index, columns, values }
    }

    fn of_type(number: i64) -> Self {
        Self::new("INDEXED BY events_by_type", &["type"], vec![number.into()])
    }

    /// Whether it is the table itself.
    pub(super) fn is_everything(&self) -> bool {
        self.columns.is_empty()
    }

    /// The query for `columns` of the rows in this lane; its parameters are those of [`Self::parameters`].
    pub(super) fn sql(&self, columns: &str, order: Order) -> String {
        let order = match order {
            Order::Forwards => "",
            Order::Backwards => " DESC",
        };
        format!("{} ORDER BY position{order}", self.unordered(columns))
    }

    /// How many of its rows are in the range. Reads nothing but that range of the index.
    pub(super) fn count(&self, conn: &Connection, range: Range) -> Result<u64, ModelError> {
        let counted: i64 =
            conn.prepare_cached(&self.unordered("count(*)"))?.query_row(self.parameters(range), |row| row.get(0))?;
        Ok(counted.unsigned_abs())
    }

    fn unordered(&self, columns: &str) -> String {
        let equal: String = self.columns.iter().zip(3..).map(|(column, index)| format!(" AND {column} = ?{index}")).collect();
        format!("SELECT {columns} FROM events {} WHERE position > ?1 AND position < ?2{equal}", self.index)
    }

    pub(super) fn parameters(&self, range: Range) -> impl rusqlite::Params {
        params_from_iter([range.after.into(), range.before.into()].into_iter().chain(self.values.iter().cloned()))
    }
}

/// What a join comes to.
pub(super) enum Step {
    /// All sets have this position.
    Found(i64),
    /// No position from the last one up to here (backwards: down to here) is in all sets.
    Leapt(i64),
}

/// The positions that all sets of lanes have, in order.
pub(super) struct Join {
    order: Order,
    /// Where to go on.
    at: i64,
    sets: Vec<Merge>,
}

impl Join {
    pub(super) fn new(sets: Vec<Vec<Lane>>, range: Range, order: Order, wanted: usize) -> Self {
        let at = match order {
            Order::Forwards => range.after.saturating_add(1),
            Order::Backwards => range.before.saturating_sub(1),
        };
        let sets = sets.into_iter().map(|lanes| Merge::new(lanes, range, order, wanted)).collect();
        Self { order, at, sets }
    }

    pub(super) fn next(&mut self, conn: &Connection) -> Result<Option<Step>, ModelError> {
        for _ in 0..LEAPS_MAX {
            let wanted = self.at;
            for set in &mut self.sets {
                match set.first_from(conn, self.at)? {
                    Some(found) => self.at = found,
                    None => return Ok(None),
                }
            }
            // All sets have it: none leapt further.
            if self.at == wanted {
                self.at = match self.order {
                    Order::Forwards => wanted.saturating_add(1),
                    Order::Backwards => wanted.saturating_sub(1),
                };
                return Ok(Some(Step::Found(wanted)));
            }
        }
        Ok(Some(Step::Leapt(match self.order {
            Order::Forwards => self.at.saturating_sub(1),
            Order::Backwards => self.at.saturating_add(1),
        })))
    }
}

/// Several lanes as one order of positions.
struct Merge {
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
    fn new(lanes: Vec<Lane>, range: Range, order: Order, wanted: usize) -> Self {
        let piece = (wanted / lanes.len().max(1)).clamp(PIECE_MIN, PIECE_MAX);
        let sql = lanes.first().map(|lane| lane.sql("position", order)).unwrap_or_default();
        let heads = lanes.into_iter().map(|lane| Head { lane, rest: Some(range), ready: VecDeque::new() }).collect();
        Self { order, sql, piece, heads }
    }

    /// The first position at `at` or behind it, in this order. What stands before it is gone.
    fn first_from(&mut self, conn: &Connection, at: i64) -> Result<Option<i64>, ModelError> {
        let (order, mut first) = (self.order, None);
        for head in &mut self.heads {
            let passed = |position: &i64| match order {
                Order::Forwards => *position < at,
                Order::Backwards => at < *position,
            };
            while head.ready.pop_front_if(|position| passed(position)).is_some() {}
            if head.ready.is_empty() {
                head.fill(conn, &self.sql, at, order, self.piece)?;
            }
            let next = head.ready.front().copied();
            first = match (first, next) {
                (Some(first), Some(next)) if order == Order::Forwards => Some(next.min(first)),
                (Some(first), Some(next)) => Some(next.max(first)),
                (first, next) => first.or(next),
            };
        }
        Ok(first)
    }
}

impl Head {
    /// Reads the next piece, from `at` on.
    fn fill(&mut self, conn: &Connection, sql: &str, at: i64, order: Order, piece: usize) -> Result<(), ModelError> {
        let Some(rest) = self.rest else { return Ok(()) };
        let range = match order {
            Order::Forwards => Range { after: rest.after.max(at.saturating_sub(1)), ..rest },
            Order::Backwards => Range { before: rest.before.min(at.saturating_add(1)), ..rest },
        };
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
