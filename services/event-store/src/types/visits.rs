//! How often a schema is looked at while data of some depth is held against it.
//!
//! Saying yes or no remembers what it has seen of objects and lists, but not of scalars: references that fan out at one place
//! may be refused. Saying exactly why not remembers nothing, and lists every way in which every alternative failed: for a few
//! schemas that is more than there is memory.

use std::collections::HashMap;

use serde_json::Value;

/// Keywords that lead from a value to its parts.
const DESCENDING: [&str; 10] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
];

/// Keywords whose value holds schemas by name.
const MAPS: [&str; 4] = ["$defs", "definitions", "properties", "patternProperties"];

/// The visits of the schema of schemas, about.
const SCHEMA_OF_SCHEMAS: usize = 100;

/// An upper bound of the visits on the way to one part of the data that stands `depth` levels deep; at most about `visits_max`.
pub(super) fn visits(schema: &Value, depth: usize, visits_max: usize) -> usize {
    Counting::new(schema, visits_max).of(schema, depth)
}

/// The most visits that any one place takes, its parts not counted; at most about `visits_max`.
pub(super) fn widest(schema: &Value, visits_max: usize) -> usize {
    let mut counting = Counting::new(schema, visits_max);
    let (mut widest, mut left) = (0, vec![schema]);
    while let Some(value) = left.pop() {
        widest = widest.max(counting.of(value, 0));
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        // Schemas side by side, which nobody looks at all at once.
                        Value::Object(many) if MAPS.contains(&name.as_str()) => left.extend(many.values()),
                        value => left.push(value),
                    }
                }
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    widest
}

struct Counting<'s> {
    root: &'s Value,
    visits_max: usize,
    anchors: HashMap<&'s str, &'s Value>,
    /// By the schema's place in memory and the depth that is left. What is being counted counts as nothing: a circle at one
    /// place is not walked twice.
    known: HashMap<(*const Value, usize), usize>,
}

impl<'s> Counting<'s> {
    fn new(root: &'s Value, visits_max: usize) -> Self {
        let (mut anchors, mut left) = (HashMap::new(), vec![root]);
        while let Some(value) = left.pop() {
            match value {
                Value::Object(fields) => {
                    let names = ["$anchor", "$dynamicAnchor"].into_iter().filter_map(|keyword| fields.get(keyword)?.as_str());
                    anchors.extend(names.map(|name| (name, value)));
                    left.extend(fields.values());
                }
                Value::Array(items) => left.extend(items),
                _ => {}
            }
        }
        Self { root, visits_max, anchors, known: HashMap::new() }
    }

    fn of(&mut self, schema: &'s Value, depth: usize) -> usize {
        if let Some(known) = self.known.get(&(std::ptr::from_ref(schema), depth)) {
            return *known;
        }
        self.known.insert((schema, depth), 0);
        let mut sum = 1_usize;
        let mut add = |visits: usize, max: usize| sum = sum.saturating_add(visits).min(max);
        let max = self.visits_max;
        match schema {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match name.as_str() {
                        "$ref" | "$dynamicRef" => add(self.target(value, depth), max),
                        "$defs" | "definitions" => {}
                        name if DESCENDING.contains(&name) && depth == 0 => {}
                        name if DESCENDING.contains(&name) => add(self.of(value, depth - 1), max),
                        _ => add(self.of(value, depth), max),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| add(self.of(item, depth), max)),
            _ => sum = 0,
        }
        self.known.insert((schema, depth), sum);
        sum
    }

    /// What a reference leads to. One that leads out of the schema leads to the schema of schemas.
    fn target(&mut self, reference: &'s Value, depth: usize) -> usize {
        let fragment = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
        let target = fragment.and_then(|fragment| self.root.pointer(fragment).or_else(|| self.anchors.get(fragment).copied()));
        target.map_or(SCHEMA_OF_SCHEMAS, |target| self.of(target, depth))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_walked_once_is_cheap_and_what_doubles_is_not() {
        let list =
            json!({"$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": "string"}}}}, "$ref": "#/$defs/n"});
        assert!(visits(&list, 50, 1_000_000) < 1000);
        let twice = json!({"$defs": {"n": {"anyOf": [
            {"properties": {"a": {"$ref": "#/$defs/n"}}}, {"properties": {"a": {"$ref": "#/$defs/n"}}}]}}, "$ref": "#/$defs/n"});
        assert!(visits(&twice, 3, 1_000_000) < 1000);
        assert_eq!(visits(&twice, 50, 1_000_000), 1_000_000);
        let circle = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
        assert!(visits(&circle, 50, 1_000_000) < 10);
        let mut fan = serde_json::Map::new();
        for number in 0..30 {
            let next = json!({"$ref": format!("#d{}", number + 1)});
            fan.insert(format!("d{number}"), json!({"$anchor": format!("d{number}"), "allOf": [next.clone(), next]}));
        }
        fan.insert("d30".into(), json!({"$anchor": "d30"}));
        let fan = json!({"$defs": fan, "properties": {"a": {"$ref": "#d0"}}});
        assert_eq!((visits(&fan, 0, 1000), widest(&fan, 1000)), (1, 1000));
        assert!(widest(&list, 1000) < 10);
    }
}
