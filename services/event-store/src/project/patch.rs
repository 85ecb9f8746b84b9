//! What changed, as JSON Patch (RFC 6902). Pure.
//!
//! Documents are compared as text, and taken apart only where the texts differ: numbers and strings stay as they were written,
//! also those that no number or string of a programming language can hold (`1e400`, a lone surrogate).
//!
//! Lists that grew at one place, as those of views do, give a patch of that place: what stands alike before and behind it is
//! left alone.

use std::collections::BTreeMap;

use causeway_event::notation::pointer_to;
use causeway_view::Part;
use serde::Serialize;
use serde_json::value::RawValue;

/// Levels that are taken apart, each of which reads what is below it once more. What differs deeper changes as a whole.
const LEVELS_MAX: usize = 32;

/// A patch; applied in order.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Patch(Vec<Operation>);

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    Add { path: String, value: Box<RawValue> },
    Remove { path: String },
    Replace { path: String, value: Box<RawValue> },
}

impl Patch {
    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// From one document to another, of which only these parts differ. A part of a list that was not there comes in at its place.
pub(super) fn of_parts(parts: &[Part], before: &[Option<String>], after: &[Option<String>]) -> serde_json::Result<Patch> {
    let mut patch = Patch::default();
    for (part, (before, after)) in parts.iter().zip(before.iter().zip(after)) {
        let mut at = Place { path: part.pointer.clone(), levels: 0 };
        match (before, after) {
            (Some(before), Some(after)) if before == after => {}
            (Some(before), Some(after)) => document(json(before)?, json(after)?, &mut at, &mut patch),
            (None, Some(after)) => at.add(json(after)?, &mut patch),
            (Some(_), None) => at.remove(&mut patch),
            (None, None) => {}
        }
    }
    Ok(patch)
}

fn json(text: &str) -> serde_json::Result<&RawValue> {
    serde_json::from_str(text)
}

fn document(before: &RawValue, after: &RawValue, at: &mut Place, patch: &mut Patch) {
    if before.get() == after.get() {
        return;
    }
    match (Taken::apart(before, at), Taken::apart(after, at)) {
        (Taken::Object(before), Taken::Object(after)) => object(&before, &after, at, patch),
        (Taken::Array(before), Taken::Array(after)) => array(&before, &after, at, patch),
        _ => at.replace(after, patch),
    }
}

/// JSON one level deep.
enum Taken<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    /// Neither of them; or too deep; or an object with a name that no string can hold.
    Whole,
}

impl<'a> Taken<'a> {
    fn apart(json: &'a RawValue, at: &Place) -> Self {
        let (text, within) = (json.get(), at.levels < LEVELS_MAX);
        let taken = match text.as_bytes().first() {
            Some(b'{') if within => serde_json::from_str(text).map(Self::Object),
            Some(b'[') if within => serde_json::from_str(text).map(Self::Array),
            _ => return Self::Whole,
        };
        taken.unwrap_or(Self::Whole)
    }
}

fn object(before: &BTreeMap<String, &RawValue>, after: &BTreeMap<String, &RawValue>, at: &mut Place, patch: &mut Patch) {
    for (name, value) in after {
        at.below(&pointer_to(name), |at| match before.get(name) {
            Some(old) => document(old, value, at, patch),
            None => at.add(value, patch),
        });
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        at.below(&pointer_to(name), |at| at.remove(patch));
    }
}

fn array(before: &[&RawValue], after: &[&RawValue], at: &mut Place, patch: &mut Patch) {
    let alike = |(before, after): &(&&RawValue, &&RawValue)| before.get() == after.get();
    let head = before.iter().zip(after).take_while(alike).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(alike).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
    let paired = before.len().min(after.len());
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        at.below(&format!("/{}", head + index), |at| document(before, after, at, patch));
    }
    for (index, value) in after.iter().enumerate().skip(paired) {
        at.below(&format!("/{}", head + index), |at| at.add(value, patch));
    }
    for _ in paired..before.len() {
        at.below(&format!("/{}", head + paired), |at| at.remove(patch));
    }
}

/// Where in the documents something stands: a JSON Pointer.
struct Place {
    path: String,
    levels: usize,
}

impl Place {
    fn below(&mut self, pointer: &str, there: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(pointer);
        self.levels += 1;
        there(self);
        self.levels -= 1;
        self.path.truncate(length);
    }

    fn add(&self, value: &RawValue, patch: &mut Patch) {
        patch.0.push(Operation::Add { path: self.path.clone(), value: value.to_owned() });
    }

    fn replace(&self, value: &RawValue, patch: &mut Patch) {
        patch.0.push(Operation::Replace { path: self.path.clone(), value: value.to_owned() });
    }

