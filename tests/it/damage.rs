//! The read model is disposable: whatever is done to its files, while the gateway runs or not, every answer is that of the log. What
//! was wrong is said in the gateway's log, and kept for whoever wants to know why.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_e2e::{Append, Causeway, Client, Dice, Draft, Outcome, PASSING, Receipt, Wire, gateway};
use causeway_testkit::{NatsServer, wait_until};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const SESSIONS: usize = 8;
/// So much that the file has many pages of every kind.
const EVENTS: usize = 400;
const CHECK_BYTES_MAX: &str = "CAUSEWAY__EVENT_STORE__READ_MODEL__CHECK_BYTES_MAX";
/// What the gateway says when it has thrown its file away.
const SAID: &str = "set aside";

/// A log, the gateway whose file is damaged, another that is left alone, and all that was appended.
struct World {
    // Ends last.
    started: Vec<Causeway>,
    client: Client,
    other: Client,
    appended: Vec<(Append, Receipt)>,
    _nats: NatsServer,
}

impl World {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With so large a file that is checked in full before it serves.
    async fn start_with(check_bytes_max: Option<&str>) -> Self {
        let nats = NatsServer::start().await.unwrap();
        let started = (0..2).map(|_| async {
            let setup = gateway(&nats.url()).unwrap();
            let setup = check_bytes_max.into_iter().fold(setup, |setup, bytes| setup.env(CHECK_BYTES_MAX, bytes));
            let gateway = setup.start().await.unwrap();
            Client::of(&gateway).unwrap().wait_ready().await;
            gateway
        });
        let started = join_all(started).await;
        let (client, other) = (Client::of(&started[0]).unwrap(), Client::of(&started[1]).unwrap());
        Self { started, client, other, appended: Vec::new(), _nats: nats }
    }

    /// Appends through the gateway that is left alone, many at a time.
    async fn grow(&mut self, count: usize) {
        let from = self.appended.len();
        let other = &self.other;
        let roots = self.appended.iter().filter(|(append, _)| append.events[0].causation_id.is_none());
        let known: Vec<String> = roots.map(|(_, receipt)| receipt.id.clone()).collect();
        let known = &known;
        let appends = (from..from + count).map(|number| async move {
            let session = format!("session-{}", number % SESSIONS);
            let draft = match number % 3 {
                0 => Draft::new("MessageReceived", &session, json!({"content": format!("message {number}")})),
                _ => Draft::new("NoteTaken", &session, json!({"number": number, "padding": "x".repeat(200)})),
            };
            // Every fifth is caused by one that was there before this call; no effect has effects.
            let cause = (number % 5 == 4).then(|| known.get(number * 17 % known.len().max(1))).flatten();
            let draft = Draft { causation_id: cause.cloned(), ..draft };
            let append = Append::one(draft).keyed(format!("key-{number}"));
            let outcome = other.settle(if number % 2 == 0 { Wire::Http } else { Wire::Grpc }, &append).await.unwrap();
            let receipt = outcome.receipts().unwrap()[0].clone();
            (append, receipt)
        });
        self.appended.extend(join_all(appends).await);
        self.appended.sort_unstable_by_key(|(_, receipt)| receipt.position);
    }

    fn gateway(&mut self) -> &mut Causeway {
        &mut self.started[0]
    }

    /// The database, or the file beside it with this suffix.
    fn file(&self, suffix: &str) -> PathBuf {
        self.started[0].data().join("event-store").join(format!("read-model.sqlite{suffix}"))
    }

    /// What the gateway has said since this many bytes.
    fn said(&self, since: usize) -> String {
        self.started[0].stderr()[since..].to_owned()
    }

    fn expected(&self, right: impl Fn(&Append) -> bool) -> Vec<Value> {
        let events = self.appended.iter().filter(|(append, _)| right(append));
        events.map(|(append, receipt)| json!([receipt.id, receipt.position, receipt.timestamp, append.events[0].data])).collect()
    }

