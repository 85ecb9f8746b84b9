//! What a chain shows, and what holds for every chain, also for one that nobody would write.

use causeway_event::Event;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sample::{caused, event, id};
use crate::{Prices, View as _};

fn chain(events: &[Event]) -> Chain {
    events.iter().fold(Chain::default(), fold)
}

/// Events at the positions 1, 2, 3, .., each with the position of its cause, 0 for none.
fn links(causes: &[u64]) -> Vec<Event> {
    let of = |position, cause| match cause {
        0 => event(position, "SomethingHappened", &Value::Null),
        cause => caused(event(position, "SomethingHappened", &Value::Null), cause),
    };
    causes.iter().zip(1..).map(|(cause, position)| of(position, *cause)).collect()
}

fn turn() -> Vec<Event> {
    let call = |call_id| json!({"turn": "t", "step": 1, "call_id": call_id, "tool": "calculate", "effect": "pure"});
    let tokens = json!({"input_tokens": 250, "output_tokens": 30});
    let claim = json!({"turn": "t", "inputs": [id(1)], "owner": "run-1", "attempt": 1, "agent": "a", "model": "demo"});
    vec![
        event(1, "MessageReceived", &json!({"content": "Hello"})),
        caused(event(2, "AIProcessingStarted", &claim), 1),
        caused(event(3, "ThinkingGenerated", &json!({"turn": "t", "step": 1, "text": "Hm", "usage": {"input_tokens": 100}})), 2),
        caused(event(4, "ToolCalled", &call("1")), 2),
        caused(event(5, "ToolCalled", &call("2")), 2),
        caused(event(6, "ToolCompleted", &call("2")), 5),
        caused(
            event(7, "ToolFailed", &json!({"turn": "t", "step": 1, "call_id": "1", "tool": "calculate", "error": "no\nway"})),
            4,
        ),
        caused(event(8, "MessageGenerated", &json!({"turn": "t", "content": "Hi", "model": "demo-1", "usage": tokens})), 2),
        caused(event(9, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens})), 2),
    ]
}

fn node(tree: &Tree, position: u64) -> &Node {
    tree.nodes.iter().find(|node| node.link.position.get() == position).unwrap()
}