    fn remove(&self, patch: &mut Patch) {
        patch.0.push(Operation::Remove { path: self.path.clone() });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// JSON in which what a [`Value`] cannot tell apart is a text of its own: each number as it is written, and what no string
    /// can hold.
    pub(in crate::project) fn exact(json: &str) -> Value {
        let text = json.trim();
        let odd = || Value::String(format!("as written: {text}"));
        match text.as_bytes()[0] {
            b'{' => serde_json::from_str::<BTreeMap<String, &RawValue>>(text)
                .map_or_else(|_| odd(), |members| members.into_iter().map(|(name, of)| (name, exact(of.get()))).collect()),
            b'[' => serde_json::from_str::<Vec<&RawValue>>(text).unwrap().into_iter().map(|of| exact(of.get())).collect(),
            b'-' | b'0'..=b'9' => odd(),
            _ => serde_json::from_str(text).unwrap_or_else(|_| odd()),
        }
    }

    /// A document after a patch, both exact.
    #[track_caller]
    pub(in crate::project) fn patched(mut document: Value, patch: &Patch) -> Value {
        let operations: json_patch::Patch = serde_json::from_value(exact(&serde_json::to_string(patch).unwrap())).unwrap();
        json_patch::patch(&mut document, &operations).unwrap_or_else(|error| panic!("{error}: {operations}"));
        document
    }

    fn diff(before: &str, after: &str) -> Patch {
        of_parts(&[Part::at(String::new())], &[Some(before.to_owned())], &[Some(after.to_owned())]).unwrap()
    }

    #[track_caller]
    fn check(before: &str, after: &str, expected: &str) {
        assert_eq!(serde_json::to_string(&diff(before, after)).unwrap(), expected);
    }

    #[test]
    fn a_list_that_grew_at_one_place_is_patched_there() {
        check("[1, 2, 3]", "[1, 9, 2, 3]", r#"[{"op":"add","path":"/1","value":9}]"#);
        check("[1, 2, 3]", "[1, 3]", r#"[{"op":"remove","path":"/1"}]"#);
        check(r#"{"a/b": [1]}"#, r#"{"a/b": [1, 2]}"#, r#"[{"op":"add","path":"/a~1b/1","value":2}]"#);
        check(r#"{"a": 1}"#, r#"{"a":1}"#, "[]");
        check("1", "null", r#"[{"op":"replace","path":"","value":null}]"#);
    }

    #[test]
    fn numbers_and_strings_stay_as_they_were_written() {
        check(
            "[123456789012345678901234]",
            "[123456789012345678901235]",
            r#"[{"op":"replace","path":"/0","value":123456789012345678901235}]"#,
        );
        check("1e400", "1e401", r#"[{"op":"replace","path":"","value":1e401}]"#);
        check(r#"{"a":"\ud800"}"#, r#"{"a":"\ud801"}"#, r#"[{"op":"replace","path":"/a","value":"\ud801"}]"#);
        check(r#"{"\ud800":1}"#, r#"{"\ud800":-0.10}"#, r#"[{"op":"replace","path":"","value":{"\ud800":-0.10}}]"#);
    }

    #[test]
    fn what_differs_very_deep_changes_as_a_whole() {
        let nested = |inner: &str, levels| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
        for levels in [LEVELS_MAX - 1, LEVELS_MAX, LEVELS_MAX + 1, 100] {
            let (before, after) = (nested("1", levels), nested("2", levels));
            let patch = diff(&before, &after);
            let path = "/0".repeat(levels.min(LEVELS_MAX));
            assert!(serde_json::to_string(&patch).unwrap().contains(&format!(r#""path":"{path}","#)), "{levels}");
            assert_eq!(patched(exact(&before), &patch), exact(&after));
        }
    }

    /// JSON as text.
    pub(in crate::project) fn documents() -> impl Strategy<Value = String> {
        let odd =
            ["123456789012345678901234", "123456789012345678901235", "1e400", "-1e400", "1.0", "1.00", "0.1000000000000000055"];
        let leaf = prop_oneof![
            Just("null".to_owned()),
            (0..3_i64).prop_map(|number| number.to_string()),
            "[a~/]{0,2}".prop_map(|text| Value::from(text).to_string()),
            prop::sample::select(odd.map(str::to_owned).to_vec()),
            prop_oneof![Just(r#""\ud800""#), Just(r#""\ud801""#)].prop_map(str::to_owned),
        ];
        let name =
            prop_oneof![9 => "[a~/]{0,2}".prop_map(|name| Value::from(name).to_string()), 1 => Just(r#""\ud800""#.to_owned())];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            let member = |(name, value)| format!("{name}: {value}");
            prop_oneof![
                prop::collection::btree_map(name.clone(), inner.clone(), 0..4)
                    .prop_map(move |members| format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))),
                prop::collection::vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_the_one_to_the_other(before in documents(), after in documents()) {
            let patch = diff(&before, &after);
            prop_assert_eq!(patched(exact(&before), &patch), exact(&after));
            prop_assert_eq!(patch.is_empty(), exact(&before) == exact(&after));
        }
    }
}
