//! Logs on stderr, and spans to an OpenTelemetry collector when one is named.
//!
//! Spans go out by OTLP over gRPC only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Without it nothing is recorded, nothing is
//! sent, and [`current_traceparent`] is `None`.
//!
//! A chain of events is one trace. Its first span is made a root *with the chain's trace id* by [`chain_root`]; a span
//! anywhere else joins the trace through a `traceparent` with [`follow`].

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::{Dispatch, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// The variable that turns the export of spans on.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The variables that choose how spans are exported. There is one way.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Which spans go to the collector: ours, whatever the logs show. The exporter's own transport must not trace itself.
const SPANS: &str = "info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,reqwest=off,async_nats=warn,opentelemetry=off";

/// The target of spans that each event has. A collector gets them; lines of the log do not show them unless this is named in the filter,
/// since writing their fields down costs more than they tell there. Without a collector they cost nothing then.
pub const EACH_EVENT: &str = "causeway::each_event";

/// Libraries that say at `info` what nobody asked for. Whoever names them in the filter hears them.
const QUIET: &str =
    "async_nats=warn,async_nats::connector=off,h2=warn,hyper=warn,hyper_util=warn,opentelemetry=warn,tonic=warn,tower=warn";

/// How long the last spans may take to get out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How a process logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which lines: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,causeway_log=debug`. `RUST_LOG` wins.
    pub level: String,
    /// `text` for people, `json` for collectors.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why telemetry could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("`{directives}` is not a log level or filter: {reason}")]
    Filter {
        /// As it was given.
        directives: String,
        /// What is wrong.
        reason: String,
    },
    /// The collector's address or the exporter's settings cannot be used.
    #[error("cannot export spans to {endpoint}: {reason}")]
    Exporter {
        /// The address.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody has set a subscriber before.
    #[error("logging has been set up before")]
    Twice,
}

impl TelemetryError {
    /// The same complaint, about what the user gave rather than what we made of it.
    fn about(self, given: &str) -> Self {
        match self {
            Self::Filter { reason, .. } => Self::Filter { directives: given.to_owned(), reason },
            other => other,
        }
    }
}

/// Keeps the exporter alive. Call [`Telemetry::shutdown`] last thing in `main`.
#[derive(Debug)]
#[must_use = "dropping it ends the export of spans"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logs and, if a collector is named, spans of this process. Must be called inside a runtime.
///
/// `service` is the resource's `service.name` unless `OTEL_SERVICE_NAME` says otherwise.
pub fn init(service: &str, config: &Config) -> Result<Telemetry, TelemetryError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| config.level.clone());
    let shown = shown(&directives)?;
    let provider = match endpoint() {
        Some(endpoint) => Some(provider(service, &endpoint)?),
        None => None,
    };
    let dispatch = dispatch(config.format, shown, provider.as_ref(), service)?;
    dispatch.try_init().map_err(|_| TelemetryError::Twice)?;
    if provider.is_some()
        && let Some((variable, protocol)) = other_protocol(|name| std::env::var(name).ok())
    {
        tracing::warn!(variable, protocol, "spans are exported by gRPC only: the collector must take that, at its port for gRPC");
    }
    Ok(Telemetry { provider })
}

/// The protocol that somebody expects although spans do not go out by it; the more specific variable counts.
fn other_protocol(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let set = |name| Some((name, variable(name).filter(|value| !value.is_empty())?));
    PROTOCOLS.into_iter().find_map(set).filter(|(_, protocol)| !protocol.eq_ignore_ascii_case("grpc"))
}

impl Config {
    /// Whether the filter can be read.
    pub fn check(&self) -> Result<(), TelemetryError> {
        shown(&self.level).map(drop)
    }
}

impl Telemetry {
    /// Sends what is left, for a few seconds at most.
    pub async fn shutdown(mut self) {
        let Some(provider) = self.provider.take() else { return };
        // The exporter blocks its thread until it is done, or the time is up.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        match tokio::time::timeout(FLUSH_TIMEOUT + Duration::from_secs(1), flushed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not sent"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last spans were not sent"),
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // Nobody waits here: a drop may happen on a runtime thread that the exporter needs.
            let _ = provider.shutdown_with_timeout(Duration::ZERO);
        }
    }
}

