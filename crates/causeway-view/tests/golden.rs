//! The logs of all released versions, in `tests/fixtures/`, replay for ever and to the same bytes.
//!
//! `CAUSEWAY_UPDATE_FIXTURES=1` writes the projections anew instead of comparing them; the logs are never written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use causeway_event::{Category, Event, Payload};
use causeway_view::{Prices, chain, conversation, state};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A version's folder and its log.
struct Golden {
    folder: PathBuf,
    lines: Vec<String>,
    events: Vec<Event>,
}

fn versions() -> Vec<Golden> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let entries = fs::read_dir(&fixtures).expect("the fixtures are there").map(|entry| entry.expect("can be listed").path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders.into_iter().map(read).collect()
}

fn read(folder: PathBuf) -> Golden {
    let log = fs::read_to_string(folder.join("events.ndjson")).expect("a version has a log");
    let lines: Vec<_> = log.lines().map(str::to_owned).collect();
    let events = lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    Golden { folder, lines, events }
}

/// Folds each event into the state that `key` names.
fn project<S: Default>(events: &[Event], key: impl Fn(&Event) -> String, fold: impl Fn(S, &Event) -> S) -> BTreeMap<String, S> {
    let mut states = BTreeMap::new();
    for event in events {
        let key = key(event);
        let state = states.remove(&key).unwrap_or_default();
        states.insert(key, fold(state, event));
    }
    states
}

fn of_aggregate(event: &Event) -> String {
    event.aggregate_id.to_string()
}

fn of_correlation(event: &Event) -> String {
    event.metadata.correlation_id.to_string()
}

#[track_caller]
fn same(file: &Path, text: &str) {
    if std::env::var_os("CAUSEWAY_UPDATE_FIXTURES").is_some() {
        fs::write(file, text).expect("the fixture can be written");
    }
    let golden = fs::read_to_string(file).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).position(|(golden, now)| golden != now);
    let line = differs.unwrap_or(golden.lines().count().min(text.lines().count())) + 1;
    assert!(golden == text, "{} differs from line {line}:\n{:?}", file.display(), text.lines().nth(line - 1));
}

fn pretty(states: &impl Serialize) -> String {
    serde_json::to_string_pretty(states).expect("a view is JSON") + "\n"
}

/// Through JSON and back, as a snapshot goes.
fn kept<S: Serialize + DeserializeOwned>(state: &S) -> S {
    let json = serde_json::to_vec(state).expect("a view is JSON");
    serde_json::from_slice(&json).expect("a view reads what it wrote")
}

#[test]
fn events_of_every_version_are_read_and_written_to_the_same_bytes() {
    for version in versions() {
        for (line, event) in version.lines.iter().zip(&version.events) {
            assert_eq!(&serde_json::to_string(event).expect("an event is JSON"), line);
        }
    }
}

#[test]
fn data_of_every_version_still_fits_its_type() {
    for event in versions().iter().flat_map(|version| &version.events) {
        let known = event.category() != Category::Custom;
        assert_eq!(event.payload() != Payload::Other, known, "{event:?}");
    }
}

#[test]
fn conversations_of_every_version_replay_to_the_same_bytes() {
    for version in versions() {
        let conversations = project(&version.events, of_aggregate, conversation::fold);
        same(&version.folder.join("conversations.json"), &pretty(&conversations));
        let resumed = project(&version.events, of_aggregate, |state, event| conversation::fold(kept(&state), event));
        assert_eq!(pretty(&resumed), pretty(&conversations), "with a snapshot between any two events");
    }
}

#[test]
fn chains_of_every_version_replay_to_the_same_bytes() {
    for version in versions() {
        let chains = project(&version.events, of_correlation, chain::fold);
        let trees: BTreeMap<_, _> = chains.iter().map(|(id, chain)| (id, chain.tree(&Prices::default()))).collect();
        same(&version.folder.join("chains.json"), &pretty(&trees));
        let drawings: Vec<_> = trees.values().map(|tree| tree.render().join("\n") + "\n").collect();
        same(&version.folder.join("chains.txt"), &drawings.join("\n"));
        let resumed = project(&version.events, of_correlation, |state, event| chain::fold(kept(&state), event));
        assert_eq!(resumed, chains, "with a snapshot between any two events");
    }
}

#[test]
fn states_of_every_version_replay_to_the_same_bytes() {
    for version in versions() {
        let states = project(&version.events, of_aggregate, state::fold);
        same(&version.folder.join("states.json"), &pretty(&states));
        let resumed = project(&version.events, of_aggregate, |state, event| state::fold(kept(&state), event));
        assert_eq!(resumed, states, "with a snapshot between any two events");
    }
}
