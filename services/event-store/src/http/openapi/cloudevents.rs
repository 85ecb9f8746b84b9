//! CloudEvents, as schemas.
#![expect(dead_code, reason = "these types are only described")]
#![allow(unused_qualifications, reason = "the derives write them")]

use std::borrow::Cow;

use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::texts::*;

/// An event as CloudEvents 1.0 has it. Other attributes, whose names are lower-case letters and digits, are kept as labels.
#[derive(ToSchema)]
pub(super) struct CloudEvent {
    specversion: SpecVersion,
    /// With the source it names the event for ever: together they have at most 250 bytes.
    #[schema(min_length = 1)]
    id: String,
    source: Source,
    r#type: EventType,
    /// The aggregate.
    subject: AggregateId,
    /// The particulars: any JSON value; null where absent.
    data: Option<Value>,
    /// When it happened, by whoever says so: kept as a label.
    #[schema(format = DateTime)]
    time: Option<String>,
    /// The version of the type, if it is `urn:causeway:type:<type>:<version>`; otherwise a label.
    #[schema(min_length = 1)]
    dataschema: Option<String>,
    /// The event that directly caused it.
    causationid: Option<EventId>,
    /// The chain it belongs to; otherwise its cause's, or a fresh one.
    correlationid: Option<CorrelationId>,
}

/// The version of CloudEvents.
#[derive(ToSchema)]
pub(super) enum SpecVersion {
    #[schema(rename = "1.0")]
    One,
}

/// CloudEvents, all or none.
pub(super) struct CloudEvents;

impl ToSchema for CloudEvents {
    fn name() -> Cow<'static, str> {
        "CloudEvents".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((CloudEvent::name().into(), CloudEvent::schema()));
        CloudEvent::schemas(schemas);
    }
}

impl PartialSchema for CloudEvents {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name("CloudEvent")).min_items(Some(1)).max_items(Some(1000));
        items.description(Some("CloudEvents, all or none.")).into()
    }
}
