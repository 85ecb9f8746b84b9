//! Proof of integrity over the real binary: what is done to a log, or to its export, is named; what is copied is the same.

mod backup;
mod interrupted;
mod second;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use causeway_e2e::{Causeway, Finished, Setup, planted_id};
use causeway_testkit::wait_until;
use highway::{HighwayHash as _, HighwayHasher, Key};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A checkpoint comes soon: these tests are about what it proves.
const CHECKPOINTS: [(&str, &str); 2] =
    [("CAUSEWAY__EVENT_STORE__INTEGRITY__EVERY", "300ms"), ("CAUSEWAY__EVENT_STORE__INTEGRITY__EVERY_EVENTS", "20")];

/// `causeway up` with notes on its log, the last of which is vouched for.
async fn filled(notes: usize) -> Causeway {
    let setup = CHECKPOINTS.iter().fold(Setup::up(), |setup, (name, value)| setup.env(name, *value));
    let causeway = setup.start().await.unwrap();
    append(&causeway, 0..notes).await;
    vouched(&causeway).await;
    causeway
}

async fn append(causeway: &Causeway, notes: std::ops::Range<usize>) {
    for n in notes {
        let label = if n % 3 == 0 { json!({ "k": "é" }) } else { json!({}) };
        let event = json!({
            "type": "NoteTaken", "aggregate_id": format!("notes {}", n % 5), "data": { "n": n }, "metadata": { "labels": label },
        });
        let body = json!({ "events": [event], "idempotency_key": format!("key {n}") });
        let answer = causeway.api().post("/events", &body).await.unwrap();
        assert_eq!(answer.0, 201, "{answer:?}");
    }
}

/// Waits until nothing stands behind the newest checkpoint.
async fn vouched(causeway: &Causeway) {
    wait_until("a checkpoint of all of it", Duration::from_secs(30), async || {
        let info = log(&["info", "--json", "--nats", &causeway.ready().nats]).await.json();
        // The last thing on the log is a checkpoint, and nothing came between what it vouches for and itself.
        let (vouched, last) = (info["checkpoint"]["vouches_for"].as_u64()?, info["last"].as_u64()?);
        (info["checkpoint"]["position"] == last && vouched + 1 == last).then_some(())
    })
    .await;
}

struct Done(Finished);

impl Done {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.0.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.0))
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert!(self.0.status.success(), "{:?}", self.0);
        self
    }

    /// `(fault, position, last)` of each problem; the command failed if there is one.
    #[track_caller]
    fn problems(&self) -> Vec<(String, u64, u64)> {
        let json = self.json();
        let findings = json["findings"].as_array().unwrap();
        let problems: Vec<_> = findings
            .iter()
            .filter(|finding| finding["severity"] == "problem")
            .map(|finding| {
                let number = |name: &str| finding[name].as_u64().unwrap();
                (finding["fault"].as_str().unwrap().to_owned(), number("position"), number("last"))
            })
            .collect();
        assert_eq!(self.0.status.code(), Some(i32::from(!problems.is_empty())), "{:?}", self.0);
        problems
    }
}

/// `causeway log ..`
async fn log(arguments: &[&str]) -> Done {
    let all: Vec<&str> = ["log"].iter().chain(arguments).copied().collect();
    Done(Setup::command(&all).run().await.unwrap())
}