#[test]
fn a_turn_is_a_tree_with_the_time_between() {
    let tree = chain(&turn()).tree(&Prices::default());
    assert_eq!(tree.nodes.iter().map(|node| node.link.position.get()).collect::<Vec<_>>(), [1, 2, 3, 4, 7, 5, 6, 8, 9]);
    assert_eq!((tree.events, tree.unfinished, tree.orphans, tree.duration_us), (9, 0, 0, 4_000_000));
    assert_eq!(tree.usage, Usage { input_tokens: 250, output_tokens: 30 });
    assert_eq!((&tree.roots[..], &node(&tree, 5).children[..]), (&[id(1)][..], &[id(6)][..]));
    assert_eq!((node(&tree, 7).depth, node(&tree, 7).gap_us), (3, Some(1_500_000)));
    assert_eq!((node(&tree, 2).duration_us, node(&tree, 5).duration_us), (Some(3_500_000), Some(500_000)));
    insta::assert_snapshot!(tree.render().join("\n"), @r"
    chain 0af7651916cd43dd8448eb211c80319c: 9 events, 4.00 s, 250 tokens in, 30 out
    MessageReceived                            #1  test
    └─ AIProcessingStarted demo       +500 ms  #2  test  took 3.50 s
       ├─ ThinkingGenerated demo      +500 ms  #3  test  100 tokens in, 0 out
       ├─ ToolCalled calculate        +1.00 s  #4  test  took 1.50 s
       │  └─ ToolFailed calculate     +1.50 s  #7  test  error: no way
       ├─ ToolCalled calculate        +1.50 s  #5  test  took 500 ms
       │  └─ ToolCompleted calculate  +500 ms  #6  test
       ├─ MessageGenerated demo-1     +3.00 s  #8  test  250 tokens in, 30 out
       └─ AIProcessingCompleted demo  +3.50 s  #9  test  250 tokens in, 30 out
    ");
}

#[test]
fn what_waits_for_its_end_is_unfinished() {
    let tree = chain(&turn()[..6]).tree(&Prices::default());
    assert_eq!(tree.unfinished, 2);
    assert!(node(&tree, 2).unfinished && node(&tree, 4).unfinished && !node(&tree, 5).unfinished);
    assert_eq!(tree.usage, Usage { input_tokens: 100, output_tokens: 0 });
    insta::assert_snapshot!(tree.render().join("\n"), @r"
    chain 0af7651916cd43dd8448eb211c80319c: 6 events, 2.50 s, 100 tokens in, 0 out, 2 unfinished
    MessageReceived                            #1  test
    └─ AIProcessingStarted demo       +500 ms  #2  test  unfinished
       ├─ ThinkingGenerated demo      +500 ms  #3  test  100 tokens in, 0 out
       ├─ ToolCalled calculate        +1.00 s  #4  test  unfinished
       └─ ToolCalled calculate        +1.50 s  #5  test  took 500 ms
          └─ ToolCompleted calculate  +500 ms  #6  test
    ");
}

#[test]
fn a_cause_that_is_not_before_its_effect_makes_an_orphan() {
    // Event 2 names itself, 3 a later one, 5 one that is not there; 4 hangs under the orphan 3.
    let tree = chain(&links(&[0, 2, 4, 3, 99])).tree(&Prices::default());
    assert_eq!(tree.roots, [id(1), id(2), id(3), id(5)]);
    let orphans = tree.nodes.iter().filter(|node| node.orphan).map(|node| node.link.position.get());
    assert_eq!((orphans.collect::<Vec<_>>(), tree.orphans), (vec![2, 3, 5], 3));
    assert_eq!((node(&tree, 4).depth, node(&tree, 2).gap_us), (1, None));
    insta::assert_snapshot!(tree.render().join("\n"), @r"
    chain 0af7651916cd43dd8448eb211c80319c: 5 events, 2.00 s, 3 without their cause
    SomethingHappened              #1  test
    SomethingHappened              #2  test  its cause evt_00000000000000000000000002 is not before it in this chain
    SomethingHappened              #3  test  its cause evt_00000000000000000000000004 is not before it in this chain
    └─ SomethingHappened  +500 ms  #4  test
    SomethingHappened              #5  test  its cause evt_00000000000000000000000099 is not before it in this chain
    ");
}

#[test]
fn a_turn_costs_what_its_model_calls_cost() {
    let prices = |list: Value| serde_json::from_value::<Prices>(list).unwrap();
    let demo = prices(json!([{"model": "demo", "input": 1000, "output": 10_000}]));
    let tree = chain(&turn()).tree(&demo);
    // The end counts, which repeats its calls; each call shows its own.
    assert_eq!((tree.cost, &tree.unpriced[..]), (Some(0.55), &[][..]));
    assert_eq!((node(&tree, 3).cost, node(&tree, 8).cost, node(&tree, 9).cost), (Some(0.1), Some(0.55), Some(0.55)));
    assert!(tree.render()[0].ends_with("250 tokens in, 30 out, cost 0.55"), "{:?}", tree.render());
    // Without an end what is known so far counts.
    assert_eq!(chain(&turn()[..6]).tree(&demo).cost, Some(0.1));
    let other = prices(json!([{"model": "other", "input": 1, "output": 1}]));
    let tree = chain(&turn()).tree(&other);
    assert_eq!((tree.cost, &tree.unpriced[..], node(&tree, 9).cost), (None, &["demo".to_owned()][..], None));
    assert_eq!(chain(&turn()).tree(&Prices::default()).unpriced, [""; 0]);
}

#[test]
fn a_cost_is_that_of_the_model_that_was_asked_then() {
    let claim =
        |attempt, model| json!({"turn": "t", "inputs": [], "owner": "o", "attempt": attempt, "agent": "a", "model": model});
    let tokens = |input: u64| json!({"input_tokens": input});
    let call = json!({"turn": "t", "step": 1, "call_id": "1", "tool": "calculate", "effect": "pure", "usage": tokens(10)});
    let said = json!({"turn": "t", "content": "Hi", "model": "large-2026", "usage": tokens(100)});
    let events = [
        event(1, "AIProcessingStarted", &claim(1, "small")),
        event(2, "ToolCalled", &call),
        event(3, "AIProcessingStarted", &claim(2, "large")),
        event(4, "ThinkingGenerated", &json!({"turn": "t", "step": 2, "text": "Hm", "usage": tokens(1)})),
        event(5, "MessageGenerated", &said),
        event(6, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens(111)})),
    ];
    let prices = json!([{"model": "small", "input": 1e6, "output": 0}, {"model": "large", "input": 1e9, "output": 0}]);
    let tree = chain(&events).tree(&serde_json::from_value(prices).unwrap());
    let models: Vec<_> = tree.nodes.iter().map(|node| node.link.model.as_deref().unwrap_or_default()).collect();
    assert_eq!(models, ["small", "small", "large", "large", "large-2026", "large"]);
    let costs: Vec<_> = tree.nodes.iter().filter_map(|node| node.cost).collect();
    assert_eq!(costs, [10.0, 1000.0, 100_000.0, 101_010.0], "the end repeats what its calls cost");
    // Of the end only what no call told counts for its model.
    assert_eq!((tree.usage.input_tokens, tree.cost), (111, Some(101_010.0)));
    assert!(tree.render()[2].ends_with("10 tokens in, 0 out (small)  cost 10  unfinished"), "{:?}", tree.render());
    // One that knows of less than its calls told stands alone.
    let mut less = events.to_vec();
    less[5] = event(6, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens(5)}));
    assert_eq!(chain(&less).tree(&Prices::default()).usage.input_tokens, 5);
}

