//! The rules of this workspace that no compiler checks. Each says what to do when it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Who may use whom. An arrow that is not here is forbidden: a new one is a decision, and is drawn in ARCHITECTURE.md too.
const ARROWS: &[(&str, &[&str])] = &[
    ("causeway-event", &[]),
    ("causeway-view", &["causeway-event"]),
    ("causeway-log", &["causeway-event", "causeway-proof"]),
    ("causeway-proof", &["causeway-event"]),
    ("causeway-pages", &[]),
    ("causeway-proto", &["causeway-event"]),
    ("causeway-client", &["causeway-event", "causeway-proto"]),
    ("causeway-runtime", &[]),
    ("causeway-processor", &["causeway-event", "causeway-log", "causeway-runtime"]),
    ("causeway-testkit", &[]),
    (
        "causeway-event-store",
        &[
            "causeway-event",
            "causeway-view",
            "causeway-log",
            "causeway-pages",
            "causeway-proof",
            "causeway-proto",
            "causeway-runtime",
        ],
    ),
    ("causeway-ai-processor", &["causeway-event", "causeway-log", "causeway-processor", "causeway-runtime"]),
    (
        "causeway",
        &[
            "causeway-event",
            "causeway-view",
            "causeway-log",
            "causeway-proof",
            "causeway-client",
            "causeway-runtime",
            "causeway-event-store",
            "causeway-ai-processor",
        ],
    ),
    // Black box: it knows Causeway only by its wire.
    ("causeway-e2e", &["causeway-testkit"]),
];

/// May use anything: it measures the parts as well as the whole.
const FREE: &[&str] = &["causeway-bench"];

/// What decides is free of what acts.
const PURE: &[&str] = &["causeway-event", "causeway-view", "causeway-proof"];
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-stream",
    "futures",
    "async-trait",
    "tonic",
    "axum",
    "hyper",
    "async-nats",
    "reqwest",
    "rusqlite",
    "rand",
    "tracing",
];

/// The only crates that speak to NATS themselves.
const NATS: &[&str] = &["causeway-log", "causeway-testkit", "causeway-e2e", "causeway-bench"];

