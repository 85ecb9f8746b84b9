//! What clients recorded, held against the log: each claim by itself, the order of time over all, and each subject as a whole.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::{Call, NEVER, Said, order};

/// What the fences are on: the custom events of an aggregate. Its number.
pub(super) type Subject = usize;

/// One append (under a name that stands in the data of its events), from its first request to its last answer.
#[derive(Clone, Debug)]
pub(super) struct Append {
    pub(super) name: String,
    pub(super) called: u64,
    pub(super) returned: u64,
    /// One event for each subject, and the fence on it.
    pub(super) events: Vec<(Subject, Option<u64>)>,
    pub(super) outcome: Outcome,
}

/// What its client knows of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// It is on the log, each event where this says.
    Appended(Vec<u64>),
    /// It is not, because of this fence.
    Conflict { subject: Subject, actual: u64 },
    /// It is not.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Somebody looked where a subject ends.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) called: u64,
    pub(super) returned: u64,
    pub(super) subject: Subject,
    pub(super) last: u64,
}

/// All that clients recorded.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) appends: Vec<Append>,
    pub(super) looks: Vec<Look>,
}

/// One event as it stands in the log at the end.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) position: u64,
    pub(super) subject: Subject,
    pub(super) name: String,
}

impl History {
    /// What is wrong with it, or nothing.
    pub(super) fn judge(&self, log: &[Logged]) -> Result<(), String> {
        let settled = self.settle(log)?;
        in_order_of_time(&settled)?;
        let subjects: BTreeSet<Subject> = log.iter().map(|event| event.subject).collect();
        for subject in subjects {
            let calls = self.calls(subject, &settled);
            order(&calls).map_err(|longest| told(subject, &calls, &longest))?;
        }
        Ok(())
    }

    /// Every claim against the log. What is on it, with its positions; what nobody knew of has its answer never.
    fn settle(&self, log: &[Logged]) -> Result<Vec<(Append, Vec<u64>)>, String> {
        let mut found: BTreeMap<&str, Vec<(u64, Subject)>> = BTreeMap::new();
        for event in log {
            found.entry(&event.name).or_default().push((event.position, event.subject));
        }
        let mut settled = Vec::new();
        for append in &self.appends {
            let stands = found.remove(append.name.as_str());
            if let Some(stands) = &stands {
                let subjects = || stands.iter().map(|(_, subject)| *subject);
                if !subjects().eq(append.events.iter().map(|(subject, _)| *subject)) {
                    return Err(format!("not all of it, or not once: {append:?} stands at {stands:?}"));
                }
                if !stands.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0) {
                    return Err(format!("torn apart: {append:?} stands at {stands:?}"));
                }
            }
            let positions: Option<Vec<u64>> = stands.map(|stands| stands.into_iter().map(|(position, _)| position).collect());
            match (&append.outcome, positions) {
                (Outcome::Appended(said), Some(positions)) if *said == positions => settled.push((append.clone(), positions)),
                (Outcome::Unknown, Some(positions)) => {
                    settled.push((Append { returned: NEVER, ..append.clone() }, positions));
                }
                (Outcome::Unknown | Outcome::Conflict { .. } | Outcome::Refused, None) => {}
                (_, positions) => return Err(format!("{append:?} stands at {positions:?}")),
            }
        }
        match found.into_iter().next() {
            None => Ok(settled),
            Some(unknown) => Err(format!("nobody appended {unknown:?}")),
        }
    }

    fn calls(&self, subject: Subject, settled: &[(Append, Vec<u64>)]) -> Vec<Call> {
        let mut calls = Vec::new();
        for (append, positions) in settled {
            for ((of, expected), position) in append.events.iter().zip(positions) {
                if *of == subject {
                    let said = Said::Appended { expected: *expected, position: *position };
                    calls.push(Call { called: append.called, returned: append.returned, said });
                }
            }
        }
        for Append { called, returned, events, outcome, .. } in &self.appends {
            let Outcome::Conflict { subject: of, actual } = outcome else { continue };
            let fence = events.iter().find_map(|(event, expected)| expected.filter(|_| event == of && *of == subject));
            if let Some(expected) = fence {
                calls.push(Call { called: *called, returned: *returned, said: Said::Conflict { expected, actual: *actual } });
            }
        }
        let looks = self.looks.iter().filter(|look| look.subject == subject);
        calls.extend(looks.map(|Look { called, returned, last, .. }| Call {
            called: *called,
            returned: *returned,
            said: Said::Read { last: *last },
        }));
        calls
    }
}

