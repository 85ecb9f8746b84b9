//! How many events pass a filter, exactly.
//!
//! What one index answers is counted in that index, without its rows. Sources together with types or aggregates are counted by
//! leaping through both indexes. Rows are read only where an index cannot tell: within a chain or the effects of one event that
//! are filtered further, and where times do not rise with positions. The number of all events is known.

use std::time::Instant;

use causeway_event::Position;

use super::clock;
use super::lanes::{self, Fit, Join, Lane, Plan, Range};
use super::reader::{Reader, within};
use super::{ModelError, Order, Query};

/// Positions that are counted at once: between, it is looked at the time.
const PIECE: i64 = 1 << 20;
/// What is visited one by one, between two looks at the time.
const LOOK_EVERY: u64 = 1024;

impl Reader {
    /// How many events pass the query up to `last`, whatever its limit. Gives up at the deadline.
    pub(crate) fn count(&mut self, query: &Query, last: Position, deadline: Instant) -> Result<u64, ModelError> {
        let descendants = self.descent(query, last)?;
        let last = descendants.as_ref().map_or(last, |descendants| descendants.reached().min(last));
        let query = Query { order: Order::Forwards, descendants, ..query.clone() };
        let range = self.range(&query, last)?;
        if range.is_empty() {
            return Ok(0);
        }
        let sure = self.sure(&query, range, last)?;
        if sure.is_empty() {
            return self.visited(&query, range, deadline);
        }
        let before = Range { before: sure.after.saturating_add(1), ..range };
        let behind = Range { after: sure.before.saturating_sub(1), ..range };
        let counted = self.visited(&query, before, deadline)? + self.visited(&query, behind, deadline)?;
        Ok(counted + self.counted(&query, sure, deadline)?)
    }

    /// The part of the range in which all times are right.
    fn sure(&mut self, query: &Query, range: Range, last: Position) -> Result<Range, ModelError> {
        let (mut after, mut before) = (range.after, range.before);
        if query.filter.from.is_some() || query.filter.until.is_some() {
            let skew = self.skew()?;
            let mut rows = self.rows(last);
            if let Some(from) = query.filter.from {
                after = after.max(clock::surely_from(&mut rows, skew, from)? - 1);
            }
            if let Some(until) = query.filter.until {
                before = before.min(clock::surely_until(&mut rows, skew, until)?);
            }
        }
        Ok(Range { after, before })
    }

    /// Counts where times do not matter.
    fn counted(&mut self, query: &Query, range: Range, deadline: Instant) -> Result<u64, ModelError> {
        if let Some(descendants) = &query.descendants {
            return match query.filter.is_only_descent() {
                true => Ok(within(descendants.positions(), range).len() as u64),
                false => self.visited(query, range, deadline),
            };
        }
        match lanes::plan(&self.conn, &mut self.names, &query.filter)? {
            Plan::Nothing => Ok(0),
            Plan::Direct(lane, Fit::Exact) if lane.is_everything() => self.everything(range, deadline),
            Plan::Direct(lane, Fit::Exact) => self.lanes(&[lane], range, deadline),
            Plan::Joined(sets, Fit::Exact) => match sets.as_slice() {
                [lanes] => self.lanes(lanes, range, deadline),
                _ => self.joined(sets, range, deadline),
            },
            Plan::Direct(_, Fit::Loose) | Plan::Joined(_, Fit::Loose) => self.visited(query, range, deadline),
        }
    }

    /// Counts all events in the range, or those around it where they are fewer.
    fn everything(&self, range: Range, deadline: Instant) -> Result<u64, ModelError> {
        let (events, position): (i64, i64) =
            self.conn.prepare_cached("SELECT events, position FROM meta")?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let lanes = lanes::all(&self.conn)?;
        let (before, behind) =
            (Range { after: 0, before: range.after + 1 }, Range { after: range.before - 1, before: position + 1 });
        let around = range.after + (position - range.before).max(0);
        if range.before - range.after < around {
            return self.lanes(&lanes, range, deadline);
        }
        let around = self.lanes(&lanes, before, deadline)? + self.lanes(&lanes, behind, deadline)?;
        Ok(events.unsigned_abs().saturating_sub(around))
    }

    fn lanes(&self, lanes: &[Lane], range: Range, deadline: Instant) -> Result<u64, ModelError> {
        let mut count = 0;
        for lane in lanes {
            let mut rest = range;
            while !rest.is_empty() {
                in_time(deadline)?;
                let end = rest.after.saturating_add(PIECE).min(rest.before);
                count += lane.count(&self.conn, Range { before: end, ..rest })?;
                rest.after = end.saturating_sub(1);
            }
        }
        Ok(count)
    }

    fn joined(&self, sets: Vec<Vec<Lane>>, range: Range, deadline: Instant) -> Result<u64, ModelError> {
        let (mut join, mut count) = (Join::new(sets, range, Order::Forwards, usize::MAX), 0_u64);
        while join.next(&self.conn)?.is_some() {
            count += 1;
            if count.is_multiple_of(LOOK_EVERY) {
                in_time(deadline)?;
            }
        }
        Ok(count)
    }

    /// Looks at each event that may pass.
    fn visited(&mut self, query: &Query, range: Range, deadline: Instant) -> Result<u64, ModelError> {
        let (mut count, mut late) = (0_u64, false);
        self.visit(query, query.descendants.as_deref(), range, &mut |_| {
            count += 1;
            late = count.is_multiple_of(LOOK_EVERY) && in_time(deadline).is_err();
            !late
        })?;
        if late { Err(ModelError::TookTooLong) } else { Ok(count) }
    }
}

fn in_time(deadline: Instant) -> Result<(), ModelError> {
    if Instant::now() < deadline { Ok(()) } else { Err(ModelError::TookTooLong) }
}
