//! A nats-server, two gateways and the model beside them: carries out what was drawn, and compares every answer.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_e2e::grpc::{timestamp, v1};
use causeway_e2e::{Append, Causeway, Client, Draft, Fence, Outcome, Wire, gateways};
use causeway_testkit::{NatsServer, wait_until};
use futures::future::{join_all, try_join_all};
use reqwest::Method;
use serde_json::{Value, json};

use super::memory::{At, Memory, Question, position};
use super::ops::{AGGREGATES, Change, Crash, DrawnAppend, DrawnEvent, DrawnFence, DrawnRead, Moment, Op, SOURCES, TYPES, Via};

/// How long the whole may take to be itself again after a crash.
const BACK_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct World {
    nats: NatsServer,
    gateways: Vec<Causeway>,
    clients: Vec<Client>,
    memory: Memory,
    keys: usize,
    /// Conflicts that told what stands behind the fence, while nothing was down.
    pub(super) conflicts: usize,
    /// What went down.
    pub(super) crashes: BTreeSet<&'static str>,
    /// What was done, for whoever has to find out.
    pub(super) story: Vec<String>,
}

impl World {
    pub(super) async fn start() -> Result<Self> {
        let nats = NatsServer::start().await?;
        let gateways = gateways(2, &nats.url(), 1).await?;
        let clients = gateways.iter().map(Client::of).collect::<Result<_>>()?;
        Ok(Self {
            nats,
            gateways,
            clients,
            memory: Memory::default(),
            keys: 0,
            conflicts: 0,
            crashes: BTreeSet::new(),
            story: Vec::new(),
        })
    }

