//! The JSON Schema of a registered type: what may be registered, and what it says of an event's data.
//!
//! Pure, and safe with any schema: nothing is fetched, patterns match in linear time, and what would nest or fan out without end
//! is refused before it is compiled.

use causeway_event::notation::pointer_to;
use causeway_event::{DATA_DEPTH_MAX, Invalid};
use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::visits::{visits, widest};

/// The most bytes of a schema, as compact JSON.
pub(crate) const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// The deepest nesting of a schema: its compiler and its validator walk it by recursion.
const SCHEMA_DEPTH_MAX: usize = 32;
/// The most references within a schema, for the same reason: a chain of them is walked by recursion as well.
const REFS_MAX: usize = 64;
/// The most `unevaluatedProperties` and `unevaluatedItems`, and the most references beside them: each of them is compiled for
/// every way that leads to it, and two references at each step double the ways.
const UNEVALUATED_MAX: usize = 16;
/// What a level of recursion takes at most, measured without optimisation (a `oneOf` took 2.4 KiB).
const LEVEL_BYTES: usize = 3 * 1024;
/// How much of a runtime thread's stack (2 MiB) a check may take; what may need more gets a thread of its own.
const OWN_STACK_BYTES: usize = 768 * 1024;
/// The largest stack of such a thread. Memory is only taken as far as the recursion goes.
const STACK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most bytes that a compiled pattern may take, and all of a schema together.
const PATTERN_BYTES_MAX: usize = 8 << 20;
const PATTERNS_BYTES_MAX: usize = 32 << 20;
/// The most visits that saying yes or no may take at one place of the data.
const WIDTH_MAX: usize = 2000;
/// The most visits that finding out what exactly is wrong may take. Beyond, it is only said that something is.
const VISITS_MAX: usize = 100_000;
/// The most bytes of the sentence that says what is wrong: a schema may list thousands of values.
const REASON_BYTES_MAX: usize = 400;
/// What is said then.
const TOO_INTRICATE: &str = "does not fit its schema; there is too much of it, or the schema is too intricate, to say where";
/// The one dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A schema that can be applied.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    /// The deepest that it can recurse within one level of data.
    levels: usize,
    /// Whether it can refer to itself, and so recurses further with each level of data.
    refers: bool,
    /// The schema itself, if it has alternatives or refers to itself: only then can the details of an error be too many.
    intricate: Option<Value>,
}

/// Compiles a schema. The field of what is wrong is a pointer into the schema.
pub(super) fn compile(schema: &Value) -> Result<Schema, Invalid> {
    let bytes = schema.to_string().len();
    if bytes > SCHEMA_BYTES_MAX {
        return Err(Invalid::new("", format!("has {bytes} bytes; at most {SCHEMA_BYTES_MAX} are allowed")));
    }
    match schema.get("$schema") {
        None => {}
        Some(Value::String(dialect)) if dialect.trim_end_matches('#') == DIALECT => {}
        Some(_) => return Err(Invalid::new("/$schema", format!("must be {DIALECT}"))),
    }
    let mut seen = Seen::default();
    look(schema, &mut String::new(), 0, &mut seen)?;
    if seen.refs > 0 && widest(schema, WIDTH_MAX) >= WIDTH_MAX {
        return Err(Invalid::new("", "has references that fan out too far at one place"));
    }
    let levels = (seen.depth + 1) * (seen.refs + 1);
    let pattern_bytes = PATTERN_BYTES_MAX.min(PATTERNS_BYTES_MAX / seen.patterns.max(1));
    let build = || {
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(PatternOptions::regex().size_limit(pattern_bytes).dfa_size_limit(pattern_bytes))
            .build(schema)
            // Of a bad schema, what was checked is the schema itself: the path leads to what is wrong in it.
            .map_err(|error| Invalid::new(error.instance_path().as_str(), reason(&error, pattern_bytes)))
    };
    let validator = with_stack(levels, build).unwrap_or_else(|| Err(Invalid::new("", "cannot be compiled")))?;
    let intricate = (seen.refs > 0 || seen.alternatives).then(|| schema.clone());
    Ok(Schema { validator, levels, refers: seen.refs > 0, intricate })
}

