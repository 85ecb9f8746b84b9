//! Each deed is named with its position, once; an honest log has no problem.

use causeway_event::EventId;
use proptest::prelude::*;

use super::*;
use crate::{Audit, Fault, Finding, FirstCheckpoint, Hash, Line, Marks, Severity, Summary, Trust};

fn trust() -> Trust {
    Trust { keys: vec![signer().public_key()], ..Trust::default() }
}

fn audit(log: &[Entry], trust: Trust) -> (Vec<Finding>, Summary) {
    let mut audit = Audit::new(Chain::START, trust);
    log.iter().for_each(|entry| audit.entry(entry));
    audit.finish()
}

fn problems(findings: &[Finding]) -> Vec<(Fault, u64, u64)> {
    let is_problem = |finding: &&Finding| finding.severity == Severity::Problem;
    findings.iter().filter(is_problem).map(|f| (f.fault, f.position.get(), f.last.get())).collect()
}

fn warnings(findings: &[Finding]) -> Vec<(Fault, u64)> {
    let is_warning = |finding: &&Finding| finding.severity == Severity::Warning;
    findings.iter().filter(is_warning).map(|f| (f.fault, f.position.get())).collect()
}

#[track_caller]
fn check(log: &[Entry], expected: &[(Fault, u64, u64)]) -> Summary {
    let (findings, summary) = audit(log, trust());
    assert_eq!(problems(&findings), expected, "{findings:#?}");
    summary
}

#[test]
fn an_honest_log_has_no_problem() {
    let (findings, summary) = audit(&log(), trust());
    assert_eq!(problems(&findings), []);
    assert_eq!(warnings(&findings), [(Fault::NoEvent, 4)], "it stood so when it was signed");
    assert_eq!((summary.checkpoints, summary.signed, summary.vouched.get(), summary.events), (2, 2, 11, 11));
    assert_eq!(summary.chain.position.get(), 12);
}

#[test]
fn what_was_done_between_two_checkpoints_is_named_by_them() {
    let mut altered = log();
    altered[8] = note(9, "a", "{\"n\":0}");
    check(&altered, &[(Fault::Checkpoint, 6, 11)]);
    let mut removed = log();
    removed.remove(8);
    check(&removed, &[(Fault::Missing, 9, 9), (Fault::Checkpoint, 6, 11)]);
    let mut early = log();
    early[1] = note(2, "a", "{\"n\":0}");
    let summary = check(&early, &[(Fault::NoEvent, 4, 4), (Fault::Checkpoint, 1, 5)]);
    assert_eq!(summary.checkpoints, 1, "the second one agrees with what stands behind the first");
}

#[test]
fn an_entry_that_was_altered_is_found_by_the_marks_of_the_checkpoint_behind_it() {
    let altered = |position: u64| note(position, "a", "{\"n\":0}");
    // Seven entries have marks: of those before them only the range is known.
    for (at, named) in [(2, None), (5, Some((Fault::Altered, 5, 5))), (11, Some((Fault::Altered, 11, 11)))] {
        let mut log = marked(4);
        log[at as usize - 1] = altered(at);
        let expected: Vec<_> = named.into_iter().chain([(Fault::Checkpoint, 1, 11)]).collect();
        check(&log, &expected);
    }
    let mut several = marked(4);
    for at in [6, 7, 9] {
        several[at as usize - 1] = altered(at);
    }
    check(&several, &[(Fault::Altered, 6, 7), (Fault::Altered, 9, 9), (Fault::Checkpoint, 1, 11)]);
    let mut removed = marked(4);
    removed.remove(8);
    check(&removed, &[(Fault::Missing, 9, 9), (Fault::Checkpoint, 1, 11)]);
    // In an export of which every hash was made anew.
    let mut log = marked(4);
    log[8] = altered(9);
    let mut audit = Audit::new(Chain::START, trust());
    let mut chain = Chain::START;
    for entry in log {
        chain.push(&entry);
        audit.line(&Line::Entry { entry: entry.into(), hash: chain.hash });
    }
    audit.line(&Line::End(chain));
    assert_eq!(problems(&audit.finish().0), [(Fault::Altered, 9, 9), (Fault::Checkpoint, 1, 11)]);
}