async fn export(nats: &str, file: &Path) -> String {
    log(&["export", "--nats", nats, "--file", file.to_str().unwrap()]).await.ok();
    fs::read_to_string(file).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn public_key(causeway: &Causeway) -> PathBuf {
    causeway.data().join("signing-key.pub")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_log_verifies_and_its_checkpoints_are_signed() {
    let causeway = filled(50).await;
    let nats = causeway.ready().nats.clone();
    let key = public_key(&causeway);
    let verified = log(&["verify", "--json", "--nats", &nats, "--public-key", text(&key)]).await.ok();
    assert_eq!(verified.problems(), []);
    let summary = verified.json();
    assert_eq!(summary["warnings"], 0, "{summary}");
    assert_eq!(summary["signed"], summary["checkpoints"]);
    let last = summary["position"].as_u64().unwrap();
    assert_eq!(summary["vouched"].as_u64(), Some(last - 1), "all but the last checkpoint itself");
    // Whoever kept the head can go on from it; another head is told.
    let head = summary["head"].as_str().unwrap();
    append(&causeway, 50..52).await;
    assert_eq!(log(&["verify", "--json", "--nats", &nats, "--checkpoint", head]).await.problems(), []);
    let other = format!("{last}:{}", "0".repeat(64));
    assert_eq!(log(&["verify", "--json", "--nats", &nats, "--checkpoint", &other]).await.problems()[0].0, "kept_head");
    // To a person it says the same, and the head stands alone on its line.
    let told = log(&["verify", "--nats", &nats]).await.ok();
    assert!(told.0.stdout.starts_with("verified"), "{:?}", told.0);
    let foreign_key = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";
    let verified = log(&["verify", "--json", "--nats", &nats, "--public-key", foreign_key]).await;
    assert_eq!(verified.problems()[0].0, "unvouched", "nothing is vouched for by a key that is not trusted");
    assert_eq!((&verified.json()["verified"], &verified.json()["vouched"]), (&json!(false), &json!(0)));
    // Without a key nothing is vouched for either, and that is told apart.
    let verified = log(&["verify", "--json", "--nats", &nats]).await.json();
    assert_eq!(
        (&verified["verified"], &verified["vouched"], &verified["unvouched"]),
        (&json!(true), &json!(0), &verified["seen"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_log_gets_no_checkpoints_and_a_busy_one_gets_them_from_one_of_two_gateways() {
    let causeway = filled(5).await;
    let nats = causeway.ready().nats.clone();
    let key = causeway.data().join("signing-key");
    let setup = CHECKPOINTS.iter().fold(Setup::event_store(&nats), |setup, (name, value)| setup.env(name, *value));
    let twin = setup.env("CAUSEWAY__EVENT_STORE__INTEGRITY__SIGNING_KEY_FILE", text(&key)).start().await.unwrap();
    append(&twin, 5..60).await;
    vouched(&causeway).await;
    let before = log(&["info", "--json", "--nats", &nats]).await.json();
    // Several times as long as a checkpoint takes to come.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let info = log(&["info", "--json", "--nats", &nats]).await.json();
    assert_eq!(info["last"], before["last"], "nothing is new, so nothing is signed");
    assert_eq!(info["categories"]["custom"], 60);
    let verified = log(&["verify", "--json", "--nats", &nats, "--public-key", text(&public_key(&causeway))]).await;
    assert_eq!(verified.problems(), []);
    assert_eq!(verified.json()["vouched"].as_u64(), info["last"].as_u64().map(|last| last - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_imported_is_exported_to_the_same_bytes() {
    let causeway = filled(30).await;
    let folder = causeway.home().to_owned();
    let client = async_nats::connect(&causeway.ready().nats).await.unwrap();
    client.request("causeway.ev.x.custom", "garbage".into()).await.unwrap();
    append(&causeway, 30..40).await;
    vouched(&causeway).await;
    let first = export(&causeway.ready().nats, &folder.join("first.ndjson")).await;
    let head = log(&["verify", "--json", "--nats", &causeway.ready().nats]).await.json()["head"].as_str().unwrap().to_owned();

    let fresh = causeway_testkit::NatsServer::start().await.unwrap();
    // One that broke off is taken up.
    let part: String = first.lines().take(10).chain(first.lines().last()).map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("part.ndjson"), &part).unwrap();
    let refused = log(&["import", text(&folder.join("part.ndjson")), "--nats", &fresh.url()]).await;
    assert_eq!(refused.0.status.code(), Some(1), "half an export is none");
    let untouched = log(&["info", "--nats", &fresh.url()]).await;
    assert!(untouched.0.stderr.contains("there is no log"), "{:?}", untouched.0);
    // For whoever names a key, somebody who has it must vouch for it.
    let first_file = folder.join("first.ndjson");
    let foreign_key = foreign_key(&folder);
    let refused = log(&["import", text(&first_file), "--nats", &fresh.url(), "--public-key", text(&foreign_key)]).await;
    assert_eq!(refused.0.status.code(), Some(1));
    assert!(refused.0.stderr.contains("no checkpoint of a key that --public-key names"), "{:?}", refused.0);
    let untouched = log(&["info", "--nats", &fresh.url()]).await;
    assert!(untouched.0.stderr.contains("there is no log"), "{:?}", untouched.0);
    let key = public_key(&causeway);
    let imported = log(&["import", "--json", text(&first_file), "--nats", &fresh.url(), "--public-key", text(&key)]).await.ok();
    assert_eq!(imported.json()["vouched"].as_u64(), imported.json()["position"].as_u64().map(|last| last - 1));
    let mut times = Vec::new();
    for nats in [&causeway.ready().nats, &fresh.url()] {
        let info = log(&["info", "--json", "--nats", nats]).await.json();
        times.push((info["first_time"].clone(), info["last_time"].clone()));
    }
    assert_eq!(times[0], times[1], "the events' own times, not that of the import");
    let again = log(&["import", "--json", text(&folder.join("first.ndjson")), "--nats", &fresh.url()]).await.ok();
    assert_eq!(again.json()["imported"], 0);
    let second = export(&fresh.url(), &folder.join("second.ndjson")).await;
    assert!(first == second, "the second export differs");
    let verified = log(&["verify", "--json", "--nats", &fresh.url(), "--public-key", text(&key), "--checkpoint", &head]).await;
    assert_eq!(verified.problems(), []);
    // A gateway on the copy reads the same events with the same times.
    let gateway = Setup::event_store(&fresh.url()).start().await.unwrap();
    for position in ["1", "20"] {
        let path = format!("/events/{position}");
        assert_eq!(gateway.api().fetch(&path).await.unwrap(), causeway.api().fetch(&path).await.unwrap());
    }
    // A log that holds anything else is left alone.
    append(&gateway, 100..101).await;
    let refused = log(&["import", text(&folder.join("first.ndjson")), "--nats", &fresh.url()]).await;
    assert_eq!(refused.0.status.code(), Some(1));
    // A part from the middle is held against the checkpoints in it.
    let middle = folder.join("middle.ndjson");
    log(&["export", "--nats", &fresh.url(), "--after", "7", "--before", "30", "--file", text(&middle)]).await.ok();
    let lines = fs::read_to_string(&middle).unwrap();
    let start: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((start["start"]["position"].as_str(), lines.lines().count()), (Some("7"), 24), "{lines}");
    let tail = folder.join("tail.ndjson");
    log(&["export", "--nats", &fresh.url(), "--after", "7", "--file", text(&tail)]).await.ok();
    let verified = log(&["verify", "--json", "--from-export", text(&tail), "--public-key", text(&key)]).await;
    assert_eq!(verified.problems(), []);
    let summary = verified.json();
    assert_eq!(summary["start"], 7);
    assert_eq!(summary["seen"].as_u64().unwrap() + 7, summary["entries"].as_u64().unwrap());
    let findings = summary["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["fault"] == "unseen" && finding["last"] == 7), "{summary}");
    let told = log(&["verify", "--from-export", text(&tail), "--public-key", text(&key)]).await.ok();
    assert!(told.0.stdout.contains(&format!("{} entries behind position 7", summary["seen"])), "{:?}", told.0);
    // A head of what was left out is not passed over.
    let lost = format!("5:{}", "0".repeat(64));
    let verified = log(&["verify", "--json", "--from-export", text(&tail), "--checkpoint", &lost]).await;
    assert_eq!(verified.problems(), [("kept_head".to_owned(), 5, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_how_far_it_is_with_what_takes_long() {
    let causeway = filled(25).await;
    let nats = &causeway.ready().nats;
    let (exported, saved) = (causeway.home().join("log.ndjson"), causeway.home().join("backup"));
    let servers = [causeway_testkit::NatsServer::start().await.unwrap(), causeway_testkit::NatsServer::start().await.unwrap()];
    let [imported, restored] = servers.each_ref().map(causeway_testkit::NatsServer::url);
    let work: [(&[&str], &[&str]); 6] = [
        (&["export", "--file", text(&exported), "--nats", nats], &["exporting ["]),
        (&["verify", "--nats", nats], &["verifying ["]),
        (&["info", "--types", "--nats", nats], &["counting ["]),
        (&["import", text(&exported), "--nats", &imported], &["verifying [", "importing ["]),
        (&["backup", text(&saved), "--nats", nats], &["causeway_EVENTS ["]),
        (&["restore", text(&saved), "--nats", &restored], &["checking causeway_EVENTS.snapshot [", "causeway_EVENTS ["]),
    ];
    for (arguments, bars) in work {
        let command = Setup::command(&[&["log"], arguments].concat());
        let seen = command.on_a_terminal().run_within(Duration::from_secs(60)).await.unwrap().stdout;
        for bar in bars {
            assert!(seen.contains(bar), "{arguments:?}, {bar}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_another_key_vouches_for_does_not_verify() {
    let causeway = filled(25).await;
    let file = causeway.home().join("log.ndjson");
    let honest = export(&causeway.ready().nats, &file).await;
    let key = public_key(&causeway);
    // That of the test vectors.
    let other = causeway.home().join("other.pub");
    fs::write(&other, "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c").unwrap();
    let first_end: Value = serde_json::from_str(honest.lines().last().unwrap()).unwrap();
    let last: u64 = first_end["end"]["position"].as_str().unwrap().parse().unwrap();
    let verified = log(&["verify", "--json", "--from-export", text(&file), "--public-key", text(&other)]).await;
    assert_eq!(verified.problems(), [("unvouched".to_owned(), 1, last)], "{:?}", verified.0);
    // One whose end says that it is of another log.
    let whose = first_end["end"]["log"].as_str().unwrap();
    let at = honest.rfind(whose).unwrap();
    fs::write(&file, format!("{}{}{}", &honest[..at], "0".repeat(64), &honest[at + 64..])).unwrap();
    let verified = log(&["verify", "--json", "--from-export", text(&file), "--public-key", text(&key)]).await;
    assert_eq!(verified.problems().into_iter().map(|(fault, ..)| fault).collect::<Vec<_>>(), ["cut_off"], "{:?}", verified.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_line_of_an_export_is_named_with_its_position() {
    let causeway = filled(45).await;
    let folder = causeway.home().to_owned();
    let file = folder.join("log.ndjson");
    let honest = export(&causeway.ready().nats, &file).await;
    let key = public_key(&causeway);
    let audit = async |lines: &[String]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let file = folder.join("tampered.ndjson");
        fs::write(&file, text).unwrap();
        log(&["verify", "--json", "--from-export", self::text(&file), "--public-key", self::text(&key)]).await.problems()
    };
    let lines = || honest.lines().map(str::to_owned).collect::<Vec<_>>();
    let found = |fault: &str, position: u64| (fault.to_owned(), position, position);
    assert_eq!(audit(&lines()).await, []);
    // A note that another one follows, somewhere in the middle.
    let is_note = |line: &String| line.contains("NoteTaken");
    let at = (5..).find(|at| is_note(&lines()[*at]) && is_note(&lines()[at + 1])).unwrap();
    let position = at as u64 + 1;
    let mut altered = lines();
    altered[at] = altered[at].replace("\"data\":{\"n\":", "\"data\":{\"n\":9");
    assert_ne!(altered, lines());
    assert_eq!(audit(&altered).await, [found("altered", position)]);
    let mut removed = lines();
    removed.remove(at);
    assert_eq!(audit(&removed).await, [found("missing", position)]);
    let mut swapped = lines();
    swapped.swap(at, at + 1);
    assert_eq!(audit(&swapped).await, [found("missing", position), found("out_of_order", position)]);
    let mut inserted = lines();
    inserted.insert(at, lines()[3].clone());
    assert_eq!(audit(&inserted).await, [found("out_of_order", 4)]);
    let mut garbled = lines();
    garbled[at].truncate(40);
    assert_eq!(audit(&garbled).await, [found("bad_line", position), found("missing", position)]);
    // Data that was taken out, with its digest in its place, proves the same.
    let mut shredded = lines();
    let (before, rest) = shredded[at].split_once("\"data\":").unwrap();
    let (data, after) = rest.split_once(",\"hash\"").unwrap();
    shredded[at] = format!("{before}\"datadigest\":\"{}\",\"hash\"{after}", sha256(data));
    assert_eq!(audit(&shredded).await, []);
    // And that it was taken out is told: who hands over an export could blank whatever they like.
    let text: String = shredded.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("shredded.ndjson"), text).unwrap();
    let told = log(&["verify", "--json", "--from-export", self::text(&folder.join("shredded.ndjson"))]).await.json();
    assert_eq!(
        (&told["without_data"], &told["warnings"], &told["findings"][0]["fault"]),
        (&json!(1), &json!(1), &json!("without_data"))
    );
    let told = log(&["verify", "--from-export", self::text(&folder.join("shredded.ndjson"))]).await.ok().0.stdout;
    let words = format!("1 event has its data taken out, of which only the digest is left: position {position}");
    assert!(
        told.contains(&words) && told.contains("entries up to position") && told.contains("1 of them without their data"),
        "{told}"
    );
    let fresh = causeway_testkit::NatsServer::start().await.unwrap();
    let refused = log(&["import", self::text(&folder.join("shredded.ndjson")), "--nats", &fresh.url()]).await;
    assert!(refused.0.stderr.contains("only its digest"), "{:?}", refused.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_overwrites_nothing_and_one_that_was_kept_says_how_far_it_reaches() {
    let causeway = filled(30).await;
    let nats = causeway.ready().nats.clone();
    let file = |name: &str| causeway.home().join(name);
    let whole = export(&nats, &file("whole.ndjson")).await;
    let again = log(&["export", "--nats", &nats, "--file", text(&file("whole.ndjson"))]).await;
    assert_eq!(again.0.status.code(), Some(1));
    assert!(again.0.stderr.contains("nothing is overwritten") && again.0.stderr.contains("another name"), "{:?}", again.0);
    assert_eq!(fs::read_to_string(file("whole.ndjson")).unwrap(), whole);

    let against = async |kept: &str| {
        let done = log(&["verify", "--json", "--nats", &nats, "--against", text(&file(kept))]).await;
        assert_eq!(done.problems(), [], "{:?}", done.0);
        let told = log(&["verify", "--nats", &nats, "--against", text(&file(kept))]).await.ok();
        (done.json(), told.0.stdout)
    };
    let reach = |json: &Value| {
        let against = &json["against"];
        (against["start"].as_u64().unwrap(), against["position"].as_u64().unwrap(), against["whole"].as_bool().unwrap())
    };
    let warned = |json: &Value, words: &str| {
        let findings = json["findings"].as_array().unwrap();
        findings.iter().any(|finding| finding["severity"] == "warning" && finding["what"].as_str().unwrap().contains(words))
    };
    let (json, told) = against("whole.ndjson").await;
    let last = json["position"].as_u64().unwrap();
    assert_eq!((reach(&json), json["warnings"].as_u64()), ((0, last, true), Some(0)));
    assert!(told.contains(&format!("positions 1 to {last}\n")), "{told}");
    // One of a part is whole, and says nothing of the rest.
    log(&["export", "--nats", &nats, "--after", "3", "--before", "12", "--file", text(&file("part.ndjson"))]).await.ok();
    let (json, told) = against("part.ndjson").await;
    assert_eq!((reach(&json), json["warnings"].as_u64()), ((3, 11, true), Some(0)));
    assert!(told.contains("positions 4 to 11; what stands behind was not compared"), "{told}");
    // One that was cut at a line break looks like one of a part, but for its end.
    let cut: String = whole.lines().take(20).map(|line| format!("{line}\n")).collect();
    fs::write(file("cut.ndjson"), cut).unwrap();
    let (json, told) = against("cut.ndjson").await;
    assert_eq!(reach(&json), (0, 20, false));
    assert!(warned(&json, "breaks off behind position 20") && told.contains("positions 1 to 20; what stands"), "{json} {told}");
    // And one that was cut within a line, the same.
    let within = &whole[..whole.lines().take(20).map(|line| line.len() + 1).sum::<usize>() + 30];
    fs::write(file("within.ndjson"), within).unwrap();
    let (json, told) = against("within.ndjson").await;
    assert_eq!(reach(&json), (0, 20, false));
    assert!(warned(&json, "breaks off behind position 20") && told.contains("positions 1 to 20; what stands"), "{json} {told}");
    // What begins behind the end of a log is not put on it, and no log is begun for it.
    let fresh = causeway_testkit::NatsServer::start().await.unwrap();
    let refused = log(&["import", text(&file("part.ndjson")), "--nats", &fresh.url()]).await;
    assert!(refused.0.stderr.contains("it begins behind position 3, and the log ends at 0"), "{:?}", refused.0);
    // Nor is what breaks off, wherever it does.
    fs::write(file("empty.ndjson"), "").unwrap();
    for (name, said) in [("cut", "behind position 20"), ("within", "breaks off"), ("empty", "behind position 0")] {
        let refused = log(&["import", text(&file(&format!("{name}.ndjson"))), "--nats", &fresh.url()]).await;
        assert_eq!(refused.0.status.code(), Some(1), "{name}: {:?}", refused.0);
        assert!(refused.0.stderr.contains(said), "{name}: {:?}", refused.0);
    }
    let js = async_nats::jetstream::new(fresh.client().await.unwrap());
    assert!(js.get_stream("causeway_EVENTS").await.is_err());
    // Whoever reads no further learns by the exit code what there was.
    let cut = file("cut.ndjson");
    let command = r#""$1" log verify --from-export "$2" | head -c 1 > /dev/null; exit ${PIPESTATUS[0]}"#;
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", command, "bash", text(&causeway_e2e::binary().unwrap()), text(&cut)]);
    assert_eq!(bash.output().unwrap().status.code(), Some(1));
    let thinned: String = whole.lines().enumerate().filter(|(at, _)| *at != 9).map(|(_, line)| format!("{line}\n")).collect();
    fs::write(file("thinned.ndjson"), thinned).unwrap();
    let (json, _) = against("thinned.ndjson").await;
    assert!(!reach(&json).2 && warned(&json, "are not those that it was made of"), "{json}");
    // Where it says that nothing stood, something was put in.
    let gap = |(at, line)| if at == 9 { r#"{"gap":{"first":"10","last":"10"}}"#.to_owned() + "\n" } else { format!("{line}\n") };
    fs::write(file("gap.ndjson"), whole.lines().enumerate().map(gap).collect::<String>()).unwrap();
    let put_in = log(&["verify", "--json", "--nats", &nats, "--against", text(&file("gap.ndjson"))]).await;
    assert_eq!(put_in.problems(), [("altered".to_owned(), 10, 10)], "{:?}", put_in.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_checkpoint_of_a_new_key_vouches_for_the_whole_log_anew() {
    let mut causeway = filled(25).await;
    let old = causeway.home().join("old.pub");
    causeway.terminate().await.unwrap();
    fs::rename(public_key(&causeway), &old).unwrap();
    fs::remove_file(causeway.data().join("signing-key")).unwrap();
    causeway.restart().await.unwrap();
    let new = public_key(&causeway);
    assert_ne!(fs::read(&old).unwrap(), fs::read(&new).unwrap());
    append(&causeway, 25..40).await;
    vouched(&causeway).await;
    let nats = causeway.ready().nats.clone();
    let verify = async |keys: &[&Path]| {
        let keys = keys.iter().flat_map(|key| ["--public-key", text(key)]);
        let arguments: Vec<&str> = ["verify", "--json", "--nats", &nats].into_iter().chain(keys).collect();
        let done = log(&arguments).await;
        assert_eq!(done.problems(), []);
        let json = done.json();
        let number = |name: &str| json[name].as_u64().unwrap();
        (number("vouched"), number("checkpoints"), number("signed"), number("warnings"), number("position"))
    };
    let (vouched, checkpoints, signed, warnings, last) = verify(&[&old, &new]).await;
    assert_eq!((vouched, signed, warnings), (last - 1, checkpoints, 0));
    // Each alone: the new one vouches for all of it, the old one for what stood when it was exchanged.
    let (vouched, _, by_new, warnings, _) = verify(&[&new]).await;
    assert_eq!((vouched, by_new + warnings), (last - 1, checkpoints), "what the old key signed is a warning");
    let (vouched, _, by_old, warnings, _) = verify(&[&old]).await;
    assert!((25..last - 15).contains(&vouched), "{vouched} of {last}");
    assert_eq!((by_old + by_new, warnings), (checkpoints, by_new), "each checkpoint is of one of them");
}

/// A public key that has signed nothing here: that of the test vectors.
fn foreign_key(folder: &Path) -> PathBuf {
    let file = folder.join("foreign.pub");
    fs::write(&file, "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c\n").unwrap();
    file
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `causeway log verify` says of this Causeway's log where nobody says which log or which key, and the data folder is this.
async fn verify_without_a_word(causeway: &Causeway, data: &Path) -> Done {
    let nats: u16 = causeway.ready().nats.rsplit(':').next().unwrap().parse().unwrap();
    // By default it is the private NATS, beside the gateway.
    let setup = Setup::command(&["log", "verify", "--json"]).env("CAUSEWAY__UP__LISTEN", format!("127.0.0.1:{}", nats - 1));
    Done(setup.env("CAUSEWAY__UP__DATA", text(data)).run().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_folder_is_trusted_only_for_the_log_that_is_kept_in_it() {
    let causeway = filled(5).await;
    let other = causeway.home().join("other");
    fs::create_dir(&other).unwrap();
    fs::rename(foreign_key(&other), other.join("signing-key.pub")).unwrap();
    let own = verify_without_a_word(&causeway, &causeway.data()).await;
    assert_eq!((own.problems(), own.json()["vouched"].as_u64() > Some(0)), (vec![], true), "{:?}", own.0);
    let foreign = verify_without_a_word(&causeway, &other).await;
    assert_eq!((foreign.problems(), &foreign.json()["vouched"]), (vec![], &json!(0)), "{:?}", foreign.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomers_log_is_younger_than_its_first_checkpoint_and_verifies() {
    let mut causeway = Setup::up().start().await.unwrap();
    append(&causeway, 0..3).await;
    let young = verify_without_a_word(&causeway, &causeway.data()).await;
    assert_eq!((young.problems(), &young.json()["warnings"]), (vec![], &json!(1)), "{:?}", young.0);
    let key = public_key(&causeway);
    let named = log(&["verify", "--json", "--nats", &causeway.ready().nats, "--public-key", text(&key)]).await;
    assert_eq!(named.problems()[0].0, "unvouched", "whoever names a key wants its word");
    // A stop in order leaves nothing without it, however young it is.
    assert!(causeway.terminate().await.unwrap().success());
    let stopped = log(&["verify", "--json", "--data", text(&causeway.data()), "--public-key", text(&key)]).await.ok();
    assert_eq!((&stopped.json()["vouched"], &stopped.json()["position"]), (&json!(3), &json!(4)), "{:?}", stopped.0);
}

#[tokio::test]
async fn a_log_that_is_not_there_is_told_with_a_way_out() {
    let unreachable = log(&["info", "--nats", "nats://127.0.0.1:1"]).await;
    assert_eq!(unreachable.0.status.code(), Some(4));
    assert!(unreachable.0.stderr.contains("--data"), "{:?}", unreachable.0);
    let nats = causeway_testkit::NatsServer::start().await.unwrap();
    let none = log(&["verify", "--nats", &nats.url()]).await;
    assert_eq!(none.0.status.code(), Some(1));
    assert!(none.0.stderr.contains("there is no log"), "{:?}", none.0);
    let folder = tempfile::tempdir().unwrap();
    let mistyped = folder.path().join("typo");
    let refused = log(&["verify", "--data", text(&mistyped)]).await;
    assert_eq!(refused.0.status.code(), Some(2), "{:?}", refused.0);
    assert!(!mistyped.exists(), "a look makes no folder");
}
