//! Whether a recorded history of one subject (the events of an aggregate in a category) could have happened one call after the
//! other. Pure: it knows times and positions, no gateway.
//!
//! The object is one number, the position of the subject's last event. The search is that of Wing and Gong with Lowe's memo:
//! take any call that nobody had to wait for, see whether it could have come next, go on; turn back where nothing fits; never
//! look twice at the same set of calls with the same number.

use std::collections::HashSet;

/// The time of an answer that never came: the call may have had its effect at any time after it was made.
pub(super) const NEVER: u64 = u64::MAX;

/// One call and its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Call {
    /// When it was made.
    pub(super) called: u64,
    /// When it was answered.
    pub(super) returned: u64,
    /// What it said.
    pub(super) said: Said,
}

/// What a call says of the subject at the one moment, between its two times, at which it had its effect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    /// The last event stood where it was expected (anywhere, if nothing was), and since then it stands at `position`.
    Appended { expected: Option<u64>, position: u64 },
    /// The last event did not stand at `expected`, but at `actual`.
    Conflict { expected: u64, actual: u64 },
    /// The last event stood at `last`.
    Read { last: u64 },
}

impl Said {
    /// Where the last event stands after this, or none if this cannot be said of a subject whose last event stands at `last`.
    fn after(self, last: u64) -> Option<u64> {
        match self {
            Self::Appended { expected, position } => {
                (expected.is_none_or(|expected| expected == last) && last < position).then_some(position)
            }
            Self::Conflict { expected, actual } => (actual == last && expected != last).then_some(last),
            Self::Read { last: read } => (read == last).then_some(last),
        }
    }
}

