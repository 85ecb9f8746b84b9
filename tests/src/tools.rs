//! Programs of others, and small ones of ours in their languages, that look at Causeway from outside.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_testkit::{wait_until, workspace_root};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::api::Api;

/// How long a Python client may take.
const PYTHON_LIMIT: Duration = Duration::from_secs(320);
/// How long a helper server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where `make test-tools` put them.
pub fn tools() -> Result<PathBuf> {
    let tools = workspace_root().join(".causeway/test-tools");
    ensure!(tools.join("installed").is_file(), "the test tools are missing: run `make test-tools`");
    Ok(tools)
}

/// A file of tests/tools.
pub fn script(name: &str) -> PathBuf {
    workspace_root().join("tests/tools").join(name)
}

/// Runs a script of tests/tools to its end. What it printed, as JSON.
pub async fn python(name: &str, arguments: &[&str]) -> Result<Value> {
    let mut command = tokio::process::Command::new(tools()?.join("bin/python"));
    command.arg(script(name)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("http_proxy").kill_on_drop(true);
    let output = timeout(PYTHON_LIMIT, command.output()).await.with_context(|| format!("{name} took too long"))??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name} {arguments:?}: {}\n{stderr}", output.status);
    serde_json::from_str(&stdout).with_context(|| format!("{name} printed {stdout}\n{stderr}"))
}

/// Runs a program of the test tools to its end, which must be a good one. What it printed.
pub async fn tool(name: &str, arguments: &[&str], dir: &Path, limit: Duration) -> Result<String> {
    let mut command = tokio::process::Command::new(tools()?.join("bin").join(name));
    command.args(arguments).current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("http_proxy").kill_on_drop(true);
    let output = timeout(limit, command.output()).await.with_context(|| format!("{name} took too long"))??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name}: {}\n{stdout}\n{stderr}", output.status);
    Ok(stdout.into_owned())
}

/// Loads the gateway's reference page and runs its script, as a browser would. What stands on it then.
pub async fn reference_page(url: &str) -> Result<Value> {
    let script = script("reference_page.mjs").display().to_string();
    let printed = tool("node", &[&script, url], &tools()?, PYTHON_LIMIT).await?;
    serde_json::from_str(&printed).with_context(|| format!("the page's reader printed {printed}"))
}

/// A process that is killed with its test.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A model server that is not ours: aimock, with the answers of `fixtures`.
#[derive(Debug)]
pub struct Aimock {
    api: Api,
    _process: Running,
    _dir: TempDir,
}

impl Aimock {
    /// Starts it on a free port.
    pub async fn start(fixtures: &Value) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("fixtures.json"), fixtures.to_string())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let tools = tools()?;
        let process = Command::new(tools.join("bin/node"))
            .arg(tools.join("node_modules/@copilotkit/aimock/dist/cli.js"))
            .args(["-p", &port.to_string(), "-f"])
            .arg(dir.path())
            .args(["--strict", "--validate-on-load", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut process = Running(process);
        let api = Api::new(&format!("http://127.0.0.1:{port}"));
        let up = wait_until("aimock", START_LIMIT, async || match process.0.try_wait() {
            Ok(None) => api.get("/__aimock/journal").await.ok().map(|_| true),
            _ => Some(false),
        })
        .await;
        ensure!(up, "aimock did not start");
        Ok(Self { api, _process: process, _dir: dir })
    }

    /// Its address, without any path.
    pub fn base(&self) -> &str {
        self.api.base()
    }

    /// The requests that it got.
    pub async fn journal(&self) -> Result<Vec<Value>> {
        let journal = self.api.fetch("/__aimock/journal").await?;
        let entries = journal.as_array().or_else(|| journal["entries"].as_array()).cloned();
        entries.with_context(|| format!("a journal: {journal}"))
    }
}

/// An OTLP collector stand-in that keeps what it gets.
#[derive(Debug)]
pub struct OtlpSink {
    endpoint: String,
    dir: TempDir,
    _process: Running,
}

impl OtlpSink {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let process = Command::new(tools()?.join("bin/python"))
            .arg(script("otlp_sink.py"))
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let process = Running(process);
        let port = wait_until("the OTLP sink", START_LIMIT, async || {
            fs::read_to_string(dir.path().join("port")).ok().filter(|port| !port.is_empty())
        })
        .await;
        Ok(Self { endpoint: format!("http://127.0.0.1:{port}"), dir, _process: process })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans that came so far.
    pub fn spans(&self) -> Result<Vec<Value>> {
        lines(&self.dir.path().join("spans.jsonl"))
    }
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(Vec::new()) };
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    let parsed: Result<Vec<Value>, _> = lines.map(serde_json::from_str).collect();
    match parsed {
        Ok(values) => Ok(values),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}
