//! How many events pass a filter, exactly.
//!
//! What one index answers is counted in that index, without its rows. Sources together with types or aggregates are counted by
//! leaping through both indexes. Rows are read only where an index cannot tell: within a chain or the effects of one event that
//! are filtered further, and in the blocks that the wanted times begin or end in. The number of all events is known.

use std::ops::ControlFlow;

use causeway_event::Position;

use super::clock::Piece;
use super::lanes::{self, Fit, Join, Lane, Plan, Range, Step};
use super::reader::{Reader, Visited, range, within};
use super::{ModelError, Order, Query};

impl Reader {
    /// How many events pass the query up to `last`, whatever its limit.
    pub(crate) fn count(&mut self, query: &Query, last: Position) -> Result<u64, ModelError> {
        let descendants = self.descent(query, last)?;
        let last = descendants.as_ref().map_or(last, |descendants| descendants.reached().min(last));
        let query = Query { order: Order::Forwards, descendants, ..query.clone() };
        let pieces = self.pieces(&query, range(&query, last))?;
        let (sure, other): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| piece.surely);
        let mut count = self.visited(&query, &other)?;
        for piece in sure {
            count += self.counted(&query, piece)?;
        }
        Ok(count)
    }

    /// Counts where times do not matter.
    fn counted(&mut self, query: &Query, piece: Piece) -> Result<u64, ModelError> {
        let range = piece.range;
        if let Some(descendants) = &query.descendants {
            return match query.filter.is_only_descent() {
                true => Ok(within(descendants.positions(), range).len() as u64),
                false => self.visited(query, &[piece]),
            };
        }
        match lanes::plan(&self.conn, &mut self.names, &query.filter)? {
            Plan::Nothing => Ok(0),
            Plan::Direct(lane, Fit::Exact) if lane.is_everything() => self.everything(range),
            Plan::Direct(lane, Fit::Exact) => self.lanes(&[lane], range),
            Plan::Joined(sets, Fit::Exact) => match sets.as_slice() {
                [lanes] => self.lanes(lanes, range),
                _ => self.joined(sets, range),
            },
            Plan::Direct(_, Fit::Loose) | Plan::Joined(_, Fit::Loose) => self.visited(query, &[piece]),
        }
    }

    /// Counts all events in the range, or those around it where they are fewer.
    fn everything(&self, range: Range) -> Result<u64, ModelError> {
        let (events, position): (i64, i64) =
            self.conn.prepare_cached("SELECT events, position FROM meta")?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let lanes = lanes::all(&self.conn)?;
        let (before, behind) =
            (Range { after: 0, before: range.after + 1 }, Range { after: range.before - 1, before: position + 1 });
        let around = range.after + (position - range.before).max(0);
        if range.before - range.after < around {
            return self.lanes(&lanes, range);
        }
        let around = self.lanes(&lanes, before)? + self.lanes(&lanes, behind)?;
        Ok(events.unsigned_abs().saturating_sub(around))
    }

    fn lanes(&self, lanes: &[Lane], range: Range) -> Result<u64, ModelError> {
        let mut count = 0;
        for lane in lanes {
            count += lane.count(&self.conn, range)?;
        }
        Ok(count)
    }

    fn joined(&self, sets: Vec<Vec<Lane>>, range: Range) -> Result<u64, ModelError> {
        let (mut join, mut count) = (Join::new(sets, range, Order::Forwards, usize::MAX), 0_u64);
        while let Some(step) = join.next(&self.conn)? {
            count += u64::from(matches!(step, Step::Found(_)));
        }
        Ok(count)
    }

    /// Looks at each event that may pass.
    fn visited(&mut self, query: &Query, pieces: &[Piece]) -> Result<u64, ModelError> {
        let mut count = 0_u64;
        let _to_the_end = self.visit(query, query.descendants.as_deref(), pieces, &mut |visited| {
            count += u64::from(matches!(visited, Visited::Event(_)));
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }
}
