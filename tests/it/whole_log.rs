//! A log of 100,000 events, read through every filter and carried over to another: what the gateway answers is what a scan of the log's
//! export finds, and the copy's export is the same to the byte.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_e2e::grpc::{json_of, timestamp, v1};
use causeway_e2e::{Client, Dice, Plant, Setup, gateway, plant};
use causeway_testkit::{NatsServer, wait_until};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

const EVENTS: u64 = 100_000;
const QUESTIONS: u64 = 160;
/// Questions that are asked at once.
const AT_ONCE: usize = 4;
/// Of an answer with more events, only so many are fetched, page by page.
const FETCHED_MAX: usize = 1500;
/// How long the gateway, an export and an import may take each.
const LIMIT: Duration = Duration::from_secs(200);

/// Types with their categories.
const TYPES: [(&str, &str); 9] = [
    ("MessageReceived", "input"),
    ("MessageGenerated", "ai"),
    ("ToolCalled", "ai"),
    ("EmailSent", "output"),
    ("MemoryStored", "memory"),
    ("OrderPlaced", "custom"),
    ("OrderShipped", "custom"),
    ("OrderReturned", "custom"),
    ("NoteTaken", "custom"),
];
const PATTERNS: [&str; 5] = ["Order*", "M*", "Message*", "N*", "Nothing*"];
const SOURCES: [&str; 4] = ["web", "telegram", "ai-processor", "shop"];

/// A log like that of a busy year: aggregates of very different sizes, chains of one event to some hundred, branching and crossing.
fn varied() -> impl Iterator<Item = Plant> {
    let mut dice = Dice::new(7);
    let mut chains: Vec<(String, Vec<u64>)> = Vec::new();
    (0..EVENTS).map(move |number| {
        let (event_type, category) = *dice.pick(&TYPES);
        // The lower of several numbers: the first aggregates are large, the last ones have an event or none.
        let aggregate = (0..3).map(|_| dice.below(20_000)).min().unwrap_or_default();
        let aggregate_id = match aggregate % 4 {
            0 => format!("user_{aggregate}"),
            1 => format!("web:{aggregate}.x"),
            2 => format!("Bücher {aggregate} *>"),
            _ => format!("100% \"{aggregate}\""),
        };
        if chains.is_empty() || dice.percent(10) {
            let name =
                if dice.percent(50) { format!("chain {number}") } else { format!("{:032x}", u128::from(dice.roll()) << 40) };
            chains.push((name, Vec::new()));
        }
        // Mostly one of the newest chains; an old one goes on now and then.
        let newest = chains.len().saturating_sub(1 + dice.below(20));
        let which = if dice.percent(5) { dice.below(chains.len()) } else { newest };
        let cause = match &chains[which].1 {
            causes if causes.is_empty() || dice.percent(5) => None,
            causes => Some(*dice.pick(causes)),
        };
        // Some effects stand in another chain than their cause.
        let named = if dice.percent(2) { dice.below(chains.len()) } else { which };
        chains[which].1.push(number);
        let labels = dice.percent(20).then(|| json!({"number": number.to_string(), "é": "\"%"}).to_string());
        let data = match dice.below(3) {
            0 => json!({"content": format!("message {number}")}),
            1 => json!({"n": number, "nested": {"list": [1, null, "ü\n"], "flag": true}}),
            _ => json!({"text": "x".repeat(dice.below(300))}),
        };
        Plant {
            number,
            event_type,
            category,
            aggregate_id,
            source: SOURCES[dice.below(SOURCES.len())],
            correlation_id: chains[named].0.clone(),
            cause,
            labels,
            data: data.to_string(),
        }
    })
}

