//! The span under which events of one chain are appended. A chain's trace id is that of its correlation id, whatever a client
//! sends: whoever has an event can open its trace.

use causeway_event::{CorrelationId, NewEvent, TraceParent};
use causeway_runtime::telemetry;
use tracing::{Span, field};

/// Opens the span, below `parent` if that belongs to this chain's trace, else as a root of it.
pub(crate) fn append_span(event: &NewEvent, correlation: &CorrelationId, parent: Option<TraceParent>) -> Span {
    let span = tracing::info_span!(
        target: telemetry::EACH_EVENT,
        "append",
        otel.kind = "producer",
        otel.status_code = field::Empty,
        "event.type" = %event.event_type,
        "aggregate.id" = %event.aggregate_id,
        "correlation.id" = %correlation,
        position = field::Empty,
        error = field::Empty,
    );
    match parent {
        Some(parent) => telemetry::follow(&span, &parent.to_string()),
        None => telemetry::chain_root(&span, correlation.trace_id()),
    }
    span
}

/// What the event carries: the span that appends it, or, where no spans are recorded, what it would have been a child of.
pub(crate) fn traceparent(span: &Span, parent: Option<TraceParent>) -> Option<TraceParent> {
    span.in_scope(telemetry::current_traceparent).and_then(|text| text.parse().ok()).or(parent)
}

/// The first of these that belongs to the chain's trace.
pub(crate) fn parent_of(
    correlation: &CorrelationId,
    candidates: impl IntoIterator<Item = Option<TraceParent>>,
) -> Option<TraceParent> {
    candidates.into_iter().flatten().find(|parent| parent.trace_id == correlation.trace_id())
}
