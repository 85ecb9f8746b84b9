//! A running `causeway`: any subcommand, in a folder and an environment of its own, with a hand on its life.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use causeway_testkit::{FakeModel, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::api::Api;
use crate::tools;

/// How long a start may take. The machine may be compiling beside it.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly end may take, before a test counts it as a hang.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a test waits for an orderly end.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// Runs what it is given on a terminal of its own, and ends as that ends.
const TERMINAL: &str = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";

/// The line that `--json` prints when all is ready.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Where the gateway listens.
    #[serde(default)]
    pub gateway: String,
    /// Where NATS listens.
    #[serde(default)]
    pub nats: String,
    /// The process.
    #[serde(default)]
    pub pid: u32,
}

/// What to start, and with what. Starting it twice gives the same command on the same data.
#[derive(Debug)]
pub struct Setup {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    terminal: bool,
    files_max: Option<u32>,
    home: TempDir,
}

impl Setup {
    fn new(arguments: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("causeway-e2e-").tempdir().expect("a folder for the test");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { arguments, environment: Vec::new(), terminal: false, files_max: None, home }
    }

    /// `causeway up`: everything in one process, with its own NATS.
    pub fn up() -> Self {
        let setup = Self::new(&["up", "--json", "--listen", "127.0.0.1:0"]);
        let data = setup.data().display().to_string();
        setup.arg("--data").arg(&data)
    }

    /// `causeway event-store`: the gateway alone, on a free port.
    pub fn event_store(nats: &str) -> Self {
        Self::event_store_at(nats, "127.0.0.1:0")
    }

    /// The same at an address that stays the same when it is started again.
    pub fn event_store_at(nats: &str, listen: &str) -> Self {
        let setup = Self::new(&["event-store", "--json", "--listen", listen, "--nats", nats]);
        let data = setup.data().display().to_string();
        setup.arg("--data").arg(&data)
    }

    /// `causeway ai-processor`: the AI processor alone.
    pub fn ai_processor(nats: &str) -> Self {
        Self::new(&["ai-processor", "--nats", nats])
    }

    /// Any command line.
    pub fn command(arguments: &[&str]) -> Self {
        Self::new(arguments)
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more variable. Of the test's own environment nothing but PATH is handed on.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Lets the AI processor talk to an OpenAI-compatible server.
    #[must_use]
    pub fn openai(self, base_url: &str) -> Self {
        self.model("openai", base_url)
    }

    /// The same for the test kit's own model.
    #[must_use]
    pub fn fake_model(self, model: &FakeModel) -> Self {
        self.openai(&model.base_url())
    }

    /// Lets the AI processor talk to a server of Anthropic's Messages API.
    #[must_use]
    pub fn anthropic(self, base_url: &str) -> Self {
        self.model("anthropic", base_url)
    }

    fn model(self, provider: &str, base_url: &str) -> Self {
        self.env("CAUSEWAY__AI_PROCESSOR__MODEL__PROVIDER", provider)
            .env("CAUSEWAY__AI_PROCESSOR__MODEL__BASE_URL", base_url)
            .env("CAUSEWAY__AI_PROCESSOR__MODEL__MODEL", "test-model")
            .env("CAUSEWAY__AI_PROCESSOR__MODEL__API_KEY", "test-key")
    }

    /// What it reads from its standard input. Nothing by default.
    #[must_use]
    pub fn stdin(self, text: &str) -> Self {
        fs::write(self.home.path().join("stdin"), text).expect("a file in the test's own folder");
        self
    }

    /// As a person would: standard input is typed, and everything else is shown on one screen, its standard output.
    #[must_use]
    pub fn on_a_terminal(mut self) -> Self {
        self.terminal = true;
        self.env("TERM", "xterm")
    }

    /// It may have only so many files open, connections among them.
    #[must_use]
    pub fn files_max(mut self, files_max: u32) -> Self {
        self.files_max = Some(files_max);
        self
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Starts it and waits for the line that says that all is ready.
    pub async fn start(self) -> Result<Causeway> {
        let mut causeway = self.spawn()?;
        causeway.wait_ready().await?;
        Ok(causeway)
    }

    /// Starts it and waits for nothing.
    pub fn spawn(self) -> Result<Causeway> {
        let child = self.child()?;
        Ok(Causeway { setup: self, child: Some(child), ready: None })
    }

    /// Runs it to its end, which must come within the usual limits.
    pub async fn run(self) -> Result<Finished> {
        self.run_within(STOP_LIMIT).await
    }

    /// The same for what has much to do.
    pub async fn run_within(self, limit: Duration) -> Result<Finished> {
        let mut causeway = self.spawn()?;
        let status = causeway.wait_end_within(limit).await;
        Ok(Finished { status, stdout: causeway.stdout(), stderr: causeway.stderr() })
    }

    fn child(&self) -> Result<Child> {
        let home = self.home.path();
        let mut command = match (self.terminal, self.files_max) {
            (true, _) => Command::new(tools()?.join("bin/python")),
            (false, Some(_)) => Command::new("sh"),
            (false, None) => Command::new(binary()?),
        };
        match self.files_max {
            _ if self.terminal => command.args(["-c", TERMINAL]).arg(binary()?),
            Some(files_max) => command.args(["-c", &format!("ulimit -n {files_max}; exec \"$0\" \"$@\"")]).arg(binary()?),
            None => &mut command,
        };
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")))
            .env("HOME", home)
            .env("RUST_BACKTRACE", "1")
            .env("CAUSEWAY_NATS_SERVER", causeway_testkit::binary()?)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(home)
            .stdin(File::open(home.join("stdin")).map_or_else(|_| Stdio::null(), Stdio::from))
            .stdout(appending(&home.join("stdout"))?)
            .stderr(appending(&home.join("stderr"))?)
            .spawn()
            .context("start causeway")
    }
}

/// A command that has come to its end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// A started `causeway`. Dropping it ends it, and shows what it wrote if the test failed.
#[derive(Debug)]
pub struct Causeway {
    setup: Setup,
    child: Option<Child>,
    ready: Option<Ready>,
}

impl Causeway {
    /// Its addresses.
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("started with `start`, or waited for")
    }

    /// A client of its gateway.
    pub fn api(&self) -> Api {
        Api::new(&self.ready().gateway)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("it runs")
    }

    /// Its private folder: HOME and working directory.
    pub fn home(&self) -> &Path {
        self.setup.home.path()
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.setup.data()
    }

    /// What all its lives printed.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.home().join("stdout")).unwrap_or_default()
    }