/// A line of the export in the shape that HTTP gives an event.
fn event(line: &str) -> Result<Value> {
    let line: Value = serde_json::from_str(line)?;
    let text = |name: &str| line[name].as_str().with_context(|| format!("{name} of {line}"));
    let mut metadata = json!({"source": text("source")?, "correlation_id": text("correlationid")?});
    if let Some(cause) = line["causationid"].as_str() {
        metadata["causation_id"] = cause.into();
    }
    if let Some(labels) = line["labels"].as_str() {
        metadata["labels"] = serde_json::from_str(labels)?;
    }
    Ok(json!({
        "id": text("id")?, "position": text("position")?.parse::<u64>()?, "timestamp": text("time")?, "type": text("type")?,
        "aggregate_id": text("subject")?, "data": line["data"], "metadata": metadata,
    }))
}

fn text<'e>(event: &'e Value, name: &str) -> &'e str {
    event[name].as_str().unwrap_or_default()
}

fn position(event: &Value) -> u64 {
    event["position"].as_u64().unwrap_or_default()
}

/// A filter, with the names that HTTP gives its parts.
#[derive(Debug, Default)]
struct Question {
    parts: Vec<(&'static str, String)>,
    backwards: bool,
}

impl Question {
    /// One that the event answers, mostly: each part is that event's own, or a moment around it.
    fn draw(log: &[Value], dice: &mut Dice) -> Self {
        let mut parts = Vec::new();
        let one = dice.pick(log).clone();
        let metadata = &one["metadata"];
        let mut some = |chance, name, value: Option<&str>, dice: &mut Dice| {
            if let Some(value) = value.filter(|_| dice.percent(chance)) {
                parts.push((name, value.to_owned()));
            }
        };
        let category = TYPES.iter().find(|(known, _)| *known == text(&one, "type")).map(|(_, category)| *category);
        some(25, "type", one["type"].as_str(), dice);
        some(15, "type", Some(PATTERNS[dice.below(PATTERNS.len())]), dice);
        some(20, "category", category, dice);
        some(30, "aggregate_id", one["aggregate_id"].as_str(), dice);
        some(20, "source", metadata["source"].as_str(), dice);
        some(20, "correlation_id", metadata["correlation_id"].as_str(), dice);
        some(10, "caused_by", metadata["causation_id"].as_str(), dice);
        some(15, "descendants_of", metadata["causation_id"].as_str().or(one["id"].as_str()), dice);
        for (chance, name) in [(25, "after"), (25, "before"), (15, "from"), (15, "until")] {
            let at = dice.pick(log);
            let moment = match dice.below(3) {
                0 => text(at, "timestamp").to_owned(),
                1 => text(at, "id").to_owned(),
                _ => position(at).to_string(),
            };
            some(chance, name, Some(&moment), dice);
        }
        Self { parts, backwards: dice.percent(50) }
    }

    fn part(&self, name: &str) -> Option<&str> {
        self.parts.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn types(&self) -> Vec<&str> {
        self.parts.iter().filter(|(name, _)| *name == "type").map(|(_, value)| value.as_str()).collect()
    }

    /// By looking at each event of the log.
    fn scan<'l>(&self, log: &'l [Value]) -> Vec<&'l Value> {
        let (types, descendants) = (self.types(), self.part("descendants_of").map(|of| descendants(log, of)));
        let is = |name: &str, value: Option<&str>| self.part(name).is_none_or(|wanted| value == Some(wanted));
        // A moment is a position, the position of an id, or a time; what stands at it is on neither side of it.
        let side = |name: &str| {
            let at = self.part(name);
            let of_id = |id: &str| log.iter().find(|event| text(event, "id") == id).map(position);
            let place = at.and_then(|at| at.parse().ok().or_else(|| at.starts_with("evt_").then(|| of_id(at)).flatten()));
            move |event: &Value| {
                at.map(|at| place.map_or_else(|| text(event, "timestamp").cmp(at), |place| position(event).cmp(&place)))
            }
        };
        let (after, before, from, until) = (side("after"), side("before"), side("from"), side("until"));
        let mut found: Vec<&Value> = log
            .iter()
            .filter(|event| {
                let (event_type, metadata) = (text(event, "type"), &event["metadata"]);
                let named =
                    |wanted: &&str| wanted.strip_suffix('*').map_or(event_type == *wanted, |start| event_type.starts_with(start));
                let category = TYPES.iter().find(|(known, _)| *known == event_type).map(|(_, category)| *category);
                (types.is_empty() || types.iter().any(named))
                    && is("category", category)
                    && is("aggregate_id", event["aggregate_id"].as_str())
                    && is("source", metadata["source"].as_str())
                    && is("correlation_id", metadata["correlation_id"].as_str())
                    && is("caused_by", metadata["causation_id"].as_str())
                    && descendants.as_ref().is_none_or(|all| all.contains(text(event, "id")))
                    && from(event).is_none_or(Ordering::is_ge)
                    && until(event).is_none_or(Ordering::is_lt)
                    && after(event).is_none_or(Ordering::is_gt)
                    && before(event).is_none_or(Ordering::is_lt)
            })
            .collect();
        if self.backwards {
            found.reverse();
        }
        found
    }

