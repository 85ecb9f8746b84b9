//! Whatever comes in, what goes out is a refusal that names the field; the log stays as it is and the server alive.

use causeway_e2e::{Api, Setup, python};
use causeway_testkit::workspace_root;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What a bad request must get: a status, and the field that is named if one is to blame. The body as a whole is the field "".
type Expected = (u16, Option<&'static str>);

fn event(changes: &Value) -> String {
    let mut event = json!({"type": "Noted", "aggregate_id": "a", "data": {}, "metadata": {"source": "test"}});
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(event.as_object_mut().unwrap().remove(field)),
            value => event[field] = value.clone(),
        }
    }
    event.to_string()
}

fn good() -> Value {
    json!({"type": "Noted", "aggregate_id": "a", "data": {}, "metadata": {"source": "test"}})
}

fn bodies() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let big = |bytes: usize| "x".repeat(bytes);
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let with_data = |data: &str| format!(r#"{{"type":"Noted","aggregate_id":"a","data":{data}}}"#);
    let many = Value::Array(vec![good(); 1001]);
    let text: Vec<(&str, String, Expected)> = vec![
        ("nothing", String::new(), (400, Some(""))),
        ("no JSON", "hello".into(), (400, Some(""))),
        ("half a JSON", r#"{"type": "Noted""#.into(), (400, Some(""))),
        ("two JSONs", format!("{}{}", good(), good()), (400, Some(""))),
        ("a number", "42".into(), (400, Some(""))),
        ("a string", "\"Noted\"".into(), (400, Some(""))),
        ("null", "null".into(), (400, Some(""))),
        ("an empty object", "{}".into(), (400, Some("/type"))),
        ("an empty list", "[]".into(), (400, Some(""))),
        ("no events", json!({"events": []}).to_string(), (400, Some("/events"))),
        ("events that are none", json!({"events": 7}).to_string(), (400, Some("/events"))),
        ("too many events", many.to_string(), (400, Some(""))),
        ("no type", event(&json!({"type": null})), (400, Some("/type"))),
        ("a type that is a number", event(&json!({"type": 7})), (400, Some("/type"))),
        ("an empty type", event(&json!({"type": ""})), (400, Some("/type"))),
        ("a lower case type", event(&json!({"type": "noted"})), (400, Some("/type"))),
        ("a long type", event(&json!({"type": format!("N{}", big(64))})), (400, Some("/type"))),
        ("a type with NUL", event(&json!({"type": "No\u{0}ted"})), (400, Some("/type"))),
        ("no aggregate", event(&json!({"aggregate_id": null})), (400, Some("/aggregate_id"))),
        ("an empty aggregate", event(&json!({"aggregate_id": ""})), (400, Some("/aggregate_id"))),
        ("a long aggregate", event(&json!({"aggregate_id": big(129)})), (400, Some("/aggregate_id"))),
        ("an aggregate with NUL", event(&json!({"aggregate_id": "a\u{0}b"})), (400, Some("/aggregate_id"))),
        ("an aggregate with a line feed", event(&json!({"aggregate_id": "a\nb"})), (400, Some("/aggregate_id"))),
        ("an aggregate that is a list", event(&json!({"aggregate_id": ["a"]})), (400, Some("/aggregate_id"))),
        ("no data", event(&json!({"data": null})), (400, Some("/data"))),
        ("deep data", with_data(&deep(5_000)), (400, Some("/data"))),
        ("very deep data", with_data(&deep(500_000)), (400, Some("/data"))),
        ("an unknown field", event(&json!({"agregate": "a"})), (400, Some("/agregate"))),
        (
            "an unknown field in metadata",
            event(&json!({"metadata": {"source": "s", "sauce": 1}})),
            (400, Some("/metadata/sauce")),
        ),
        ("metadata that is a list", event(&json!({"metadata": []})), (400, Some("/metadata"))),
        ("a bad source", event(&json!({"metadata": {"source": "a\tb"}})), (400, Some("/metadata/source"))),
        ("a bad cause", event(&json!({"metadata": {"source": "s", "causation_id": "x"}})), (400, Some("/metadata/causation_id"))),
        (
            "a long correlation",
            event(&json!({"metadata": {"source": "s", "correlation_id": big(129)}})),
            (400, Some("/metadata/correlation_id")),
        ),
        (
            "labels that are numbers",
            event(&json!({"metadata": {"source": "s", "labels": {"a": 1}}})),
            (400, Some("/metadata/labels/a")),
        ),
        ("a message without content", event(&json!({"type": "MessageReceived"})), (400, Some("/data/content"))),
        (
            "a message with wrong content",
            event(&json!({"type": "MessageReceived", "data": {"content": 1}})),
            (400, Some("/data/content")),
        ),
        (
            "the second of two is bad",
            json!([good(), {"type": "noted", "aggregate_id": "a", "data": {}}]).to_string(),
            (400, Some("/1/type")),
        ),
        (
            "the second of two is bad, in the long form",
            json!({"events": [good(), {"type": "noted", "aggregate_id": "a", "data": {}}]}).to_string(),
            (400, Some("/events/1/type")),
        ),
        ("a negative fence", json!({"events": [good()], "expected": -1}).to_string(), (400, Some("/expected"))),
        ("a fence that is a word", json!({"events": [good()], "expected": "nonsense"}).to_string(), (400, Some("/expected"))),
        (
            "a fence of an unknown category",
            json!({"events": [good()], "expected": [{"aggregate_id": "a", "category": "x", "position": 0}]}).to_string(),
            (400, Some("/expected/0/category")),
        ),
        ("an empty key", json!({"events": [good()], "idempotency_key": ""}).to_string(), (400, Some("/idempotency_key"))),
        ("a long key", json!({"events": [good()], "idempotency_key": big(1000)}).to_string(), (400, Some("/idempotency_key"))),
        ("a key with NUL", json!({"events": [good()], "idempotency_key": "a\u{0}"}).to_string(), (400, Some("/idempotency_key"))),
        ("data that is too large", with_data(&format!("\"{}\"", big(600 << 10))), (413, Some("/data"))),
        ("a body of 2 MiB and more", with_data(&format!("\"{}\"", big((2 << 20) + 1))), (413, Some(""))),
        ("a body of 10 MiB", with_data(&format!("\"{}\"", big(10 << 20))), (413, Some(""))),
    ];
    let mut all: Vec<_> = text.into_iter().map(|(name, body, expected)| (name, body.into_bytes(), expected)).collect();
    all.push((
        "not UTF-8",
        b"{\"type\":\"Noted\",\"aggregate_id\":\"\xff\xfe\",\"data\":{}}".to_vec(),
        (400, Some("/aggregate_id")),
    ));
    all.push(("NUL bytes", vec![0; 64], (400, Some(""))));
    all.push((
        "a raw control character",
        b"{\"type\":\"Noted\",\"aggregate_id\":\"a\nb\",\"data\":{}}".to_vec(),
        (400, Some("/aggregate_id")),
    ));
    all
}

const PATHS: &[(&str, &str, Expected)] = &[
    ("GET", "/events?after=nonsense", (400, Some("after"))),
    ("GET", "/events?after=-1", (400, Some("after"))),
    ("GET", "/events?before=evt_nonsense", (400, Some("before"))),
    ("GET", "/events?after=evt_00000000000000000000000000", (400, Some("after"))),
    ("GET", "/events?after=99999999999999999999999", (400, Some("after"))),
    ("GET", "/events?limit=-1", (400, Some("limit"))),
    ("GET", "/events?limit=0", (400, Some("limit"))),
    ("GET", "/events?limit=1001", (400, Some("limit"))),
    ("GET", "/events?limit=many", (400, Some("limit"))),
    ("GET", "/events?order=sideways", (400, Some("order"))),
    ("GET", "/events?from=yesterday", (400, Some("from"))),
    ("GET", "/events?until=2026-13-01T00:00:00Z", (400, Some("until"))),
    ("GET", "/events?type=*Message", (400, Some("type"))),
    ("GET", "/events?type=", (400, Some("type"))),
    ("GET", "/events?category=nonsense", (400, Some("category"))),
    ("GET", "/events?aggregate_id=", (400, Some("aggregate_id"))),
    ("GET", "/events?aggregate_id=a%00b", (400, Some("aggregate_id"))),
    ("GET", "/events?aggregate_id=%FF%FE", (400, Some("aggregate_id"))),
    ("GET", "/events?agregate_id=a", (400, Some("agregate_id"))),
    ("GET", "/events?limit=1&limit=2", (400, Some("limit"))),
    ("GET", "/events/nonsense", (400, Some("id"))),
    ("GET", "/events/-1", (400, Some("id"))),
    ("GET", "/events/999999999", (404, Some("id"))),
    ("GET", "/events/evt_00000000000000000000000000", (404, Some("id"))),
    ("GET", "/events/stream?type=**", (400, Some("type"))),
    ("GET", "/events/stream?after=nonsense", (400, Some("after"))),
    ("GET", "/projections/nonsense/a", (404, Some("view"))),
    ("GET", "/projections/conversation/a?as_of=yesterday", (400, Some("as_of"))),
    ("GET", "/projections/conversation/a?as_of=999999999", (400, Some("as_of"))),
    ("GET", "/projections/conversation/a?min_position=-1", (400, Some("min_position"))),
    ("GET", "/projections/conversation/a%00b", (400, Some("id"))),
    ("GET", "/projections/conversation/", (404, None)),
    ("GET", "/nonsense", (404, None)),
    ("GET", "/events/../../etc/passwd", (404, None)),
    ("DELETE", "/events", (405, None)),
    ("PUT", "/events", (405, None)),
    ("PATCH", "/events/1", (405, None)),
    ("DELETE", "/events/1", (405, None)),
    ("POST", "/events/stream", (405, None)),
    ("POST", "/projections/conversation/a", (405, None)),
];

#[tokio::test(flavor = "multi_thread")]
async fn malformed_http_is_refused_by_name() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    api.append(&good()).await.unwrap();
    let before = api.last_position().await.unwrap();

    let mut wrong = Vec::new();
    for (name, body, expected) in bodies() {
        let request = api.request(Method::POST, "/events").header("content-type", "application/json").body(body);
        check(&mut wrong, name, request, expected).await;
    }
    for (method, path, expected) in PATHS {
        let request = api.request(method.parse().unwrap(), path);
        check(&mut wrong, &format!("{method} {path}"), request, *expected).await;
    }
    let post = || api.request(Method::POST, "/events").body(good().to_string());
    check(&mut wrong, "a foreign content type", post().header("content-type", "text/html"), (415, Some("Content-Type"))).await;
    let json = || post().header("content-type", "application/json");
    check(
        &mut wrong,
        "a long key in the header",
        json().header("idempotency-key", "k".repeat(1000)),
        (400, Some("Idempotency-Key")),
    )
    .await;
    let resume = api.request(Method::GET, "/events/stream").header("last-event-id", "nonsense");
    check(&mut wrong, "a bad Last-Event-ID", resume, (400, Some("Last-Event-ID"))).await;
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    unharmed(&api, before).await;
}

