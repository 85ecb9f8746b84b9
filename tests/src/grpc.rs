//! The gateway's gRPC API, with stubs generated from `proto/` and every event in the shape that HTTP gives it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use serde_json::{Map, Value};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::append::{Append, Conflict, Fence, Outcome, Receipt};
use v1::event_store_client::EventStoreClient;

/// What `proto/causeway/v1` says, generated.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("causeway.v1");
}

/// How long one call may take. Longer than any timeout that the server has by default.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);
/// How long a test may wait for something to appear in a stream.
const STREAM_LIMIT: Duration = Duration::from_secs(60);
/// The most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One gateway. Connects when it is first used, and again after every outage.
#[derive(Clone, Debug)]
pub struct Grpc {
    channel: Channel,
}

impl Grpc {
    /// The gateway at this `http://` address.
    pub fn new(base: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(base.to_owned())?.connect_timeout(Duration::from_secs(5));
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// The generated client.
    pub fn client(&self) -> EventStoreClient<Channel> {
        EventStoreClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whether gRPC health says that the event store serves.
    pub async fn serving(&self) -> Result<bool> {
        let request = HealthCheckRequest { service: "causeway.v1.EventStore".into() };
        let answer = HealthClient::new(self.channel.clone()).check(within(request)).await?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    }

    /// The stream of health changes, the present state first.
    pub async fn watch_health(&self) -> Result<Health> {
        let request = HealthCheckRequest { service: "causeway.v1.EventStore".into() };
        Ok(Health(HealthClient::new(self.channel.clone()).watch(request).await?.into_inner()))
    }

    /// Appends once.
    pub async fn try_append(&self, append: &Append) -> Result<Outcome> {
        match self.client().append(within(request_of(append))).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let receipts = answer.events.into_iter().map(receipt).collect::<Result<_>>()?;
                Ok(Outcome::Appended { receipts, duplicate: answer.duplicate })
            }
            Err(status) => outcome(&status),
        }
    }

    /// Appends once, in a stream of its own.
    pub async fn try_append_streamed(&self, append: &Append) -> Result<Outcome> {
        let request = v1::AppendStreamRequest { request_id: "one".into(), append: Some(request_of(append)) };
        let answer =
            async { self.client().append_stream(within(futures::stream::iter([request]))).await?.into_inner().message().await };
        match answer.await {
            Ok(Some(answer)) => {
                ensure!(answer.request_id == "one", "{answer:?}");
                Self::streamed(answer)
            }
            Ok(None) => Ok(Outcome::Unknown("the stream ended without an answer".into())),
            Err(status) => outcome(&status),
        }
    }

    /// The answer to one append in a stream of appends.
    pub fn streamed(answer: v1::AppendStreamResponse) -> Result<Outcome> {
        use v1::append_stream_response::Result as Answer;
        match answer.result.context("a result")? {
            Answer::Appended(appended) => {
                let receipts = appended.events.into_iter().map(receipt).collect::<Result<_>>()?;
                Ok(Outcome::Appended { receipts, duplicate: appended.duplicate })
            }
            Answer::Problem(problem) => match (problem.reason.as_str(), problem.conflict) {
                ("OUTCOME_UNKNOWN", _) => Ok(Outcome::Unknown(problem.message)),
                ("CONFLICT", Some(conflict)) => Ok(Outcome::Conflict(conflict_of(conflict)?)),
                (reason, _) => Ok(Outcome::Refused { kind: kind(reason), detail: problem.message }),
            },
        }
    }

    /// All events that match.
    pub async fn read(&self, request: v1::ReadRequest) -> Result<Vec<Value>> {
        let mut stream = self.client().read(within(request)).await?.into_inner();
        let mut events = Vec::new();
        while let Some(response) = stream.message().await? {
            events.push(json_of(response.event.context("an event")?)?);
        }
        Ok(events)
    }

    /// Follows the log behind a position.
    pub async fn subscribe(&self, filter: v1::Filter, after: u64) -> Result<Subscription> {
        let after = if after == 0 { String::new() } else { after.to_string() };
        let request = v1::SubscribeRequest { filter: Some(filter), after, ..Default::default() };
        let answer = timeout(REQUEST_LIMIT, self.client().subscribe(request)).await.context("no answer to Subscribe")??;
        Ok(Subscription(answer.into_inner()))
    }

    /// A view's state.
    pub async fn project(&self, request: v1::ProjectRequest) -> Result<Value> {
        let answer = self.client().project(within(request)).await?.into_inner();
        let state: Value = serde_json::from_slice(&answer.state)?;
        Ok(serde_json::json!({"view": answer.view, "id": answer.id, "position": answer.position, "state": state}))
    }
}

/// The changes of a server's health.
pub struct Health(Streaming<tonic_health::pb::HealthCheckResponse>);

impl Health {
    /// Whether it serves after the next change.
    pub async fn next(&mut self) -> Result<bool> {
        let next = timeout(STREAM_LIMIT, self.0.message()).await.context("no change of health")??;
        Ok(next.context("the stream of health ended")?.status() == ServingStatus::Serving)
    }
}

/// An open subscription.
pub struct Subscription(Streaming<v1::SubscribeResponse>);

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An event.
    Event(Value),
    /// The seam between the past and the present.
    CaughtUp,
    /// Everything up to here was sent or filtered out.
    Passed(u64),
}

