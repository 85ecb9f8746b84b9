//! The program and its configuration: what it shows, and what it refuses before it says that it is ready.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// Runs it with nothing but these variables, in a folder of its own.
fn causeway(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let variables = variables.iter().copied();
    Command::new(env!("CARGO_BIN_EXE_causeway"))
        .args(arguments)
        .env_clear()
        .envs(variables)
        .current_dir(folder.path())
        .output()
        .unwrap()
}

#[test]
fn a_password_of_nats_is_neither_shown_nor_told() {
    let url = ("CAUSEWAY__LOG__URL", "nats://me:very-secret@127.0.0.1:1");
    for arguments in
        [&["config", "show"][..], &["config", "show", "--json"], &["ai-processor", "--json"], &["up", "--listen", "127.0.0.1:0"]]
    {
        let output = causeway(arguments, &[url, ("CAUSEWAY__LOG__REQUEST_TIMEOUT", "1s")]);
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(told.contains("nats://***@127.0.0.1:1"), "{arguments:?}: {told}");
        assert!(!told.contains("very-secret"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_before_anything_is_ready() {
    let model = ("CAUSEWAY__AI_PROCESSOR__MODEL__PROVIDER", "anthropic");
    let heartbeat = ("CAUSEWAY__EVENT_STORE__HEARTBEAT", "0s");
    let ack_wait = ("CAUSEWAY__AI_PROCESSOR__PROCESSING__ACK_WAIT", "0s");
    for (arguments, variable, key) in [
        (&["ai-processor", "--json"][..], model, "ai_processor.model.model"),
        (&["up", "--json", "--listen", "127.0.0.1:0"], model, "ai_processor.model.model"),
        (&["config", "check"], model, "ai_processor.model.model"),
        (&["event-store", "--json"], heartbeat, "event_store.heartbeat"),
        (&["config", "check", "--json"], heartbeat, "event_store.heartbeat"),
        (&["ai-processor"], ack_wait, "ai_processor.processing.ack_wait"),
    ] {
        let output = causeway(arguments, &[variable]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(key), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}: no word of readiness");
    }
}

#[test]
fn the_example_is_json_for_programs() {
    let json = causeway(&["config", "example", "--json"], &[]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let text = String::from_utf8(causeway(&["config", "example"], &[]).stdout).unwrap();
    assert_eq!(json["example"].as_str().unwrap(), text);
}
