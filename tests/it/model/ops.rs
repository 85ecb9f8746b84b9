//! What may happen to an event store, drawn by chance. Numbers name things that exist only when the case runs (an earlier event, a
//! used key): they are taken modulo how many of them there are, so that a case stays one when it is made smaller.

use causeway_e2e::Wire;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Aggregates whose names are not simple either.
pub(super) const AGGREGATES: [&str; 4] = ["plain", "web:7.x", "Ünïcode *>", "100% \"q\""];
pub(super) const SOURCES: [&str; 2] = ["test", "other source"];
/// Types with their categories. The first two are messages, the others are the user's own.
pub(super) const TYPES: [(&str, &str); 5] = [
    ("MessageReceived", "input"),
    ("MessageGenerated", "ai"),
    ("ThingMade", "custom"),
    ("ThingChanged", "custom"),
    ("Other", "custom"),
];
const TYPE_FILTERS: [&str; 7] = ["MessageReceived", "Message*", "Thing*", "ThingChanged", "Other", "*", "Nothing"];

/// Through which gateway, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Via {
    pub(super) gateway: usize,
    pub(super) wire: Wire,
}

#[derive(Clone, Debug)]
pub(super) struct DrawnEvent {
    pub(super) aggregate: usize,
    pub(super) kind: usize,
    pub(super) source: usize,
    /// Which earlier event caused it.
    pub(super) cause: Option<usize>,
    /// What the user's own types carry.
    pub(super) data: Value,
    pub(super) text: String,
}

/// What an append expects of the subjects of its events.
#[derive(Clone, Copy, Debug)]
pub(super) enum DrawnFence {
    Nothing,
    /// All of them where they are.
    Right,
    /// The first where it is.
    RightFirst,
    /// All where they are, but one where it was or was never.
    Wrong {
        which: usize,
        at: usize,
    },
}

#[derive(Clone, Debug)]
pub(super) struct DrawnAppend {
    pub(super) events: Vec<DrawnEvent>,
    pub(super) fence: DrawnFence,
    pub(super) keyed: bool,
    pub(super) via: Via,
}

/// A moment: an event's position or id, or the time of one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    Position(usize),
    Id(usize),
    Time(usize),
}

#[derive(Clone, Debug)]
pub(super) struct DrawnRead {
    pub(super) types: Vec<&'static str>,
    pub(super) category: Option<&'static str>,
    pub(super) aggregate: Option<usize>,
    pub(super) source: Option<usize>,
    /// The chain of an earlier event.
    pub(super) chain: Option<usize>,
    pub(super) caused_by: Option<usize>,
    pub(super) descendants_of: Option<usize>,
    pub(super) after: Option<Moment>,
    pub(super) before: Option<Moment>,
    pub(super) from: Option<usize>,
    pub(super) until: Option<usize>,
    pub(super) backwards: bool,
    /// The most events of a page over HTTP, of the whole over gRPC.
    pub(super) limit: usize,
    pub(super) via: Via,
}

/// What goes down while appends are under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    Gateway(usize),
    /// With its read model gone as well.
    GatewayWithoutFile(usize),
    Nats,
    Everything,
}

impl Crash {
    pub(super) const KINDS: usize = 4;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::GatewayWithoutFile(_) => "gateway and its file",
            Self::Nats => "nats",
            Self::Everything => "everything",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Append(DrawnAppend),
    /// An earlier append once more under its key, with the same data or other data, or with other types.
    Again {
        key: usize,
        change: Change,
        via: Via,
    },
    Read(DrawnRead),
    Get {
        event: usize,
        by_id: bool,
        via: Via,
    },
    /// Every view of an aggregate.
    Project {
        aggregate: usize,
        as_of: Option<Moment>,
        via: Via,
    },
    /// The chain of an event.
    Chain {
        event: usize,
        as_of: Option<Moment>,
        via: Via,
    },
    /// What changed in every view of an aggregate from the earlier of two moments to the later.
    Diff {
        aggregate: usize,
        between: (usize, usize),
        via: Via,
    },
    /// Appends (keyed, some of them fenced) all at once, and a kill in the midst of them.
    Storm {
        appends: Vec<DrawnAppend>,
        crash: Crash,
        after_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Nothing,
    Data,
    Types,
}

fn via() -> impl Strategy<Value = Via> {
    let wire = prop_oneof![Just(Wire::Http), Just(Wire::Grpc), Just(Wire::Stream)];
    (0..2_usize, wire).prop_map(|(gateway, wire)| Via { gateway, wire })
}

fn any() -> impl Strategy<Value = usize> {
    0..1000_usize
}

/// A merge patch: members set, taken away, nested.
fn patch() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => Just(Value::Null),
        1 => (0..100_i64).prop_map(Value::from),
        1 => "[a-zü\"\\\\ ]{0,6}".prop_map(Value::from),
        1 => Just(json!([1, null, {"x": null}])),
        1 => any_bool().prop_map(Value::from),
    ];
    let name = proptest::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
    leaf.prop_recursive(2, 8, 3, move |inner| {
        proptest::collection::btree_map(name.clone(), inner, 0..3).prop_map(|members| members.into_iter().collect())
    })
}