/// The `traceparent` of the current span; `None` where no spans are recorded.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// Makes a span that has not been entered yet the root of the trace with this id.
///
/// OpenTelemetry takes a span's trace id from its parent, or else from the provider's generator of ids. So the span is built
/// here and now, without a parent, while the generator of this thread hands out the given id. A span that is built already
/// (it was entered, or has a child) stays where it is.
pub fn chain_root(span: &Span, trace_id: [u8; 16]) {
    let trace_id = TraceId::from_bytes(trace_id);
    if trace_id == TraceId::INVALID || span.set_parent(Context::new()).is_err() {
        return;
    }
    NEXT_TRACE.set(Some(trace_id));
    // Asking for its context builds it.
    let _ = span.context();
    NEXT_TRACE.set(None);
}

/// Makes a span that has not been entered yet a child of a remote one. A `traceparent` that cannot be read changes nothing.
pub fn follow(span: &Span, traceparent: &str) {
    if let Some(remote) = remote(traceparent) {
        // The error says that the span is not recorded, or built already: then there is nothing to change.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
}

/// W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`; a later version may have more parts.
fn remote(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !lengths || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

thread_local! {
    /// The trace id that the next root span of this thread gets. Set and taken back within `chain_root`, so that no task
    /// can see another's.
    static NEXT_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random ids, but for the trace ids that [`chain_root`] asks for.
#[derive(Debug, Default)]
struct ChainIds(RandomIdGenerator);

impl IdGenerator for ChainIds {
    fn new_trace_id(&self) -> TraceId {
        NEXT_TRACE.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

fn endpoint() -> Option<String> {
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    std::env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty() && !disabled)
}

fn provider(service: &str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    // Headers, timeout and compression come from the other OTEL_EXPORTER_OTLP_ variables, which the exporter reads itself.
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Exporter { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| service.to_owned());
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_id_generator(ChainIds::default())
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

fn span_layer<S>(provider: &SdkTracerProvider, service: &str) -> Result<impl Layer<S> + use<S>, TelemetryError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let tracer = provider.tracer(service.to_owned());
    // Code locations and thread names cost more attributes than they tell. The target says whose span it is.
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
    Ok(layer.with_filter(filter(SPANS)?))
}

/// Takes lines, and spans if there is whom to send them to.
fn dispatch(
    format: Format,
    shown: EnvFilter,
    provider: Option<&SdkTracerProvider>,
    service: &str,
) -> Result<Dispatch, TelemetryError> {
    let registry = tracing_subscriber::registry();
    Ok(match provider {
        Some(provider) => registry.with(span_layer(provider, service)?).with(lines(format).with_filter(shown)).into(),
        // A filter for all: beside that of one layer, even if no other layer is there, spans are made that nobody takes.
        None => registry.with(shown).with(lines(format)).into(),
    })
}

/// What the lines of the log show.
fn shown(directives: &str) -> Result<EnvFilter, TelemetryError> {
    filter(&format!("{QUIET},{EACH_EVENT}=warn,{directives}")).map_err(|error| error.about(directives))
}

fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    let invalid = |reason: String| TelemetryError::Filter { directives: directives.to_owned(), reason };
    EnvFilter::builder().parse(directives).map_err(|error| invalid(error.to_string()))
}

fn lines<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
        Format::Text => {
            let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            // Compact: the message first, then its fields, then those of the spans around it.
            lines.compact().with_ansi(std::io::stderr().is_terminal() && !no_colour).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};
    use tracing::{info_span, instrument::WithSubscriber as _};

    use super::*;

    const TRACE: [u8; 16] = [0xab; 16];

    /// Runs `work` with spans recorded in memory.
    fn recorded(work: impl FnOnce()) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let provider =
            SdkTracerProvider::builder().with_id_generator(ChainIds::default()).with_simple_exporter(exporter.clone()).build();
        let subscriber = tracing_subscriber::registry().with(span_layer(&provider, "test").unwrap());
        tracing::subscriber::with_default(subscriber, work);
        exporter.get_finished_spans().unwrap()
    }

    fn named<'s>(spans: &'s [SpanData], name: &str) -> &'s SpanData {
        spans.iter().find(|span| span.name == name).unwrap()
    }

    #[test]
    fn a_chain_root_has_the_chains_trace_id_and_no_parent() {
        let spans = recorded(|| {
            let _request = info_span!("request").entered();
            let append = info_span!("append", late = tracing::field::Empty);
            chain_root(&append, TRACE);
            append.in_scope(|| {
                append.record("late", 7);
                info_span!("publish").in_scope(|| {});
            });
            info_span!("other", later = true).in_scope(|| {});
        });
        let root = named(&spans, "append");
        assert_eq!(root.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(root.parent_span_id, SpanId::INVALID);
        assert!(root.attributes.iter().any(|attribute| attribute.key.as_str() == "late"));
        let child = named(&spans, "publish");
        assert_eq!(child.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(child.parent_span_id, root.span_context.span_id());
        let other = named(&spans, "other");
        assert_ne!(other.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(other.span_context.trace_id(), named(&spans, "request").span_context.trace_id());
    }

    #[test]
    fn a_follower_is_a_child_of_the_span_that_appended() {
        let mut carried = None;
        let spans = recorded(|| {
            let append = info_span!("append");
            chain_root(&append, TRACE);
            append.in_scope(|| carried = current_traceparent());
            let consume = info_span!("consume");
            follow(&consume, carried.as_deref().unwrap());
            consume.in_scope(|| {});
        });
        let (append, consume) = (named(&spans, "append"), named(&spans, "consume"));
        assert_eq!(consume.span_context.trace_id(), TraceId::from_bytes(TRACE));
        assert_eq!(consume.parent_span_id, append.span_context.span_id());
        assert!(consume.parent_span_is_remote);
        let expected = format!("00-{}-{}-01", "ab".repeat(16), append.span_context.span_id());
        assert_eq!(carried.unwrap(), expected);
    }

    #[test]
    fn roots_made_at_the_same_time_by_many_threads_keep_their_own_trace() {
        let spans = recorded(|| {
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            std::thread::scope(|scope| {
                for thread in 1..=4_u8 {
                    let dispatch = dispatch.clone();
                    scope.spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        let work = async move {
                            for _ in 0..50 {
                                let span = info_span!("root", thread);
                                chain_root(&span, [thread; 16]);
                                let child = span.in_scope(|| info_span!("child"));
                                tokio::task::yield_now().await;
                                child.in_scope(|| {});
                            }
                        };
                        runtime.block_on(work.with_subscriber(dispatch));
                    });
                }
            });
        });
        assert_eq!(spans.len(), 400);
        for thread in 1..=4_u8 {
            let trace = TraceId::from_bytes([thread; 16]);
            assert_eq!(spans.iter().filter(|span| span.span_context.trace_id() == trace).count(), 100);
        }
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_noticed() {
        let with = |set: &[(&str, &str)]| {
            other_protocol(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        let [traces, all] = PROTOCOLS;
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(all, "")]), None);
        assert_eq!(with(&[(all, "grpc")]), None);
        assert_eq!(with(&[(all, "http/protobuf")]), Some((all, "http/protobuf".to_owned())));
        assert_eq!(with(&[(all, "http/protobuf"), (traces, "grpc")]), None);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_found_without_a_start() {
        Config::default().check().unwrap();
        let error = Config { level: "info,=loud".to_owned(), ..Config::default() }.check().unwrap_err().to_string();
        assert!(error.starts_with("`info,=loud`"), "{error}");
    }

    #[test]
    fn without_a_collector_nothing_is_recorded() {
        let span = info_span!("append");
        chain_root(&span, TRACE);
        follow(&span, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(span.in_scope(current_traceparent), None);
    }

    #[test]
    fn a_traceparent_that_cannot_be_read_changes_nothing() {
        for bad in ["", "00", "00-zz-b7ad6b7169203331-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert!(remote(bad).is_none(), "{bad}");
        }
        assert!(remote("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
    }

    #[test]
    fn spans_of_each_event_are_for_a_collector_and_for_whoever_names_them() {
        let made = |directives, provider: Option<&SdkTracerProvider>| {
            let dispatch = dispatch(Format::Text, shown(directives).unwrap(), provider, "test").unwrap();
            let made = || [info_span!("other"), info_span!(target: EACH_EVENT, "append")].map(|span| !span.is_disabled());
            tracing::dispatcher::with_default(&dispatch, made)
        };
        for directives in ["info", "debug", "trace"] {
            assert_eq!(made(directives, None), [true, false], "{directives}");
        }
        assert_eq!(made("info,causeway::each_event=info", None), [true, true]);
        assert_eq!(made("warn", Some(&SdkTracerProvider::builder().build())), [true, true]);
    }
}
