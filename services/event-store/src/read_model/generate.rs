//! Events and questions for tests: few names, so that they meet; odd values, so that they hurt.

use causeway_event::{Category, CorrelationId, Data, Event, EventId, Labels, Metadata, Position, TraceParent};
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::query::TypePattern;
use super::{Arrived, Filter, Order, Query};

const TYPES: [&str; 8] =
    ["MessageReceived", "MessageGenerated", "ToolCalled", "ToolCompleted", "MemoryStored", "EmailSent", "MessageLiked", "Zebra"];
const PATTERNS: [&str; 8] = ["MessageReceived", "Message*", "Tool*", "Zebra", "*", "Unknown", "M*", "ToolCalled"];
const AGGREGATES: [&str; 4] = ["user_1", "user_2", "telegram:42 ünï 👋", "idle"];
const CHAINS: [&str; 3] = ["4bf92f3577b34da6a3ce929d0e0e4736", "4BF92F3577B34DA6A3CE929D0E0E4736", "order-7"];
const SOURCES: [&str; 3] = ["test", "http", "telegram"];
/// Around which all times are, in microseconds.
const EPOCH: i64 = 1_795_000_000_000_000;
/// From there to the end of all times, nearly.
const TIME_MAX: i64 = 251_000_000_000_000_000;

/// At most 128 bytes without control characters.
const TEXT: &str = "[^\\p{Cc}]{1,32}";

/// Any event there can be, at any position.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let correlation = prop_oneof![
        any::<u128>().prop_map(|id| CorrelationId::from_uuid(Uuid::from_u128(id))),
        TEXT.prop_map(|text| text.parse().unwrap()),
        "[0-9a-fA-F]{32}".prop_map(|text| text.parse().unwrap()),
        any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string().parse().unwrap()),
    ];
    let metadata = (
        TEXT,
        option::of(any::<u128>()),
        correlation,
        btree_map(".{0,8}", ".{0,8}", 0..3),
        option::of(traceparent()),
        option::of(1u32..),
    )
        .prop_map(|(source, cause, correlation_id, labels, traceparent, schema_version)| Metadata {
            source: source.parse().unwrap(),
            causation_id: cause.map(|id| EventId::from_uuid(Uuid::from_u128(id))),
            correlation_id,
            labels,
            schema_version,
            traceparent,
        });
    let micros = Timestamp::MIN.as_microsecond()..Timestamp::MAX.as_microsecond();
    (any::<u128>(), 1..i64::MAX as u64, micros, "[A-Z][A-Za-z0-9]{0,63}", TEXT, json(), metadata).prop_map(
        |(id, position, micros, event_type, aggregate, data, metadata)| Event {
            id: EventId::from_uuid(Uuid::from_u128(id)),
            position: Position::new(position),
            timestamp: Timestamp::from_microsecond(micros).unwrap(),
            event_type: event_type.parse().unwrap(),
            aggregate_id: aggregate.parse().unwrap(),
            data,
            metadata,
        },
    )
}

fn traceparent() -> impl Strategy<Value = TraceParent> {
    (1..u128::MAX, 1..u64::MAX, any::<bool>()).prop_map(|(trace, span, sampled)| TraceParent {
        trace_id: trace.to_be_bytes(),
        span_id: span.to_be_bytes(),
        sampled,
    })
}