    /// What all its lives wrote to stderr.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.home().join("stderr")).unwrap_or_default()
    }

    /// kill -9, and wait for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and wait for the end. Its exit status.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        Ok(self.wait_end().await)
    }

    /// Starts it again on the same data with the same command and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.respawn()?;
        self.wait_ready().await
    }

    /// The same without waiting.
    pub fn respawn(&mut self) -> Result<()> {
        self.kill();
        self.ready = None;
        // The ready line of this life shall be the first in the file.
        File::create(self.home().join("stdout"))?;
        self.child = Some(self.setup.child()?);
        Ok(())
    }

    /// The next start goes without this variable.
    pub fn forget_env(&mut self, name: &str) {
        self.setup.environment.retain(|(known, _)| known != name);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until this stands on its stderr.
    pub async fn wait_stderr(&self, text: &str) {
        wait_until(&format!("{text:?} on stderr"), START_LIMIT, async || self.stderr().contains(text).then_some(())).await;
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_end(&mut self) -> ExitStatus {
        self.wait_end_within(STOP_LIMIT).await
    }

    async fn wait_end_within(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let mut ended = None;
        let deadline = Instant::now() + limit;
        while ended.is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ended = child.try_wait().expect("our own child");
        }
        let Some(status) = ended else {
            self.child = Some(child);
            panic!("causeway did not end within {limit:?}");
        };
        status
    }

    /// Waits for the ready line.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let stdout = self.stdout();
            if let Some((line, _)) = stdout.split_once('\n') {
                let ready = serde_json::from_str(line).with_context(|| format!("the ready line is {line:?}"))?;
                self.ready = Some(ready);
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().context("it was not started")?.try_wait()? {
                bail!("causeway ended before it was ready: {status}, signal {:?}\n{}", status.signal(), self.stderr());
            }
            if deadline < Instant::now() {
                bail!("causeway was not ready within {START_LIMIT:?}; its stderr:\n{}", self.stderr());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All living processes that were started for this Causeway: those that have its folder in their environment or command.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.home().display().to_string();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                ["environ", "cmdline"].iter().any(|file| {
                    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).contains(&mark)
                })
            })
            .collect()
    }

    /// Waits until no process of this Causeway is left.
    pub async fn wait_gone(&self) {
        wait_until("the end of all processes", STOP_LIMIT, async || self.processes().is_empty().then_some(())).await;
    }
}

impl Drop for Causeway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // A stopped process takes SIGTERM only when it goes on.
                let _ = kill_process(pid, Signal::TERM);
                let _ = kill_process(pid, Signal::CONT);
                let deadline = Instant::now() + DROP_LIMIT;
                while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                    pause();
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        // What a kill left behind shall not outlive the test.
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| test_kill_process(*pid).is_ok()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            show(&format!("causeway {:?}", self.setup.arguments), &self.stderr());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "drop cannot await")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[expect(clippy::print_stderr, reason = "the output of a failed test")]
fn show(what: &str, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.len().saturating_sub(80);
    eprintln!("--- {what}: the end of its stderr\n{}\n---", lines[tail..].join("\n"));
}

fn appending(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())
}

/// The built binary, which stands beside the folder of this very test.
pub fn binary() -> Result<PathBuf> {
    built("causeway", "`cargo build -p causeway`")
}

/// An example of the client crate, built.
pub fn example(name: &str) -> Result<PathBuf> {
    built(&format!("examples/{name}"), "`cargo build -p causeway-client --examples`")
}

fn built(path: &str, command: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profile = this.parent().and_then(Path::parent).context("the folder of the build")?;
    let binary = profile.join(path);
    if !binary.is_file() {
        bail!("{} is missing: run `make test`, or {command}", binary.display());
    }
    Ok(binary)
}
