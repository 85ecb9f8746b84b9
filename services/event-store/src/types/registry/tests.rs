//! Given what was registered, when somebody registers, appends or reads: then what.

use proptest::prelude::*;
use serde_json::json;

use super::*;

struct Given(Registry);

fn given<const N: usize>(registered: [TypeRegistered; N]) -> Given {
    Given(registered.into_iter().enumerate().fold(Registry::default(), |registry, (index, data)| {
        fold(registry, &event("TypeRegistered", index as u64 + 1, None, json!(data)))
    }))
}

impl Given {
    #[track_caller]
    fn when_registered(&self, request: Registration) -> Result<Decision, (String, String)> {
        decide(&self.0, &request).map_err(|invalid| (invalid.field, invalid.reason))
    }

    fn read(&self, version: Option<u32>, data: Value) -> (Option<u32>, Value) {
        let event = event("OrderPlaced", 9, version, data);
        let shown = self.0.upcast(&event).unwrap_or(event);
        (shown.metadata.schema_version, shown.data.parse().unwrap())
    }
}

fn event(event_type: &str, position: u64, version: Option<u32>, data: Value) -> Event {
    let mut event = json!({
        "id": "evt_01k9x3m5v8e7rs2q4n6p8t0w1y", "position": position, "timestamp": "2026-11-23T10:00:00Z", "type": event_type,
        "aggregate_id": "a", "data": data, "metadata": {"source": "test", "correlation_id": "c"},
    });
    if let Some(version) = version {
        event["metadata"]["schema_version"] = version.into();
    }
    serde_json::from_str(&event.to_string()).unwrap()
}

fn registered(version: u32, schema: Value, upcast: Value) -> TypeRegistered {
    let upcast = upcast.as_array().unwrap().clone();
    TypeRegistered { name: "OrderPlaced".into(), version, schema, upcast, description: String::new() }
}

fn request(schema: Value, upcast: Value) -> Registration {
    Registration {
        name: "OrderPlaced".parse().unwrap(),
        schema,
        upcast: upcast.as_array().unwrap().clone(),
        version: None,
        description: String::new(),
    }
}

fn number(field: &str) -> Value {
    json!({"type": "object", "required": [field], "properties": {field: {"type": "number"}}})
}

/// `amount`, then `total`, then `total` with a `currency`.
fn three() -> Given {
    given([
        registered(1, number("amount"), json!([])),
        registered(2, number("total"), json!([{"op": "move", "from": "/amount", "path": "/total"}])),
        registered(
            3,
            json!({"required": ["total", "currency"], "properties": {"currency": {"enum": ["EUR", "USD"]}}}),
            json!([{"op": "add", "path": "/currency", "value": "EUR"}]),
        ),
    ])
}

#[test]
fn versions_are_counted_without_gaps() {
    let first = given([]).when_registered(request(number("a"), json!([])));
    assert_eq!(first, Ok(Decision::Register(registered(1, number("a"), json!([])))));
    let patch = json!([{"op": "move", "from": "/a", "path": "/b"}]);
    let second = given([registered(1, number("a"), json!([]))]).when_registered(request(number("b"), patch.clone()));
    assert_eq!(second, Ok(Decision::Register(registered(2, number("b"), patch))));
}

#[test]
fn the_same_again_changes_nothing() {
    let one = given([registered(1, number("a"), json!([]))]);
    assert_eq!(one.when_registered(request(number("a"), json!([]))), Ok(Decision::Same));
    assert_eq!(one.when_registered(Registration { version: Some(1), ..request(number("a"), json!([])) }), Ok(Decision::Same));
    let two = given([registered(1, number("a"), json!([])), registered(2, number("b"), json!([]))]);
    // A program that registers all its versions whenever it starts names them.
    assert_eq!(two.when_registered(Registration { version: Some(1), ..request(number("a"), json!([])) }), Ok(Decision::Same));
    assert_eq!(two.when_registered(Registration { version: Some(2), ..request(number("b"), json!([])) }), Ok(Decision::Same));
    // Without a version, an older shape is a next version like any other.
    let back = two.when_registered(request(number("a"), json!([])));
    assert_eq!(back, Ok(Decision::Register(registered(3, number("a"), json!([])))));
}

