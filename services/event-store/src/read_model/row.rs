//! An event as a row and back, equal to the byte or refused.
//!
//! The checksum of a row covers what the row means, not how it is stored: the names behind its numbers too. So a flipped bit
//! in the row, or in a name it refers to, is an error and never another event.

use std::sync::Arc;

use causeway_event::{
    AggregateId, CorrelationId, Data, Event, EventId, EventType, IdempotencyKey, Metadata, Position, Source, TraceParent,
};
use jiff::Timestamp;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, Statement, ToSql, params};
use uuid::Uuid;

use super::ModelError;
use super::names::Names;

/// What [`event`] reads, in its order. The data comes last: large ones overflow, and what stands before is found without them.
pub(super) const COLUMNS: &str = "position, id, time, type, aggregate, source, correlation, causation, key, traceparent, labels, schema_version, checksum, data";

/// The parameters of [`insert`].
pub(super) const INSERT: &str = "INSERT INTO events \
    (position, id, time, type, aggregate, source, correlation, causation, key, traceparent, labels, schema_version, checksum, data) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

/// The three tables of names that rows refer to.
pub(super) struct AllNames {
    pub(super) types: Names<EventType>,
    pub(super) aggregates: Names<AggregateId>,
    pub(super) sources: Names<Source>,
}

impl AllNames {
    pub(super) fn new() -> Self {
        Self { types: Names::new("types"), aggregates: Names::new("aggregates"), sources: Names::new("sources") }
    }

    pub(super) fn forget(&mut self) {
        self.types.forget();
        self.aggregates.forget();
        self.sources.forget();
    }
}

/// A time as it is stored: whole microseconds, rounded down.
pub(super) fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond().div_euclid(1000)).unwrap_or(i64::MAX)
}

/// A position as SQLite has it. No log gets so far that this saturates.
pub(super) fn number(position: Position) -> i64 {
    i64::try_from(position.get()).unwrap_or(i64::MAX)
}

/// The position of a number read from the database.
pub(super) fn position(number: i64) -> Result<Position, ModelError> {
    u64::try_from(number).map(Position::new).map_err(ModelError::corrupt)
}

/// A correlation id as it is stored: 32 hex digits as their 16 bytes, anything else as text.
pub(super) struct Chain<'a>(pub(super) &'a CorrelationId);

impl ToSql for Chain<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = self.0.as_str();
        let uuid = (text.len() == 32).then(|| Uuid::try_parse(text).ok()).flatten();
        // Capital digits would not come back as they were.
        let exact = uuid.filter(|uuid| uuid.simple().encode_lower(&mut [0; 32]) == text);
        Ok(exact.map_or_else(|| ToSqlOutput::from(text), |uuid| ToSqlOutput::from(uuid.as_bytes().to_vec())))
    }
}

/// Writes one event.
pub(super) fn insert(
    conn: &Connection,
    insert: &mut Statement<'_>,
    names: &mut AllNames,
    event: &Event,
    key: Option<&IdempotencyKey>,
) -> Result<(), ModelError> {
    let metadata = &event.metadata;
    let labels = match metadata.labels.is_empty() {
        true => None,
        false => Some(serde_json::to_string(&metadata.labels).map_err(ModelError::corrupt)?),
    };
    let traceparent = metadata.traceparent.as_ref().map(trace_bytes);
    let checksum = checksum(event, key.map(IdempotencyKey::as_str), traceparent.as_ref(), labels.as_deref());
    let event_type = names.types.number(conn, &event.event_type)?;
    let aggregate = names.aggregates.number(conn, &event.aggregate_id)?;
    let source = names.sources.number(conn, &metadata.source)?;
    insert.execute(params![
        number(event.position),
        event.id.uuid().as_bytes(),
        micros(event.timestamp),
        event_type,
        aggregate,
        source,
        Chain(&metadata.correlation_id),
        metadata.causation_id.map(|cause| cause.uuid().into_bytes()),
        key.map(IdempotencyKey::as_str),
        traceparent,
        labels,
        metadata.schema_version,
        checksum,
        event.data.as_str(),
    ])?;
    Ok(())
}