    pub(super) async fn perform(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Append(drawn) => {
                let append = self.append(drawn);
                self.append_and_check(&append, drawn.via).await
            }
            Op::Again { key, change, via } => self.again(*key, *change, *via).await,
            Op::Read(drawn) => self.read(drawn).await,
            Op::Get { event, by_id, via } => self.get(*event, *by_id, *via).await,
            Op::Project { aggregate, as_of, via } => self.project(AGGREGATES[*aggregate], *as_of, *via).await,
            Op::Chain { event, as_of, via } => self.chain(*event, *as_of, *via).await,
            Op::Diff { aggregate, between, via } => self.diff(AGGREGATES[*aggregate], *between, *via).await,
            Op::Storm { appends, crash, after_ms } => self.storm(appends, *crash, Duration::from_millis(*after_ms)).await,
        }
    }

    fn append(&mut self, drawn: &DrawnAppend) -> Append {
        let events: Vec<Draft> = drawn.events.iter().map(|event| self.draft(event)).collect();
        let key = drawn.keyed.then(|| {
            self.keys += 1;
            format!("key {}", self.keys)
        });
        Append { expected: self.fences(&drawn.events, drawn.fence), events, key }
    }

    fn draft(&self, drawn: &DrawnEvent) -> Draft {
        let (event_type, category) = TYPES[drawn.kind];
        let data = if category == "custom" { drawn.data.clone() } else { json!({"content": drawn.text}) };
        let mut draft = Draft::new(event_type, AGGREGATES[drawn.aggregate], data);
        draft.source = SOURCES[drawn.source].into();
        draft.causation_id = drawn.cause.and_then(|cause| self.memory.id(cause));
        draft
    }

    fn fences(&self, events: &[DrawnEvent], drawn: DrawnFence) -> Vec<Fence> {
        let mut fences: Vec<Fence> = Vec::new();
        for event in events {
            let (aggregate, category) = (AGGREGATES[event.aggregate], TYPES[event.kind].1);
            let position = self.memory.head(aggregate, category);
            let fence = Fence { aggregate_id: aggregate.into(), category: category.into(), position };
            if !fences.contains(&fence) {
                fences.push(fence);
            }
        }
        match drawn {
            DrawnFence::Nothing => fences.clear(),
            DrawnFence::Right => {}
            DrawnFence::RightFirst => fences.truncate(1),
            DrawnFence::Wrong { which, at } => {
                let which = which % fences.len();
                let fence = &mut fences[which];
                let earlier = self.memory.earlier_head(&fence.aggregate_id, &fence.category, at);
                fence.position = earlier.unwrap_or(fence.position + 1 + at as u64);
            }
        }
        fences
    }

    async fn append_and_check(&mut self, append: &Append, via: Via) -> Result<()> {
        let outcome = self.clients[via.gateway].try_append(via.wire, append).await?;
        self.story.push(format!("{via:?} {append:?} -> {outcome:?}"));
        self.memory.check(append, &outcome)?;
        match &outcome {
            Outcome::Appended { receipts, duplicate: false } => self.memory.accept(append, receipts),
            Outcome::Conflict(conflict) => {
                self.conflicts += usize::from(conflict.events.as_ref().is_some_and(|events| !events.is_empty()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn again(&mut self, key: usize, change: Change, via: Via) -> Result<()> {
        let known = self.memory.keys.values().nth(key % self.memory.keys.len().max(1));
        let Some((mut append, _)) = known.cloned() else { return Ok(()) };
        for event in &mut append.events {
            match change {
                Change::Nothing => {}
                Change::Data => event.data = json!({"content": "something else"}),
                Change::Types => event.event_type = "Different".into(),
            }
        }
        if change == Change::Types {
            // Fences are on subjects of the events.
            append.expected.clear();
        }
        self.append_and_check(&append, via).await
    }

    fn at(&self, moment: Moment) -> Option<At> {
        Some(match moment {
            Moment::Position(n) => At::Position(position(self.memory.nth(n)?)),
            Moment::Id(n) => At::Id(self.memory.id(n)?),
            Moment::Time(n) => At::Time(self.time(n)?),
        })
    }

    fn time(&self, n: usize) -> Option<String> {
        self.memory.nth(n)?["timestamp"].as_str().map(str::to_owned)
    }

    fn question(&self, drawn: &DrawnRead) -> Question {
        let chain = |n| self.memory.nth(n)?["metadata"]["correlation_id"].as_str().map(str::to_owned);
        Question {
            types: drawn.types.iter().copied().filter(|name| *name != "*").collect(),
            category: drawn.category,
            aggregate: drawn.aggregate.map(|n| AGGREGATES[n]),
            source: drawn.source.map(|n| SOURCES[n]),
            chain: drawn.chain.and_then(chain),
            caused_by: drawn.caused_by.and_then(|n| self.memory.id(n)),
            descendants_of: drawn.descendants_of.and_then(|n| self.memory.id(n)),
            after: drawn.after.and_then(|moment| self.at(moment)),
            before: drawn.before.and_then(|moment| self.at(moment)),
            from: drawn.from.and_then(|n| self.time(n)),
            until: drawn.until.and_then(|n| self.time(n)),
            backwards: drawn.backwards,
        }
    }

    async fn read(&mut self, drawn: &DrawnRead) -> Result<()> {
        let question = self.question(drawn);
        self.story.push(format!("{:?} {question:?}", drawn.via));
        let all = self.memory.select(&question)?;
        let client = &self.clients[drawn.via.gateway];
        match drawn.via.wire {
            Wire::Http => {
                same(&pages(client, &question, drawn.limit).await?, &all)?;
                same(&client.http.events(&query(&question)).await?, &all)?;
                let counted = client.http.fetch(&format!("/events/count?{}", count_query(&question))).await?;
                ensure!(counted["count"] == all.len(), "{counted} instead of {}", all.len());
            }
            Wire::Grpc | Wire::Stream => {
                let request = read_request(&question, 0)?;
                let counted = v1::CountRequest {
                    filter: request.filter.clone(),
                    after: request.after.clone(),
                    before: request.before.clone(),
                    ..v1::CountRequest::default()
                };
                same(&client.grpc.read(request).await?, &all)?;
                let some = client.grpc.read(read_request(&question, drawn.limit as u64)?).await?;
                same(&some, &all[..all.len().min(drawn.limit)])?;
                let counted = client.grpc.client().count(counted).await?.into_inner();
                ensure!(counted.count == all.len() as u64, "{counted:?} instead of {}", all.len());
            }
        }
        Ok(())
    }

    async fn get(&mut self, event: usize, by_id: bool, via: Via) -> Result<()> {
        let Some(event) = self.memory.nth(event).cloned() else { return Ok(()) };
        let id = if by_id { event["id"].as_str().context("an id")?.to_owned() } else { position(&event).to_string() };
        self.story.push(format!("{via:?} get {id}"));
        let client = &self.clients[via.gateway];
        let got = match via.wire {
            Wire::Http => client.http.fetch(&format!("/events/{id}")).await?,
            Wire::Grpc | Wire::Stream => {
                let answer = client.grpc.client().get(v1::GetRequest { id, raw: false }).await?.into_inner();
                causeway_e2e::grpc::json_of(answer.event.context("an event")?)?
            }
        };
        same(&[got], &[event])
    }

    async fn project(&mut self, aggregate: &str, moment: Option<Moment>, via: Via) -> Result<()> {
        let as_of = moment.and_then(|moment| self.at(moment));
        self.story.push(format!("{via:?} views of {aggregate} as of {as_of:?}"));
        self.check_views(aggregate, as_of.as_ref(), via).await
    }

    async fn check_views(&self, aggregate: &str, as_of: Option<&At>, via: Via) -> Result<()> {
        let (position, messages) = self.memory.conversation(aggregate, as_of)?;
        let view = self.view("conversation", aggregate, as_of, via).await?;
        let known = |message: &Value| {
            let mut message = message.as_object().cloned().unwrap_or_default();
            let user = message.remove("user_id").unwrap_or_default();
            message.insert("user_id".into(), user);
            Value::Object(message)
        };
        let shown: Vec<Value> = view["state"]["messages"].as_array().context("messages")?.iter().map(known).collect();
        ensure!(shown == messages, "the conversation is {shown:#?}\ninstead of {messages:#?}");
        ensure!(view["state"]["position"] == position, "{view} instead of position {position}");

        let (events, position, state) = self.memory.state(aggregate, as_of)?;
        let view = self.view("state", aggregate, as_of, via).await?;
        ensure!(view["state"]["state"] == state, "the state is {view:#}\ninstead of {state:#}");
        ensure!(view["state"]["events"] == events, "{view} instead of {events} events");
        ensure!(view["state"]["position"] == position, "{view} instead of position {position}");
        Ok(())
    }

    async fn view(&self, view: &str, aggregate: &str, as_of: Option<&At>, via: Via) -> Result<Value> {
        let client = &self.clients[via.gateway];
        let as_of = as_of.map(At::text).unwrap_or_default();
        // Whoever looks at the present has seen the last append, wherever that was made.
        let min_position = if as_of.is_empty() { self.memory.events.last().map_or(0, position) } else { 0 };
        match via.wire {
            Wire::Grpc | Wire::Stream => {
                let (view, id) = (view.to_owned(), aggregate.to_owned());
                client.grpc.project(v1::ProjectRequest { view, id, as_of, min_position }).await
            }
            Wire::Http => {
                let path = format!("/projections/{view}/{}?", encoded(aggregate));
                let path = match as_of.is_empty() {
                    true => format!("{path}min_position={min_position}"),
                    false => format!("{path}as_of={}", encoded(&as_of)),
                };
                client.http.fetch(&path).await
            }
        }
    }

    async fn chain(&mut self, event: usize, moment: Option<Moment>, via: Via) -> Result<()> {
        let Some(event) = self.memory.nth(event) else { return Ok(()) };
        let chain = event["metadata"]["correlation_id"].as_str().context("a chain")?.to_owned();
        let as_of = moment.and_then(|moment| self.at(moment));
        self.story.push(format!("{via:?} chain {chain} as of {as_of:?}"));
        self.check_chain(&chain, as_of.as_ref(), via).await
    }

    async fn check_chain(&self, chain: &str, as_of: Option<&At>, via: Via) -> Result<()> {
        let nodes = self.memory.chain(chain, as_of)?;
        let tree = self.view("chain", chain, as_of, via).await?["state"].take();
        let shown = tree["nodes"]
            .as_array()
            .context("nodes")?
            .iter()
            .map(|node| json!([node["id"], node["position"], node["timestamp"], node["depth"], node["children"]]));
        same_nodes(&shown.collect::<Vec<_>>(), &nodes)?;
        ensure!(tree["events"] == nodes.len() && tree["orphans"] == 0, "{tree:#}\ninstead of {nodes:#?}");
        Ok(())
    }

    /// A diff leads from the one state to the other, as a whole and event by event.
    async fn diff(&mut self, aggregate: &str, (one, other): (usize, usize), via: Via) -> Result<()> {
        let (Some(one), Some(other)) = (self.memory.nth(one), self.memory.nth(other)) else { return Ok(()) };
        let (from, to) = (position(one).min(position(other)), position(one).max(position(other)));
        self.story.push(format!("{via:?} diff of {aggregate} from {from} to {to}"));
        for view in ["conversation", "state"] {
            let before = self.view(view, aggregate, Some(&At::Position(from)), via).await?["state"].take();
            let after = self.view(view, aggregate, Some(&At::Position(to)), via).await?["state"].take();
            let diff = self.changes(view, aggregate, from, to, via).await?;
            let patched = |patches: &[&Value]| {
                patches.iter().try_fold(before.clone(), |mut state, patch| {
                    json_patch::patch(&mut state, &serde_json::from_value::<json_patch::Patch>((*patch).clone())?)?;
                    anyhow::Ok(state)
                })
            };
            let whole = patched(&[&diff["patch"]])?;
            ensure!(whole == after, "{diff:#}\nleads from {before} to {whole}\ninstead of {after}");
            let changes = diff["changes"].as_array().context("changes")?;
            let stepwise = patched(&changes.iter().map(|change| &change["patch"]).collect::<Vec<_>>())?;
            ensure!(stepwise == after, "step by step {diff:#}\nleads from {before} to {stepwise}\ninstead of {after}");
            let named: Vec<u64> = changes.iter().map(|change| position(&change["event"])).collect();
            let due = self.memory.between(aggregate, view == "state", from, to);
            ensure!(named == due, "the changes are by {named:?} instead of {due:?}");
        }
        Ok(())
    }

    async fn changes(&self, view: &str, aggregate: &str, from: u64, to: u64, via: Via) -> Result<Value> {
        let client = &self.clients[via.gateway];
        if via.wire == Wire::Http {
            let path = format!("/projections/{view}/{}/diff?from={from}&to={to}", encoded(aggregate));
            return client.http.fetch(&path).await;
        }
        let (view, id, from, to) = (view.to_owned(), aggregate.to_owned(), from.to_string(), to.to_string());
        let answer = client.grpc.client().diff(v1::DiffRequest { view, id, from, to }).await?.into_inner();
        let patch = |json: &[u8]| serde_json::from_slice::<Value>(json);
        let changes = answer.changes.into_iter().map(|change| {
            let event = causeway_e2e::grpc::json_of(change.event.context("an event")?)?;
            anyhow::Ok(json!({"event": event, "patch": patch(&change.patch)?}))
        });
        Ok(json!({"patch": patch(&answer.patch)?, "changes": changes.collect::<Result<Vec<_>>>()?}))
    }

    /// Everything at once, fences included, and a kill in the midst of it; each append is asked again under its key until its outcome is
    /// known.
    async fn storm(&mut self, drawn: &[DrawnAppend], crash: Crash, after: Duration) -> Result<()> {
        let appends: Vec<(Append, Via)> = drawn
            .iter()
            .map(|drawn| {
                let keyed = DrawnAppend { keyed: true, ..drawn.clone() };
                (self.append(&keyed), drawn.via)
            })
            .collect();
        self.story.push(format!("{appends:?}, and {crash:?} after {after:?}"));
        self.crashes.insert(crash.name());
        let clients = self.clients.clone();
        let settled =
            async { try_join_all(appends.iter().map(|(append, via)| clients[via.gateway].settle(via.wire, append))).await };
        let crashed = async {
            tokio::time::sleep(after).await;
            self.crash(crash).await
        };
        let (settled, crashed) = tokio::join!(settled, crashed);
        crashed?;
        let settled: Vec<(Append, Outcome)> = appends.into_iter().map(|(append, _)| append).zip(settled?).collect();
        self.story.push(format!("settled as {settled:?}"));
        self.memory.accept_all(&settled)?;
        self.back().await;
        Ok(())
    }

    async fn crash(&mut self, crash: Crash) -> Result<()> {
        match crash {
            Crash::Gateway(n) => self.gateways[n].restart().await,
            Crash::GatewayWithoutFile(n) => {
                self.gateways[n].kill();
                fs::remove_dir_all(self.gateways[n].data())?;
                self.gateways[n].restart().await
            }
            Crash::Nats => self.nats.restart().await,
            Crash::Everything => {
                self.gateways.iter_mut().for_each(Causeway::kill);
                self.nats.restart().await?;
                for gateway in &mut self.gateways {
                    gateway.restart().await?;
                }
                Ok(())
            }
        }
    }

    /// Waits until both gateways answer out of the log again, and not because they have not noticed yet that it was away.
    async fn back(&self) {
        join_all(self.clients.iter().map(|client| async move {
            let read = format!("/events?limit=1&after={}", self.memory.events.last().map_or(0, position));
            let answers = async || client.http.request(Method::GET, &read).send().await.ok()?.error_for_status().ok();
            wait_until("the gateway to be back", BACK_LIMIT, answers).await;
        }))
        .await;
    }

    /// The whole log over every way, and every view at every moment.
    pub(super) async fn check_everything(&mut self) -> Result<()> {
        self.story.push("everything".into());
        for client in &self.clients {
            same(&client.http.events("").await?, &self.memory.events)?;
            same(&client.grpc.read(v1::ReadRequest::default()).await?, &self.memory.events)?;
        }
        let vias = [(0, Wire::Http), (1, Wire::Grpc)].map(|(gateway, wire)| Via { gateway, wire });
        for (n, event) in self.memory.events.iter().enumerate() {
            for aggregate in AGGREGATES {
                self.check_views(aggregate, Some(&At::Position(position(event))), vias[n % 2]).await?;
            }
            let chain = event["metadata"]["correlation_id"].as_str().context("a chain")?;
            self.check_chain(chain, Some(&At::Position(position(event))), vias[n % 2]).await?;
        }
        Ok(())
    }
}

fn same_nodes(shown: &[Value], expected: &[Value]) -> Result<()> {
    ensure!(shown == expected, "the chain is {shown:#?}\ninstead of {expected:#?}");
    Ok(())
}

/// Asserts that both say the same, and shows where they differ.
fn same(shown: &[Value], expected: &[Value]) -> Result<()> {
    let differ = shown.iter().zip(expected).find(|(shown, expected)| shown != expected);
    if let Some((shown, expected)) = differ {
        bail!("{shown:#}\ninstead of {expected:#}");
    }
    let ids = |events: &[Value]| events.iter().map(position).collect::<Vec<_>>();
    ensure!(shown.len() == expected.len(), "the events at {:?} instead of those at {:?}", ids(shown), ids(expected));
    Ok(())
}

async fn pages(client: &Client, question: &Question, limit: usize) -> Result<Vec<Value>> {
    let mut question = question.clone();
    let mut events = Vec::new();
    loop {
        let page = client.http.fetch(&format!("/events?{}&limit={limit}", query(&question))).await?;
        let found = page["events"].as_array().context("events")?;
        ensure!(found.len() <= limit, "{page}");
        events.extend_from_slice(found);
        let next = match &page["next"] {
            Value::Null => return Ok(events),
            next => At::Position(next.as_u64().with_context(|| format!("next: {next}"))?),
        };
        ensure!(found.len() == limit, "a page that is not the last one is full: {page}");
        *if question.backwards { &mut question.before } else { &mut question.after } = Some(next);
    }
}

fn query(question: &Question) -> String {
    format!("{}{}", count_query(question), if question.backwards { "order=desc" } else { "order=asc" })
}

/// The filter alone.
fn count_query(question: &Question) -> String {
    let mut query = String::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            query.push_str(&format!("{name}={}&", encoded(value)));
        }
    };
    question.types.iter().for_each(|name| put("type", Some(name)));
    put("category", question.category);
    put("aggregate_id", question.aggregate);
    put("source", question.source);
    put("correlation_id", question.chain.as_deref());
    put("caused_by", question.caused_by.as_deref());
    put("descendants_of", question.descendants_of.as_deref());
    put("after", question.after.as_ref().map(At::text).as_deref());
    put("before", question.before.as_ref().map(At::text).as_deref());
    put("from", question.from.as_deref());
    put("until", question.until.as_deref());
    query
}

fn read_request(question: &Question, limit: u64) -> Result<v1::ReadRequest> {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let filter = v1::Filter {
        types: question.types.iter().map(|name| (*name).to_owned()).collect(),
        category: text(question.category),
        aggregate_id: text(question.aggregate),
        correlation_id: text(question.chain.as_deref()),
        from_time: question.from.as_deref().map(timestamp).transpose()?,
        until_time: question.until.as_deref().map(timestamp).transpose()?,
        source: text(question.source),
        caused_by: text(question.caused_by.as_deref()),
        descendants_of: text(question.descendants_of.as_deref()),
    };
    let order = if question.backwards { v1::Order::Backwards } else { v1::Order::Forwards };
    Ok(v1::ReadRequest {
        filter: Some(filter),
        after: question.after.as_ref().map(At::text).unwrap_or_default(),
        before: question.before.as_ref().map(At::text).unwrap_or_default(),
        order: order.into(),
        limit,
        ..v1::ReadRequest::default()
    })
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
