//! The paths, described. The functions are never called: the handlers stand in the files beside this folder.
#![expect(dead_code, reason = "these functions are only described")]

use super::chains::*;
use super::cloudevents::*;
use super::schemas::*;
use super::texts::*;

/// Append events
///
/// One event, or several all or none. Or CloudEvents 1.0: one (structured mode), or a batch of them (all or none). Or one in binary mode:
/// the body is the `data`, of the type `application/json`, and each attribute is a header: `ce-specversion`, `ce-id`, `ce-source`, `ce-type`
/// and `ce-subject`, which is the aggregate. The `source` and `id` of a CloudEvent are its idempotency key where the header gives none.
#[utoipa::path(post, path = "/events", tag = "events",
    params(("Idempotency-Key" = inline(Option<IdempotencyKey>), Header, description = "Makes the append happen at most once per aggregate.")),
    request_body(content(
        (Append = "application/json"),
        (CloudEvent = "application/cloudevents+json", example = json!({
            "specversion": "1.0", "id": "7", "source": "/shop", "type": "NoteTaken", "subject": "notes-4", "data": {"text": "Hello"}})),
        (CloudEvents = "application/cloudevents-batch+json", example = json!([{
            "specversion": "1.0", "id": "8", "source": "/shop", "type": "NoteTaken", "subject": "notes-5", "data": {"text": "Hello"}}])))),
    responses((status = 201, description = "It is on the log", body = Appended)))]
pub(super) fn append_events() {}

/// Read events
///
/// With `Accept: application/x-ndjson` the whole range as a stream, one event a line.
#[utoipa::path(get, path = "/events", tag = "events",
    params(Filter, Range,
        ("raw" = inline(Option<bool>), Query, description = "Give data in the version in which it was appended."),
        ("order" = inline(Option<Order>), Query, description = "asc for the oldest first, desc for the newest."),
        ("limit" = inline(Option<u64>), Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless given. As NDJSON also more, and all unless given.")),
    responses((status = 200, description = "A page of events", content((Events = "application/json"), (EventLines = "application/x-ndjson")))))]
pub(super) fn list_events() {}

/// The direction of a read.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Order {
    Asc,
    Desc,
}

/// Count events, exactly
#[utoipa::path(get, path = "/events/count", tag = "events", params(Filter, Range),
    responses((status = 200, description = "How many there are", body = Count)))]
pub(super) fn count_events() {}

/// Follow the log
///
/// What stands in it, one `caught_up`, then what is appended: server-sent events. `id:` is the position, which
/// `Last-Event-ID` resumes.
#[utoipa::path(get, path = "/events/stream", tag = "events",
    params(Filter,
        ("from" = inline(Option<Time>), Query, description = "Stored at this time or later."),
        ("until" = inline(Option<Time>), Query, description = "Stored before this time."),
        ("after" = inline(Option<Place>), Query, description = "Begin behind this place."),
        ("from_now" = inline(Option<bool>), Query, description = "Begin with what is appended from now on."),
        ("raw" = inline(Option<bool>), Query, description = "Give data in the version in which it was appended."),
        ("Last-Event-ID" = inline(Option<Place>), Header, description = "Where an earlier stream ended.")),
    responses((status = 200, description = "Events, as they come", content_type = "text/event-stream", body = EventStream)))]
pub(super) fn stream_events() {}

/// One event
#[utoipa::path(get, path = "/events/{id}", tag = "events",
    params(("id" = inline(Place), Path, description = "An event id or a position."),
        ("raw" = inline(Option<bool>), Query, description = "Give its data in the version in which it was appended.")),
    responses((status = 200, description = "The event", body = Event)))]
pub(super) fn get_event() {}

