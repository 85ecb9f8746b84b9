//! What goes over HTTP, as schemas. Never constructed: handlers read and write their own types.
#![expect(dead_code, reason = "these types are only described")]
#![allow(unused_qualifications, reason = "the derives write them")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::texts::*;

/// What kind of event a type is. Optimistic concurrency holds per aggregate and category.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Category {
    Input,
    Ai,
    Output,
    Memory,
    Custom,
    System,
}

/// An event as it stands in the log.
#[derive(ToSchema)]
pub(super) struct Event {
    id: EventId,
    /// Its place in the log, from 1, strictly increasing, gaps allowed.
    #[schema(minimum = 1)]
    position: u64,
    /// When the log stored it.
    #[schema(format = DateTime)]
    timestamp: String,
    r#type: EventType,
    aggregate_id: AggregateId,
    /// The particulars: any JSON value.
    data: Value,
    metadata: Metadata,
}

/// Where an event came from.
#[derive(ToSchema)]
pub(super) struct Metadata {
    source: Source,
    /// The event that directly caused it; a root has none.
    #[schema(nullable = false)]
    causation_id: Option<EventId>,
    correlation_id: CorrelationId,
    /// Free pairs.
    #[schema(nullable = false)]
    labels: Option<BTreeMap<String, String>>,
    /// The version of its type's registered schema that the data is in.
    #[schema(nullable = false)]
    schema_version: Option<u32>,
}

/// An event that is not in the log yet.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewEvent {
    r#type: EventType,
    aggregate_id: AggregateId,
    /// The particulars: any JSON value, at most 512 KiB. Data of a known or registered type is checked against its schema.
    data: Value,
    metadata: Option<NewMetadata>,
}

/// Where a new event comes from.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMetadata {
    /// Who appends it; `http` where absent.
    source: Option<Source>,
    /// The event that directly caused it.
    causation_id: Option<EventId>,
    /// The chain it belongs to; otherwise its cause's, or a fresh one.
    correlation_id: Option<CorrelationId>,
    /// Free pairs.
    labels: Option<BTreeMap<String, String>>,
    /// The version of its type's registered schema that the data is in; otherwise the newest.
    #[schema(minimum = 1)]
    schema_version: Option<u32>,
}

/// One event, a list of them (all or none), or an envelope.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum Append {
    One(NewEvent),
    List(NewEvents),
    Envelope(Envelope),
}

/// Events, all or none.
pub(super) struct NewEvents;

impl ToSchema for NewEvents {
    fn name() -> Cow<'static, str> {
        "NewEvents".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((NewEvent::name().into(), NewEvent::schema()));
        NewEvent::schemas(schemas);
    }
}

impl PartialSchema for NewEvents {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name("NewEvent")).min_items(Some(1)).max_items(Some(1000));
        items.description(Some("Events, all or none.")).into()
    }
}

/// Events, and what must hold.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    #[schema(value_type = NewEvents)]
    events: Vec<NewEvent>,
    expected: Option<Expected>,
    idempotency_key: Option<IdempotencyKey>,
}

/// `any`, `empty`, the last position of the events' aggregate and category, or one fence for each of several.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum Expected {
    Word(ExpectedWord),
    Position(u64),
    Each(Vec<Fence>),
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ExpectedWord {
    Any,
    Empty,
}

/// The last event of this aggregate in this category stands here.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fence {
    aggregate_id: Option<AggregateId>,
    category: Option<Category>,
    /// The position, or `empty` for none.
    position: FencePosition,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum FencePosition {
    Empty(EmptyWord),
    Position(u64),
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum EmptyWord {
    Empty,
}

/// What was appended: one receipt for one event, else a list.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum Appended {
    One(Receipt),
    List(Vec<Receipt>),
}

/// An event that is on the log.
#[derive(ToSchema)]
pub(super) struct Receipt {
    id: EventId,
    position: u64,
    #[schema(format = DateTime)]
    timestamp: String,
    correlation_id: CorrelationId,
    /// Whether an earlier request with this idempotency key did it.
    duplicate: bool,
}

/// Events, and how to go on.
#[derive(ToSchema)]
pub(super) struct Events {
    events: Vec<Event>,
    /// What `after` (backwards, `before`) must be to go on; null at the end.
    #[schema(required)]
    next: Option<u64>,
    /// Where the log ended.
    last_position: u64,
}

/// How many events there are.
#[derive(ToSchema)]
pub(super) struct Count {
    count: u64,
    /// Where the log ended.
    last_position: u64,
}

/// Aggregates, and how to go on.
#[derive(ToSchema)]
pub(super) struct Aggregates {
    aggregates: Vec<Aggregate>,
    /// What `after` must be to go on; null at the end.
    #[schema(required)]
    next: Option<AggregateId>,
}

/// An aggregate.
#[derive(ToSchema)]
pub(super) struct Aggregate {
    aggregate_id: AggregateId,
    first_position: u64,
    last_position: u64,
    #[schema(format = DateTime)]
    last_timestamp: String,
}

/// The views that there are.
#[derive(ToSchema)]
pub(super) struct Views {
    views: Vec<View>,
}

/// A view.
#[derive(ToSchema)]
pub(super) struct View {
    name: String,
    /// Of its fold.
    version: u32,
    description: String,
    /// What its ids are: `aggregate` or `correlation`.
    id_kind: String,
}

/// A view's state.
#[derive(ToSchema)]
pub(super) struct Projection {
    view: String,
    id: String,
    /// The last position that it takes account of.
    position: u64,
    state: Value,
}