    /// Every sort of answer against what was appended. An error that says to come back is no wrong answer.
    async fn check(&mut self) -> Result<()> {
        self.check_counts().await?;
        self.check_aggregates().await?;
        let whole = self.events("").await?;
        same("all", &whole, &self.expected(|_| true))?;
        let backwards: Vec<Value> = self.events("order=desc").await?.into_iter().rev().collect();
        same("backwards", &backwards, &whole)?;
        for session in (0..SESSIONS).map(|number| format!("session-{number}")) {
            let of = |append: &Append| append.events[0].aggregate_id == session;
            same(&session, &self.events(&format!("aggregate_id={session}")).await?, &self.expected(of))?;
            let said = |append: &Append| of(append) && append.events[0].event_type == "MessageReceived";
            let query = format!("aggregate_id={session}&type=Message*");
            same(&query, &self.events(&query).await?, &self.expected(said))?;
            let view = self.fetch(&format!("/projections/conversation/{session}")).await?;
            let texts: Vec<&Value> =
                view["state"]["messages"].as_array().context("messages")?.iter().map(|m| &m["text"]).collect();
            self.check_state(&session).await?;
            let spoken = self.appended.iter().filter(|(append, _)| said(append));
            let spoken: Vec<&Value> = spoken.map(|(append, _)| &append.events[0].data["content"]).collect();
            ensure!(texts == spoken, "the conversation of {session}: {texts:?} instead of {spoken:?}");
        }
        for (append, receipt) in self.appended.iter().step_by(17) {
            for name in [&receipt.id, &receipt.position.to_string()] {
                let event = self.fetch(&format!("/events/{name}")).await?;
                ensure!(event["id"] == receipt.id.as_str() && event["data"] == append.events[0].data, "{event} for {receipt:?}");
            }
            let chain = format!("correlation_id={}", receipt.correlation_id);
            let of_chain = self.appended.iter().filter(|(_, other)| other.correlation_id == receipt.correlation_id);
            let of_chain: Vec<&Option<String>> = of_chain.map(|(append, _)| &append.key).collect();
            same(&chain, &self.events(&chain).await?, &self.expected(|other| of_chain.contains(&&other.key)))?;
            self.check_effects(receipt).await?;
            let again = self.client.settle(Wire::Http, append).await?;
            let first = Outcome::Appended { receipts: vec![receipt.clone()], duplicate: true };
            ensure!(again == first, "{again:?} for the key of {receipt:?}");
        }
        Ok(())
    }

    /// Every sort of count: an index alone, several joined, and rows.
    async fn check_counts(&self) -> Result<()> {
        let number =
            |append: &Append| append.events[0].aggregate_id.rsplit('-').next().and_then(|text| text.parse::<usize>().ok());
        let is = |append: &Append, name: &str| append.events[0].event_type == name;
        self.count("", |_| true).await?;
        for name in ["MessageReceived", "NoteTaken"] {
            self.count(&format!("type={name}"), |append| is(append, name)).await?;
            self.count(&format!("type={name}&source=test"), |append| is(append, name)).await?;
        }
        self.count("source=test", |_| true).await?;
        self.count("category=input", |append| is(append, "MessageReceived")).await?;
        for session in 0..SESSIONS {
            let query = format!("aggregate_id=session-{session}");
            self.count(&query, |append| number(append) == Some(session)).await?;
            self.count(&format!("{query}&type=NoteTaken"), |append| number(append) == Some(session) && is(append, "NoteTaken"))
                .await?;
        }
        Ok(())
    }

    async fn count(&self, query: &str, right: impl Fn(&Append) -> bool) -> Result<()> {
        let counted = self.fetch(&format!("/events/count?{query}")).await?;
        let expected = self.appended.iter().filter(|(append, _)| right(append)).count();
        ensure!(counted["count"] == expected, "{query}: {counted} instead of {expected}");
        Ok(())
    }

    async fn check_aggregates(&self) -> Result<()> {
        let shown = self.fetch("/aggregates?limit=1000").await?;
        let shown: Vec<Value> = shown["aggregates"].as_array().context("aggregates")?.clone();
        let names: BTreeSet<&str> = self.appended.iter().map(|(append, _)| append.events[0].aggregate_id.as_str()).collect();
        let expected = names.into_iter().map(|name| {
            let of: Vec<&Receipt> = self
                .appended
                .iter()
                .filter(|(append, _)| append.events[0].aggregate_id == name)
                .map(|(_, receipt)| receipt)
                .collect();
            let (first, last) = (of[0], of[of.len() - 1]);
            json!({"aggregate_id": name, "first_position": first.position, "last_position": last.position,
                   "last_timestamp": last.timestamp})
        });
        same("the aggregates", &shown, &expected.collect::<Vec<_>>())
    }