fn any_bool() -> impl Strategy<Value = bool> {
    proptest::bool::ANY
}

fn event() -> impl Strategy<Value = DrawnEvent> {
    let kind = 0..TYPES.len();
    (0..AGGREGATES.len(), kind, 0..SOURCES.len(), weighted(0.4, any()), patch(), "[a-zü ]{1,8}")
        .prop_map(|(aggregate, kind, source, cause, data, text)| DrawnEvent { aggregate, kind, source, cause, data, text })
}

fn fence() -> impl Strategy<Value = DrawnFence> {
    prop_oneof![
        3 => Just(DrawnFence::Nothing),
        3 => Just(DrawnFence::Right),
        1 => Just(DrawnFence::RightFirst),
        3 => (any(), any()).prop_map(|(which, at)| DrawnFence::Wrong { which, at }),
    ]
}

fn append() -> impl Strategy<Value = DrawnAppend> {
    let events = prop_oneof![3 => vec(event(), 1..=1), 2 => vec(event(), 2..=5)];
    (events, fence(), any_bool(), via()).prop_map(|(events, fence, keyed, via)| DrawnAppend { events, fence, keyed, via })
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![any().prop_map(Moment::Position), any().prop_map(Moment::Id), any().prop_map(Moment::Time)]
}

fn read() -> impl Strategy<Value = DrawnRead> {
    let types = prop_oneof![2 => Just(vec![]), 1 => vec(proptest::sample::select(TYPE_FILTERS.to_vec()), 1..3)];
    let category = weighted(0.2, proptest::sample::select(vec!["input", "ai", "custom", "memory"]));
    let who = (types, category, weighted(0.4, 0..AGGREGATES.len()), weighted(0.2, 0..SOURCES.len()));
    let why = (weighted(0.15, any()), weighted(0.15, any()), weighted(0.15, any()));
    let when = (weighted(0.3, moment()), weighted(0.3, moment()), weighted(0.15, any()), weighted(0.15, any()));
    (who, why, when, any_bool(), 1..8_usize, via()).prop_map(|(who, why, when, backwards, limit, via)| {
        let (types, category, aggregate, source) = who;
        let (chain, caused_by, descendants_of) = why;
        let (after, before, from, until) = when;
        DrawnRead {
            types,
            category,
            aggregate,
            source,
            chain,
            caused_by,
            descendants_of,
            after,
            before,
            from,
            until,
            backwards,
            limit,
            via,
        }
    })
}

fn again() -> impl Strategy<Value = Op> {
    let change = prop_oneof![3 => Just(Change::Nothing), 2 => Just(Change::Data), 1 => Just(Change::Types)];
    (any(), change, via()).prop_map(|(key, change, via)| Op::Again { key, change, via })
}

fn storm() -> impl Strategy<Value = Op> {
    let crash = prop_oneof![
        2 => (0..2_usize).prop_map(Crash::Gateway),
        1 => (0..2_usize).prop_map(Crash::GatewayWithoutFile),
        2 => Just(Crash::Nats),
        1 => Just(Crash::Everything),
    ];
    (vec(append(), 1..6), crash, 0..12_u64).prop_map(|(appends, crash, after_ms)| Op::Storm { appends, crash, after_ms })
}

/// Anything.
pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        14 => append().prop_map(Op::Append),
        4 => again(),
        10 => read().prop_map(Op::Read),
        2 => (any(), any_bool(), via()).prop_map(|(event, by_id, via)| Op::Get { event, by_id, via }),
        6 => (0..AGGREGATES.len(), proptest::option::of(moment()), via())
            .prop_map(|(aggregate, as_of, via)| Op::Project { aggregate, as_of, via }),
        3 => (any(), proptest::option::of(moment()), via()).prop_map(|(event, as_of, via)| Op::Chain { event, as_of, via }),
        2 => (0..AGGREGATES.len(), (any(), any()), via())
            .prop_map(|(aggregate, between, via)| Op::Diff { aggregate, between, via }),
        2 => storm(),
    ]
}