#[test]
fn a_version_that_is_another_or_not_the_next_is_a_conflict() {
    let one = given([registered(1, number("a"), json!([]))]);
    for version in [0, 1, 3] {
        let wanted = Registration { version: Some(version), ..request(number("b"), json!([])) };
        assert_eq!(one.when_registered(wanted), Ok(Decision::Conflict { next: 2 }), "{version}");
    }
    let next = Registration { version: Some(2), ..request(number("b"), json!([])) };
    assert!(matches!(one.when_registered(next), Ok(Decision::Register(_))));
}

#[test]
fn what_cannot_be_registered_is_named() {
    let none = given([]);
    let field = |request| none.when_registered(request).unwrap_err().0;
    let good = || request(number("a"), json!([]));
    for known in ["MessageReceived", "TypeRegistered"] {
        assert_eq!(field(Registration { name: known.parse().unwrap(), ..good() }), "/name");
    }
    assert_eq!(field(Registration { description: "x".repeat(5000), ..good() }), "/description");
    assert_eq!(field(request(json!({"properties": {"a": {"type": "x"}}}), json!([]))), "/schema/properties/a/type");
    assert_eq!(field(request(number("a"), json!([{"op": "move"}]))), "/upcast/0");
    assert_eq!(field(request(number("a"), json!([{"op": "remove", "path": "/a"}]))), "/upcast");
    let wide = json!([{"op": "add", "path": "/a", "value": "x".repeat(SCHEMA_BYTES_MAX * 2)}]);
    let one = given([registered(1, number("a"), json!([]))]);
    assert_eq!(one.when_registered(request(number("b"), wide)).unwrap_err().0, "/upcast");
}

#[test]
fn what_nobody_decided_is_left_out_of_the_fold() {
    let gap = given([
        registered(2, number("a"), json!([])),
        registered(1, number("b"), json!([])),
        registered(1, number("c"), json!([])),
    ]);
    let versions = gap.0.versions(&"OrderPlaced".parse().unwrap());
    assert_eq!(versions.len(), 1);
    assert_eq!(versions[0].schema, number("b"));
    let known = TypeRegistered { name: "MessageReceived".into(), ..registered(1, json!(false), json!([])) };
    let unnamed = TypeRegistered { name: "no name".into(), ..registered(1, json!(false), json!([])) };
    assert_eq!(given([known, unnamed]).0.types().count(), 0);
    // A schema that cannot be compiled refuses data instead of letting any pass.
    let broken = given([registered(1, json!({"type": "objekt"}), json!([]))]);
    let refused = broken.0.check(&"OrderPlaced".parse().unwrap(), &Data::of(&1).unwrap(), None);
    assert!(matches!(refused, Err(Misfit::Data(invalid)) if invalid.field == "/data"));
}

#[test]
fn only_a_later_version_changes_how_events_of_before_are_shown() {
    let changed = |registered: &[TypeRegistered]| {
        let events = registered.iter().zip(1..).map(|(data, at)| event("TypeRegistered", at, None, json!(data)));
        let registry = events.fold(Registry::default(), |registry, event| fold(registry, &event));
        (registry.position().get(), registry.changed().get())
    };
    let first = registered(1, number("amount"), json!([]));
    let other = TypeRegistered { name: "OrderSent".into(), ..first.clone() };
    let second = registered(2, json!({}), json!([]));
    assert_eq!(changed(&[first.clone(), other.clone()]), (2, 0));
    assert_eq!(changed(&[first, second, other]), (3, 2));
}