#[test]
fn an_answer_counts_before_its_turn_has_ended_unless_its_call_was_told() {
    let tokens = |input: u64| json!({"input_tokens": input});
    let thought = |step: u32| json!({"turn": "t", "step": step, "text": "Hm", "usage": tokens(10)});
    let said = json!({"turn": "t", "content": "Hi", "model": "demo", "usage": tokens(100)});
    let call = json!({"turn": "t", "step": 1, "call_id": "1", "tool": "calculate", "effect": "pure"});
    let mut events = vec![
        event(1, "ThinkingGenerated", &thought(1)),
        event(2, "ToolCalled", &call),
        event(3, "MessageGenerated", &said),
        event(4, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens(110)})),
    ];
    let usage = |events: &[Event]| chain(events).tree(&Prices::default()).usage.input_tokens;
    assert_eq!((usage(&events[..3]), usage(&events)), (110, 110), "the end says what all of them took");
    events[2] = event(3, "ThinkingGenerated", &thought(2));
    let again = event(4, "MessageGenerated", &said);
    assert_eq!(usage(&[&events[..3], &[again]].concat()), 20, "its call was told with its thinking");
    // A turn that goes on after a failure adds to what that said.
    let claim = |attempt| json!({"turn": "t", "inputs": [], "owner": "o", "attempt": attempt, "agent": "a", "model": "demo"});
    let mut events = vec![
        event(1, "AIProcessingStarted", &claim(1)),
        event(2, "AIProcessingFailed", &json!({"turn": "t", "reason": "model_error", "usage": tokens(7)})),
        event(3, "AIProcessingStarted", &claim(2)),
        event(4, "ThinkingGenerated", &thought(1)),
    ];
    assert_eq!(usage(&events), 17);
    events.push(event(5, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens(17)})));
    events.push(event(6, "AIProcessingCompleted", &json!({"turn": "t", "usage": tokens(99)})));
    assert_eq!(usage(&events), 17, "the first end counts");
}

#[test]
fn a_chain_takes_so_many_events_and_says_that_there_are_more() {
    let causes: Vec<u64> = (0..EVENTS_MAX as u64 + 3).map(|at| at.min(1)).collect();
    let events = links(&causes);
    let (taken, beyond) = events.split_at(EVENTS_MAX);
    let mut full = chain(taken);
    let tree = full.tree(&Prices::default());
    assert!(!tree.more && tree.render().len() == EVENTS_MAX + 1 && !tree.mermaid(Drawn::First).contains("cut"));
    assert_eq!(full.parts(&beyond[0]), [crate::Part::at("/more".to_owned())]);
    let mut cut = beyond.iter().fold(full, fold);
    assert_eq!(cut.parts(&beyond[2]), [], "nothing more is said of what comes later");
    let cut_tree = cut.tree(&Prices::default());
    assert_eq!(cut_tree, Tree { more: true, ..tree });
    assert_eq!(cut_tree.render().last().map(String::as_str), Some("... more events, cut at 10000"));
    assert!(cut_tree.mermaid(Drawn::First).contains("9600 more events<br/>... more events, cut at 10000"));
    let kept: Chain = serde_json::from_str(&serde_json::to_string(&cut).unwrap()).unwrap();
    assert_eq!(kept, cut);
}

#[test]
fn an_end_from_elsewhere_ends_what_began_before_it() {
    let events = turn();
    let claim = json!({"turn": "t", "inputs": [id(1)], "owner": "run-2", "attempt": 2, "agent": "a", "model": "demo"});
    let part = chain(&[events[1].clone(), events[3].clone(), events[4].clone(), event(20, "AIProcessingStarted", &claim)]);
    let mut tree = part.tree(&Prices::default());
    let mut waiting = tree.waiting();
    let ends = events[5..].iter().filter(|event| ENDS.contains(&event.event_type.as_str()));
    ends.for_each(|event| tree.end(&mut waiting, event));
    let took = [2, 4, 5, 20].map(|position| node(&tree, position).duration_us);
    assert_eq!(took, [Some(3_500_000), Some(1_500_000), Some(500_000), None]);
    assert!(tree.unfinished == 1 && node(&tree, 20).unfinished && !waiting.is_empty());
}