/// The aggregates that have events
#[utoipa::path(get, path = "/aggregates", tag = "events",
    params(("prefix" = inline(Option<Prefix>), Query, description = "Whose ids start so."),
        ("after" = inline(Option<AggregateId>), Query, description = "Behind this id."),
        ("limit" = inline(Option<u64>), Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless given.")),
    responses((status = 200, description = "Aggregates in the order of their ids", body = Aggregates)))]
pub(super) fn list_aggregates() {}

/// The views that there are
#[utoipa::path(get, path = "/projections", tag = "projections", responses((status = 200, description = "The views", body = Views)))]
pub(super) fn list_projections() {}

/// A view of one id
#[utoipa::path(get, path = "/projections/{view}/{id}", tag = "projections",
    params(("view" = String, Path, description = "The view.", example = "conversation"),
        ("id" = inline(AggregateId), Path, description = "What to look at: an aggregate, or for a chain its correlation id."),
        ("as_of" = inline(Option<Moment>), Query, description = "The moment to look at; now unless given."),
        ("min_position" = inline(Option<u64>), Query, description = "Wait until this position is taken account of.")),
    responses((status = 200, description = "Its state", body = Projection)))]
pub(super) fn get_projection() {}

/// What changed in a view between two moments
#[utoipa::path(get, path = "/projections/{view}/{id}/diff", tag = "projections",
    params(("view" = String, Path, description = "The view.", example = "conversation"),
        ("id" = inline(AggregateId), Path, description = "What to look at."),
        ("from" = inline(Moment), Query, description = "The earlier moment."),
        ("to" = inline(Option<Moment>), Query, description = "The later moment; now unless given.")),
    responses((status = 200, description = "What changed, as a whole and event by event", body = Diff)))]
pub(super) fn diff_projection() {}

/// A view, and each of its changes
///
/// Server-sent events: `state` first, then a `change` for each event that changes it.
#[utoipa::path(get, path = "/projections/{view}/{id}/watch", tag = "projections",
    params(("view" = String, Path, description = "The view.", example = "conversation"),
        ("id" = inline(AggregateId), Path, description = "What to look at."),
        ("min_position" = inline(Option<u64>), Query, description = "Wait until this position is taken account of."),
        ("states" = inline(Option<bool>), Query, description = "Send the whole state with every change.")),
    responses((status = 200, description = "The state and its changes, as they come", content_type = "text/event-stream", body = ViewStream)))]
pub(super) fn watch_projection() {}

/// A chain of cause and effect
#[utoipa::path(get, path = "/chains/{id}", tag = "events",
    params(("id" = inline(CorrelationId), Path, description = "A correlation id, or the id or position of an event."),
        ("scope" = inline(Option<Scope>), Query, description = "The whole chain, why an event happened, or what it caused."),
        ("as_of" = inline(Option<Moment>), Query, description = "The moment to look at; now unless given.")),
    responses((status = 200, description = "The tree: at most 10,000 events, and `more` beyond", body = Chain)))]
pub(super) fn get_chain() {}

/// The types of events
#[utoipa::path(get, path = "/types", tag = "types",
    responses((status = 200, description = "Known types, then registered ones", body = Types)))]
pub(super) fn list_types() {}

/// Register a type of your own, or its next version
#[utoipa::path(post, path = "/types", tag = "types",
    request_body(content = Registration, example = json!({"name": "OrderPlaced", "version": 1, "description": "somebody bought something",
        "schema": {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}})),
    responses((status = 201, description = "It is registered", body = Registered),
        (status = 200, description = "Exactly this was registered before", body = Registered)))]
pub(super) fn register_type() {}

/// The process lives
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "It lives", body = Health)))]
pub(super) fn healthz() {}

/// The log is connected and the read model has caught up with it
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "It is ready", body = Health),
        (status = 503, description = "Not yet", content_type = "application/problem+json", body = Problem)))]
pub(super) fn readyz() {}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub(super) fn openapi_json() {}

/// A page that shows this document
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, description = "The page", content_type = "text/html", body = String)))]
pub(super) fn docs() {}