impl Subscription {
    /// The next update. None when the stream ends or breaks.
    pub async fn next(&mut self) -> Result<Option<Update>> {
        use v1::subscribe_response::Update as Sent;
        loop {
            let Ok(Some(response)) = timeout(STREAM_LIMIT, self.0.message()).await.context("nothing came over gRPC")? else {
                return Ok(None);
            };
            return Ok(Some(match response.update {
                Some(Sent::Event(event)) => Update::Event(json_of(event)?),
                Some(Sent::CaughtUp(_)) => Update::CaughtUp,
                Some(Sent::Heartbeat(beat)) => Update::Passed(beat.position),
                Some(Sent::Checkpoint(checkpoint)) => Update::Passed(checkpoint.position),
                Some(Sent::Delta(_)) | None => continue,
            }));
        }
    }
}

/// A request that does not wait for ever.
fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_LIMIT);
    request
}

/// An append as it travels.
pub fn request_of(append: &Append) -> v1::AppendRequest {
    let events = append.events.iter().map(|draft| v1::NewEvent {
        r#type: draft.event_type.clone(),
        aggregate_id: draft.aggregate_id.clone(),
        data: draft.data.to_string().into_bytes(),
        metadata: Some(v1::Metadata {
            source: draft.source.clone(),
            causation_id: draft.causation_id.clone(),
            ..Default::default()
        }),
    });
    let expected = append.expected.iter().map(|fence| v1::Expected {
        aggregate_id: fence.aggregate_id.clone(),
        category: fence.category.clone(),
        position: fence.position,
    });
    v1::AppendRequest {
        events: events.collect(),
        expected: expected.collect(),
        idempotency_key: append.key.clone().unwrap_or_default(),
        ..v1::AppendRequest::default()
    }
}

fn receipt(appended: v1::Appended) -> Result<Receipt> {
    let timestamp = time(appended.timestamp)?;
    Ok(Receipt { id: appended.id, position: appended.position, timestamp, correlation_id: appended.correlation_id })
}

fn outcome(status: &Status) -> Result<Outcome> {
    let details = status.get_error_details();
    let Some(info) = details.error_info().filter(|info| info.domain == "causeway") else {
        // Not the gateway's word, but that of a connection that broke.
        ensure!(status.code() != Code::InvalidArgument, "{status:?}");
        return Ok(Outcome::Unknown(format!("{status:?}")));
    };
    let reason = info.reason.as_str();
    Ok(match reason {
        "OUTCOME_UNKNOWN" => Outcome::Unknown(status.message().to_owned()),
        "CONFLICT" => {
            let envelope = tonic_types::pb::Status::decode(status.details())?;
            let ours = envelope.details.iter().find(|any| any.type_url.ends_with("/causeway.v1.Conflict"));
            let Some(any) = ours else { bail!("a conflict without causeway.v1.Conflict: {status:?}") };
            let conflict = conflict_of(v1::Conflict::decode(&any.value[..])?)?;
            ensure!(info.metadata["actual_position"] == conflict.actual.to_string(), "{info:?} against {conflict:?}");
            Outcome::Conflict(conflict)
        }
        reason => Outcome::Refused { kind: kind(reason), detail: status.message().to_owned() },
    })
}

fn kind(reason: &str) -> String {
    reason.to_lowercase().replace('_', "-")
}

fn conflict_of(conflict: v1::Conflict) -> Result<Conflict> {
    Ok(Conflict {
        fence: Fence { aggregate_id: conflict.aggregate_id, category: conflict.category, position: conflict.expected_position },
        actual: conflict.actual_position,
        events: Some(conflict.events.into_iter().map(json_of).collect::<Result<_>>()?),
        more: conflict.more,
    })
}

/// An event in the shape that HTTP gives it.
pub fn json_of(event: v1::Event) -> Result<Value> {
    let from = event.metadata.context("metadata")?;
    let mut metadata = Map::from_iter([("source".to_owned(), Value::from(from.source))]);
    let mut put = |name: &str, value: Value| drop(metadata.insert(name.to_owned(), value));
    if let Some(cause) = from.causation_id {
        put("causation_id", cause.into());
    }
    put("correlation_id", from.correlation_id.context("every event has a chain")?.into());
    if !from.labels.is_empty() {
        put("labels", from.labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect());
    }
    if from.schema_version != 0 {
        put("schema_version", from.schema_version.into());
    }
    let data: Value = serde_json::from_slice(&event.data)?;
    Ok(serde_json::json!({
        "id": event.id, "position": event.position, "timestamp": time(event.timestamp)?, "type": event.r#type,
        "aggregate_id": event.aggregate_id, "data": data, "metadata": metadata,
    }))
}

fn time(timestamp: Option<prost_types::Timestamp>) -> Result<String> {
    let timestamp = timestamp.context("a timestamp")?;
    Ok(format!("{:.6}", jiff::Timestamp::new(timestamp.seconds, timestamp.nanos)?))
}

/// The other way.
pub fn timestamp(text: &str) -> Result<prost_types::Timestamp> {
    let time: jiff::Timestamp = text.parse()?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}