/// Does what recurses so deep. None if that is too deep, or if it panicked: the process outlives whatever it was given.
fn with_stack<T: Send>(levels: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    let bytes = levels.saturating_mul(LEVEL_BYTES);
    if bytes <= OWN_STACK_BYTES {
        return std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok();
    }
    if bytes > STACK_BYTES_MAX {
        return None;
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes + OWN_STACK_BYTES).spawn_scoped(scope, work);
        thread.ok()?.join().ok()
    })
}

#[derive(Default)]
struct Seen {
    depth: usize,
    refs: usize,
    unevaluated: usize,
    alternatives: bool,
    patterns: usize,
}

/// What a schema may not hold, wherever it stands. Looks at values that are no schemas (of `const`, say) as well: to refuse an
/// odd one of them costs less than to know every keyword.
fn look(value: &Value, at: &mut String, depth: usize, seen: &mut Seen) -> Result<(), Invalid> {
    seen.depth = seen.depth.max(depth);
    if depth > SCHEMA_DEPTH_MAX {
        return Err(Invalid::new(at.as_str(), format!("nests more than {SCHEMA_DEPTH_MAX} levels deep")));
    }
    let end = at.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                at.push_str(&pointer_to(name));
                match (name.as_str(), value) {
                    ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(target)) => {
                        check_ref(target).map_err(|reason| Invalid::new(at.as_str(), reason))?;
                        seen.refs += 1;
                    }
                    ("unevaluatedProperties" | "unevaluatedItems", _) => seen.unevaluated += 1,
                    // Within a schema of its own id, references would lead elsewhere than they seem to.
                    ("$id", Value::String(_)) if depth > 0 => {
                        return Err(Invalid::new(at.as_str(), "is only allowed at the top"));
                    }
                    ("anyOf" | "oneOf", _) => seen.alternatives = true,
                    ("pattern", Value::String(_)) => seen.patterns += 1,
                    ("patternProperties", Value::Object(patterns)) => seen.patterns += patterns.len(),
                    _ => {}
                }
                seen.check().map_err(|reason| Invalid::new(at.as_str(), reason))?;
                look(value, at, depth + 1, seen)?;
                at.truncate(end);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                at.push_str(&format!("/{index}"));
                look(value, at, depth + 1, seen)?;
                at.truncate(end);
            }
        }
        _ => {}
    }
    Ok(())
}

impl Seen {
    fn check(&self) -> Result<(), String> {
        if self.unevaluated > UNEVALUATED_MAX {
            return Err(format!("is one too many: {UNEVALUATED_MAX} of unevaluatedProperties and unevaluatedItems are allowed"));
        }
        match if self.unevaluated > 0 { UNEVALUATED_MAX } else { REFS_MAX } {
            refs_max if self.refs <= refs_max => Ok(()),
            REFS_MAX => Err(format!("is one reference too many: {REFS_MAX} are allowed")),
            refs_max => {
                Err(format!("is too much: beside unevaluatedProperties or unevaluatedItems {refs_max} references are allowed"))
            }
        }
    }
}

fn check_ref(target: &str) -> Result<(), String> {
    match target.starts_with('#') || target.starts_with("https://json-schema.org/draft/2020-12/") {
        true => Ok(()),
        false => {
            Err(format!("leads elsewhere ({}); only references within the schema (#...) are followed", bounded(target.into())))
        }
    }
}

impl Schema {
    /// Holds data against it. The field of what is wrong is a pointer into the data.
    pub(super) fn check(&self, data: &Value) -> Result<(), Invalid> {
        let check = || {
            if self.validator.is_valid(data) {
                return Ok(());
            }
            if self.is_too_intricate(data) {
                return Err(Invalid::new("", TOO_INTRICATE));
            }
            let Err(error) = self.validator.validate(data) else { return Ok(()) };
            // The sentence does not repeat what was sent: it may be large, or nobody else's business.
            Err(Invalid::new(field(&error), bounded(error.masked().to_string())))
        };
        let levels = if self.refers { self.levels * (depth(data) + 1) } else { self.levels };
        with_stack(levels, check).unwrap_or_else(|| Err(Invalid::new("", "nests too deep to be held against its schema")))
    }

    fn is_too_intricate(&self, data: &Value) -> bool {
        let Some(schema) = &self.intricate else { return false };
        visits(schema, depth(data), VISITS_MAX).saturating_mul(parts(data)) >= VISITS_MAX
    }
}

fn field(error: &ValidationError<'_>) -> String {
    let at = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::Required { property: Value::String(missing) } => format!("{at}{}", pointer_to(missing)),
        ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            unexpected.first().map_or_else(|| at.to_owned(), |name| format!("{at}{}", pointer_to(name)))
        }
        _ => at.to_owned(),
    }
}

