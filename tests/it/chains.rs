//! A chain is a trace: the spans of one turn, as a collector gets them, form one tree under the correlation id.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_e2e::{OtlpSink, Setup, data, of_type};
use causeway_testkit::wait_until;
use serde_json::{Value, json};

const SPANS_LIMIT: Duration = Duration::from_secs(30);

fn id<'a>(span: &'a Value, key: &str) -> &'a str {
    span[key].as_str().unwrap_or_default()
}

/// The spans of a trace, once its tree is whole: appended, consumed, thought about and acted on.
async fn tree(sink: &OtlpSink, trace: &str) -> Vec<Value> {
    wait_until(&format!("a whole tree of trace {trace}"), SPANS_LIMIT, async || {
        let spans: Vec<Value> = sink.spans().unwrap().into_iter().filter(|span| id(span, "traceId") == trace).collect();
        let known: BTreeSet<&str> = spans.iter().map(|span| id(span, "spanId")).collect();
        let whole = spans.iter().all(|span| known.contains(id(span, "parentSpanId")) || id(span, "parentSpanId").is_empty());
        let operations: Vec<&str> =
            spans.iter().filter_map(|span| span["attributes"]["gen_ai.operation.name"].as_str()).collect();
        let all = ["chat", "execute_tool"].iter().all(|wanted| operations.contains(wanted));
        (whole && all).then_some(spans)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_turn_are_one_tree_under_the_correlation_id() {
    let sink = OtlpSink::start().await.unwrap();
    let mut causeway = Setup::up()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .start()
        .await
        .unwrap();
    let api = causeway.api();
    let receipt = api.say("s", QUESTION).await.unwrap();
    let trace = receipt["correlation_id"].as_str().unwrap().to_owned();
    assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");
    let events = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    assert!(events.iter().all(|event| event["metadata"]["correlation_id"] == trace.as_str()));
    // What is still in the exporter's queue goes out with the end of the process.
    causeway.terminate().await.unwrap();

    let spans = tree(&sink, &trace).await;
    let names: Vec<&str> = spans.iter().map(|span| id(span, "name")).collect();
    let roots = spans.iter().filter(|span| id(span, "parentSpanId").is_empty()).count();
    assert_eq!(roots, 1, "one tree: {names:?}");
    for unit in ["append", "invoke_agent", "chat", "execute_tool"] {
        assert!(names.iter().any(|name| name.starts_with(unit)), "a span of each unit of work: {names:?}");
    }
    let said = said(&events);
    assert!(said.iter().any(|piece| QUESTION.contains(piece.as_str())) && 4 <= said.len(), "{said:?}");
    // Not only of this trace: of everything that went out.
    for span in sink.spans().unwrap() {
        let told = words(&span);
        let leaked: Vec<_> = said.iter().filter(|piece| told.contains(piece.as_str())).collect();
        assert!(leaked.is_empty(), "content stays out of spans: {leaked:?} in {span}");
    }
    for chat in spans.iter().filter(|span| span["attributes"]["gen_ai.operation.name"] == "chat") {
        assert!(chat["attributes"]["gen_ai.request.model"].is_string(), "{chat}");
    }
}

/// What is said in a test, with a calculation for the demo model to do.
const QUESTION: &str = "What is 4711 * 1234567, and what is in the-content-of-the-message?";

/// What people and the model said in these events, in pieces that look the same however they are quoted.
fn said(events: &[Value]) -> BTreeSet<String> {
    let fields = [("MessageReceived", "content"), ("ThinkingGenerated", "text"), ("MessageGenerated", "content")];
    let texts = fields.iter().flat_map(|(kind, field)| data(events, kind, field)).map(str::to_owned);
    let told = ["ToolCalled", "ToolCompleted"].into_iter().flat_map(|kind| of_type(events, kind));
    let told = told.flat_map(|event| ["arguments", "result"].map(|field| event["data"][field].to_string()));
    let pieces = texts.chain(told).flat_map(|text| text.split(['"', '\\', '\n']).map(str::to_owned).collect::<Vec<_>>());
    // What is shorter may be there by chance, and is the name of a field.
    pieces.filter(|piece| 12 <= piece.len()).collect()
}

/// All of a span that could hold words.
fn words(span: &Value) -> String {
    ["name", "attributes", "events", "status", "links", "resource"].map(|part| span[part].to_string()).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_traced_where_that_is_wanted() {
    let sink = OtlpSink::start().await.unwrap();
    let mut causeway = Setup::up()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .env("CAUSEWAY__AI_PROCESSOR__TRACE_CONTENT", "true")
        .start()
        .await
        .unwrap();
    let api = causeway.api();
    let receipt = api.say("s", QUESTION).await.unwrap();
    let events = api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    causeway.terminate().await.unwrap();

    let spans = tree(&sink, receipt["correlation_id"].as_str().unwrap()).await;
    let mut chats: Vec<&Value> = spans.iter().filter(|span| span["attributes"]["gen_ai.operation.name"] == "chat").collect();
    let began = |span: &Value| span["startTimeUnixNano"].as_str().and_then(|nanos| nanos.parse::<u64>().ok());
    chats.sort_by_key(|span| began(span));
    assert_eq!(chats.len(), 2, "a call that asked for a tool, and one that answered: {chats:?}");
    for chat in &chats {
        let asked = messages(chat, "gen_ai.input.messages");
        assert!(contains(&asked, QUESTION), "{asked:?}");
    }
    let expression = of_type(&events, "ToolCalled")[0]["data"]["arguments"]["expression"].as_str().unwrap();
    let wish = messages(chats[0], "gen_ai.output.messages");
    assert!(contains(&wish, expression), "what the first call gave is a wish for a tool: {wish:?}");
    let result = of_type(&events, "ToolCompleted")[0]["data"]["result"]["result"].as_str().unwrap();
    let asked = messages(chats[1], "gen_ai.input.messages");
    assert!(contains(&asked, result), "the second call was given the tool's result: {asked:?}");
    let answer = messages(chats[1], "gen_ai.output.messages");
    assert!(contains(&answer, data(&events, "MessageGenerated", "content")[0]), "{answer:?}");
}

/// The messages that an attribute holds as JSON.
#[track_caller]
fn messages(span: &Value, attribute: &str) -> Vec<Value> {
    let text = span["attributes"][attribute].as_str().unwrap_or_else(|| panic!("no {attribute} in {span}"));
    let messages: Vec<Value> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{attribute}: {error}: {text}"));
    assert!(!messages.is_empty() && messages.iter().all(Value::is_object), "{attribute} is an array of messages: {text}");
    messages
}

/// Whether some text in there, at any depth, contains this.
fn contains(messages: &[Value], wanted: &str) -> bool {
    messages.iter().any(|value| text_contains(value, wanted))
}

fn text_contains(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(values) => contains(values, wanted),
        Value::Object(fields) => fields.values().any(|value| text_contains(value, wanted)),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_the_client_is_the_trace_of_the_chain() {
    let sink = OtlpSink::start().await.unwrap();
    let causeway = Setup::up()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .start()
        .await
        .unwrap();
    let api = causeway.api();
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let body = json!({"type": "MessageReceived", "aggregate_id": "s", "data": {"content": "Hello"}});
    let request = api.request(reqwest::Method::POST, "/events").json(&body);
    let response = request.header("traceparent", format!("00-{trace}-{parent}-01")).send().await.unwrap();
    let receipt: Value = response.json().await.unwrap();
    assert_eq!(receipt["correlation_id"], trace);
    api.wait_for("s", "AIProcessingCompleted").await.unwrap();
    let hung_on = |span: &Value| id(span, "traceId") == trace && id(span, "parentSpanId") == parent;
    wait_until("a span below the client's", SPANS_LIMIT, async || sink.spans().unwrap().iter().any(hung_on).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_correlation_id_can_be_opened_as_a_trace() {
    let sink = OtlpSink::start().await.unwrap();
    let causeway = Setup::up()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .start()
        .await
        .unwrap();
    let body = json!({"type": "MessageReceived", "aggregate_id": "s", "data": {"content": "Hello"},
                      "metadata": {"source": "test", "correlation_id": "order 4711"}});
    let receipt = causeway.api().append(&body).await.unwrap();
    assert_eq!(receipt["correlation_id"], "order 4711");
    // The first half of `printf 'order 4711' | sha256sum`.
    let spans = tree(&sink, ORDER_4711).await;
    assert!(!spans.is_empty());
}

const ORDER_4711: &str = "326b6f65e1b3a7b89818d0fa0d99bc90";