    /// The view `state` of a session, now and as of a moment in its midst.
    async fn check_state(&self, session: &str) -> Result<()> {
        let own = |(append, _): &&(Append, Receipt)| {
            append.events[0].aggregate_id == session && append.events[0].event_type == "NoteTaken"
        };
        let notes: Vec<&(Append, Receipt)> = self.appended.iter().filter(own).collect();
        for (as_of, count) in [("", notes.len()), ("as_of=", notes.len() / 2)] {
            let Some((append, receipt)) = count.checked_sub(1).map(|last| notes[last]) else { continue };
            let moment = if as_of.is_empty() { String::new() } else { format!("{as_of}{}", receipt.position) };
            let view = self.fetch(&format!("/projections/state/{session}?{moment}")).await?;
            let right = view["state"]["events"] == count && view["state"]["state"] == append.events[0].data;
            ensure!(right, "the state of {session} {moment}: {view}\ninstead of {count} events, the last {append:?}");
        }
        Ok(())
    }

    /// What an event caused, and its chain.
    async fn check_effects(&self, receipt: &Receipt) -> Result<()> {
        let effects = self.expected(|append| append.events[0].causation_id.as_deref() == Some(&receipt.id));
        for filter in ["caused_by", "descendants_of"] {
            let query = format!("{filter}={}", receipt.id);
            same(&query, &self.events(&query).await?, &effects)?;
            let counted = self.fetch(&format!("/events/count?{query}")).await?;
            ensure!(counted["count"] == effects.len(), "{query}: {counted} instead of {}", effects.len());
        }
        let tree = self.fetch(&format!("/chains/{}", receipt.correlation_id)).await?;
        let of_chain = self.appended.iter().filter(|(_, other)| other.correlation_id == receipt.correlation_id);
        let expected: Vec<Value> = of_chain.map(|(_, other)| other.id.as_str().into()).collect();
        let nodes = tree["nodes"].as_array().context("nodes")?;
        same("the chain", &nodes.iter().map(|node| node["id"].clone()).collect::<Vec<_>>(), &expected)
    }

    async fn events(&self, query: &str) -> Result<Vec<Value>> {
        let text = self.ask(&format!("/events?{query}"), "application/x-ndjson").await?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        Ok(events.iter().map(|event| json!([event["id"], event["position"], event["timestamp"], event["data"]])).collect())
    }

    async fn fetch(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(path, "application/json").await?)?)
    }

    /// Asks until there is an answer. A stream that breaks off, or a problem that passes, is none.
    async fn ask(&self, path: &str, accept: &str) -> Result<String> {
        wait_until(&format!("an answer to {path}"), LIMIT, async || {
            let response = self.client.http.request(Method::GET, path).header("accept", accept).send().await.ok()?;
            let status = response.status();
            let text = response.text().await.ok()?;
            if status == StatusCode::OK {
                return Some(Ok(text));
            }
            let passing = PASSING.iter().any(|kind| text.contains(&format!("urn:causeway:problem:{kind}\"")));
            (!passing).then(|| Err(anyhow::anyhow!("{path}: {status} {text}")))
        })
        .await
    }
}

#[track_caller]
fn same(what: &str, shown: &[Value], expected: &[Value]) -> Result<()> {
    if let Some((shown, expected)) = shown.iter().zip(expected).find(|(shown, expected)| shown != expected) {
        bail!("{what}: {shown}\ninstead of {expected}");
    }
    ensure!(shown.len() == expected.len(), "{what}: {} events instead of {}", shown.len(), expected.len());
    Ok(())
}

/// Damage, and whether a gateway that was stopped in order must notice that its file cannot be believed.
struct Damage {
    name: &'static str,
    noticed: bool,
    do_it: fn(&Path, &mut Dice) -> Result<()>,
}

