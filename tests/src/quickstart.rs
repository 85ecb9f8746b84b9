//! What the documentation has its reader do, the quick starts of `docs/clients` above all: the pages are the tests. A fenced block that names a file is that file, one that says `run`
//! is run, and the block of text behind it is what it must print.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_testkit::workspace_root;
use tokio::process::Command;
use tokio::time::timeout;

use crate::tools::tools;

/// Where a gateway listens unless told otherwise, as the pages say it.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8470";

/// How long the commands of one block may take. The machine may be compiling beside it.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// How much longer `timeout` may take to end them all.
const GRACE: Duration = Duration::from_secs(10);

/// A page of the documentation.
#[derive(Debug)]
pub struct Page {
    text: String,
}

/// A fenced block: what stands behind the fence, and what stands within.
struct Block<'a> {
    info: Vec<&'a str>,
    body: String,
}

impl Page {
    /// The page at this path below the workspace.
    pub fn read(path: &str) -> Result<Self> {
        let text = fs::read_to_string(workspace_root().join(path)).with_context(|| path.to_owned())?;
        Ok(Self { text })
    }

    /// The same page with something else in place of each `from`, which must be there.
    pub fn replace(self, from: &str, to: &str) -> Result<Self> {
        ensure!(self.text.contains(from), "the page has no {from}");
        Ok(Self { text: self.text.replace(from, to) })
    }

    /// The packages that the page has its reader install, as `name` and `version`.
    pub fn installs(&self) -> Vec<(String, String)> {
        let lines = self.text.lines().filter(|line| line.starts_with("pip install ") || line.starts_with("npm install "));
        let words = lines.flat_map(|line| line.split_whitespace().skip(2)).filter(|word| !word.starts_with("--"));
        let parts = words.map(|word| word.split_once("==").or_else(|| word.rsplit_once('@')).unwrap_or((word, "")));
        parts.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
    }

    /// What the page has its reader put into the file of this name.
    pub fn file(&self, name: &str) -> Result<String> {
        let found = self.blocks().into_iter().find(|block| block.info.get(1) == Some(&name));
        Ok(found.with_context(|| format!("the page has no file {name}"))?.body)
    }

    /// Does what the page says, in an empty folder, against the gateway at `server`. How many runs had to print something, and did.
    pub async fn follow(&self, server: &str) -> Result<usize> {
        let runs = self.printed(server).await?;
        for (printed, promised) in &runs {
            ensure!(printed == promised, "the page promises\n{promised}\nbut it printed\n{printed}");
        }
        Ok(runs.len())
    }

    /// Does the same. What each run printed that had to print something, and what that was.
    pub async fn printed(&self, server: &str) -> Result<Vec<(String, String)>> {
        let dir = tempfile::tempdir()?;
        // What the page has its reader copy and install.
        symlink(workspace_root().join("proto"), dir.path().join("proto"))?;
        symlink(tools()?.join("node_modules"), dir.path().join("node_modules"))?;
        let (mut printed, mut runs) = (None, Vec::new());
        for Block { info, body } in self.blocks() {
            match (info.as_slice(), printed.take()) {
                (["sh", "run"], None) => printed = Some(run(&body, dir.path(), server).await?),
                (["text"], Some(printed)) => runs.push((printed, body)),
                ([_, file], _) if *file != "run" => {
                    let file = dir.path().join(file);
                    fs::create_dir_all(file.parent().context("a folder")?)?;
                    fs::write(file, body)?;
                }
                _ => {}
            }
        }
        Ok(runs)
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for line in self.text.lines() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(info), None) => open = Some(Block { info: info.split_whitespace().collect(), body: String::new() }),
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.body.push_str(line);
                    block.body.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        blocks
    }
}

/// Runs commands as a reader would who has installed everything. What they printed.
async fn run(commands: &str, dir: &Path, server: &str) -> Result<String> {
    let tools = tools()?;
    let path = [tools.join("bin"), tools.join("node_modules/.bin"), "/usr/bin".into(), "/bin".into()];
    let commands = commands.replace(DEFAULT_SERVER, server);
    // It ends whatever the commands started, and what they printed is still to be had.
    let mut bash = Command::new("timeout");
    // What is installed is on the PATH: npx has nothing to look for.
    bash.args([&RUN_LIMIT.as_secs().to_string(), "bash", "-euc", &format!("npx() {{ \"$@\"; }}\n{commands}")])
        .env_clear()
        .env("PATH", std::env::join_paths(path)?)
        .env("HOME", dir)
        .env("CAUSEWAY_SERVER", server)
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(RUN_LIMIT + GRACE, bash.output()).await.with_context(|| format!("took too long: {commands}"))??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{commands}{}\n{stdout}\n{stderr}", output.status);
    }
    Ok(stdout.into_owned())
}