#[test]
fn a_part_of_a_chain_counts_the_calls_that_stand_in_it() {
    let prices = serde_json::from_value(json!([{"model": "demo", "input": 1000, "output": 10_000}])).unwrap();
    let mut events = turn();
    // It says what no call told, too.
    events[8] =
        caused(event(9, "AIProcessingCompleted", &json!({"turn": "t", "usage": {"input_tokens": 360, "output_tokens": 30}})), 2);
    let whole = chain(&events);
    let part = |places: &[usize]| {
        let part = chain(&places.iter().map(|at| events[at - 1].clone()).collect::<Vec<_>>());
        assert!(events[1..].iter().all(|event| part.is_of_its_turns(event)));
        let tree = part.tree_of_part(std::slice::from_ref(&whole), &prices);
        (tree.usage.input_tokens, tree.usage.output_tokens, tree.cost, tree.unpriced, tree.model_unknown)
    };
    assert_eq!(part(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), (360, 30, Some(0.66), vec![], false), "all of it is the whole");
    assert_eq!(part(&[4, 7]), (0, 0, None, vec![], false));
    assert_eq!(part(&[3]), (100, 0, Some(0.1), vec![], false));
    assert_eq!(part(&[2, 8]), (250, 30, Some(0.55), vec![], false));
    assert_eq!(part(&[9]), (10, 0, Some(0.01), vec![], false), "what no call told is the end's own");
    // An answer that was thought about is told by either.
    events.drain(3..7);
    let whole = chain(&events);
    let of = |place: usize| chain(&events[place..=place]).tree_of_part(std::slice::from_ref(&whole), &prices).usage.input_tokens;
    assert_eq!([2, 3].map(of), [100, 250]);
    assert_eq!(chain(&events[..4]).tree_of_part(std::slice::from_ref(&whole), &prices).usage.input_tokens, 100);
}

#[test]
fn a_model_that_nobody_knows_is_not_one_without_a_price() {
    let prices = serde_json::from_value(json!([{"model": "demo", "input": 1000, "output": 10_000}])).unwrap();
    let mut chain = chain(&turn()[2..3]);
    let tree = chain.tree(&prices);
    assert_eq!((tree.cost, &tree.unpriced[..], tree.model_unknown), (None, &[][..], true));
    assert!(tree.render()[0].contains(", 100 tokens in, 0 out, a model unknown, "), "{:?}", tree.render());
    let json = serde_json::to_value(&tree).unwrap();
    assert_eq!((&json["model_unknown"], json.get("unpriced")), (&json!(true), None));
    assert!(chain.parts(&turn()[3]).contains(&crate::Part::at("/model_unknown".to_owned())));
    assert_eq!(chain.part("/model_unknown", &prices).unwrap().as_deref(), Some("true"));
    assert!(!chain.tree(&Prices::default()).model_unknown, "nothing is asked where nothing has a price");
}

#[test]
fn a_cause_in_another_chain_is_shown_with_its_chain() {
    let mut other = caused(event(2, "SomethingHappened", &Value::Null), 1);
    other.metadata.correlation_id = "another".parse().unwrap();
    let tree = chain(&[event(1, "SomethingHappened", &Value::Null), other]).tree(&Prices::default());
    assert_eq!((tree.orphans, &node(&tree, 1).link.correlation_id), (0, &None));
    assert_eq!(node(&tree, 2).link.correlation_id, Some("another".parse().unwrap()));
}

#[test]
fn a_flowchart_shows_the_tree_and_no_label_ends_it() {
    let mut events = turn();
    events[1].metadata.source = r#"x"] --> evil["#.parse().unwrap();
    insta::assert_snapshot!(chain(&events[..7]).tree(&Prices::default()).mermaid(Drawn::First));
    let causes: Vec<u64> = (0..1_000).collect();
    let tree = chain(&links(&causes)).tree(&Prices::default());
    let long = tree.mermaid(Drawn::First);
    assert!(long.lines().count() < 1_000 && long.contains("600 more events"), "{long}");
    assert!(long.contains("n400[") && !long.contains("n401["));
    let end = tree.mermaid(Drawn::Last);
    assert!(
        end.contains("n1000[") && end.contains("n601[") && !end.contains("n600[") && end.contains("600 more events"),
        "{end}"
    );
}

#[test]
fn nothing_is_an_empty_tree() {
    let tree = Chain::default().tree(&Prices::default());
    assert_eq!((&tree.nodes[..], tree.render().len()), (&[][..], 1));
}

