//! Each deed is named with its position, once; an honest log has no problem.

use causeway_event::EventId;
use proptest::prelude::*;

use super::*;
use crate::{Audit, Fault, Finding, Hash, Line, Severity, Summary, Trust};

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
fn a_rewritten_checkpoint_does_not_have_the_signature() {
    let mut forged = log();
    forged[8] = note(9, "a", "{\"n\":0}");
    let mut chain = Chain::START;
    forged[..11].iter().for_each(|entry| chain.push(entry));
    let own = signer().sign(&chain);
    forged[11] = checkpoint(12, &LogCheckpointed { signature: "0".repeat(128), ..own });
    check(&forged, &[(Fault::Signature, 12, 12)]);
    // Another key is no problem by itself, but vouches for nothing.
    let other = Signer::from_seed(&[9; 32]).sign(&chain);
    forged[11] = checkpoint(12, &other);
    let summary = check(&forged, &[]);
    assert_eq!(summary.vouched.get(), 5);
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
    let leaves: std::collections::BTreeMap<Position, Hash> = log().iter().map(|entry| (entry.position, entry.leaf())).collect();
    let kept = || Trust { leaves: leaves.clone(), ..Trust::default() };
    let mut altered = log();
    altered[1] = note(2, "a", "{\"n\":0}");
    assert!(problems(&audit(&altered, kept()).0).contains(&(Fault::Altered, 2, 2)));
    assert!(problems(&audit(&log()[..10], kept()).0).contains(&(Fault::CutOff, 11, 12)));
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
fn ids_keys_causes_and_fences_are_held_against_what_stands_before() {
    let keyed = |position| with(note(position, "a", "1"), |event| event.key = Some("k".parse().unwrap()));
    let caused = |position, cause: EventId| with(note(position, "a", "1"), |event| event.metadata.causation_id = Some(cause));
    let fenced = |position, at| with(note(position, "a", "1"), |event| event.expected = Some(Position::new(at)));
    check(&[fenced(1, 0), fenced(2, 1), note(3, "b", "1"), fenced(4, 2)], &[]);
    check(&[fenced(1, 0), fenced(2, 0)], &[(Fault::Fence, 2, 2)]);
    check(&[note(1, "a", "1"), with(note(2, "a", "1"), |event| event.id = id(1))], &[(Fault::DuplicateId, 2, 2)]);
    let (findings, _) = audit(&[keyed(1), keyed(2), caused(3, id(2)), caused(4, id(5)), note(5, "a", "1")], trust());
    assert_eq!(warnings(&findings), [(Fault::DuplicateKey, 2), (Fault::Cause, 4)]);
}

/// The log as an export has it.
fn export() -> Vec<Line> {
    let mut chain = Chain::START;
    let mut lines: Vec<Line> = log()
        .into_iter()
        .map(|entry| {
            chain.push(&entry);
            Line::Entry { entry: Box::new(entry), hash: Some(chain.hash) }
        })
        .collect();
    lines.push(Line::End(chain));
    lines
}

fn audit_lines(lines: &[Line]) -> Vec<(Fault, u64, u64)> {
    let mut audit = Audit::new(Chain::START, trust());
    lines.iter().for_each(|line| audit.line(line));
    audit.no_more_lines();
    problems(&audit.finish().0)
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
    lines.insert(8, Line::Entry { entry: Box::new(note(8, "a", "2")), hash: None });
    assert_eq!(audit_lines(&lines), [(Fault::OutOfOrder, 8, 8)]);
    let mut lines = export();
    lines.truncate(9);
    assert_eq!(audit_lines(&lines), [(Fault::CutOff, 10, 10)]);
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
                *hash = Some(chain.hash);
            }
            Line::End(end) => *end = chain,
            Line::Start(_) | Line::Gap { .. } => {}
        }
    }
    assert_eq!(audit_lines(&lines), [(Fault::Checkpoint, 6, 11)]);
}

#[test]
fn an_export_from_the_middle_is_held_against_the_checkpoints_in_it() {
    let mut chain = Chain::START;
    log()[..7].iter().for_each(|entry| chain.push(entry));
    let mut lines = export().split_off(7);
    lines.insert(0, Line::Start(chain));
    assert_eq!(audit_lines(&lines), []);
    chain.hash = Hash::of(b"another beginning");
    lines[0] = Line::Start(chain);
    assert!(!audit_lines(&lines).is_empty());
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