#[test]
fn every_dependency_is_an_arrow_that_was_drawn() {
    let mut wrong = Vec::new();
    let crates = crates();
    let ours: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    for (name, dependencies) in &crates {
        if FREE.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| ours.contains(dependency.name.as_str())) {
            let ok = match dependency.kind {
                Kind::Dev => dependency.name == "causeway-testkit" || allowed.contains(&dependency.name.as_str()),
                Kind::Normal | Kind::Build => allowed.contains(&dependency.name.as_str()),
            };
            if !ok {
                wrong.push(format!("{name} -> {} ({:?})", dependency.name, dependency.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that ARROWS in tests/tidy.rs does not draw: {wrong:#?}");
}

#[test]
fn the_table_of_arrows_names_only_crates_that_exist() {
    let crates = crates();
    let gone: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).filter(|name| !crates.contains_key(*name)).collect();
    assert!(gone.is_empty(), "in ARROWS of tests/tidy.rs, but not in the workspace: {gone:?}");
}

#[test]
fn every_arrow_of_the_table_is_used() {
    let crates = crates();
    let mut unused = Vec::new();
    for (from, allowed) in ARROWS.iter().filter(|(from, _)| crates.contains_key(*from)) {
        let uses = |to: &str| crates[*from].iter().any(|dependency| dependency.name == to && dependency.kind != Kind::Dev);
        unused.extend(allowed.iter().filter(|to| !uses(to)).map(|to| format!("{from} -> {to}")));
    }
    assert!(unused.is_empty(), "in ARROWS of tests/tidy.rs, but in no Cargo.toml: take them out: {unused:#?}");
}

#[test]
fn what_is_pure_has_no_way_to_act() {
    let crates = crates();
    for name in PURE {
        let uses: Vec<&str> = crates[*name].iter().filter(|d| d.kind != Kind::Dev).map(|d| d.name.as_str()).collect();
        let impure: Vec<_> = uses.iter().filter(|dependency| IMPURE.contains(dependency)).collect();
        assert!(impure.is_empty(), "{name} is pure and may not use {impure:?}");
    }
}

#[test]
fn of_the_product_only_the_log_speaks_to_nats() {
    for (name, dependencies) in crates() {
        let uses = dependencies.iter().any(|dependency| dependency.name == "async-nats" && dependency.kind != Kind::Dev);
        assert!(!uses || NATS.contains(&name.as_str()), "{name} uses async-nats; go through causeway-log");
    }
}

#[test]
fn every_crate_takes_lints_and_versions_from_the_workspace() {
    for manifest in manifests() {
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{}: the lints are those of the workspace", manifest.display());
        let own: Vec<&str> = text.lines().filter(|line| line.contains("version = \"")).collect();
        assert!(own.is_empty(), "{}: versions stand in the workspace: {own:?}", manifest.display());
    }
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    // The names of tests say what they are for.
    let sources = sources().filter(|(path, _)| !is_test(path));
    let silent: Vec<PathBuf> = sources.filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no module comment (`//! what it is for`) on the first line of {silent:#?}");
}

#[test]
fn what_the_compiler_does_not_check_is_in_one_file() {
    // Put together, so that this file does not name it.
    let word = concat!("un", "safe_code");
    let allowing: Vec<PathBuf> = sources().filter(|(_, text)| text.contains(word)).map(|(path, _)| path).collect();
    assert_eq!(allowing, [Path::new("crates/causeway-pages/src/vfs.rs")], "no other source may lift `{word}`");
}

#[test]
fn only_the_log_names_subjects() {
    // Tests and benchmarks that look from outside speak NATS themselves, as anybody may.
    let outside = ["crates/causeway-log", "tests", "bench"];
    let inside = |path: &Path| !is_test(path) && !outside.iter().any(|folder| path.starts_with(folder));
    for (path, text) in sources().filter(|(path, _)| inside(path)) {
        for (at, line) in code(&text) {
            assert!(!line.contains(".ev."), "{}:{at}: subjects are made by causeway-log only: {line}", path.display());
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Put together, so that this file does not name them.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let mark = marks.iter().find(|mark| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == **mark));
            assert!(mark.is_none(), "{}:{}: do it or say why not: {line}", path.display(), at + 1);
        }
    }
}

#[test]
fn no_type_is_a_manager_of_something() {
    let empty = ["Manager", "Helper", "Helpers", "Util", "Utils"];
    for (path, text) in sources() {
        for (at, line) in code(&text) {
            let mut words = line.split_whitespace().skip_while(|word| !["struct", "enum", "trait", "mod"].contains(word));
            let name = words.nth(1).unwrap_or_default().trim_end_matches(|c: char| !c.is_alphanumeric());
            let lower = name.to_lowercase();
            let bad = empty.iter().any(|word| name.ends_with(word) || lower == word.to_lowercase());
            assert!(!bad, "{}:{at}: name it after what it is: {line}", path.display());
        }
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Normal,
    Build,
    Dev,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    kind: Kind,
}

/// Every crate of the workspace with what its manifest asks for.
fn crates() -> BTreeMap<String, Vec<Dependency>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter().map(|dependency| Dependency {
                name: text(&dependency["name"]),
                kind: match dependency["kind"].as_str() {
                    Some("dev") => Kind::Dev,
                    Some("build") => Kind::Build,
                    _ => Kind::Normal,
                },
            });
            (text(&package["name"]), dependencies.collect())
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn root() -> PathBuf {
    causeway_testkit::workspace_root()
}

fn manifests() -> Vec<PathBuf> {
    let groups = ["crates", "services"].map(|group| root().join(group));
    let folders = groups.iter().flat_map(|group| fs::read_dir(group).expect("a folder of crates").flatten());
    let folders = folders.map(|entry| entry.path()).chain([root().join("tests"), root().join("bench")]);
    folders.map(|folder| folder.join("Cargo.toml")).filter(|manifest| manifest.is_file()).collect()
}

/// Every Rust file of ours with its text; paths are relative to the root.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let mut open: Vec<PathBuf> = ["crates", "services", "tests", "bench"].map(|group| root().join(group)).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() && !["node_modules", "target"].iter().any(|name| path.ends_with(name)) {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("a source file");
        (path.strip_prefix(root()).expect("below the root").to_owned(), text)
    })
}

/// The lines before the unit tests that are no comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]")).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The modules of an integration test, and unit tests that have files of their own.
fn is_test(path: &Path) -> bool {
    path.components().skip(1).any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}