/// Reads one event from the columns of [`COLUMNS`].
pub(super) fn event(conn: &Connection, names: &mut AllNames, row: &Row<'_>) -> Result<Arc<Event>, ModelError> {
    let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(ModelError::corrupt);
    let correlation_id = match row.get_ref(6)? {
        ValueRef::Blob(bytes) => CorrelationId::from_uuid(Uuid::from_slice(bytes).map_err(ModelError::corrupt)?),
        other => other.as_str().map_err(ModelError::corrupt)?.parse().map_err(ModelError::corrupt)?,
    };
    let (key, labels) = (text(8)?, text(10)?);
    let traceparent: Option<[u8; 25]> = row.get(9)?;
    let data = row.get_ref(13)?.as_str().map_err(ModelError::corrupt)?;
    let event = Event {
        position: position(row.get(0)?)?,
        id: EventId::from_uuid(Uuid::from_bytes(row.get(1)?)),
        timestamp: Timestamp::from_microsecond(row.get(2)?).map_err(ModelError::corrupt)?,
        event_type: names.types.name(conn, row.get(3)?)?,
        aggregate_id: names.aggregates.name(conn, row.get(4)?)?,
        data: Data::from_json(data.as_bytes()).map_err(ModelError::corrupt)?,
        metadata: Metadata {
            source: names.sources.name(conn, row.get(5)?)?,
            causation_id: row.get::<_, Option<[u8; 16]>>(7)?.map(|cause| EventId::from_uuid(Uuid::from_bytes(cause))),
            correlation_id,
            labels: labels.map_or(Ok(Default::default()), serde_json::from_str).map_err(ModelError::corrupt)?,
            schema_version: row.get(11)?,
            traceparent: traceparent.as_ref().map(trace_parent),
        },
    };
    match row.get::<_, i64>(12)? == checksum(&event, key, traceparent.as_ref(), labels) {
        true => Ok(Arc::new(event)),
        false => Err(ModelError::corrupt(format!("the event at {} is not what was stored there", event.position))),
    }
}

fn trace_bytes(parent: &TraceParent) -> [u8; 25] {
    let mut bytes = [0; 25];
    bytes[..16].copy_from_slice(&parent.trace_id);
    bytes[16..24].copy_from_slice(&parent.span_id);
    bytes[24] = u8::from(parent.sampled);
    bytes
}

fn trace_parent(bytes: &[u8; 25]) -> TraceParent {
    let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
    trace_id.copy_from_slice(&bytes[..16]);
    span_id.copy_from_slice(&bytes[16..24]);
    TraceParent { trace_id, span_id, sampled: bytes[24] == 1 }
}

fn checksum(event: &Event, key: Option<&str>, traceparent: Option<&[u8; 25]>, labels: Option<&str>) -> i64 {
    let mut sum = Checksum::default();
    sum.word(event.position.get());
    sum.bytes(event.id.uuid().as_bytes());
    sum.word(micros(event.timestamp).cast_unsigned());
    sum.bytes(event.event_type.as_str().as_bytes());
    sum.bytes(event.aggregate_id.as_str().as_bytes());
    sum.bytes(event.metadata.source.as_str().as_bytes());
    sum.bytes(event.metadata.correlation_id.as_str().as_bytes());
    sum.bytes(event.metadata.causation_id.map_or([0; 16], |cause| cause.uuid().into_bytes()).as_slice());
    sum.bytes(traceparent.map_or(&[], |bytes| bytes.as_slice()));
    for text in [key, labels] {
        sum.bytes(text.unwrap_or_default().as_bytes());
    }
    sum.word(event.metadata.schema_version.unwrap_or_default().into());
    sum.bytes(event.data.as_bytes());
    sum.finish()
}

/// A sum that notices damage (not a forger). Each step maps words one to one, so a change within one word always shows.
/// It is part of the file's format: another sum is another schema version.
#[derive(Default)]
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    pub(super) fn finish(self) -> i64 {
        self.0.cast_signed()
    }
}