#[test]
fn marks_that_were_altered_are_found_by_the_next_checkpoint() {
    let mut log = marked(4);
    let Content::Event(event) = &log[11].content else { panic!() };
    let Payload::Bytes(data) = &event.payload else { panic!() };
    let data: LogCheckpointed = serde_json::from_slice(data).unwrap();
    let mut chain = Chain::START;
    let mut marks = Marks::default();
    for entry in &log {
        chain.push(entry);
        marks.push(entry.position, &entry.leaf());
    }
    log.push(checkpoint(13, &LogCheckpointed { marks: marks.behind(Position::new(11)), ..signer().sign(&chain) }));
    check(&log, &[]);
    log[11] = checkpoint(12, &LogCheckpointed { marks: String::new(), ..data });
    check(&log, &[(Fault::Altered, 12, 12), (Fault::Checkpoint, 12, 12)]);
}

/// Eleven notes and a checkpoint that has marks of those behind a position.
fn marked(behind: u64) -> Vec<Entry> {
    let (mut chain, mut marks) = (Chain::START, Marks::default());
    let mut log: Vec<Entry> = (1..=11).map(|position| note(position, "a", &format!("{{\"n\":{position}}}"))).collect();
    for entry in &log {
        chain.push(entry);
        marks.push(entry.position, &entry.leaf());
    }
    let marks = marks.behind(Position::new(behind));
    log.push(checkpoint(12, &LogCheckpointed { marks, ..signer().sign(&chain) }));
    log
}

#[test]
fn a_rewritten_checkpoint_does_not_have_the_signature() {
    let mut forged = log();
    forged[8] = note(9, "a", "{\"n\":0}");
    let mut chain = Chain::START;
    forged[..11].iter().for_each(|entry| chain.push(entry));
    let own = signer().sign(&chain);
    forged[11] = checkpoint(12, &LogCheckpointed { signature: "0".repeat(128), ..own });
    check(&forged, &[(Fault::Signature, 12, 12)]);
    // Another key is no problem by itself where an earlier checkpoint vouches, but vouches for nothing.
    let other = Signer::from_seed(&[9; 32]).sign(&chain);
    forged[11] = checkpoint(12, &other);
    let summary = check(&forged, &[]);
    assert_eq!((summary.vouched.get(), summary.unvouched), (5, 7));
}

/// A history that somebody wrote anew, with checkpoints that agree with it but for their signature.
fn rewritten(of_checkpoint: impl Fn(LogCheckpointed) -> Payload) -> Vec<Entry> {
    let mut chain = Chain::START;
    let mut log = Vec::new();
    for position in 1..=12 {
        let entry = match position {
            6 | 12 => with(checkpoint(position, &signer().sign(&chain)), |event| {
                event.payload = of_checkpoint(Signer::from_seed(&[9; 32]).sign(&chain));
            }),
            _ => note(position, "a", "\"rewritten\""),
        };
        chain.push(&entry);
        log.push(entry);
    }
    log
}

#[test]
fn a_log_that_no_trusted_key_vouches_for_fails_with_trusted_keys() {
    let bytes = |data: &LogCheckpointed| Bytes::from(serde_json::to_vec(data).unwrap());
    let of_another_key = rewritten(|data| Payload::Bytes(bytes(&data)));
    let taken_out = rewritten(|data| Payload::Digest(Hash::of(&bytes(&data))));
    let mut removed = of_another_key.clone();
    removed.retain(|entry| ![6, 12].contains(&entry.position.get()));
    let renumbered: Vec<Entry> = (1..=10).map(|position| note(position, "a", "1")).collect();
    for log in [&of_another_key, &taken_out, &renumbered] {
        let summary = check(log, &[(Fault::Unvouched, 1, log.len() as u64)]);
        assert_eq!((summary.vouched, summary.unvouched), (Position::START, log.len() as u64));
    }
    assert!(audit(&removed, trust()).1.problems > 0);
    // Without keys nothing is vouched for, whatever stands there; with a head that was kept, all up to it is.
    let (findings, summary) = audit(&of_another_key, Trust::default());
    assert_eq!((problems(&findings), summary.checkpoints, summary.vouched), (vec![], 2, Position::START));
    let head = audit(&renumbered, Trust::default()).1.chain.head();
    let (findings, summary) = audit(&renumbered, Trust { heads: vec![head], ..trust() });
    assert_eq!((problems(&findings), summary.vouched.get(), summary.unvouched), (vec![], 10, 0));
    // Nothing, and what Causeway itself says, need nobody to vouch for.
    check(&[], &[]);
}

