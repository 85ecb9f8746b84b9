//! Groups of consumers: every event is worked on, in order within its aggregate, whatever dies.

mod chaos;
mod filters;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_event_store::{CLOSE_MAX, Config, ReadModelConfig};
use causeway_log::Log;
use causeway_proto::v1::consume_request::Message as Say;
use causeway_proto::v1::consume_response::Message as Hear;
use causeway_proto::v1::event_store_client::EventStoreClient;
use causeway_proto::{Kind, Problem, v1};
use causeway_testkit::{NatsServer, wait_until};
use reqwest::Method;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::harness::{Gateway, LIMIT, World, note};

/// Longer than a dispatcher that was killed is waited for, and what it held comes again.
const TAKEOVER: Duration = Duration::from_secs(60);

struct Member {
    say: mpsc::Sender<v1::ConsumeRequest>,
    hear: Streaming<v1::ConsumeResponse>,
}

fn start(group: &str) -> v1::ConsumeStart {
    v1::ConsumeStart { group: group.into(), ..v1::ConsumeStart::default() }
}

fn seconds(seconds: f64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_secs_f64(seconds)).ok()
}

impl Member {
    async fn join(client: &mut EventStoreClient<Channel>, start: v1::ConsumeStart) -> Result<Self, Problem> {
        let (say, said) = mpsc::channel(64);
        say.send(v1::ConsumeRequest { message: Some(Say::Start(start)) }).await.unwrap();
        let hear = client.consume(ReceiverStream::new(said)).await?.into_inner();
        let mut member = Self { say, hear };
        assert!(matches!(member.hear().await?, Some(Hear::Started(_))));
        Ok(member)
    }

    async fn of(gateway: &Gateway, start: v1::ConsumeStart) -> Self {
        Self::join(&mut gateway.grpc().await, start).await.unwrap()
    }

    async fn hear(&mut self) -> Result<Option<Hear>, Problem> {
        let heard = timeout(TAKEOVER, self.hear.message()).await.expect("something in time");
        Ok(heard?.map(|response| response.message.unwrap()))
    }

    /// The next event; heartbeats are none.
    async fn next(&mut self) -> v1::Delivery {
        let delivery = async {
            loop {
                match self.hear().await.unwrap().expect("the stream goes on") {
                    Hear::Delivery(delivery) => return delivery,
                    Hear::Heartbeat(_) => {}
                    Hear::Started(again) => panic!("{again:?}"),
                }
            }
        };
        timeout(TAKEOVER, delivery).await.expect("a delivery in time")
    }

    /// Nothing comes for a while.
    async fn hears_nothing(&mut self, time: Duration) {
        if let Ok(delivery) = timeout(time, self.next()).await {
            panic!("{delivery:?}");
        }
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::ConsumeRequest { message: Some(message) }).await.unwrap();
    }

    /// Says all that it has to say and goes.
    async fn leave(mut self) {
        drop(self.say);
        while let Ok(Some(_)) = self.hear.message().await {}
    }

    async fn ack(&self, delivery: &v1::Delivery) {
        self.say(Say::Ack(v1::ConsumeAck { delivery_id: delivery.delivery_id.clone() })).await;
    }
}

fn number(delivery: &v1::Delivery) -> u64 {
    let event = delivery.event.as_ref().unwrap();
    serde_json::from_slice::<serde_json::Value>(&event.data).unwrap()["number"].as_u64().unwrap()
}

fn aggregate(delivery: &v1::Delivery) -> String {
    delivery.event.as_ref().unwrap().aggregate_id.clone()
}

async fn groups(client: &mut EventStoreClient<Channel>) -> Vec<v1::Group> {
    client.list_groups(v1::ListGroupsRequest {}).await.unwrap().into_inner().groups
}

