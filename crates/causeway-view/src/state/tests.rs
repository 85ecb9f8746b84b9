//! What the merged state shows, and that it is what RFC 7396 says, whatever is merged.

use causeway_event::Event;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::sample::event;

fn state(history: &[Event]) -> State {
    history.iter().fold(State::default(), fold)
}

fn events(data: &[Value]) -> Vec<Event> {
    data.iter().zip(1..).map(|(data, position)| event(position, "Changed", data)).collect()
}

fn merged(state: &State) -> Value {
    serde_json::to_value(&state.state).unwrap()
}

fn kept(state: &State) -> State {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn an_order_is_what_its_events_make_of_it() {
    let history = [
        event(1, "OrderPlaced", &json!({"total": 12, "note": "soon", "to": {"name": "Ada", "city": "London"}})),
        event(2, "MessageReceived", &json!({"content": "not for an order"})),
        event(3, "OrderShipped", &json!({"carrier": "x", "note": null, "to": {"city": "Paris"}, "items": [null, 1]})),
    ];
    insta::assert_snapshot!(serde_json::to_string(&state(&history)).unwrap(), @r#"{"aggregate_id":"web:ada","position":3,"updated_at":"2026-11-23T10:00:01.500000Z","last":{"event_id":"evt_00000000000000000000000003","type":"OrderShipped"},"events":2,"state":{"carrier":"x","items":[null,1],"to":{"city":"Paris","name":"Ada"},"total":12}}"#);
}

#[test]
fn nothing_folded_is_an_empty_object() {
    assert_eq!(serde_json::to_value(State::default()).unwrap(), json!({"position": 0, "events": 0, "state": {}}));
}

#[test]
fn what_is_no_object_takes_the_place_of_all() {
    for (data, expected) in [
        (vec![json!({"a": 1}), json!([1, 2])], json!([1, 2])),
        (vec![json!({"a": 1}), Value::Null], Value::Null),
        (vec![json!("text"), json!({"a": null, "b": {"c": null}})], json!({"b": {}})),
        (vec![json!({"a": [1]}), json!({"a": {"b": 1}})], json!({"a": {"b": 1}})),
    ] {
        assert_eq!(merged(&state(&events(&data))), expected, "{data:?}");
    }
}

#[test]
fn numbers_stand_as_they_were_sent() {
    let sent = |json: &str| Event { data: Data::from_json(json.as_bytes()).unwrap(), ..event(1, "Changed", &Value::Null) };
    let state = fold(State::default(), &sent(r#"{"a" : 1.0, "b": {"c": 1e400, "d": 12345678901234567890123}, "e": [1.50]}"#));
    let json = serde_json::to_string(&state.state).unwrap();
    assert_eq!(json, r#"{"a":1.0,"b":{"c":1e400,"d":12345678901234567890123},"e":[1.50]}"#);
    assert_eq!(kept(&state), state);
}

#[test]
fn half_of_a_surrogate_pair_in_a_name_is_merged_under_the_replacement_character() {
    let sent = |at, json: &str| Event { data: Data::from_json(json.as_bytes()).unwrap(), ..event(at, "Changed", &Value::Null) };
    let mut state = fold(State::default(), &sent(1, r#"{"total":12,"a":{"x":1,"y":2}}"#));
    let change = sent(2, r#"{"a":{"\ud800":1,"y":null},"n":"\ud800"}"#);
    let pointers: Vec<_> = state.parts(&change).into_iter().map(|part| part.pointer).skip(HEAD.len()).collect();
    assert_eq!(pointers, ["/state/a/y", "/state/a/\u{fffd}", "/state/n"]);
    state = fold(state, &change);
    let json = |state: &State| serde_json::to_string(&state.state).unwrap();
    assert_eq!(json(&state), "{\"a\":{\"x\":1,\"\u{fffd}\":1},\"n\":\"\\ud800\",\"total\":12}");
    assert_eq!(kept(&state), state);
    // As Go reads them: one for each half, and none for a pair.
    for (name, read) in [
        (r"\udc00", "\u{fffd}"),
        (r"\ud800\ud801", "\u{fffd}\u{fffd}"),
        (r"\ud800\u0041", "\u{fffd}A"),
        (r"\ud800é\udc00", "\u{fffd}é\u{fffd}"),
        (r"\ud800\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83d\ude00\ud7ff", "😀\u{d7ff}"),
    ] {
        let state = fold(State::default(), &sent(1, &format!(r#"{{"{name}":1}}"#)));
        assert_eq!(json(&state), format!("{{\"{read}\":1}}"), "{name}");
    }
}

#[test]
fn what_an_event_changes_in_a_large_state_is_what_it_names() {
    let item = |at: u64| json!({"items": {(at.to_string()): {"a/b": at}}});
    let events: Vec<_> = (1..=5000).map(|at| event(at, "Changed", &item(at))).collect();
    let mut state = state(&events);
    let change = event(5001, "Changed", &json!({"items": {"7": {"a/b": 1, "c~": null}, "new": [1]}, "gone": null}));
    let pointers: Vec<_> = state.parts(&change).into_iter().map(|part| part.pointer).skip(HEAD.len()).collect();
    assert_eq!(pointers, ["/state/gone", "/state/items/7/a~1b", "/state/items/7/c~0", "/state/items/new"]);
    let state = fold(state, &change);
    let part = |pointer: &str| state.part(pointer, &Prices::default()).unwrap();
    assert_eq!((part(&pointers[0]), part(&pointers[1]), part(&pointers[2])), (None, Some("1".into()), None));
    assert_eq!(part("/events"), Some("5001".into()));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            3 => prop::collection::btree_map("[a-c]", inner.clone(), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
        ]
    })
}

proptest! {
    #[test]
    fn it_is_what_the_rfc_says(data in prop::collection::vec(value(), 0..8)) {
        let mut expected = json!({});
        data.iter().for_each(|patch| json_patch::merge(&mut expected, patch));
        prop_assert_eq!(merged(&state(&events(&data))), expected);
    }

    #[test]
    fn an_event_folded_twice_in_a_row_changes_nothing_more(data in prop::collection::vec(value(), 0..8)) {
        let history = events(&data);
        let twice = history.iter().flat_map(|event| [event, event]).fold(State::default(), fold);
        prop_assert_eq!(twice, state(&history));
    }

    #[test]
    fn any_prefix_can_be_written_read_back_and_resumed(data in prop::collection::vec(value(), 0..8), cut in any::<prop::sample::Index>()) {
        let history = events(&data);
        let (first, rest) = history.split_at(cut.index(history.len() + 1));
        let before = state(first);
        prop_assert_eq!(&kept(&before), &before);
        prop_assert_eq!(rest.iter().fold(kept(&before), fold), state(&history));
    }
}