#[test]
fn what_stands_behind_a_checkpoint_that_does_not_agree_is_not_vouched_for() {
    let mut early = log();
    early[1] = note(2, "a", "{\"n\":0}");
    assert_eq!(audit(&early, trust()).1.vouched, Position::START);
    let mut late = log();
    late[8] = note(9, "a", "{\"n\":0}");
    assert_eq!(audit(&late, trust()).1.vouched.get(), 5);
}

#[test]
fn a_checkpoint_that_came_too_late_to_be_compared_is_a_warning() {
    let length = 1010;
    let mut chain = Chain::START;
    let mut log = Vec::new();
    let mut late = None;
    for position in 1..=length {
        let entry = foreign(position);
        chain.push(&entry);
        if position == 2 {
            late = Some(signer().sign(&chain));
        }
        log.push(entry);
    }
    log.push(checkpoint(length + 1, &late.unwrap()));
    chain.push(log.last().unwrap());
    let (findings, _) = audit(&log, trust());
    assert!(problems(&findings).iter().all(|(fault, ..)| *fault == Fault::NoEvent), "nothing explains what is no event");
    assert!(warnings(&findings).contains(&(Fault::Checkpoint, length + 1)));
    log.push(checkpoint(length + 2, &signer().sign(&chain)));
    let (findings, summary) = audit(&log, trust());
    assert_eq!((problems(&findings), summary.vouched.get(), summary.unvouched), (vec![], length + 1, 1));
    // What it says of its own place or of what is to come is no delay.
    let mut own = self::log();
    let mut chain = Chain::START;
    own.iter().for_each(|entry| chain.push(entry));
    own[11] = checkpoint(12, &signer().sign(&chain));
    check(&own, &[(Fault::Checkpoint, 12, 12)]);
}

#[test]
fn a_tail_that_was_cut_off_is_seen_by_whoever_kept_a_head() {
    let (_, summary) = audit(&log(), trust());
    let head = summary.chain.head();
    let kept = || Trust { heads: vec![head], ..trust() };
    assert_eq!(problems(&audit(&log(), kept()).0), []);
    assert_eq!(problems(&audit(&log()[..10], trust()).0), [], "nobody else can know");
    assert_eq!(problems(&audit(&log()[..10], kept()).0), [(Fault::KeptHead, 12, 12)]);
    let mut altered = log();
    altered[11] = note(12, "a", "1");
    assert_eq!(problems(&audit(&altered, kept()).0), [(Fault::KeptHead, 6, 12)]);
}

#[test]
fn an_export_that_was_kept_names_the_very_position() {
    let against = |entries: &[Entry]| {
        let mut audit = Audit::new(Chain::START, Trust::default());
        log().iter().for_each(|entry| audit.keep(entry.position, entry.leaf()));
        entries.iter().for_each(|entry| audit.entry(entry));
        problems(&audit.finish().0)
    };
    let mut altered = log();
    altered[1] = note(2, "a", "{\"n\":0}");
    assert!(against(&altered).contains(&(Fault::Altered, 2, 2)));
    assert!(against(&log()[..10]).contains(&(Fault::CutOff, 11, 12)));
    // Checkpoints that nobody signed explain no gap where something did stand.
    let mut chain = Chain::START;
    let mut removed = log();
    removed.remove(1);
    removed[..4].iter().for_each(|entry| chain.push(entry));
    removed[4] = checkpoint(6, &signer().sign(&chain));
    assert!(against(&removed).contains(&(Fault::Missing, 2, 2)));
}

#[test]
fn a_gap_is_a_problem_unless_a_checkpoint_vouches_for_it() {
    let mut chain = Chain::START;
    let mut log = vec![note(1, "a", "1"), note(4, "a", "4")];
    log.iter().for_each(|entry| chain.push(entry));
    check(&log, &[(Fault::Missing, 2, 3)]);
    log.push(checkpoint(5, &signer().sign(&chain)));
    let (findings, _) = audit(&log, trust());
    assert_eq!((problems(&findings), warnings(&findings)), (vec![], vec![(Fault::Missing, 2)]));
}

#[test]
fn a_log_that_is_too_young_to_have_been_signed_is_only_warned_of() {
    let young = || Trust { first_checkpoint: FirstCheckpoint::StillToCome, ..trust() };
    let unsigned: Vec<_> = log().into_iter().take(3).collect();
    let (findings, summary) = audit(&unsigned, young());
    assert_eq!((problems(&findings), warnings(&findings)), (vec![], vec![(Fault::Unvouched, 1)]));
    assert_eq!(summary.vouched, Position::START);
}

