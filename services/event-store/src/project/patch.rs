//! What changed, as JSON Patch (RFC 6902). Pure.
//!
//! Lists that grew at one place, as those of views do, give a patch of that place: what stands alike before and behind it is
//! left alone.

use std::collections::BTreeMap;

use causeway_view::Part;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// From one document to another, of which only these parts differ. A part of a list that was not there comes in at its place.
pub(super) fn of_parts(parts: &[Part], before: &[Option<Value>], after: &[Option<Value>]) -> Patch {
    let mut patch = Patch::default();
    for (part, (before, after)) in parts.iter().zip(before.iter().zip(after)) {
        // Pointers come from the views, and are ones.
        let Ok(mut at) = PointerBuf::parse(part.pointer.clone()) else { continue };
        match (before, after) {
            (Some(before), Some(after)) => document(before, after, &mut at, &mut patch),
            (None, Some(after)) => add(&at, after, &mut patch),
            (Some(_), None) => remove(&at, &mut patch),
            (None, None) => {}
        }
    }
    patch
}

fn document(before: &Value, after: &Value, at: &mut PointerBuf, patch: &mut Patch) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => object(before, after, at, patch),
        (Value::Array(before), Value::Array(after)) => array(before, after, at, patch),
        _ if before == after => {}
        _ => patch.0.push(PatchOperation::Replace(ReplaceOperation { path: at.clone(), value: after.clone() })),
    }
}

fn object(before: &Map<String, Value>, after: &Map<String, Value>, at: &mut PointerBuf, patch: &mut Patch) {
    for (name, value) in after {
        at.push_back(name);
        match before.get(name) {
            Some(old) => document(old, value, at, patch),
            None => add(at, value, patch),
        }
        at.pop_back();
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        at.push_back(name);
        remove(at, patch);
        at.pop_back();
    }
}

fn array(before: &[Value], after: &[Value], at: &mut PointerBuf, patch: &mut Patch) {
    let head = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(|(before, after)| before == after).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
    let paired = before.len().min(after.len());
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        at.push_back(head + index);
        document(before, after, at, patch);
        at.pop_back();
    }
    for (index, value) in after.iter().enumerate().skip(paired) {
        at.push_back(head + index);
        add(at, value, patch);
        at.pop_back();
    }
    for _ in paired..before.len() {
        at.push_back(head + paired);
        remove(at, patch);
        at.pop_back();
    }
}

fn add(at: &PointerBuf, value: &Value, patch: &mut Patch) {
    patch.0.push(PatchOperation::Add(AddOperation { path: at.clone(), value: value.clone() }));
}

fn remove(at: &PointerBuf, patch: &mut Patch) {
    patch.0.push(PatchOperation::Remove(RemoveOperation { path: at.clone() }));
}

/// A document. What JSON can say and a [`Value`] cannot (`1e400`, a lone surrogate) stands in it as near as it can: somebody's
/// odd event must not make a view unreadable.
pub(super) fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| near(json.trim()))
}

fn near(json: &str) -> Value {
    let text = || Value::String(json.to_owned());
    match json.as_bytes().first() {
        Some(b'{') => serde_json::from_str::<BTreeMap<String, &RawValue>>(json)
            .map_or_else(|_| text(), |members| members.into_iter().map(|(name, member)| (name, value(member.get()))).collect()),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(json)
            .map_or_else(|_| text(), |items| items.into_iter().map(|item| value(item.get())).collect()),
        Some(b'-') => f64::MIN.into(),
        Some(b'0'..=b'9') => f64::MAX.into(),
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn diff(before: &Value, after: &Value) -> Patch {
        of_parts(&[Part::at(String::new())], &[Some(before.clone())], &[Some(after.clone())])
    }

    fn patched(mut document: Value, patch: &Patch) -> Value {
        json_patch::patch(&mut document, patch).unwrap();
        document
    }

    #[test]
    fn a_list_that_grew_at_one_place_is_patched_there() {
        let operations = |before: Value, after: Value| serde_json::to_value(diff(&before, &after)).unwrap();
        assert_eq!(operations(json!([1, 2, 3]), json!([1, 9, 2, 3])), json!([{"op": "add", "path": "/1", "value": 9}]));
        assert_eq!(operations(json!([1, 2, 3]), json!([1, 3])), json!([{"op": "remove", "path": "/1"}]));
        assert_eq!(
            operations(json!({"a/b": [1]}), json!({"a/b": [1, 2]})),
            json!([{"op": "add", "path": "/a~1b/1", "value": 2}])
        );
        assert_eq!(operations(json!({"a": 1}), json!({"a": 1})), json!([]));
        assert_eq!(operations(json!(1), json!(null)), json!([{"op": "replace", "path": "", "value": null}]));
    }

    #[test]
    fn what_no_value_can_hold_is_near() {
        let odd = r#"{"a": [1e400, -1e400, 1.5], "b": "\ud800", "c": {"\ud800": 1}}"#;
        assert_eq!(value(odd), json!({"a": [f64::MAX, f64::MIN, 1.5], "b": "\"\\ud800\"", "c": "{\"\\ud800\": 1}"}));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..3_i64).prop_map(Value::from), "[a~/]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::btree_map("[a~/]{0,2}", inner.clone(), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
                prop::collection::vec(inner, 0..5).prop_map(Value::Array),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_the_one_to_the_other(before in documents(), after in documents()) {
            let patch = diff(&before, &after);
            prop_assert_eq!(patched(before.clone(), &patch), after.clone());
            prop_assert_eq!(patch.0.is_empty(), before == after);
        }
    }
}