async fn parked(client: &mut EventStoreClient<Channel>, group: &str) -> Vec<v1::Parked> {
    let request = v1::ListParkedRequest { group: group.into(), ..v1::ListParkedRequest::default() };
    client.list_parked(request).await.unwrap().into_inner().parked
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_an_aggregate_come_in_order_and_only_after_the_one_before_was_acknowledged() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for n in 1..=3 {
        gateway.note("a", n).await;
        gateway.note("b", n).await;
    }
    let mut member = Member::of(&gateway, start("g")).await;
    let (one, other) = (member.next().await, member.next().await);
    assert_eq!((number(&one), number(&other), one.deliveries), (1, 1, 1));
    assert_ne!(aggregate(&one), aggregate(&other), "aggregates go side by side");
    member.hears_nothing(Duration::from_millis(300)).await;
    member.ack(&one).await;
    let next = member.next().await;
    assert_eq!((aggregate(&next), number(&next)), (aggregate(&one), 2));
    let mut client = gateway.grpc().await;
    let seen = groups(&mut client).await;
    assert_eq!((seen[0].name.as_str(), seen[0].in_flight, seen[0].pending), ("g", 2, 3));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_comes_again_after_a_nak_with_delay_after_the_wait_and_when_its_member_is_gone() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    gateway.note("a", 1).await;
    gateway.note("a", 2).await;
    let begin = || v1::ConsumeStart { ack_wait: seconds(2.0), ..start("g") };
    let mut member = Member::of(&gateway, begin()).await;
    let first = member.next().await;
    let nak = v1::ConsumeNak { delivery_id: first.delivery_id.clone(), delay: seconds(0.5), reason: "busy".into() };
    member.say(Say::Nak(nak)).await;
    member.hears_nothing(Duration::from_millis(300)).await;
    let again = member.next().await;
    assert_eq!((number(&again), again.deliveries), (1, 2));
    // Marks hold it for longer than the wait.
    for _ in 0..4 {
        sleep(Duration::from_millis(800)).await;
        member.say(Say::Progress(v1::ConsumeProgress { delivery_id: again.delivery_id.clone() })).await;
    }
    member.hears_nothing(Duration::from_millis(500)).await;
    let after_the_wait = member.next().await;
    assert_eq!((number(&after_the_wait), after_the_wait.deliveries), (1, 3));
    let nak = v1::ConsumeNak { delivery_id: again.delivery_id.clone(), delay: seconds(5.0), reason: "too late".into() };
    member.say(Say::Nak(nak)).await;
    drop(member.hear);
    let mut other = Member::of(&gateway, begin()).await;
    let left_behind = other.next().await;
    assert_eq!((number(&left_behind), left_behind.deliveries), (1, 4));
    other.ack(&left_behind).await;
    assert_eq!(number(&other.next().await), 2);
    gateway.stop().await;
}

/// One that works through what it was given, one by one, and needs longer for all of it than the time of one.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_counts_also_when_its_time_ran_out_before_its_turn_came() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for number in 0..12 {
        gateway.note(&format!("a{number}"), number).await;
    }
    let slow = v1::ConsumeStart { in_flight_max: 12, ack_wait: seconds(1.0), deliveries_max: 20, ..start("g") };
    let mut member = Member::of(&gateway, slow).await;
    let mut done = BTreeSet::new();
    while done.len() < 12 {
        let delivery = member.next().await;
        sleep(Duration::from_millis(250)).await;
        member.ack(&delivery).await;
        done.insert(delivery.event.unwrap().position);
    }
    let mut client = gateway.grpc().await;
    let settled = async || {
        let group = groups(&mut client).await.remove(0);
        (group.pending == 0 && group.in_flight == 0).then_some(group.parked)
    };
    assert_eq!(wait_until("all of them to be settled", LIMIT, settled).await, 0);
    gateway.stop().await;
}