#[test]
fn data_is_held_against_the_newest_or_the_stated_version() {
    let three = three();
    let name = "OrderPlaced".parse().unwrap();
    let check = |data: Value, stated| three.0.check(&name, &Data::of(&data).unwrap(), stated);
    assert_eq!(check(json!({"total": 1, "currency": "EUR"}), None), Ok(Checked::Fits(3)));
    assert_eq!(check(json!({"amount": 1}), Some(1)), Ok(Checked::Fits(1)));
    let Err(Misfit::Data(invalid)) = check(json!({"amount": 1}), None) else { panic!("it lacks what version 3 requires") };
    assert!(
        invalid.field == "/data/total" && invalid.reason.ends_with("(version 3; for an older one state metadata.schema_version)")
    );
    assert!(matches!(check(json!({"amount": "x"}), Some(1)), Err(Misfit::Data(invalid)) if invalid.field == "/data/amount"));
    for version in [0, 4] {
        let refused = check(json!({"amount": 1}), Some(version));
        assert!(matches!(refused, Err(Misfit::Version(invalid)) if invalid.field == "/metadata/schema_version"));
    }
    let free = "Anything".parse().unwrap();
    assert_eq!(three.0.check(&free, &Data::of(&1).unwrap(), None), Ok(Checked::Free));
    assert!(matches!(three.0.check(&free, &Data::of(&1).unwrap(), Some(1)), Err(Misfit::Version(_))));
    let huge = Data::from_json(b"1e999").unwrap();
    assert!(matches!(three.0.check(&name, &huge, None), Err(Misfit::Data(_))));
}

#[test]
fn events_are_read_in_the_newest_version() {
    let three = three();
    assert_eq!(
        three.read(Some(1), json!({"amount": 1, "more": 2})),
        (Some(3), json!({"total": 1, "more": 2, "currency": "EUR"}))
    );
    assert_eq!(three.read(Some(2), json!({"total": 1})), (Some(3), json!({"total": 1, "currency": "EUR"})));
    for (version, data) in [
        // The newest, one from a gateway that knows more, and one from before the type was registered.
        (Some(3), json!({"total": 1, "currency": "EUR"})),
        (Some(4), json!({"whatever": 1})),
        (None, json!({"amount": 1})),
        (Some(0), json!({"amount": 1})),
        // What the patches make of it does not fit.
        (Some(2), json!({"amount": 1})),
    ] {
        assert_eq!(three.read(version, data.clone()), (version, data));
    }
}

#[test]
fn what_does_not_fit_the_newest_version_is_read_in_the_newest_that_it_fits() {
    let three = given([
        registered(1, number("amount"), json!([])),
        registered(2, number("total"), json!([{"op": "move", "from": "/amount", "path": "/total"}])),
        registered(3, json!({"required": ["currency"]}), json!([{"op": "move", "from": "/total", "path": "/sum"}])),
    ]);
    assert_eq!(three.read(Some(1), json!({"amount": 1})), (Some(2), json!({"total": 1})));
    assert_eq!(three.read(Some(1), json!({"amount": 1, "currency": "EUR"})), (Some(3), json!({"sum": 1, "currency": "EUR"})));
    assert_eq!(three.read(Some(1), json!({"other": 1})), (Some(1), json!({"other": 1})));
}

fn data() -> impl Strategy<Value = Value> {
    let value = prop_oneof![any::<i32>().prop_map(|n| json!(n)), Just(json!("x")), Just(json!(null)), Just(json!({"a": [1]}))];
    proptest::collection::btree_map("amount|total|currency|x", value, 0..4).prop_map(|fields| json!(fields))
}

proptest! {
    #[test]
    fn an_event_is_read_either_in_the_newest_version_and_fitting_it_or_as_it_was_appended(data in data(), version in 0_u32..6) {
        let three = three();
        let name = "OrderPlaced".parse().unwrap();
        match three.read(Some(version), data.clone()) {
            (Some(3), shown) if version != 3 => prop_assert_eq!(three.0.check(&name, &Data::of(&shown).unwrap(), None), Ok(Checked::Fits(3))),
            shown => prop_assert_eq!(shown, (Some(version), data)),
        }
    }
}

#[test]
fn a_version_that_changes_nothing_leaves_data_as_it_was_written() {
    let test = json!([{"op": "test", "path": "/z", "value": 2}, {"op": "remove", "path": "/z"}]);
    let registered = given([registered(1, json!({}), json!([])), registered(2, json!({"type": "object"}), test)]);
    let written = r#"{"id":12345678901234567890123, "price":12.50,"z":1,"a":0.1000000000000000055511151231257827}"#;
    let old = Event { data: Data::from_json(written.as_bytes()).unwrap(), ..event("OrderPlaced", 9, Some(1), json!({})) };
    let shown = registered.0.upcast(&old).unwrap();
    assert_eq!((shown.data.as_str(), shown.metadata.schema_version), (written, Some(2)));
}