/// What had returned before something else was called stands before it, over all subjects.
fn in_order_of_time(settled: &[(Append, Vec<u64>)]) -> Result<(), String> {
    let mut settled: Vec<_> = settled.iter().collect();
    settled.sort_unstable_by_key(|(_, positions)| positions[0]);
    let mut latest: Option<&Append> = None;
    for (append, _) in settled {
        match latest {
            Some(earlier) if append.returned < earlier.called => {
                return Err(format!("{append:?} had returned when {earlier:?} was called, and stands behind it"));
            }
            Some(earlier) if append.called <= earlier.called => {}
            _ => latest = Some(append),
        }
    }
    Ok(())
}

fn told(subject: Subject, calls: &[Call], longest: &[usize]) -> String {
    let mut left: Vec<&Call> = (0..calls.len()).filter(|n| !longest.contains(n)).map(|n| &calls[n]).collect();
    left.sort_unstable_by_key(|call| call.called);
    let taken: Vec<&Call> = longest.iter().rev().take(6).rev().map(|n| &calls[*n]).collect();
    let left = &left[..left.len().min(6)];
    format!(
        "subject {subject}: {} of {} calls in order, the last of them {taken:#?}, and then none of {left:#?}",
        longest.len(),
        calls.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(name: &str, called: u64, returned: u64, expected: Option<u64>, outcome: Outcome) -> Append {
        Append { name: name.into(), called, returned, events: vec![(0, expected)], outcome }
    }

    fn logged(names: &[(&str, u64)]) -> Vec<Logged> {
        names.iter().map(|(name, position)| Logged { position: *position, subject: 0, name: (*name).into() }).collect()
    }

    #[track_caller]
    fn check(appends: Vec<Append>, log: &[(&str, u64)], wrong: Option<&str>) {
        let judged = History { appends, looks: vec![] }.judge(&logged(log));
        match (judged, wrong) {
            (Ok(()), None) => {}
            (Err(said), Some(word)) if said.contains(word) => {}
            (judged, _) => panic!("{judged:?} instead of {wrong:?}"),
        }
    }

    #[test]
    fn an_acknowledged_append_that_is_not_on_the_log_is_refused() {
        check(vec![append("a", 0, 1, Some(0), Outcome::Appended(vec![3]))], &[], Some("stands at None"));
        check(vec![append("a", 0, 1, Some(0), Outcome::Appended(vec![3]))], &[("a", 4)], Some("stands at Some([4])"));
        check(vec![append("a", 0, 1, Some(0), Outcome::Appended(vec![3]))], &[("a", 3)], None);
    }

    #[test]
    fn an_append_that_stands_twice_is_refused() {
        check(vec![append("a", 0, 1, None, Outcome::Appended(vec![3]))], &[("a", 3), ("a", 4)], Some("not once"));
    }

    #[test]
    fn an_append_that_was_refused_and_stands_there_is_refused() {
        check(vec![append("a", 0, 1, Some(0), Outcome::Refused)], &[("a", 3)], Some("stands at"));
        check(vec![append("a", 0, 1, Some(0), Outcome::Conflict { subject: 0, actual: 2 })], &[("a", 3)], Some("stands at"));
        check(vec![append("a", 0, 1, Some(0), Outcome::Refused)], &[], None);
    }

    #[test]
    fn what_nobody_appended_is_refused() {
        check(vec![], &[("a", 3)], Some("nobody"));
    }

    #[test]
    fn an_unknown_append_may_be_there_or_not() {
        check(vec![append("a", 0, 1, Some(0), Outcome::Unknown)], &[("a", 3)], None);
        check(vec![append("a", 0, 1, Some(0), Outcome::Unknown)], &[], None);
        let stale = append("b", 4, 5, Some(0), Outcome::Unknown);
        check(vec![append("a", 0, 1, Some(0), Outcome::Appended(vec![3])), stale], &[("a", 3), ("b", 4)], Some("subject 0"));
    }

    #[test]
    fn an_order_against_the_clock_is_refused_across_subjects() {
        let mut late = append("late", 4, 5, None, Outcome::Appended(vec![1]));
        late.events[0].0 = 1;
        let mut log = logged(&[("late", 1), ("early", 2)]);
        log[0].subject = 1;
        let appends = vec![late, append("early", 0, 1, None, Outcome::Appended(vec![2]))];
        let wrong = History { appends, looks: vec![] }.judge(&log).unwrap_err();
        assert!(wrong.contains("had returned"), "{wrong}");
    }

    #[test]
    fn an_atomic_append_that_was_torn_apart_is_refused() {
        let events = vec![(0, None), (1, None)];
        let pair = Append { name: "p".into(), called: 0, returned: 1, events, outcome: Outcome::Appended(vec![1, 3]) };
        let log = [(1, 0), (3, 1)].map(|(position, subject)| Logged { position, subject, name: "p".into() });
        let wrong = History { appends: vec![pair], looks: vec![] }.judge(&log).unwrap_err();
        assert!(wrong.contains("torn"), "{wrong}");
    }
}