#[test]
fn ids_keys_causes_and_fences_are_held_against_what_stands_before() {
    let keyed = |position| with(note(position, "a", "1"), |event| event.key = Some("k".parse().unwrap()));
    let caused = |position, cause: EventId| with(note(position, "a", "1"), |event| event.metadata.causation_id = Some(cause));
    let fenced = |position, at| with(note(position, "a", "1"), |event| event.expected = Some(Position::new(at)));
    check(&[fenced(1, 0), fenced(2, 1), note(3, "b", "1"), fenced(4, 2)], &[(Fault::Unvouched, 1, 4)]);
    check(&[fenced(1, 0), fenced(2, 0)], &[(Fault::Fence, 2, 2)]);
    check(&[note(1, "a", "1"), with(note(2, "a", "1"), |event| event.id = id(1))], &[(Fault::DuplicateId, 2, 2)]);
    let (findings, _) = audit(&[keyed(1), keyed(2), caused(3, id(2)), caused(4, id(5)), note(5, "a", "1")], trust());
    assert_eq!(warnings(&findings), [(Fault::DuplicateKey, 2), (Fault::Cause, 4)]);
}

#[test]
fn a_fence_is_not_judged_by_what_is_missing() {
    let fenced = |position, at| with(note(position, "a", "1"), |event| event.expected = Some(Position::new(at)));
    check(&[fenced(1, 0), fenced(3, 2)], &[(Fault::Missing, 2, 2)]);
    check(&[fenced(1, 0), note(2, "b", "1"), fenced(4, 2)], &[(Fault::Fence, 4, 4), (Fault::Missing, 3, 3)]);
    // Whatever stood there, another one stands behind it.
    check(&[note(1, "a", "1"), note(3, "a", "1"), fenced(4, 2)], &[(Fault::Fence, 4, 4), (Fault::Missing, 2, 2)]);
}

/// The log as an export has it.
fn export() -> Vec<Line> {
    exported(marked_log())
}

fn exported(log: Vec<Entry>) -> Vec<Line> {
    let mut chain = Chain::START;
    let mut lines: Vec<Line> = log
        .into_iter()
        .map(|entry| {
            chain.push(&entry);
            Line::Entry { entry: Box::new(entry), hash: chain.hash }
        })
        .collect();
    lines.push(Line::End(chain));
    lines
}

fn audit_lines(lines: &[Line]) -> Vec<(Fault, u64, u64)> {
    problems(&audit_lines_with(lines, trust()).0)
}

fn audit_lines_with(lines: &[Line], trust: Trust) -> (Vec<Finding>, Summary) {
    let mut audit = Audit::new(Chain::START, trust);
    lines.iter().for_each(|line| audit.line(line));
    audit.no_more_lines();
    audit.finish()
}

fn altered(lines: &mut [Line], at: usize) {
    if let Line::Entry { entry, .. } = &mut lines[at] {
        **entry = note(entry.position.get(), "a", "\"altered\"");
    }
}

#[test]
fn an_export_names_the_line_that_was_altered_removed_swapped_or_put_in() {
    assert_eq!(audit_lines(&export()), []);
    let mut lines = export();
    altered(&mut lines, 8);
    assert_eq!(audit_lines(&lines), [(Fault::Altered, 9, 9)]);
    let mut lines = export();
    lines.remove(8);
    assert_eq!(audit_lines(&lines), [(Fault::Missing, 9, 9)]);
    let mut lines = export();
    lines.swap(7, 8);
    assert_eq!(audit_lines(&lines), [(Fault::Missing, 8, 8), (Fault::OutOfOrder, 8, 8)]);
    let mut lines = export();
    lines.insert(8, Line::Entry { entry: Box::new(note(8, "a", "2")), hash: Hash::ZERO });
    assert_eq!(audit_lines(&lines), [(Fault::OutOfOrder, 8, 8)]);
    let mut lines = export();
    lines.truncate(9);
    assert_eq!(audit_lines(&lines), [(Fault::CutOff, 10, 10)]);
}

/// Makes the hashes of lines `from..=to` anew.
fn rehashed(lines: &mut [Line], from: usize, to: usize) {
    let mut chain = Chain::START;
    for (at, line) in lines.iter_mut().enumerate().take(to + 1) {
        if let Line::Entry { entry, hash } = line {
            chain.push(entry);
            if at < from {
                assert_eq!(*hash, chain.hash);
            }
            *hash = chain.hash;
        }
    }
}