/// So large that it is refused for its announced length. A client that asks first, as curl does, has not sent any of it then.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_body_is_refused_before_it_is_sent() {
    let causeway = Setup::up().start().await.unwrap();
    let body = causeway.home().join("body.json");
    std::fs::write(&body, format!(r#"{{"type":"Noted","aggregate_id":"a","data":"{}"}}"#, "x".repeat(100 << 20))).unwrap();
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--header", "content-type: application/json"]);
    // It asks by itself for what is as large as this; with this header it does so in any version.
    curl.args(["--header", "expect: 100-continue", "--write-out", "\n%{http_code} %{content_type} %{size_upload}"]);
    curl.arg("--data-binary").arg(format!("@{}", body.display())).arg(format!("{}/events", causeway.api().base()));
    let output = curl.output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let (problem, seen) = printed.rsplit_once('\n').unwrap_or_else(|| panic!("no answer: {output:?}"));
    assert_eq!(seen, "413 application/problem+json 0", "{output:?}");
    let problem: Value = serde_json::from_str(problem).unwrap();
    assert_eq!((&problem["status"], &problem["field"]), (&413.into(), &"".into()), "{problem}");
    unharmed(&causeway.api(), 0).await;
}

/// A broken `traceparent` is no reason to refuse anything: the standard says to go on without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_traceparent_is_ignored() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    for bad in ["nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-xyz-1-01", ""] {
        let request = api.request(Method::POST, "/events").json(&good()).header("traceparent", bad);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::CREATED, "{bad}");
    }
}