#[test]
fn a_chain_of_ten_thousand_causes_is_shown_in_bounded_lines() {
    let causes: Vec<u64> = (0..10_000).collect();
    let tree = chain(&links(&causes)).tree(&Prices::default());
    assert_eq!(tree.nodes.last().map(|node| node.depth), Some(9_999));
    let lines = tree.render();
    assert_eq!(lines.len(), 10_001);
    assert!(lines.iter().all(|line| line.chars().count() < 200));
    let json = serde_json::to_string(&tree).unwrap();
    assert_eq!(serde_json::from_str::<Tree>(&json).unwrap(), tree);
}

#[test]
fn a_claim_after_a_failure_waits_for_its_own_end() {
    let claim = |attempt| json!({"turn": "t", "inputs": [], "owner": "o", "attempt": attempt, "agent": "a", "model": "demo"});
    let events = [
        event(1, "AIProcessingStarted", &claim(1)),
        caused(event(2, "AIProcessingFailed", &json!({"turn": "t", "reason": "model_error"})), 1),
        caused(event(3, "AIProcessingStarted", &claim(2)), 1),
    ];
    let tree = chain(&events).tree(&Prices::default());
    assert_eq!((node(&tree, 1).duration_us, node(&tree, 3).duration_us), (Some(500_000), None));
    assert!(node(&tree, 3).unfinished);
    assert_eq!(node(&tree, 2).cost, None, "nothing of a model without a price costs something unknown");
}

/// How many parts an event was said to change, and how long their JSON is, at most.
fn widest(events: &[Event]) -> (usize, usize) {
    let (mut chain, prices) = (Chain::default(), Prices::default());
    let (mut parts_max, mut bytes_max) = (0, 0);
    for event in events {
        let parts = chain.parts(event);
        chain = fold(chain, event);
        let bytes = parts.iter().filter_map(|part| chain.part(&part.name, &prices).unwrap()).map(|json| json.len()).sum();
        (parts_max, bytes_max) = (parts_max.max(parts.len()), bytes_max.max(bytes));
    }
    (parts_max, bytes_max)
}

#[test]
fn what_an_event_changes_in_a_long_chain_is_no_more_than_in_a_short_one() {
    // All under one root; each under the one before; every third without a cause; and as those of a turn hang together.
    let causes: [fn(u64) -> u64; 4] = [|_| 1, |at| at, |at| if at % 3 == 0 { 0 } else { at }, |at| at / 2];
    for cause in causes {
        let causes: Vec<_> = (0..5000).map(|at| if at == 0 { 0 } else { cause(at) }).collect();
        let (parts, bytes) = widest(&links(&causes));
        assert!(parts <= HEAD_AND_NODE && bytes < 1000, "{parts} parts with {bytes} bytes");
    }
}

/// What an event that ends nothing can change: the head, its node, and that of its cause.
const HEAD_AND_NODE: usize = 14;

proptest! {
    #[test]
    fn every_event_stands_in_the_tree_once_under_its_cause(causes in prop::collection::vec(0..25_u64, 0..25)) {
        let chain = chain(&links(&causes));
        let tree = chain.tree(&Prices::default());
        let mut positions: Vec<_> = tree.nodes.iter().map(|node| node.link.position.get()).collect();
        positions.sort_unstable();
        prop_assert_eq!(positions, (1..=causes.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(tree.render().len(), causes.len() + 1);
        let roots: Vec<_> = chain.roots().iter().map(|link| link.id).collect();
        prop_assert_eq!(roots, tree.roots.clone());
        for node in &tree.nodes {
            let cause = causes[node.link.position.get() as usize - 1];
            let under = tree.nodes.iter().find(|parent| parent.children.contains(&node.link.id));
            let expected = (0 < cause && cause < node.link.position.get()).then(|| id(cause));
            prop_assert_eq!(under.map(|parent| parent.link.id), expected);
            prop_assert_eq!(under.map_or(0, |parent| parent.depth + 1), node.depth);
        }
    }

    #[test]
    fn folding_twice_or_resuming_changes_nothing(causes in prop::collection::vec(0..25_u64, 1..25), cut in 0..25_usize) {
        let events = links(&causes);
        let whole = chain(&events);
        prop_assert_eq!(&events.iter().flat_map(|event| [event, event]).fold(Chain::default(), fold), &whole);
        let (first, rest) = events.split_at(cut.min(events.len()));
        let json = serde_json::to_string(&chain(first)).unwrap();
        let resumed = rest.iter().fold(serde_json::from_str(&json).unwrap(), fold);
        prop_assert_eq!(&resumed, &whole);
    }
}