const fn damage(name: &'static str, noticed: bool, do_it: fn(&Path, &mut Dice) -> Result<()>) -> Damage {
    Damage { name, noticed, do_it }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn truncate(path: &Path, to: impl Fn(u64) -> u64) -> Result<()> {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let length = file.metadata()?.len();
        file.set_len(to(length))?;
    }
    Ok(())
}

/// Turns bytes round, so many in each of so many places.
fn flip(path: &Path, dice: &mut Dice, places: usize, bytes: usize) -> Result<()> {
    let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(()) };
    let length = usize::try_from(file.metadata()?.len())?;
    for _ in 0..if bytes < length { places } else { 0 } {
        let at = dice.below(length - bytes) as u64;
        let mut taken = vec![0; bytes];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut taken)?;
        taken.iter_mut().for_each(|byte| *byte = !*byte);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&taken)?;
    }
    Ok(())
}

/// To a gateway that is not running. Killed with -9 it leaves a `-wal`; stopped in order it does not.
const WHILE_STOPPED: [Damage; 11] = [
    damage("everything deleted", false, |path, _| ["", "-wal"].iter().try_for_each(|suffix| remove(&beside(path, suffix)))),
    damage("the database deleted", false, |path, _| remove(path)),
    damage("the -wal deleted", false, |path, _| remove(&beside(path, "-wal"))),
    damage("the database cut in half", true, |path, _| truncate(path, |length| length / 2)),
    damage("the database cut to a stump", true, |path, _| truncate(path, |_| 100)),
    damage("the database emptied", false, |path, _| truncate(path, |_| 0)),
    damage("the -wal cut in half", false, |path, _| truncate(&beside(path, "-wal"), |length| length / 2)),
    damage("bytes of the -wal turned round", false, |path, dice| flip(&beside(path, "-wal"), dice, 5, 3)),
    damage("bytes of the database turned round", false, |path, dice| flip(path, dice, 20, 3)),
    damage("a page of the database turned round", false, |path, dice| flip(path, dice, 1, 4096)),
    damage("something else in its place", true, |path, _| Ok(fs::write(path, "no database at all\n".repeat(500))?)),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_files_of_a_stopped_gateway_every_answer_stays_right() {
    damage_while_stopped(World::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_file_too_large_to_be_checked_at_once_every_answer_stays_right() {
    damage_while_stopped(World::start_with(Some("0B")).await).await;
}

async fn damage_while_stopped(mut world: World) {
    let mut dice = Dice::new(1);
    world.grow(EVENTS).await;
    world.check().await.unwrap();
    for Damage { name, noticed, do_it } in WHILE_STOPPED {
        for killed in [true, false] {
            match killed {
                true => world.gateway().kill(),
                false => assert!(world.gateway().terminate().await.unwrap().success()),
            }
            world.grow(5).await;
            do_it(&world.file(""), &mut dice).unwrap();
            let said = world.gateway().stderr().len();
            world.gateway().restart().await.unwrap();
            world.check().await.unwrap_or_else(|wrong| panic!("{name} (killed: {killed}): {wrong:#}\n{}", world.said(said)));
            let told = world.said(said).contains(SAID);
            // After a kill the -wal alone may hold all that there is.
            assert!(told || killed || !noticed, "{name} and not a word: {}", world.said(said));
        }
    }
}

/// To a gateway that runs and is asked all the time.
const WHILE_RUNNING: [Damage; 8] = [
    damage("bytes of the database turned round", false, |path, dice| flip(path, dice, 40, 3)),
    damage("pages of the database turned round", false, |path, dice| flip(path, dice, 8, 4096)),
    damage("the database cut in half", false, |path, _| truncate(path, |length| length / 2)),
    damage("the database emptied", false, |path, _| truncate(path, |_| 0)),
    damage("everything deleted", false, |path, _| ["", "-wal"].iter().try_for_each(|suffix| remove(&beside(path, suffix)))),
    damage("bytes of the -wal turned round", false, |path, dice| flip(&beside(path, "-wal"), dice, 20, 3)),
    damage("a copy of a moment ago in its place", false, |path, _| {
        fs::copy(path, beside(path, ".new"))?;
        Ok(fs::rename(beside(path, ".new"), path)?)
    }),
    damage("bytes of most pages in the -wal turned round", false, |path, dice| flip(&beside(path, "-wal"), dice, 2000, 1)),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_files_of_a_running_gateway_every_answer_stays_right() {
    let mut world = World::start().await;
    let mut dice = Dice::new(2);
    world.grow(EVENTS).await;
    for Damage { name, do_it, .. } in WHILE_RUNNING {
        let said = world.gateway().stderr().len();
        do_it(&world.file(""), &mut dice).unwrap();
        for _ in 0..2 {
            world.check().await.unwrap_or_else(|wrong| panic!("{name}: {wrong:#}\n{}", world.said(said)));
            world.grow(20).await;
        }
        // And it is fit for the next start, whatever the last one left.
        world.gateway().kill();
        world.gateway().restart().await.unwrap();
        world.check().await.unwrap_or_else(|wrong| panic!("after {name}: {wrong:#}\n{}", world.said(said)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_log_or_of_another_time_is_not_believed() {
    let (mut world, mut foreign) = tokio::join!(World::start(), World::start());
    tokio::join!(world.grow(EVENTS), foreign.grow(EVENTS + 10));
    foreign.check().await.unwrap();
    // An older state of its own file.
    assert!(world.gateway().terminate().await.unwrap().success());
    let old = world.file(".old");
    fs::copy(world.file(""), &old).unwrap();
    world.gateway().restart().await.unwrap();
    world.grow(50).await;
    world.check().await.unwrap();
    world.gateway().kill();
    fs::copy(&old, world.file("")).unwrap();
    world.gateway().restart().await.unwrap();
    world.check().await.unwrap_or_else(|wrong| panic!("an old database under a newer -wal: {wrong:#}"));

    // Another log's file, which is sound in itself.
    assert!(world.gateway().terminate().await.unwrap().success());
    assert!(foreign.gateway().terminate().await.unwrap().success());
    fs::copy(foreign.file(""), world.file("")).unwrap();
    let said = world.gateway().stderr().len();
    world.gateway().restart().await.unwrap();
    world.check().await.unwrap_or_else(|wrong| panic!("the file of another log: {wrong:#}"));
    assert!(world.said(said).contains("does not belong to this log"), "{}", world.said(said));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_has_open_is_told() {
    let mut world = World::start().await;
    world.grow(20).await;
    world.gateway().kill();
    let other = OpenOptions::new().write(true).open(world.file("")).unwrap();
    fcntl_lock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    let said = world.gateway().stderr().len();
    assert!(world.gateway().restart().await.is_err());
    let said = world.said(said);
    assert!(said.contains("another process has opened") && said.contains("read-model.sqlite"), "{said}");
    drop(other);
    world.gateway().restart().await.unwrap();
    world.check().await.unwrap();
    // And as long as it runs, nobody else gets that far.
    let other = OpenOptions::new().write(true).open(world.file("")).unwrap();
    fcntl_lock(&other, FlockOperation::NonBlockingLockExclusive).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_it_writes_has_every_event_once_when_it_is_back() {
    let mut world = World::start().await;
    let mut dice = Dice::new(3);
    for _ in 0..12 {
        let mut gateway = world.started.remove(0);
        let pause = Duration::from_millis(dice.below(60) as u64);
        let killed = async {
            tokio::time::sleep(pause).await;
            gateway.kill();
        };
        tokio::join!(world.grow(100), killed);
        gateway.restart().await.unwrap();
        world.started.insert(0, gateway);
        let whole = world.events("").await.unwrap();
        same("all", &whole, &world.expected(|_| true)).unwrap();
    }
    world.check().await.unwrap();
    assert!(!world.started[0].stderr().contains(SAID), "a kill is no damage: {}", world.started[0].stderr());
    // What the file says can be read by others while it is in use: it is not half written.
    let mut head = [0; 16];
    File::open(world.file("")).unwrap().read_exact(&mut head).unwrap();
    assert_eq!(&head, b"SQLite format 3\0");
}