#[test]
fn who_makes_some_hashes_anew_does_not_choose_what_is_named() {
    let honest = || exported(marked(4));
    assert_eq!(audit_lines(&honest()), []);
    // Line 9 is altered, and its hash and the next one fit: the first that does not is that of 11.
    let mut lines = honest();
    altered(&mut lines, 8);
    rehashed(&mut lines, 8, 9);
    let (findings, summary) = audit_lines_with(&lines, trust());
    assert_eq!(problems(&findings), [(Fault::Altered, 9, 9), (Fault::Checkpoint, 1, 11)], "the marks begin at 5");
    assert_eq!((summary.checkpoints, summary.vouched), (0, Position::START), "it does not agree with that");
    // Where there are no marks of it only the range is known, and where it ends.
    let mut lines = honest();
    altered(&mut lines, 1);
    rehashed(&mut lines, 1, 2);
    assert_eq!(audit_lines(&lines), [(Fault::Altered, 4, 4), (Fault::Checkpoint, 1, 4)]);
    // A gap in place of an event: something stood there.
    let mut lines = honest();
    lines[8] = Line::Gap { first: Position::new(9), last: Position::new(9) };
    let (findings, _) = audit_lines_with(&lines, trust());
    assert_eq!(problems(&findings), [(Fault::Missing, 9, 9), (Fault::Checkpoint, 1, 10)]);
}

#[test]
fn a_line_that_was_taken_out_is_named_once_wherever_it_stood() {
    let is_of_the_log = |line: &Line| matches!(line, Line::Entry { .. });
    for at in 0..export().iter().rposition(is_of_the_log).unwrap() {
        let mut lines = export();
        lines.remove(at);
        let position = at as u64 + 1;
        let mut expected = vec![(Fault::Missing, position, position)];
        // Where a checkpoint was taken out, nobody vouches for what stands before it: the next one's marks begin behind it.
        if position == 6 {
            expected.extend([(Fault::NoEvent, 4, 4), (Fault::Checkpoint, 1, 7)]);
        }
        assert_eq!(audit_lines(&lines), expected);
    }
}

#[test]
fn an_export_whose_hashes_were_made_anew_does_not_agree_with_its_checkpoints() {
    let mut lines = export();
    altered(&mut lines, 8);
    let mut chain = Chain::START;
    for line in &mut lines {
        match line {
            Line::Entry { entry, hash } => {
                chain.push(entry);
                *hash = chain.hash;
            }
            Line::End(end) => *end = chain,
            Line::Start(_) | Line::Gap { .. } => {}
        }
    }
    assert_eq!(audit_lines(&lines), [(Fault::Altered, 9, 9), (Fault::Checkpoint, 6, 11)]);
}

#[test]
fn an_export_from_the_middle_is_held_against_the_checkpoints_in_it() {
    let mut chain = Chain::START;
    marked_log()[..7].iter().for_each(|entry| chain.push(entry));
    let mut lines = export().split_off(7);
    lines.insert(0, Line::Start(chain));
    let (findings, summary) = audit_lines_with(&lines, trust());
    assert_eq!(problems(&findings), []);
    assert!(warnings(&findings).contains(&(Fault::Unseen, 1)), "{findings:#?}");
    assert_eq!((summary.start, summary.seen, summary.vouched.get(), summary.unvouched), (chain, 5, 11, 1));
    // The hash that it begins behind, how many entries that stands for, and of which log: each is part of what was signed.
    for (other, fault) in [
        (Chain { hash: Hash::of(b"another beginning"), ..chain }, Fault::Altered),
        (Chain { entries: 900, ..chain }, Fault::Checkpoint),
        (Chain { log: Hash::of(b"another log"), ..chain }, Fault::Checkpoint),
    ] {
        lines[0] = Line::Start(other);
        assert_eq!(audit_lines(&lines)[0].0, fault, "{other:?}");
    }
    // A beginning is behind something.
    let mut whole = export();
    whole.insert(0, Line::Start(Chain { entries: 7, ..Chain::START }));
    assert!(!audit_lines(&whole).is_empty());
}