/// A legal order of the calls: their places in `calls`. Otherwise how far the longest attempt came, for whoever has to find out.
pub(super) fn order(calls: &[Call]) -> Result<Vec<usize>, Vec<usize>> {
    let mut search = Search::new(calls);
    loop {
        match search.moments.entry(search.here) {
            None => return Ok(search.order),
            Some((call, Edge::Call)) if search.take(call) => {}
            Some((_, Edge::Call)) => search.here = search.moments.next[search.here],
            // Its answer was there before anything that is left was called: it should have been taken by now.
            Some((_, Edge::Return)) => {
                if !search.turn_back() {
                    return Err(search.longest);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Call,
    Return,
}

struct Search<'a> {
    calls: &'a [Call],
    moments: Moments,
    here: usize,
    last: u64,
    order: Vec<usize>,
    /// What `last` was before each call of `order`.
    before: Vec<u64>,
    taken: Vec<u64>,
    seen: HashSet<(Vec<u64>, u64)>,
    longest: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let moments = Moments::new(calls);
        let here = moments.first();
        let taken = vec![0; calls.len().div_ceil(64)];
        Self { calls, moments, here, last: 0, order: vec![], before: vec![], taken, seen: HashSet::new(), longest: vec![] }
    }

    /// Takes this call as the next one, if that is possible and leads to somewhere new.
    fn take(&mut self, call: usize) -> bool {
        let Some(last) = self.calls[call].said.after(self.last) else { return false };
        self.mark(call);
        if !self.seen.insert((self.taken.clone(), last)) {
            self.mark(call);
            return false;
        }
        self.order.push(call);
        self.before.push(self.last);
        self.last = last;
        self.moments.lift(call);
        self.here = self.moments.first();
        if self.longest.len() < self.order.len() {
            self.longest.clone_from(&self.order);
        }
        true
    }

    /// Undoes the last call and goes on behind it. False if there is none.
    fn turn_back(&mut self) -> bool {
        let (Some(call), Some(last)) = (self.order.pop(), self.before.pop()) else { return false };
        self.mark(call);
        self.last = last;
        self.moments.put_back(call);
        self.here = self.moments.next[Moments::of_call(call)];
        true
    }

    fn mark(&mut self, call: usize) {
        self.taken[call / 64] ^= 1 << (call % 64);
    }
}

/// Calls and returns in the order of time, as a list from which a call can be lifted and put back.
///
/// Entry 0 is the list's head; a call `n` has the entries `2n + 1` and `2n + 2`.
struct Moments {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Moments {
    fn new(calls: &[Call]) -> Self {
        let mut moments: Vec<(u64, Edge, usize)> = Vec::with_capacity(2 * calls.len());
        for (n, call) in calls.iter().enumerate() {
            moments.push((call.called, Edge::Call, Self::of_call(n)));
            moments.push((call.returned, Edge::Return, Self::of_return(n)));
        }
        // At the same instant calls come first: they overlap with what returns then.
        moments.sort_unstable();
        let mut list = Self { next: vec![0; 2 * calls.len() + 1], previous: vec![0; 2 * calls.len() + 1] };
        let mut before = 0;
        for (.., entry) in moments {
            list.next[before] = entry;
            list.previous[entry] = before;
            before = entry;
        }
        list
    }

    fn of_call(call: usize) -> usize {
        2 * call + 1
    }

    fn of_return(call: usize) -> usize {
        2 * call + 2
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn entry(&self, entry: usize) -> Option<(usize, Edge)> {
        let call = entry.checked_sub(1)? / 2;
        Some((call, if entry % 2 == 1 { Edge::Call } else { Edge::Return }))
    }

    fn lift(&mut self, call: usize) {
        for entry in [Self::of_call(call), Self::of_return(call)] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = next;
            if next != 0 {
                self.previous[next] = previous;
            }
        }
    }

    /// Exactly the opposite, in the opposite order.
    fn put_back(&mut self, call: usize) {
        for entry in [Self::of_return(call), Self::of_call(call)] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = entry;
            if next != 0 {
                self.previous[next] = entry;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn append(called: u64, returned: u64, expected: u64, position: u64) -> Call {
        Call { called, returned, said: Said::Appended { expected: Some(expected), position } }
    }

    fn blind(called: u64, returned: u64, position: u64) -> Call {
        Call { called, returned, said: Said::Appended { expected: None, position } }
    }

    fn conflict(called: u64, returned: u64, expected: u64, actual: u64) -> Call {
        Call { called, returned, said: Said::Conflict { expected, actual } }
    }

    fn read(called: u64, returned: u64, last: u64) -> Call {
        Call { called, returned, said: Said::Read { last } }
    }

    #[track_caller]
    fn legal<const N: usize>(calls: [Call; N]) {
        let order = order(&calls).unwrap_or_else(|longest| panic!("refused after {longest:?}: {calls:?}"));
        assert!(in_time(&calls, &order) && follows(&calls, &order), "{order:?} is no order of {calls:?}");
    }

    #[track_caller]
    fn illegal<const N: usize>(calls: [Call; N]) {
        assert!(order(&calls).is_err(), "accepted: {calls:?}");
    }

    /// Nobody stands before a call that had returned before it was made.
    fn in_time(calls: &[Call], order: &[usize]) -> bool {
        order.iter().enumerate().all(|(at, a)| order[at..].iter().all(|b| calls[*a].called <= calls[*b].returned))
    }

    fn follows(calls: &[Call], order: &[usize]) -> bool {
        order.len() == calls.len() && order.iter().try_fold(0, |last, call| calls[*call].said.after(last)).is_some()
    }

    #[test]
    fn what_happened_one_after_the_other_is_legal() {
        legal([]);
        legal([append(0, 1, 0, 5), append(2, 3, 5, 9), conflict(4, 5, 5, 9), read(6, 7, 9), blind(8, 9, 12)]);
    }

    #[test]
    fn of_two_at_once_either_may_be_first() {
        legal([append(0, 9, 0, 5), conflict(1, 8, 0, 5)]);
        legal([append(0, 9, 5, 7), append(1, 8, 0, 5), read(2, 3, 0), read(4, 5, 7)]);
    }

    #[test]
    fn two_winners_of_one_fence_are_refused() {
        illegal([append(0, 9, 0, 5), append(0, 9, 0, 6)]);
    }

    #[test]
    fn a_conflict_with_what_never_stood_there_is_refused() {
        illegal([append(0, 1, 0, 5), conflict(2, 3, 0, 4)]);
        illegal([append(0, 1, 0, 5), conflict(2, 3, 5, 5)]);
    }

    #[test]
    fn a_conflict_with_what_no_longer_stood_there_is_refused() {
        let appends = [append(0, 1, 0, 5), append(2, 3, 5, 6)];
        illegal([appends[0], appends[1], conflict(4, 5, 0, 5)]);
        legal([appends[0], appends[1], conflict(2, 5, 0, 5)]);
    }

    #[test]
    fn a_conflict_with_what_came_only_later_is_refused() {
        illegal([append(0, 1, 0, 5), conflict(2, 3, 0, 6), append(4, 5, 5, 6)]);
    }

    #[test]
    fn a_stale_read_is_refused() {
        illegal([append(0, 1, 0, 5), read(2, 3, 0)]);
        illegal([append(0, 9, 0, 5), read(1, 2, 5), read(3, 4, 0)]);
    }

    #[test]
    fn an_order_against_the_clock_is_refused() {
        illegal([append(4, 5, 0, 5), append(0, 1, 5, 6)]);
        illegal([blind(4, 5, 5), blind(0, 1, 6)]);
    }

    #[test]
    fn what_was_never_answered_may_have_happened_late_but_not_early() {
        legal([append(0, NEVER, 0, 5), read(1, 2, 0), read(3, 4, 5)]);
        legal([append(0, 1, 0, 5), append(2, NEVER, 5, 6), append(3, 4, 6, 8)]);
        illegal([read(0, 1, 5), append(2, NEVER, 0, 5)]);
    }

    fn call() -> impl Strategy<Value = Call> {
        let said = prop_oneof![
            (proptest::option::weighted(0.7, 0..5_u64), 1..5_u64)
                .prop_map(|(expected, position)| Said::Appended { expected, position }),
            (0..5_u64, 0..5_u64).prop_map(|(expected, actual)| Said::Conflict { expected, actual }),
            (0..5_u64).prop_map(|last| Said::Read { last }),
        ];
        let never = prop_oneof![6 => Just(false), 1 => Just(true)];
        (0..20_u64, 0..12_u64, never, said).prop_map(|(called, took, never, said)| Call {
            called,
            returned: if never { NEVER } else { called + took },
            said,
        })
    }

    fn permutations(left: &[usize], chosen: &mut Vec<usize>, found: &mut impl FnMut(&[usize]) -> bool) -> bool {
        if left.is_empty() {
            return found(chosen);
        }
        left.iter().any(|next| {
            chosen.push(*next);
            let rest: Vec<usize> = left.iter().copied().filter(|other| other != next).collect();
            let done = permutations(&rest, chosen, found);
            chosen.pop();
            done
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_agrees_with_trying_every_order(calls in proptest::collection::vec(call(), 0..6)) {
            let all: Vec<usize> = (0..calls.len()).collect();
            let possible =
                permutations(&all, &mut vec![], &mut |order| in_time(&calls, order) && follows(&calls, order));
            match order(&calls) {
                Ok(order) => prop_assert!(possible && in_time(&calls, &order) && follows(&calls, &order), "{order:?}"),
                Err(longest) => prop_assert!(!possible, "gave up after {longest:?}"),
            }
        }

        #[test]
        fn what_really_happened_one_after_the_other_is_never_refused(
            steps in proptest::collection::vec((any::<bool>(), 0..4_u64, 0..9_u64, 0..9_u64), 0..200)
        ) {
            let (mut last, mut calls) = (0, Vec::new());
            for (n, (fenced, stale, early, late)) in (10_u64..).step_by(2).zip(steps) {
                let expected = fenced.then_some(if stale == 0 { last + 1 } else { last });
                let said = match expected {
                    Some(expected) if expected != last => Said::Conflict { expected, actual: last },
                    expected => Said::Appended { expected, position: n },
                };
                last = said.after(last).unwrap();
                calls.push(Call { called: n - early, returned: n + late, said });
            }
            prop_assert!(order(&calls).is_ok());
        }
    }
}