    fn query(&self) -> String {
        self.parts.iter().map(|(name, value)| format!("{name}={}&", encoded(value))).collect()
    }

    fn request(&self, limit: u64) -> Result<v1::ReadRequest> {
        let part = |name| self.part(name).unwrap_or_default().to_owned();
        // A time goes into the filter, a place beside it.
        let is_time = |text: &&str| text.contains(':');
        let time = |name| self.part(name).filter(is_time).map(timestamp).transpose();
        let place = |name| self.part(name).filter(|text| !is_time(text)).unwrap_or_default().to_owned();
        let filter = v1::Filter {
            types: self.types().into_iter().map(str::to_owned).collect(),
            category: part("category"),
            aggregate_id: part("aggregate_id"),
            correlation_id: part("correlation_id"),
            from_time: time("from")?,
            until_time: time("until")?,
            source: part("source"),
            caused_by: part("caused_by"),
            descendants_of: part("descendants_of"),
        };
        let order = if self.backwards { v1::Order::Backwards } else { v1::Order::Forwards };
        Ok(v1::ReadRequest {
            filter: Some(filter),
            after: part("after"),
            before: part("before"),
            from: place("from"),
            until: place("until"),
            order: order.into(),
            limit,
            ..v1::ReadRequest::default()
        })
    }

    /// The answers over HTTP and gRPC, whole and in pages, and the counts.
    async fn ask(&self, client: &Client, expected: &[&Value], limit: usize) -> Result<()> {
        let query = self.query();
        let counted = client.http.fetch(&format!("/events/count?{query}")).await?;
        ensure!(counted["count"] == expected.len(), "{counted} instead of {}", expected.len());
        let request = self.request(0)?;
        let counting = v1::CountRequest {
            filter: request.filter.clone(),
            after: request.after.clone(),
            before: request.before.clone(),
            from: request.from.clone(),
            until: request.until.clone(),
        };
        let counted = client.grpc.client().count(counting).await?.into_inner();
        ensure!(counted.count == expected.len() as u64, "{counted:?} instead of {}", expected.len());
        let first = &expected[..expected.len().min(FETCHED_MAX)];
        same(&self.pages(client, limit, first.len()).await?, first).context("over HTTP, in pages")?;
        same(&client.grpc.read(self.request(first.len().max(1) as u64)?).await?, first).context("over gRPC")?;
        if first.len() == expected.len() {
            let order = if self.backwards { "desc" } else { "asc" };
            same(&client.http.events(&format!("{query}order={order}")).await?, expected).context("over HTTP, streamed")?;
            same(&client.grpc.read(request).await?, expected).context("over gRPC, without a limit")?;
        }
        Ok(())
    }

    /// Page by page, the cursor of each in the place of the question's own, until there are so many.
    async fn pages(&self, client: &Client, limit: usize, enough: usize) -> Result<Vec<Value>> {
        let (mut events, mut next) = (Vec::new(), None);
        let (cursor, order) = if self.backwards { ("before", "desc") } else { ("after", "asc") };
        loop {
            let query: String = match next {
                None => self.query(),
                Some(at) => {
                    let others = self.parts.iter().filter(|(name, _)| *name != cursor);
                    let others = others.map(|(name, value)| format!("{name}={}&", encoded(value)));
                    others.chain([format!("{cursor}={at}&")]).collect()
                }
            };
            let page = client.http.fetch(&format!("/events?{query}order={order}&limit={limit}")).await?;
            events.extend_from_slice(page["events"].as_array().context("events")?);
            next = page["next"].as_u64();
            if enough == FETCHED_MAX && events.len() >= enough {
                events.truncate(enough);
                return Ok(events);
            }
            if next.is_none() {
                return Ok(events);
            }
        }
    }
}