#[test]
fn what_was_kept_of_a_prefix_that_is_gone_is_not_left_out() {
    let mut chain = Chain::START;
    let log = marked_log();
    let mut heads = Vec::new();
    for entry in &log[..7] {
        chain.push(entry);
        heads.push(chain.head());
    }
    let mut lines = export().split_off(7);
    lines.insert(0, Line::Start(chain));
    let kept = |at: usize| Trust { heads: vec![heads[at]], ..trust() };
    // At its very beginning a head can be compared.
    let (findings, _) = audit_lines_with(&lines, kept(6));
    assert_eq!((problems(&findings), warnings(&findings)), (vec![], vec![]));
    let mut other = kept(6);
    other.heads[0].hash = Hash::of(b"another");
    assert_eq!(problems(&audit_lines_with(&lines, other).0)[0].0, Fault::KeptHead);
    // Before it, neither a head nor what was kept of an entry can.
    assert_eq!(problems(&audit_lines_with(&lines, kept(3)).0), [(Fault::KeptHead, 4, 4)]);
    let mut audit = Audit::new(Chain::START, trust());
    log[2..].iter().for_each(|entry| audit.keep(entry.position, entry.leaf()));
    lines.iter().for_each(|line| audit.line(line));
    assert_eq!(problems(&audit.finish().0), [(Fault::Unseen, 3, 7)]);
}

#[test]
fn data_that_was_taken_out_is_counted_and_told() {
    let blanked = |positions: &[u64]| {
        let mut lines = export();
        for line in &mut lines {
            if let Line::Entry { entry, .. } = line
                && positions.contains(&entry.position.get())
            {
                **entry = with((**entry).clone(), |event| event.payload = Payload::Digest(event.payload.digest()));
            }
        }
        audit_lines_with(&lines, trust())
    };
    let told = |findings: &[Finding]| findings.iter().find(|f| f.fault == Fault::WithoutData).map(|f| f.what.clone());
    let (findings, summary) = blanked(&[]);
    assert_eq!((told(&findings), summary.without_data), (None, 0));
    let (findings, summary) = blanked(&[2, 9]);
    assert_eq!((problems(&findings), summary.without_data), (vec![], 2), "it proves the same");
    let words = "2 events have their data taken out, of which only the digest is left: positions 2, 9";
    assert_eq!(told(&findings).as_deref(), Some(words));
    // Many are counted, and not all named.
    let blank = |position| with(note(position, "a", "1"), |event| event.payload = Payload::Digest(event.payload.digest()));
    let many: Vec<Entry> = (1..=30).map(blank).collect();
    let (findings, summary) = audit(&many, Trust::default());
    assert_eq!(summary.without_data, 30);
    assert!(told(&findings).unwrap().ends_with("19, 20 and 10 more"), "{findings:?}");
    let finding = findings.iter().find(|finding| finding.fault == Fault::WithoutData).unwrap();
    assert_eq!((finding.position.get(), finding.last.get()), (1, 30));
}

proptest! {
    #[test]
    fn whatever_is_done_to_one_entry_of_a_vouched_log_is_found(at in 0_usize..11, deed in 0..3) {
        let mut log = log();
        match deed {
            0 => drop(log.remove(at)),
            1 => log[at] = note(log[at].position.get(), "z", "\"altered\""),
            _ => log.swap(at, at + 1),
        }
        let (findings, summary) = audit(&log, trust());
        prop_assert!(summary.problems > 0 , "{findings:?}");
    }
}

#[test]
fn what_stands_where_nothing_stood_in_what_was_kept_is_named() {
    let mut audit = Audit::new(Chain::START, Trust::default());
    let log: Vec<Entry> = (1..=6).map(|position| note(position, "a", "1")).collect();
    audit.keep_gap(Position::new(2), Position::new(2));
    audit.keep_gap(Position::new(4), Position::new(5));
    log.iter().filter(|entry| entry.position != Position::new(2)).for_each(|entry| audit.entry(entry));
    let (findings, _) = audit.finish();
    assert_eq!(problems(&findings), [(Fault::Altered, 4, 4), (Fault::Altered, 5, 5), (Fault::Missing, 2, 2)]);
}

#[test]
fn an_end_that_counts_other_entries_is_another_end() {
    let mut chain = Chain::START;
    let mut audit = Audit::new(Chain::START, trust());
    for entry in log() {
        chain.push(&entry);
        audit.line(&Line::Entry { entry: entry.into(), hash: chain.hash });
    }
    audit.line(&Line::End(Chain { entries: 3, ..chain }));
    assert_eq!(problems(&audit.finish().0), [(Fault::CutOff, 13, 13)]);
}
