//! What the last position of a fence's subject says about the fence. Pure.

use causeway_event::Position;

use super::single::Attempt;

/// Where a fence stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    /// It holds.
    Holds,
    /// Something stands behind it: the first of that decides whether it is ours.
    Passed,
    /// What it names was never there.
    Ahead,
    /// Whoever answered knows less than somebody did before: it has to be asked again.
    Unsure,
}

pub(super) fn standing(expected: Position, actual: Position, attempt: Attempt) -> Standing {
    match attempt {
        _ if actual == expected => Standing::Holds,
        _ if actual > expected => Standing::Passed,
        Attempt::First => Standing::Ahead,
        // The silence may have been a leader's end, and the next one may not have applied all yet.
        Attempt::AfterSilence => Standing::Unsure,
    }
}

/// What stands first behind a fence that something stands behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Behind {
    /// This append, which begins here.
    Ours(Position),
    /// Another.
    Theirs,
    /// Nothing that the leader of this moment knows of.
    NotKnown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_knows_less_than_the_last_one_is_not_believed_after_a_silence() {
        let check = |expected, actual, attempt, wanted| {
            assert_eq!(standing(Position::new(expected), Position::new(actual), attempt), wanted, "{expected} {actual}");
        };
        for attempt in [Attempt::First, Attempt::AfterSilence] {
            check(7, 7, attempt, Standing::Holds);
            check(7, 8, attempt, Standing::Passed);
        }
        check(7, 6, Attempt::First, Standing::Ahead);
        check(7, 6, Attempt::AfterSilence, Standing::Unsure);
    }
}