/// What is wrong with a schema.
fn reason(error: &ValidationError<'_>, pattern_bytes: usize) -> String {
    match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => format!(
            "is no pattern that can be used: a regular expression without look-around and back-references, of at most {} KiB when \
             compiled",
            pattern_bytes / 1024
        ),
        _ => bounded(error.to_string()),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push_str(" ...");
    }
    text
}

/// How deep a value nests: 0 for a scalar.
pub(super) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many values there are in a value, itself among them.
fn parts(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(parts).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(parts).sum::<usize>(),
        _ => 1,
    }
}

// What is nested deeper than data may be cannot have come from a log.
const _: () = assert!(SCHEMA_DEPTH_MAX < DATA_DEPTH_MAX);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: Value) -> (String, String) {
        let invalid = compile(&schema).unwrap_err();
        (invalid.field, invalid.reason)
    }

    #[test]
    fn what_is_wrong_in_a_schema_is_named() {
        for (schema, field, reason) in [
            (json!({"type": "objekt"}), "/type", "objekt"),
            (json!({"properties": {"a": {"minimum": "x"}}}), "/properties/a/minimum", "x"),
            (json!([]), "", ""),
            (json!({"$schema": "http://json-schema.org/draft-07/schema#"}), "/$schema", "2020-12"),
            (json!({"$ref": "https://example.com/a.json"}), "/$ref", "leads elsewhere (https://example.com/a.json)"),
            (json!({"properties": {"a/b": {"$ref": "other.json#/x"}}}), "/properties/a~1b/$ref", "leads elsewhere"),
            (json!({"$defs": {"a": {"$id": "x"}}}), "/$defs/a/$id", "top"),
            (json!({"$ref": "#/$defs/none"}), "", "none"),
            (json!({"pattern": "("}), "/pattern", ""),
            (json!({"pattern": "(?=x)"}), "/pattern", "without look-around"),
            (json!({"pattern": r"x\S{10000}y"}), "/pattern", "at most 8192 KiB"),
            (json!({"patternProperties": {"(x)\\1": {}}}), "/patternProperties/(x)\\1", "back-references"),
            (json!({"enum": ["x".repeat(SCHEMA_BYTES_MAX)]}), "", "bytes"),
            ((0..33).fold(json!({}), |inner, _| json!({"not": inner})), &"/not".repeat(33), "nests"),
            (json!({"allOf": vec![json!({"$ref": "#/$defs/a"}); 65], "$defs": {"a": {}}}), "/allOf/64/$ref", "too many"),
            (json!({"allOf": vec![json!({"unevaluatedItems": {}}); 17]}), "/allOf/16/unevaluatedItems", "too many"),
            (json!({"a": vec![json!({"$ref": "#"}); 17], "unevaluatedItems": {}}), "/unevaluatedItems", "beside"),
        ] {
            let text = schema.to_string();
            let (at, why) = refused(schema);
            assert_eq!(at, field, "{text:.200}: {why}");
            assert!(why.contains(reason), "{text:.200}: {why}");
        }
    }

    #[test]
    fn patterns_have_room_and_share_it() {
        for pattern in [r"^https?://\S{1,2000}$", "^[A-Za-z0-9+/]{1,4096}={0,2}$", "^(a|b|ab)*c.{0,200}$"] {
            compile(&json!({"pattern": pattern})).unwrap();
        }
        let url = json!({"pattern": r"^https?://\S{1,2000}$"});
        let many: serde_json::Map<_, _> = (0..500).map(|number| (number.to_string(), url.clone())).collect();
        assert!(refused(json!({ "properties": many })).1.contains("65 KiB"));
    }

    #[test]
    fn bad_data_is_named_by_its_pointer_and_not_repeated() {
        let schema = json!({
            "$schema": DIALECT, "type": "object", "required": ["total"], "additionalProperties": false,
            "properties": {"total": {"type": "number", "minimum": 0}, "a/b": {"items": {"pattern": "^[a-z]+$"}}},
        });
        let validator = compile(&schema).unwrap();
        for (data, field) in [
            (json!({"total": "secret"}), "/total"),
            (json!({"total": -1}), "/total"),
            (json!({}), "/total"),
            (json!({"total": 1, "x~y": 2}), "/x~0y"),
            (json!({"total": 1, "a/b": ["a", "SECRET"]}), "/a~1b/1"),
            (json!("secret"), ""),
        ] {
            let invalid = validator.check(&data).unwrap_err();
            assert_eq!(invalid.field, field, "{data}: {invalid}");
            assert!(!invalid.reason.to_lowercase().contains("secret") && !invalid.reason.is_empty(), "{invalid}");
        }
        assert_eq!(validator.check(&json!({"total": 1, "a/b": ["a"]})), Ok(()));
    }

    #[test]
    fn a_schema_may_refer_to_itself_and_to_its_parts() {
        let tree = json!({"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"});
        let validator = compile(&tree).unwrap();
        assert_eq!(validator.check(&json!({"next": {"next": 1}})).unwrap_err().field, "/next/next");
        let anchored = json!({"$defs": {"n": {"$anchor": "n", "type": "number"}}, "properties": {"a": {"$ref": "#n"}}});
        assert!(compile(&anchored).unwrap().check(&json!({"a": "x"})).is_err());
    }

    /// On the stack of a thread of the runtime, as it happens in the gateway.
    fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
        std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn no_schema_takes_for_ever_or_more_stack_than_there_is() {
        on_a_small_stack(|| {
            let deep = (0..DATA_DEPTH_MAX).fold(json!(1), |inner, _| json!({"a": inner}));
            // Every level of the data passes all references, through as many levels of schema as are allowed.
            let wrap = |inner: Value| (0..8).fold(inner, |inner, _| json!({"allOf": [inner]}));
            let mut defs = serde_json::Map::new();
            for number in 0..60 {
                defs.insert(format!("d{number}"), wrap(json!({"$ref": format!("#/$defs/d{}", number + 1)})));
            }
            defs.insert("d60".into(), json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "type": "object"}));
            let chain = json!({"$defs": defs, "$ref": "#/$defs/d0"});
            let chain = compile(&chain).unwrap();
            assert_eq!(chain.check(&deep).unwrap_err().reason, "nests too deep to be held against its schema");
            let bounded = (0..3).fold(json!(1), |inner, _| json!({"a": inner}));
            assert_eq!(chain.check(&bounded).unwrap_err().field, "/a".repeat(3));
            // Every way in which every alternative failed is more than there is memory.
            let many = compile(&json!({"anyOf": vec![json!({"items": {"type": "string"}}); 500]})).unwrap();
            assert_eq!(many.check(&json!(vec![1; 200_000])).unwrap_err().reason, TOO_INTRICATE);
            // Each level twice: 2^100 without memory.
            let twice = json!({"$defs": {"n": {"anyOf": [
                {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["x"]},
                {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["y"]}]}}, "$ref": "#/$defs/n"});
            assert!(compile(&twice).unwrap().check(&deep).is_err());
            let twice_unevaluated = json!({"$defs": {"n": {"unevaluatedProperties": false, "anyOf": [
                {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["x"]},
                {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["y"]}]}}, "$ref": "#/$defs/n"});
            assert!(compile(&twice_unevaluated).unwrap().check(&deep).is_err());
            let both_unevaluated = json!({"$defs": {"n": {"unevaluatedProperties": false, "anyOf": [
                {"properties": {"a": {"$ref": "#/$defs/n"}}}, {"properties": {"a": {"$ref": "#/$defs/n"}}}]}}, "$ref": "#/$defs/n"});
            assert!(compile(&both_unevaluated).unwrap().check(&deep).is_ok());
            // Each definition twice: 2^30 without memory.
            let mut defs = serde_json::Map::new();
            for number in 0..30 {
                let next = json!({"$ref": format!("#/$defs/d{}", number + 1)});
                defs.insert(format!("d{number}"), json!({"allOf": [next.clone(), next]}));
            }
            defs.insert("d30".into(), json!({"type": "number"}));
            let diamonds = json!({"$defs": defs, "properties": {"a": {"$ref": "#/$defs/d0"}}});
            assert_eq!(compile(&diamonds).unwrap_err().reason, "has references that fan out too far at one place");
            // Going round in circles at one place.
            let circle = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
            assert!(compile(&circle).unwrap().check(&json!(1)).is_ok());
            // A pattern that makes backtracking engines explode.
            let pattern = compile(&json!({"pattern": "^(a+)+$"})).unwrap();
            assert!(pattern.check(&json!(format!("{}!", "a".repeat(100_000)))).is_err());
        });
    }
}