/// What changed in a view between two moments.
#[derive(ToSchema)]
pub(super) struct Diff {
    view: String,
    id: String,
    from_position: u64,
    to_position: u64,
    /// From the one state to the other: JSON Patch (RFC 6902).
    patch: Vec<Value>,
    /// The same, event by event.
    changes: Vec<Change>,
    /// Whether there are more: go on from the last one's position.
    more: bool,
}

/// What one event changed.
#[derive(ToSchema)]
pub(super) struct Change {
    position: u64,
    event: Event,
    /// JSON Patch (RFC 6902).
    patch: Vec<Value>,
}

/// Known types, then registered ones.
#[derive(ToSchema)]
pub(super) struct Types {
    types: Vec<TypeInfo>,
}

/// A type of events.
#[derive(ToSchema)]
pub(super) struct TypeInfo {
    name: EventType,
    category: Category,
    description: String,
    /// The oldest first.
    versions: Vec<TypeVersion>,
}

/// A version of a type.
#[derive(ToSchema)]
pub(super) struct TypeVersion {
    #[schema(minimum = 1)]
    version: u32,
    /// The JSON Schema (draft 2020-12) of its data.
    schema: Value,
    /// How data of the version before becomes data of this one: JSON Patch (RFC 6902).
    upcast: Vec<Value>,
    /// The event that registered it.
    #[schema(nullable = false)]
    registered_by: Option<EventId>,
}

/// A type to register, or its next version.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    name: EventType,
    /// The JSON Schema (draft 2020-12) of its data: an object, true or false. References lead within it; patterns are of the
    /// kind that matches in linear time.
    schema: JsonSchema,
    /// How data of the version before becomes data of this one.
    #[schema(max_items = 100, nullable = false)]
    upcast: Option<Vec<PatchOperation>>,
    /// The version that this is; the next one where absent.
    #[schema(minimum = 1)]
    version: Option<u32>,
    #[schema(max_length = 4096, nullable = false)]
    description: Option<String>,
}

/// A JSON Schema.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum JsonSchema {
    Any(bool),
    Object(serde_json::Map<String, Value>),
}

/// An operation of JSON Patch (RFC 6902).
#[derive(ToSchema)]
pub(super) struct PatchOperation {
    op: PatchOp,
    path: String,
    #[schema(nullable = false)]
    from: Option<String>,
    value: Option<Value>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum PatchOp {
    Add,
    Remove,
    Replace,
    Move,
    Copy,
    Test,
}

/// A registered type.
#[derive(ToSchema)]
pub(super) struct Registered {
    r#type: TypeInfo,
    /// Whether exactly this was registered before.
    duplicate: bool,
}

/// Whether it lives.
#[derive(ToSchema)]
pub(super) struct Health {
    status: String,
    /// How far the read model is.
    #[schema(nullable = false)]
    position: Option<u64>,
}

/// What is wrong (RFC 9457).
#[derive(ToSchema)]
pub(super) struct Problem {
    /// `urn:causeway:problem:` and the kind.
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// What is wrong: a JSON Pointer into the body, or the name of a parameter or header.
    #[schema(nullable = false)]
    field: Option<String>,
    /// Of a conflict: the aggregate, its category, what was expected, what there is, and the events in between.
    #[schema(nullable = false)]
    aggregate_id: Option<String>,
    #[schema(nullable = false)]
    category: Option<Category>,
    #[schema(nullable = false)]
    expected_position: Option<u64>,
    #[schema(nullable = false)]
    actual_position: Option<u64>,
    #[schema(nullable = false)]
    events: Option<Vec<Event>>,
    /// Whether there are more of them.
    #[schema(nullable = false)]
    more: Option<bool>,
    /// Of a conflict: the other fences of the same append that do not hold either.
    #[schema(nullable = false)]
    others: Option<Vec<StaleFence>>,
    /// Of an unknown outcome: where the first event stands, if it was appended and the log did not say in time when it stored it.
    #[schema(nullable = false)]
    appended_position: Option<u64>,
}

/// Another fence of an append that does not hold.
#[derive(ToSchema)]
pub(super) struct StaleFence {
    aggregate_id: String,
    category: Category,
    expected_position: u64,
    actual_position: u64,
    /// Those that stand there behind the expected position, the oldest first.
    events: Vec<Event>,
    /// Whether there are more of them.
    more: bool,
}

/// Which events; everything given must hold.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only this type; may be repeated.
    #[param(required = false, inline)]
    r#type: Vec<TypePattern>,
    /// Only of this category.
    #[param(required = false, inline)]
    category: Category,
    /// Only of this aggregate.
    #[param(required = false, inline)]
    aggregate_id: AggregateId,
    /// Only of this chain.
    #[param(required = false, inline)]
    correlation_id: CorrelationId,
    /// Only by this source.
    #[param(required = false, inline)]
    source: Source,
    /// Only what this event caused directly.
    #[param(required = false, inline)]
    caused_by: EventId,
    /// Only what this event caused, directly or over others.
    #[param(required = false, inline)]
    descendants_of: EventId,
}

/// From when to when.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// Only behind this moment.
    #[param(required = false, inline)]
    after: Moment,
    /// Only before this moment.
    #[param(required = false, inline)]
    before: Moment,
    /// From this moment on.
    #[param(required = false, inline)]
    from: Moment,
    /// Until before this moment.
    #[param(required = false, inline)]
    until: Moment,
}