/// Not even of what no client took in time.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_take_is_no_delivery() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let large = "x".repeat(200_000);
    for number in 0..60 {
        gateway.post(&json!({"type": "NoteTaken", "aggregate_id": format!("a{number}"), "data": large})).await.created();
    }
    let idle = v1::ConsumeStart { in_flight_max: 60, ack_wait: seconds(1.0), deliveries_max: 2, ..start("g") };
    let mut member = Member::of(&gateway, idle.clone()).await;
    sleep(Duration::from_secs(8)).await;
    let mut client = gateway.grpc().await;
    let parked = groups(&mut client).await[0].parked;
    assert!(parked < 40, "{parked} were parked; most of them nobody can have seen");
    let mut seen = BTreeSet::new();
    while (seen.len() as u64) < 60 - parked {
        let delivery = member.next().await;
        member.ack(&delivery).await;
        seen.insert(delivery.event.unwrap().position);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_in_order_was_no_delivery_and_what_broke_off_comes_again_after_a_rest() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    gateway.note("a", 1).await;
    for _ in 0..3 {
        let mut member = Member::of(&gateway, start("g")).await;
        assert_eq!(member.next().await.deliveries, 1);
        member.leave().await;
    }
    for deliveries in 1..=2 {
        let mut member = Member::of(&gateway, start("g")).await;
        assert_eq!(member.next().await.deliveries, deliveries);
        // Its end of the stream and what it hears, and the connection with them.
        let broken = Instant::now();
        drop(member);
        let mut member = Member::of(&gateway, start("g")).await;
        assert_eq!(member.next().await.deliveries, deliveries + 1);
        let rested = broken.elapsed();
        assert!(Duration::from_millis(900) < rested && rested < Duration::from_secs(20), "{rested:?}");
        member.leave().await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_says_how_many_events_wait() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for number in 0..5 {
        gateway.note("a", number).await;
    }
    let mut member = Member::of(&gateway, start("g")).await;
    let delivery = member.next().await;
    let mut client = gateway.grpc().await;
    wait_until("the heartbeat", LIMIT, async || match member.hear().await.unwrap().unwrap() {
        Hear::Heartbeat(beat) => (beat.pending == 4).then_some(()),
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(groups(&mut client).await[0].pending, 4);
    member.ack(&delivery).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_what_was_parked_has_as_many_bytes_as_a_client_takes() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let words = "x".repeat(400 * 1024);
    for n in 0..20 {
        gateway.post(&json!({ "type": "NoteTaken", "aggregate_id": format!("a{n}"), "data": words })).await.created();
    }
    let mut member = Member::of(&gateway, start("g")).await;
    for _ in 0..20 {
        let delivery = member.next().await;
        member.say(Say::Park(v1::ConsumePark { delivery_id: delivery.delivery_id, reason: "no".into() })).await;
    }
    let mut client = gateway.grpc().await;
    wait_until("all to be parked", LIMIT, async || (groups(&mut client.clone()).await[0].parked == 20).then_some(())).await;
    let (mut letters, mut after) = (Vec::new(), 0);
    loop {
        let request = v1::ListParkedRequest { after, limit: 1000, ..v1::ListParkedRequest::default() };
        // A client takes 4 MiB unless it is told otherwise.
        let page = client.list_parked(request).await.unwrap().into_inner();
        assert!((1..=5).contains(&page.parked.len()), "{}", page.parked.len());
        letters.extend(page.parked.iter().map(|parked| parked.letter));
        match page.next {
            0 => break,
            next => after = next,
        }
    }
    assert_eq!(letters, (1..=20).collect::<Vec<_>>());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_read_learns_that_its_group_was_deleted() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    // Enough to fill what is on the way to a client, whatever it holds.
    let words = "x".repeat(400 * 1024);
    for n in 0..64 {
        let event = json!({ "type": "NoteTaken", "aggregate_id": format!("a{n}"), "data": words });
        gateway.post(&event).await.created();
    }
    let mut member = Member::of(&gateway, v1::ConsumeStart { in_flight_max: 1024, ..start("g") }).await;
    let mut client = gateway.grpc().await;
    wait_until("all to be delivered", LIMIT, async || (groups(&mut client.clone()).await[0].in_flight == 64).then_some(())).await;
    sleep(Duration::from_secs(1)).await;
    client.delete_group(v1::DeleteGroupRequest { group: "g".into() }).await.unwrap();
    // Until the gateway has nothing to say any more.
    sleep(Duration::from_secs(1)).await;
    let end = loop {
        match member.hear().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().kind, Kind::NotFound);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_parked_with_the_reason_listed_and_replayed() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for n in 1..=3 {
        gateway.note("a", n).await;
    }
    let mut client = gateway.grpc().await;
    let mut member = Member::of(&gateway, v1::ConsumeStart { deliveries_max: 2, ..start("g") }).await;
    for deliveries in 1..=2 {
        let delivery = member.next().await;
        assert_eq!((number(&delivery), delivery.deliveries), (1, deliveries));
        let nak = v1::ConsumeNak { delivery_id: delivery.delivery_id, delay: seconds(0.0), reason: "it hurts".into() };
        member.say(Say::Nak(nak)).await;
    }
    let second = member.next().await;
    assert_eq!(number(&second), 2, "the aggregate goes on");
    member.say(Say::Park(v1::ConsumePark { delivery_id: second.delivery_id.clone(), reason: "not\nfor me".into() })).await;
    let third = member.next().await;
    assert_eq!(number(&third), 3);
    let letters = parked(&mut client, "g").await;
    let told: Vec<_> = letters.iter().map(|one| (one.group.as_str(), one.reason.as_str(), one.deliveries)).collect();
    assert_eq!(told, [("g", "gave up after 2 deliveries: it hurts", 2), ("g", "not for me", 1)]);
    assert_eq!(letters[1].event.as_ref(), second.event.as_ref());
    assert_eq!(groups(&mut client).await[0].parked, 2);
    assert_eq!(parked(&mut client, "other").await, []);
    assert_eq!(parked(&mut client, "").await.len(), 2);

    // While an event of the aggregate is worked on, the replays wait; then they come in their order.
    let all = v1::ReplayParkedRequest { group: "g".into(), ..v1::ReplayParkedRequest::default() };
    let replayed = client.replay_parked(all).await.unwrap().into_inner();
    assert_eq!((replayed.replayed, replayed.more_up_to), (2, 0));
    assert_eq!(parked(&mut client, "g").await, []);
    member.hears_nothing(Duration::from_millis(300)).await;
    member.ack(&third).await;
    let first = member.next().await;
    assert_eq!((number(&first), first.deliveries), (1, 1));
    member.say(Say::Park(v1::ConsumePark { delivery_id: first.delivery_id, reason: "again".into() })).await;
    let second = member.next().await;
    assert_eq!(number(&second), 2);
    member.ack(&second).await;
    wait_until("the letter", LIMIT, async || (parked(&mut client.clone(), "g").await.len() == 1).then_some(())).await;
    assert_eq!(parked(&mut client, "g").await[0].reason, "again");
    member.hears_nothing(Duration::from_millis(300)).await;
    // What was given up again may be replayed again.
    let letter = parked(&mut client, "g").await[0].letter;
    let one = v1::ReplayParkedRequest { group: "g".into(), letters: vec![letter], ..v1::ReplayParkedRequest::default() };
    assert_eq!(client.replay_parked(one).await.unwrap().into_inner().replayed, 1);
    let once_more = member.next().await;
    assert_eq!(number(&once_more), 1);
    member.ack(&once_more).await;
    let refused = [
        v1::ReplayParkedRequest { group: "g".into(), letters: vec![1; 1001], up_to: 0 },
        v1::ReplayParkedRequest { group: "g".into(), letters: vec![0], up_to: 0 },
        v1::ReplayParkedRequest { group: "g".into(), letters: vec![1], up_to: 1 },
    ];
    for (request, field) in refused.into_iter().zip(["/letters", "/letters", "/up_to"]) {
        assert_eq!(Problem::from(client.replay_parked(request).await.unwrap_err()).field.as_deref(), Some(field));
    }
    let nobody = v1::ReplayParkedRequest { group: "nobody".into(), ..v1::ReplayParkedRequest::default() };
    assert_eq!(Problem::from(client.replay_parked(nobody).await.unwrap_err()).kind, Kind::NotFound);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_shown_in_the_newest_version_of_its_type() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut client = gateway.grpc().await;
    let number = |version, schema: &str, upcast: &str| v1::RegisterTypeRequest {
        name: "NoteTaken".into(),
        version,
        schema: schema.as_bytes().to_vec(),
        upcast: upcast.as_bytes().to_vec(),
        ..v1::RegisterTypeRequest::default()
    };
    client.register_type(number(1, r#"{"type":"object"}"#, "")).await.unwrap();
    gateway.note("a", 7).await;
    client.register_type(number(2, r#"{"required":["count"]}"#, r#"[{"op":"add","path":"/count","value":1}]"#)).await.unwrap();
    let filter = v1::Filter { types: vec!["NoteTaken".into()], ..v1::Filter::default() };
    let mut member = Member::of(&gateway, v1::ConsumeStart { filter: Some(filter), ..start("g") }).await;
    let delivery = member.next().await;
    let shown = delivery.event.clone();
    member.say(Say::Park(v1::ConsumePark { delivery_id: delivery.delivery_id, reason: "never".into() })).await;
    wait_until("the letter", LIMIT, async || (parked(&mut client.clone(), "g").await.len() == 1).then_some(())).await;
    let event = parked(&mut client, "g").await.remove(0).event;
    assert_eq!(event.as_ref().unwrap().metadata.as_ref().unwrap().schema_version, 2);
    assert_eq!(event, shown, "as it was delivered");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_taken_off_the_list_for_good_and_stays_on_the_log() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for n in 1..=4 {
        gateway.note("a", n).await;
    }
    let mut client = gateway.grpc().await;
    let discarding = client.clone();
    let mut member = Member::of(&gateway, start("g")).await;
    for _ in 1..=4 {
        let delivery = member.next().await;
        member.say(Say::Park(v1::ConsumePark { delivery_id: delivery.delivery_id, reason: "never".into() })).await;
    }
    wait_until("the letters", LIMIT, async || (parked(&mut client.clone(), "g").await.len() == 4).then_some(())).await;
    let letters: Vec<_> = parked(&mut client, "g").await.into_iter().map(|one| one.letter).collect();
    let discard = |group: &str, letters: &[u64], up_to| {
        let (mut client, group, letters) = (discarding.clone(), group.to_owned(), letters.to_vec());
        let request = v1::DiscardParkedRequest { group, letters, up_to };
        async move { client.discard_parked(request).await.map(|response| response.into_inner().discarded) }
    };
    assert_eq!(discard("other", &letters, 0).await.unwrap(), 0, "they are not its");
    assert_eq!(discard("other", &[], 0).await.unwrap(), 0);
    assert_eq!(discard("g", &[letters[1], letters[1], 999], 0).await.unwrap(), 1);
    assert_eq!(discard("g", &[], letters[2]).await.unwrap(), 2);
    let left: Vec<_> = parked(&mut client, "g").await.into_iter().map(|one| one.letter).collect();
    assert_eq!(left, letters[3..]);
    // What is on its way back to the group is not on the list, and not discarded with it.
    let replay = v1::ReplayParkedRequest { group: "g".into(), ..v1::ReplayParkedRequest::default() };
    assert_eq!(client.replay_parked(replay).await.unwrap().into_inner().replayed, 1);
    assert_eq!(discard("g", &[], 0).await.unwrap(), 0);
    let again = member.next().await;
    assert_eq!(number(&again), 4);
    member.say(Say::Park(v1::ConsumePark { delivery_id: again.delivery_id, reason: "never".into() })).await;
    wait_until("the letter", LIMIT, async || (parked(&mut client.clone(), "g").await.len() == 1).then_some(())).await;
    assert_eq!(discard("g", &[], 0).await.unwrap(), 1);
    assert_eq!(groups(&mut client).await[0].parked, 0);
    assert_eq!(gateway.get("/events/count").await.ok()["count"], 4, "they stay on the log");
    member.hears_nothing(Duration::from_millis(300)).await;
    for (letters, up_to, field) in [(vec![1; 1001], 0, "/letters"), (vec![1], 1, "/up_to")] {
        assert_eq!(Problem::from(discard("g", &letters, up_to).await.unwrap_err()).field.as_deref(), Some(field));
    }
    assert_eq!(Problem::from(discard("", &[], 0).await.unwrap_err()).field.as_deref(), Some("/group"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_its_place_and_is_what_its_first_start_said() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let filter =
        |types: &[&str]| Some(v1::Filter { types: types.iter().map(|&text| text.into()).collect(), ..v1::Filter::default() });
    gateway.note("a", 1).await;
    let begin = || v1::ConsumeStart { filter: filter(&["Note*", "Bill*"]), from_now: true, ..start("g") };
    let mut member = Member::of(&gateway, begin()).await;
    gateway.post(&serde_json::json!({"type": "OrderPlaced", "aggregate_id": "a", "data": {"number": 2}})).await.created();
    gateway.note("a", 3).await;
    gateway.note("b", 4).await;
    let (one, other) = (member.next().await, member.next().await);
    assert_eq!([number(&one), number(&other)], [3, 4], "neither what was before nor what does not pass");
    member.ack(&one).await;
    member.leave().await;
    let mut client = gateway.grpc().await;
    let differs = v1::ConsumeStart { filter: filter(&["Order*"]), ..start("g") };
    let refused = Member::join(&mut client, differs).await.map(drop).unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (Kind::Invalid, Some("/start/filter")));
    let differs = v1::ConsumeStart { ack_wait: seconds(7.0), ..begin() };
    assert_eq!(Member::join(&mut client, differs).await.map(drop).unwrap_err().field.as_deref(), Some("/start/ack_wait"));

    // The same types, however they are listed.
    let same = v1::ConsumeStart { filter: filter(&["Bill*", "Note*", "Bill*"]), ..begin() };
    let mut member = Member::of(&gateway, same).await;
    let again = member.next().await;
    assert_eq!((number(&again), again.deliveries), (4, 1), "it was given back");
    member.hears_nothing(Duration::from_millis(300)).await;
    client.delete_group(v1::DeleteGroupRequest { group: "g".into() }).await.unwrap();
    assert_eq!(groups(&mut client).await, []);
    let ended = loop {
        match member.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it says why"),
            Err(problem) => break problem,
        }
    };
    assert_eq!(ended.kind, Kind::NotFound);
    let gone = Problem::from(client.delete_group(v1::DeleteGroupRequest { group: "g".into() }).await.unwrap_err());
    assert_eq!((gone.kind, gone.field.as_deref()), (Kind::NotFound, Some("/group")));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_for_one_event_takes_no_other_with_it() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for n in 1..=12 {
        gateway.note(&format!("a{n}"), n).await;
    }
    let once = |group: &str| v1::ConsumeStart { in_flight_max: 1, deliveries_max: 1, ..start(group) };
    let come_and_go = async |group: &str, mut seen: BTreeSet<u64>| {
        while seen.len() < 12 {
            let mut member = Member::of(&gateway, once(group)).await;
            let delivery = member.next().await;
            assert_eq!(delivery.deliveries, 1);
            assert!(seen.insert(number(&delivery)), "{delivery:?}");
            member.ack(&delivery).await;
            member.leave().await;
        }
        assert_eq!(parked(&mut gateway.grpc().await, group).await, []);
    };
    // Somebody who is busy all the time, so that the group goes on while the others come and go; and nobody.
    let mut busy = Member::of(&gateway, once("g")).await;
    let first = number(&busy.next().await);
    come_and_go("g", BTreeSet::from([first])).await;
    come_and_go("alone", BTreeSet::new()).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_client_that_leaves_was_not_delivered() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    for n in 1..=40 {
        gateway.note(&format!("a{n}"), n).await;
    }
    let many = || v1::ConsumeStart { in_flight_max: 40, deliveries_max: 1, ..start("g") };
    let mut member = Member::of(&gateway, many()).await;
    let first = member.next().await;
    member.ack(&first).await;
    // Time for all of them to be assigned, of which a client that does not read takes some.
    sleep(Duration::from_millis(500)).await;
    drop(member);
    let mut member = Member::of(&gateway, many()).await;
    let mut client = gateway.grpc().await;
    let mut seen = BTreeSet::from([number(&first)]);
    let all = async {
        while seen.len() + parked(&mut client, "g").await.len() < 40 {
            if let Ok(delivery) = timeout(Duration::from_millis(500), member.next()).await {
                assert_eq!(delivery.deliveries, 1);
                seen.insert(number(&delivery));
                member.ack(&delivery).await;
            }
        }
    };
    timeout(TAKEOVER, all).await.expect("each is delivered, or was and is parked");
    let numbers = parked(&mut client, "g").await.into_iter().map(|parked| {
        let event = parked.event.unwrap();
        serde_json::from_slice::<serde_json::Value>(&event.data).unwrap()["number"].as_u64().unwrap()
    });
    assert!(numbers.into_iter().all(|number| !seen.contains(&number)), "none both");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_outlives_whoever_dispatched() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    gateway.note("a", 1).await;
    let mut member = Member::of(&gateway, start("g")).await;
    let delivery = member.next().await;
    let begun = tokio::time::Instant::now();
    member.say(Say::Nak(v1::ConsumeNak { delivery_id: delivery.delivery_id, delay: seconds(8.0), reason: "busy".into() })).await;
    // The only member goes, and with it the only dispatcher.
    member.leave().await;
    let mut member = Member::of(&gateway, start("g")).await;
    assert_eq!(member.next().await.deliveries, 2);
    assert!(begun.elapsed() > Duration::from_secs(7), "{:?}", begun.elapsed());
    gateway.stop().await;
}

async fn second_gateway(nats: &NatsServer, dir: &std::path::Path) -> Gateway {
    let read_model = ReadModelConfig { path: dir.join("second.sqlite"), ..ReadModelConfig::default() };
    Gateway::start_with(nats, Config { read_model, heartbeat: Duration::from_millis(200), ..Config::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_two_gateways_share_the_work_and_survive_the_orderly_end_of_either() {
    let World { gateway, nats, dir } = World::start().await;
    let other = second_gateway(&nats, dir.path()).await;
    let begin = || v1::ConsumeStart { in_flight_max: 2, ..start("g") };
    let mut here = Member::of(&gateway, begin()).await;
    let mut there = Member::of(&other, begin()).await;
    for aggregate in ["a", "b", "c", "d"] {
        gateway.note(aggregate, 1).await;
        gateway.note(aggregate, 2).await;
    }
    let here = [here.next().await, here.next().await];
    let theirs = [there.next().await, there.next().await];
    let aggregates: BTreeSet<_> = here.iter().chain(&theirs).map(aggregate).collect();
    assert_eq!(aggregates.len(), 4, "each has two of the four");
    // The dispatcher is here: it hands over, and what is there stays there.
    gateway.stop().await;
    let stopped = Instant::now();
    let mut seen = BTreeSet::new();
    for delivery in &theirs {
        there.ack(delivery).await;
    }
    while seen.len() < 6 {
        let delivery = there.next().await;
        there.ack(&delivery).await;
        assert!(seen.insert((aggregate(&delivery), number(&delivery))), "{delivery:?} again");
    }
    assert!(stopped.elapsed() < Log::GROUP_HOLD, "what was held was handed over, and did not run out");
    other.stop().await;
}

/// Acknowledges what comes, as long as anything comes. What that was.
async fn work_on(member: &mut Member, wanted: usize) -> BTreeSet<(String, u64)> {
    let mut done = BTreeSet::new();
    while done.len() < wanted {
        let next = timeout(LIMIT, member.hear()).await;
        match next {
            Ok(Ok(Some(Hear::Delivery(delivery)))) => {
                member.ack(&delivery).await;
                done.insert((delivery.event.as_ref().unwrap().r#type.clone(), number(&delivery)));
            }
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_deleted_at_work_and_started_again_gets_all_that_is_its_own() {
    const EVENTS: u64 = 600;
    let World { gateway, nats, dir } = World::start().await;
    let other = second_gateway(&nats, dir.path()).await;
    for number in 0..EVENTS {
        let event_type = if number.is_multiple_of(2) { "GammaSeen" } else { "DeltaSeen" };
        let event = json!({ "type": event_type, "aggregate_id": format!("a{}", number % 50), "data": { "number": number } });
        gateway.post(&event).await.created();
    }
    let begin = |event_type: &str| {
        let filter = v1::Filter { types: vec![event_type.into()], ..v1::Filter::default() };
        v1::ConsumeStart { filter: Some(filter), ..start("g") }
    };
    let mut client = gateway.grpc().await;
    // Of both gateways each dispatches some of them.
    for (round, at) in [&gateway, &other, &gateway, &other].into_iter().enumerate() {
        let mut first = Member::of(at, begin("GammaSeen")).await;
        let working = tokio::spawn(async move { work_on(&mut first, usize::MAX).await });
        wait_until("the group to be at work", LIMIT, async || {
            groups(&mut client.clone()).await.first().filter(|group| group.acknowledged_position > 100).map(drop)
        })
        .await;
        client.delete_group(v1::DeleteGroupRequest { group: "g".into() }).await.unwrap();
        let mut second = Member::of(&gateway, begin("DeltaSeen")).await;
        let seen = work_on(&mut second, EVENTS as usize / 2).await;
        let all = (0..EVENTS).filter(|number| !number.is_multiple_of(2)).map(|number| ("DeltaSeen".to_owned(), number));
        assert_eq!(seen.len() as u64, EVENTS / 2, "round {round}");
        assert_eq!(seen, all.collect(), "round {round}");
        client.delete_group(v1::DeleteGroupRequest { group: "g".into() }).await.unwrap();
        working.await.unwrap();
    }
    other.stop().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_stops_in_its_time_though_nats_is_away() {
    let World { gateway, nats, dir } = World::start().await;
    gateway.stop().await;
    let read_model = ReadModelConfig { path: dir.path().join("read-model.sqlite"), ..ReadModelConfig::default() };
    let drain_timeout = Duration::from_secs(5);
    let gateway = Gateway::start_with(&nats, Config { read_model, drain_timeout, ..Config::default() }).await;
    let mut members = Vec::new();
    for group in 0..20 {
        gateway.note("a", group).await;
        let mut member = Member::of(&gateway, start(&format!("g{group}"))).await;
        member.next().await;
        members.push(member);
    }
    nats.pause().unwrap();
    let waits = tokio::spawn(gateway.request(Method::POST, "/events").json(&note("a", 0)).send());
    sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    gateway.stop().await;
    let took = asked.elapsed();
    assert!(took < drain_timeout + CLOSE_MAX + Duration::from_secs(1), "{took:?}");
    nats.resume().unwrap();
    waits.abort();
}
