//! The README's commands in a copy of the checkout that has never been built, with an empty HOME.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use causeway_e2e::{Api, Ready};
use causeway_testkit::{wait_until, workspace_root};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tempfile::TempDir;

use crate::sequence::readme_command;

/// Our own crates are compiled anew in the copy, beside all the other tests.
const BUILD_LIMIT: Duration = Duration::from_secs(600);
const CHAT_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn make_up_works_in_a_fresh_copy_with_an_empty_home() {
    let dir = TempDir::new().unwrap();
    let (clone, home) = (dir.path().join("causeway"), dir.path().join("home"));
    copy_checkout(&clone).unwrap();
    fs::create_dir(&home).unwrap();
    borrow_dependencies(&clone.join("target/debug")).unwrap();
    assert!(!clone.join(".causeway").exists());

    let out = fs::File::create(dir.path().join("out")).unwrap();
    let err = fs::File::create(dir.path().join("err")).unwrap();
    let mut make = Command::new("make");
    let arguments = "ARGS=--json --listen 127.0.0.1:0";
    assert_eq!(readme_command("make", "up"), "make up");
    make.args(["up", arguments]).current_dir(&clone).env_clear().env("HOME", &home);
    let needed = |name: &str| ["PATH", "CARGO_HOME", "RUSTUP_HOME"].contains(&name) || is_network(name);
    make.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(needed)));
    // Where they are not named, Rust's own folders are those of the real HOME.
    if let Some(real) = std::env::var_os("HOME").map(PathBuf::from) {
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                make.env(name, real.join(folder));
            }
        }
    }
    let spawned = std::os::unix::process::CommandExt::process_group(&mut make, 0);
    let mut up = Up(spawned.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap());
    let ready = wait_until("the ready line of make up", BUILD_LIMIT, async || {
        let text = fs::read_to_string(dir.path().join("out")).ok()?;
        let line = text.lines().find(|line| line.starts_with('{') && line.ends_with('}'));
        if line.is_none() && !matches!(up.0.try_wait(), Ok(None)) {
            return Some(Err(fs::read_to_string(dir.path().join("err")).unwrap_or_default()));
        }
        Some(Ok(serde_json::from_str::<Ready>(line?).unwrap()))
    })
    .await
    .unwrap_or_else(|errors| panic!("make up ended:\n{errors}"));

    let api = Api::new(&ready.gateway);
    api.append(&json!({"type": "MessageReceived", "aggregate_id": "user_123", "data": {"content": "Hello"}})).await.unwrap();
    api.wait_for("user_123", "AIProcessingCompleted").await.unwrap();
    let chat = readme_command("target/debug/causeway", "chat");
    let answers = chat_through_a_pipe(&chat, &clone, &home, &ready.gateway).await;
    assert!(answers.contains("42"), "`{chat}` answers: {answers}");
    assert!(clone.join("data").is_dir(), "the data is in the checkout");
    let server = fs::read_dir(&clone).unwrap().flatten().any(|entry| entry.file_name() == ".causeway");
    assert!(server || on_path("nats-server"), "nats-server is private to the checkout");
    let left: Vec<_> = fs::read_dir(&home).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == ".cache"), "nothing is installed into HOME: {left:?}");

    up.signal(Signal::TERM);
    wait_until("the end of make up", STOP_LIMIT, async || up.0.try_wait().ok().flatten()).await;
}

/// `make up`, which leads a process group. A test that fails leaves none of it behind.
struct Up(Child);

impl Up {
    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // The error says that it has just gone.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// Runs the README's second command in the copy, with a question at its standard input. What it printed.
async fn chat_through_a_pipe(command: &str, clone: &Path, home: &Path, gateway: &str) -> String {
    let question = home.parent().unwrap().join("question");
    fs::write(&question, "What is 6 * 7?\n").unwrap();
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-c", command]).current_dir(clone).env_clear().env("HOME", home).env("CAUSEWAY_SERVER", gateway);
    bash.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(fs::File::open(question).unwrap()).kill_on_drop(true);
    let output = tokio::time::timeout(CHAT_LIMIT, bash.output()).await.expect("the end of the chat").unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// How this machine reaches the package registries: proxies, mirrors, certificates.
fn is_network(name: &str) -> bool {
    name.starts_with("PIP_") || name.starts_with("SSL_CERT_") || name.to_lowercase().ends_with("_proxy")
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Copies what git would clone, and what is not committed yet.
fn copy_checkout(to: &Path) -> Result<()> {
    let root = workspace_root();
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(&root)
        .output()
        .context("git")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    for file in listed.stdout.split(|byte| *byte == 0).filter(|file| !file.is_empty()) {
        let file = Path::new(std::str::from_utf8(file)?);
        let (from, to) = (root.join(file), to.join(file));
        if from.is_file() {
            fs::create_dir_all(to.parent().context("a folder")?)?;
            fs::copy(&from, &to).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// Gives the copy the compiled dependencies of this build, as links, so that the test compiles our crates only. The
/// compiler makes new files and never writes into old ones, so that the originals stay as they are.
fn borrow_dependencies(target: &Path) -> Result<()> {
    let this = std::env::current_exe()?;
    let built = this.parent().and_then(Path::parent).context("the folder of the build")?;
    for folder in ["deps", ".fingerprint", "build"] {
        link_tree(&built.join(folder), &target.join(folder))?;
    }
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        // Ours are compiled anew.
        if name.to_string_lossy().trim_start_matches("lib").starts_with("causeway") {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&path, &to.join(&name))?;
        } else if kind.is_file() && fs::hard_link(&path, to.join(&name)).is_err() {
            // Another file system, or the file has just gone.
            let _ = fs::copy(&path, to.join(&name));
        }
    }
    Ok(())
}
