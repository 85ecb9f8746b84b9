//! How data of one version of a type becomes data of the next: JSON Patch (RFC 6902).
//!
//! Pure. A `remove`, `replace`, `move` or `copy` whose source is not there is left out, since fields of data may be absent. Any
//! other operation that cannot be carried out, a `test` that fails among them, ends the patch, which then has changed
//! nothing: so `test` makes a patch that is meant for some of the data only.

use causeway_event::{DATA_BYTES_MAX, DATA_DEPTH_MAX, Invalid};
use json_patch::PatchOperation;
use serde_json::Value;

use super::schema::depth;

/// The most operations of a patch.
pub(crate) const OPERATIONS_MAX: usize = 100;

/// A patch whose operations can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Upcast(Vec<PatchOperation>);

impl Upcast {
    /// Reads the operations. The field of what is wrong is a pointer into them.
    pub(super) fn parse(operations: &[Value]) -> Result<Self, Invalid> {
        if operations.len() > OPERATIONS_MAX {
            let reason = format!("has {} operations; at most {OPERATIONS_MAX} are allowed", operations.len());
            return Err(Invalid::new("", reason));
        }
        let read = |(index, operation): (usize, &Value)| {
            let operation: PatchOperation = serde_json::from_value(operation.clone())
                .map_err(|error| Invalid::new(format!("/{index}"), format!("is not an operation of JSON Patch: {error}")))?;
            // What is added twice at the deepest place there is would otherwise outgrow what anybody can parse.
            if let PatchOperation::Add(add) = &operation
                && add.path.count() + depth(&add.value) > DATA_DEPTH_MAX
            {
                return Err(Invalid::new(format!("/{index}/path"), "leads deeper than data may nest"));
            }
            Ok(operation)
        };
        operations.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The data after the patch; as it was if the patch cannot be applied.
    pub(super) fn apply(&self, data: Value) -> Value {
        if self.0.is_empty() {
            return data;
        }
        let mut patched = data.clone();
        // Copies of copies double: what one patch may copy is bounded by what data may be.
        let mut bytes_left = DATA_BYTES_MAX;
        match self.0.iter().try_for_each(|operation| step(&mut patched, operation, &mut bytes_left)) {
            Ok(()) => patched,
            Err(CannotApply) => data,
        }
    }
}

struct CannotApply;

fn step(data: &mut Value, operation: &PatchOperation, bytes_left: &mut usize) -> Result<(), CannotApply> {
    use PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    // To its own place: nothing, also for the whole.
    if let Move(moved) = operation
        && moved.from == moved.path
    {
        return Ok(());
    }
    let source = match operation {
        Remove(remove) => Some(&remove.path),
        Replace(replace) => Some(&replace.path),
        Move(moved) => Some(&moved.from),
        Copy(copy) => Some(&copy.from),
        Add(_) | Test(_) => None,
    };
    if let Some(source) = source {
        let Some(found) = data.pointer(source.as_str()) else { return Ok(()) };
        let target = match operation {
            Replace(replace) => Some((&replace.path, &replace.value)),
            Move(moved) => Some((&moved.path, found)),
            Copy(copy) => {
                *bytes_left = bytes_left.checked_sub(weight(found)).ok_or(CannotApply)?;
                Some((&copy.path, found))
            }
            _ => None,
        };
        if target.is_some_and(|(path, value)| path.count() + depth(value) > DATA_DEPTH_MAX) {
            return Err(CannotApply);
        }
    }
    json_patch::patch_unsafe(data, std::slice::from_ref(operation)).map_err(|_| CannotApply)
}

/// About how many bytes a value takes as JSON; never 0.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, value)| name.len() + 4 + weight(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(data: Value, operations: Value) -> Value {
        Upcast::parse(operations.as_array().unwrap()).unwrap().apply(data)
    }

    #[test]
    fn a_patch_is_applied_step_by_step() {
        let operations = json!([
            {"op": "move", "from": "/amount", "path": "/total"},
            {"op": "add", "path": "/currency", "value": "EUR"},
            {"op": "remove", "path": "/note"},
            {"op": "replace", "path": "/kind", "value": "sale"},
            {"op": "copy", "from": "/total", "path": "/net"},
        ]);
        let full = json!({"amount": 3, "note": "x", "kind": "s"});
        assert_eq!(patched(full, operations.clone()), json!({"total": 3, "currency": "EUR", "kind": "sale", "net": 3}));
        assert_eq!(patched(json!({}), operations), json!({"currency": "EUR"}), "what is not there is left out");
    }

    #[test]
    fn a_move_to_its_own_place_is_nothing() {
        for place in ["", "/a", "/none"] {
            let operations = json!([{"op": "move", "from": place, "path": place}, {"op": "add", "path": "/new", "value": 1}]);
            assert_eq!(patched(json!({"a": 1}), operations), json!({"a": 1, "new": 1}), "{place}");
        }
    }

    #[test]
    fn a_patch_that_cannot_be_applied_changes_nothing() {
        let data = json!({"currency": "USD", "total": 1});
        for operations in [
            json!([{"op": "remove", "path": "/total"}, {"op": "test", "path": "/currency", "value": "EUR"}]),
            json!([{"op": "remove", "path": "/total"}, {"op": "test", "path": "/none", "value": 1}]),
            json!([{"op": "remove", "path": "/total"}, {"op": "add", "path": "/a/b", "value": 1}]),
            json!([{"op": "remove", "path": "/total"}, {"op": "move", "from": "/currency", "path": "/currency/x"}]),
        ] {
            assert_eq!(patched(data.clone(), operations.clone()), data, "{operations}");
        }
    }

    #[test]
    fn a_patch_cannot_make_a_monster() {
        let doubling: Vec<_> = (0..OPERATIONS_MAX).map(|n| json!({"op": "copy", "from": "", "path": format!("/a{n}")})).collect();
        let data = json!({"a": "x"});
        assert_eq!(patched(data.clone(), json!(doubling)), data);
        let deepening: Vec<_> = (0..OPERATIONS_MAX).map(|_| json!({"op": "copy", "from": "", "path": "/a"})).collect();
        assert_eq!(patched(data.clone(), json!(deepening)), data);
        let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
        let path = "/0".repeat(59);
        let operations = [json!({"op": "add", "path": "", "value": deep}), json!({"op": "add", "path": path, "value": deep})];
        assert_eq!(Upcast::parse(&operations).unwrap_err().field, "/1/path");
    }

    #[test]
    fn what_is_wrong_in_a_patch_is_named() {
        for (operations, field) in [
            (json!([{"op": "add", "path": "/a", "value": 1}, {"op": "ad", "path": "/a"}]), "/1"),
            (json!([{"op": "move", "path": "/a"}]), "/0"),
            (json!([{"op": "remove", "path": "a"}]), "/0"),
            (json!([{"op": "remove", "path": "/~2"}]), "/0"),
            (json!(["add"]), "/0"),
            (json!(vec![json!({"op": "remove", "path": "/a"}); OPERATIONS_MAX + 1]), ""),
        ] {
            let invalid = Upcast::parse(operations.as_array().unwrap()).unwrap_err();
            assert_eq!(invalid.field, field, "{operations:.100}: {invalid}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(null)), any::<i32>().prop_map(|n| json!(n)), "[ab]{0,2}".prop_map(|s| json!(s))];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[abc]", inner, 0..3).prop_map(|fields| json!(fields)),
            ]
        })
    }

    fn operation() -> impl Strategy<Value = Value> {
        let path = || "(/[abc012-]){0,3}";
        (
            prop_oneof![Just("add"), Just("remove"), Just("replace"), Just("move"), Just("copy"), Just("test")],
            path(),
            path(),
            json(),
        )
            .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
    }

    proptest! {
        #[test]
        fn no_patch_panics_or_leaves_the_data_half_changed(data in json(), operations in proptest::collection::vec(operation(), 0..8)) {
            let upcast = Upcast::parse(&operations).unwrap();
            let after = upcast.apply(data.clone());
            prop_assert!(depth(&after) <= DATA_DEPTH_MAX);
            // Where each operation alone, in its turn, can be applied or is left out, so is the whole; else nothing has changed.
            let mut step_by_step = Some(data.clone());
            for operation in &operations {
                step_by_step = step_by_step.and_then(|mut value| {
                    let mut bytes_left = DATA_BYTES_MAX;
                    let operation = Upcast::parse(std::slice::from_ref(operation)).unwrap().0.remove(0);
                    step(&mut value, &operation, &mut bytes_left).is_ok().then_some(value)
                });
            }
            prop_assert_eq!(after, step_by_step.unwrap_or(data));
        }
    }
}