async fn check(wrong: &mut Vec<String>, name: &str, request: reqwest::RequestBuilder, expected: Expected) {
    let (status, field) = expected;
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return wrong.push(format!("{name}: no answer: {error:?}")),
    };
    let (got, kind) = (response.status().as_u16(), response.headers().get("content-type").cloned());
    let body = response.text().await.unwrap_or_default();
    let problem: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let complete = problem["title"].is_string() && problem["type"].is_string() && problem["status"] == got;
    let typed = kind.is_some_and(|kind| kind == "application/problem+json");
    if got != status || !typed || !complete || problem["field"].as_str() != field {
        let body: String = body.chars().take(300).collect();
        wrong.push(format!("{name}: {got} {body}, expected {status} that names {field:?}"));
    }
}

/// The log is as it was, and the server takes what is right.
async fn unharmed(api: &Api, before: u64) {
    assert_eq!(api.last_position().await.unwrap(), before, "the log is unchanged");
    assert_eq!(api.get("/healthz").await.unwrap().0, StatusCode::OK);
    assert_eq!(api.get("/readyz").await.unwrap().0, StatusCode::OK);
    let receipt = api.append(&good()).await.unwrap();
    assert_eq!(receipt["position"], before + 1);
}

/// What the Python client calls each case, the code it must get, and the one field that must be named.
const GRPC: &[(&str, &str, &str)] = &[
    ("no events", "INVALID_ARGUMENT", "/events"),
    ("1001 events", "INVALID_ARGUMENT", "/events"),
    ("no type", "INVALID_ARGUMENT", "/events/0/type"),
    ("lower case type", "INVALID_ARGUMENT", "/events/0/type"),
    ("long type", "INVALID_ARGUMENT", "/events/0/type"),
    ("type with a dot", "INVALID_ARGUMENT", "/events/0/type"),
    ("no aggregate", "INVALID_ARGUMENT", "/events/0/aggregate_id"),
    ("long aggregate", "INVALID_ARGUMENT", "/events/0/aggregate_id"),
    ("control character in the aggregate", "INVALID_ARGUMENT", "/events/0/aggregate_id"),
    ("NUL in the aggregate", "INVALID_ARGUMENT", "/events/0/aggregate_id"),
    ("no data", "INVALID_ARGUMENT", "/events/0/data"),
    ("broken data", "INVALID_ARGUMENT", "/events/0/data"),
    ("data that is not UTF-8", "INVALID_ARGUMENT", "/events/0/data"),
    ("deep data", "INVALID_ARGUMENT", "/events/0/data"),
    ("big data", "INVALID_ARGUMENT", "/events/0/data"),
    ("known type without its content", "INVALID_ARGUMENT", "/events/0/data/content"),
    ("known type with a wrong field", "INVALID_ARGUMENT", "/events/0/data/content"),
    ("control character in the source", "INVALID_ARGUMENT", "/events/0/metadata/source"),
    ("bad cause", "INVALID_ARGUMENT", "/events/0/metadata/causation_id"),
    ("long correlation", "INVALID_ARGUMENT", "/events/0/metadata/correlation_id"),
    ("control character in the correlation", "INVALID_ARGUMENT", "/events/0/metadata/correlation_id"),
    ("unknown category in a fence", "INVALID_ARGUMENT", "/expected/0/category"),
    ("long key", "INVALID_ARGUMENT", "/idempotency_key"),
    ("control character in the key", "INVALID_ARGUMENT", "/idempotency_key"),
    ("bad cursor", "INVALID_ARGUMENT", "/after"),
    ("negative cursor", "INVALID_ARGUMENT", "/before"),
    ("unknown order", "INVALID_ARGUMENT", "/order"),
    ("bad type pattern", "INVALID_ARGUMENT", "/filter/types/0"),
    ("unknown category", "INVALID_ARGUMENT", "/filter/category"),
    ("bad subscription cursor", "INVALID_ARGUMENT", "/after"),
    ("both starts of a subscription", "INVALID_ARGUMENT", "/from_now"),
    ("deltas of nobody", "INVALID_ARGUMENT", "/deltas"),
    ("no id", "INVALID_ARGUMENT", "/id"),
    ("bad id", "INVALID_ARGUMENT", "/id"),
    ("unknown id", "NOT_FOUND", "/id"),
    ("unknown position", "NOT_FOUND", "/id"),
    ("unknown view", "NOT_FOUND", "/view"),
    ("no view", "NOT_FOUND", "/view"),
    ("no projection id", "INVALID_ARGUMENT", "/id"),
    ("bad moment", "INVALID_ARGUMENT", "/as_of"),
];