/// JSON as somebody else may write it.
fn json() -> impl Strategy<Value = Data> {
    let string = ".{0,40}".prop_map(|text| serde_json::to_string(&text).unwrap());
    let text = prop_oneof![
        Just("null".to_owned()),
        Just("1.0e+2".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("{ \"a\" : 1,\n\t\"a\" : \"\\u0000\\ud83d\\ude00\" }".to_owned()),
        Just(format!("\"{}\"", "long ".repeat(3000))),
        string.clone(),
        vec(string, 0..5).prop_map(|items| format!("[ {} ]", items.join(" , "))),
    ];
    text.prop_map(|text| Data::from_json(text.as_bytes()).unwrap())
}

/// A log: positions with gaps, times that mostly go on, few names, causes that mostly stand before.
pub(crate) fn log(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Arrived>> {
    // Now and then a position far behind, and a time that is wrong: a day ahead, or of another millennium.
    let gap = prop_oneof![40 => 1..4_u64, 1 => 1..20_000_u64];
    let wrong =
        prop_oneof![20 => Just(0), 1 => -300..300_i64, 1 => Just(86_400_000_000), 1 => Just(TIME_MAX - 2000), 1 => Just(-EPOCH)];
    let pause = (prop_oneof![8 => 0..50_i64, 1 => -200..0_i64], wrong);
    let step = (gap, pause, 0..TYPES.len(), 0..3_usize, 0..CHAINS.len(), 0..12_u8);
    let whence = (0..SOURCES.len(), option::weighted(0.7, 1..12_u64));
    vec((step, whence), len).prop_map(|steps| {
        let (mut position, mut time) = (0, EPOCH);
        let mut arrived = Vec::new();
        for ((gap, (pause, wrong), event_type, aggregate, chain, key), (source, cause)) in steps {
            position += gap;
            time += pause;
            let mut one = event(position, TYPES[event_type], AGGREGATES[aggregate]);
            one.timestamp = Timestamp::from_microsecond(time + wrong).unwrap();
            one.metadata.correlation_id = CHAINS[chain].parse().unwrap();
            one.metadata.source = SOURCES[source].parse().unwrap();
            one.metadata.causation_id = cause.map(|before| id_at(position.saturating_sub(before)));
            let key = (key < 4).then(|| format!("key-{key}").parse().unwrap());
            arrived.push(Arrived { event: one.into(), key });
        }
        arrived
    })
}

/// The id of the event at a position, if there is one.
pub(crate) fn id_at(position: u64) -> EventId {
    EventId::from_uuid(Uuid::from_u128(u128::from(position) << 40))
}

/// A plain event.
pub(crate) fn event(position: u64, event_type: &str, aggregate: &str) -> Event {
    Event {
        id: id_at(position),
        position: Position::new(position),
        timestamp: Timestamp::from_microsecond(EPOCH + position as i64).unwrap(),
        event_type: event_type.parse().unwrap(),
        aggregate_id: aggregate.parse().unwrap(),
        data: Data::from_json(format!("{{\"n\": {position}}}").as_bytes()).unwrap(),
        metadata: Metadata {
            source: "test".parse().unwrap(),
            causation_id: None,
            correlation_id: CHAINS[0].parse().unwrap(),
            labels: Labels::new(),
            schema_version: None,
            traceparent: None,
        },
    }
}

pub(crate) fn time() -> impl Strategy<Value = Timestamp> {
    let time = prop_oneof![8 => -300..2000_i64, 1 => 86_399_999_000..86_400_002_000_i64, 1 => Just(TIME_MAX), 1 => Just(-EPOCH)];
    // Not every time is a whole number of microseconds.
    (time, 0..2_i64)
        .prop_map(|(pause, rest)| Timestamp::from_nanosecond(i128::from(EPOCH + pause) * 1000 + i128::from(rest)).unwrap())
}

pub(crate) fn filter() -> impl Strategy<Value = Filter> {
    let types = prop_oneof![2 => Just(vec![]), 3 => vec(0..PATTERNS.len(), 1..3)];
    let category = option::weighted(0.3, proptest::sample::select(Category::ALL.as_slice()));
    let (aggregate, chain) = (option::weighted(0.4, 0..AGGREGATES.len()), option::weighted(0.2, 0..CHAINS.len()));
    let event = |weight| option::weighted(weight, (0..60_u64).prop_map(id_at));
    let whence = (option::weighted(0.3, 0..=SOURCES.len()), event(0.1), event(0.2));
    (types, category, aggregate, chain, (option::weighted(0.2, time()), option::weighted(0.2, time())), whence).prop_map(
        |(types, category, aggregate, chain, (from, until), (source, caused_by, descendants_of))| Filter {
            types: types.into_iter().map(|pattern| PATTERNS[pattern].parse::<TypePattern>().unwrap()).collect(),
            category,
            aggregate_id: aggregate.map(|aggregate| AGGREGATES[aggregate].parse().unwrap()),
            correlation_id: chain.map(|chain| CHAINS[chain].parse().unwrap()),
            source: source.map(|source| SOURCES.get(source).unwrap_or(&"nobody").parse().unwrap()),
            caused_by,
            descendants_of,
            from,
            until,
        },
    )
}

pub(crate) fn query() -> impl Strategy<Value = Query> {
    let place = || option::weighted(0.3, prop_oneof![4 => 0..200_u64, 1 => Just(u64::MAX)].prop_map(Position::new));
    let order = prop_oneof![Just(Order::Forwards), Just(Order::Backwards)];
    (filter(), place(), place(), order, 0..30_usize).prop_map(|(filter, after, before, order, limit)| Query {
        filter,
        after,
        before,
        order,
        limit,
        ..Query::default()
    })
}