fn descendants<'l>(log: &'l [Value], of: &str) -> BTreeSet<&'l str> {
    let mut found = BTreeSet::new();
    for event in log {
        let cause = event["metadata"]["causation_id"].as_str();
        if cause.is_some_and(|cause| cause == of || found.contains(cause)) {
            found.insert(text(event, "id"));
        }
    }
    found
}

fn same(shown: &[Value], expected: &[&Value]) -> Result<()> {
    if let Some((shown, expected)) = shown.iter().zip(expected).find(|(shown, expected)| shown != *expected) {
        anyhow::bail!("{shown}\ninstead of {expected}");
    }
    ensure!(shown.len() == expected.len(), "{} events instead of {}", shown.len(), expected.len());
    Ok(())
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn log(arguments: &[&str]) {
    let all: Vec<&str> = ["log"].iter().chain(arguments).copied().collect();
    let done = Setup::command(&all).run_within(LIMIT).await.unwrap();
    assert!(done.status.success(), "{done:?}");
}

async fn export(nats: &NatsServer, file: &Path) -> Vec<u8> {
    log(&["export", "--nats", &nats.url(), "--file", file.to_str().unwrap()]).await;
    std::fs::read(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_what_a_scan_of_the_export_finds_and_an_import_of_it_is_exported_to_the_same_bytes() {
    let (nats, other) = tokio::join!(NatsServer::start(), NatsServer::start());
    let (nats, other, folder) = (nats.unwrap(), other.unwrap(), tempfile::tempdir().unwrap());
    let gateway = gateway(&nats.url()).unwrap().start().await.unwrap();
    let client = Client::of(&gateway).unwrap();
    assert_eq!(plant(nats.port(), varied()).await.unwrap(), EVENTS);
    let file = folder.path().join("first.ndjson");
    let first = export(&nats, &file).await;
    wait_until("the gateway to have all of it", LIMIT, async || {
        client.http.last_position().await.ok().filter(|last| *last == EVENTS)
    })
    .await;

    let copied = tokio::spawn(async move {
        log(&["import", file.to_str().unwrap(), "--nats", &other.url()]).await;
        export(&other, &file.with_file_name("second.ndjson")).await
    });
    let lines = std::str::from_utf8(&first).unwrap().lines().filter(|line| line.contains("\"specversion\""));
    let log: Vec<Value> = lines.map(|line| event(line).unwrap()).collect();
    assert_eq!(log.len() as u64, EVENTS);
    let all: Vec<&Value> = log.iter().collect();
    same(&client.http.events("").await.unwrap(), &all).unwrap();
    let request = v1::ReadRequest { order: v1::Order::Backwards.into(), ..Default::default() };
    let mut backwards = client.grpc.client().read(request).await.unwrap().into_inner();
    for expected in log.iter().rev() {
        let event = backwards.message().await.unwrap().unwrap().event.unwrap();
        assert_eq!(json_of(event).unwrap(), *expected);
    }
    let questions = stream::iter(0..QUESTIONS).map(|seed| {
        let (client, log) = (&client, &log);
        async move {
            let mut dice = Dice::new(seed);
            let question = Question::draw(log, &mut dice);
            let limit = *dice.pick(&[7, 100, 1000]);
            question.ask(client, &question.scan(log), limit).await.with_context(|| format!("{seed}: {question:?}"))
        }
    });
    questions.buffer_unordered(AT_ONCE).try_collect::<()>().await.unwrap();
    assert!(copied.await.unwrap() == first, "the second export differs");
}
