//! The gRPC contract: written by the rules, with a word on everything, and never changed in a way that breaks a client.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use causeway_e2e::tools;
use causeway_testkit::workspace_root;

fn buf(arguments: &[&str]) -> Output {
    let mut command = Command::new(tools().unwrap().join("bin/buf"));
    command.args(arguments).current_dir(workspace_root()).env("BUF_CACHE_DIR", std::env::temp_dir().join("buf-cache"));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The contract as it stands, kept so that nothing of it is changed unseen before it is released.
const KEPT: &str = "tests/contract";

/// The contract of each released version, and the one that is kept.
fn guarded() -> Vec<String> {
    let fixtures = fs::read_dir(workspace_root().join("tests/fixtures")).unwrap();
    let folders = fixtures.map(|entry| entry.unwrap().path().join("proto")).filter(|folder| folder.is_dir());
    folders.map(|folder| folder.display().to_string()).chain([KEPT.to_owned()]).collect()
}

/// A copy of the contract with one change.
fn changed(folder: &Path, from: &str, to: &str) -> String {
    let proto = workspace_root().join("proto");
    let file = "causeway/v1/event_store.proto";
    let text = fs::read_to_string(proto.join(file)).unwrap();
    assert!(text.contains(from), "{from}");
    fs::create_dir_all(folder.join("causeway/v1")).unwrap();
    fs::copy(proto.join("buf.yaml"), folder.join("buf.yaml")).unwrap();
    fs::write(folder.join(file), text.replacen(from, to, 1)).unwrap();
    folder.display().to_string()
}

#[test]
fn the_contract_is_written_by_the_rules_and_says_a_word_on_everything() {
    let output = buf(&["lint", "proto"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = buf(&["format", "--diff", "--exit-code", "proto"]);
    assert!(output.status.success(), "`buf format -w proto` mends it: {}", said(&output));

    let folder = tempfile::tempdir().unwrap();
    let silent = changed(folder.path(), "  // The model call within the turn, from 1.\n", "");
    let output = buf(&["lint", &silent]);
    assert!(!output.status.success() && said(&output).contains("comment"), "{}", said(&output));
}

#[test]
fn no_client_is_broken() {
    let guarded = guarded();
    assert!(guarded.len() > 1);
    for version in &guarded {
        let output = buf(&["breaking", "proto", "--against", version]);
        assert!(output.status.success(), "a client of {version} would break: {}", said(&output));
    }
    for (from, to) in [
        ("uint64 position = 2;", "int64 position = 2;"),
        ("string aggregate_id = 5;", "string aggregate = 5;"),
        ("rpc Get(GetRequest)", "rpc Fetch(GetRequest)"),
        ("bytes data = 6;", "bytes data = 16;"),
        ("ConsumeAck ack = 2;", "ConsumeAck ack = 12;"),
        ("uint64 actual_position = 4;", "uint64 actual_position = 14;"),
        ("repeated Change changes = 6;", "repeated Change changes = 16;"),
        ("Change change = 3;", "Change change = 13;"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let broken = changed(folder.path(), from, to);
        let noticed = guarded.iter().any(|version| !buf(&["breaking", &broken, "--against", version]).status.success());
        assert!(noticed, "{from} -> {to} would break clients and goes unnoticed");
    }
    // Taken the other way round, whatever is new is missing.
    let output = buf(&["breaking", KEPT, "--against", "proto"]);
    assert!(output.status.success(), "`cp -r proto/causeway {KEPT}/` keeps what was added: {}", said(&output));
}