#[tokio::test(flavor = "multi_thread")]
async fn malformed_grpc_is_refused_by_name() {
    let causeway = Setup::up().start().await.unwrap();
    let api = causeway.api();
    api.append(&good()).await.unwrap();
    let before = api.last_position().await.unwrap();
    let target = causeway.ready().gateway.trim_start_matches("http://").to_owned();
    let proto = workspace_root().join("proto").display().to_string();
    let answers = python("grpc_client.py", &[&target, &proto, "malformed"]).await.unwrap();

    let mut wrong = Vec::new();
    for (name, code, field) in GRPC {
        let answer = &answers[name];
        if answer["code"] != *code || answer["fields"] != json!([field]) || !answer["reason"].is_string() {
            wrong.push(format!("{name}: {answer}, expected {code} that names {field:?}"));
        }
    }
    // These never reach our own code; the transport refuses them.
    let transport: [(&str, &[&str]); 3] = [
        ("not a protobuf", &["INTERNAL", "INVALID_ARGUMENT"]),
        ("unknown method", &["UNIMPLEMENTED"]),
        ("huge message", &["OUT_OF_RANGE", "RESOURCE_EXHAUSTED"]),
    ];
    for (name, codes) in transport {
        if !codes.iter().any(|code| answers[name]["code"] == *code) {
            wrong.push(format!("{name}: {}, expected one of {codes:?}", answers[name]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(answers["alive"]["code"], "OK");
    // The one good append at the end of the Python client's list.
    unharmed(&api, before + 1).await;
}
