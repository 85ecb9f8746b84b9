//! A model server at the wire: OpenAI's chat completions, streamed or whole, answered by a function of the request.
//!
//! It counts its calls and can hold them back, so that a test knows what a model was asked, how often, and when.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::wait::wait_until;

/// How long a test may wait for a call.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// What the model answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// 200, or the error to answer with.
    pub status: u16,
    /// What it thinks first (`reasoning_content`), or nothing.
    pub thinking: String,
    /// Its text, in the pieces in which it is streamed.
    pub text: Vec<String>,
    /// The tools that it wants called: name and arguments (as the JSON text that goes over the wire).
    pub tools: Vec<(String, String)>,
    /// Slept before each streamed piece.
    pub pause: Duration,
}

impl Reply {
    /// A final answer, streamed word by word.
    pub fn text(text: &str) -> Self {
        let pieces = text.split_inclusive(' ').map(str::to_owned).collect();
        Self { status: 200, thinking: String::new(), text: pieces, tools: Vec::new(), pause: Duration::ZERO }
    }

    /// A wish for tool calls, all at once.
    pub fn tools<const N: usize>(tools: [(&str, Value); N]) -> Self {
        let tools = tools.map(|(name, arguments)| (name.to_owned(), arguments.to_string())).to_vec();
        Self { tools, ..Self::text("") }
    }

    /// A refusal.
    pub fn error(status: u16) -> Self {
        Self { status, ..Self::text("") }
    }

    /// The same after some thinking.
    #[must_use]
    pub fn after_thinking(self, thinking: &str) -> Self {
        Self { thinking: thinking.to_owned(), ..self }
    }

    /// The same, slowly.
    #[must_use]
    pub fn slowly(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

type Script = dyn Fn(&Value) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    requests: Mutex<Vec<Value>>,
    answered: AtomicUsize,
    held: watch::Sender<bool>,
}

/// A running model server. Dropping it stops it.
pub struct FakeModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl FakeModel {
    /// Starts on a free port. `script` makes the answer of each request; see [`tool_results`] for where a turn is.
    pub async fn start(script: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the model")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            answered: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        let routes = Router::new().route("/v1/chat/completions", post(complete)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Ends with the test: an error here shows as a call that never comes.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { address, shared, server })
    }

    /// The base URL as OpenAI-compatible servers are configured: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The bodies of all requests so far, the held ones too.
    pub fn requests(&self) -> Vec<Value> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests came.
    pub fn calls(&self) -> usize {
        self.requests().len()
    }

    /// How many were answered to the end.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// From here on requests wait for [`release`](Self::release).
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Answers the held requests, and all that follow.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Waits until this many requests have come.
    pub async fn called(&self, calls: usize) {
        wait_until(&format!("model call {calls}"), CALL_LIMIT, async || (calls <= self.calls()).then_some(())).await;
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How many tool results follow the last user message of a request: 0 in the first step of a turn.
pub fn tool_results(request: &Value) -> usize {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    messages.iter().rev().take_while(|m| m["role"] != "user").filter(|m| m["role"] == "tool").count()
}

async fn complete(State(shared): State<Arc<Shared>>, Json(request): Json<Value>) -> Response {
    let call = {
        let mut requests = shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(request.clone());
        requests.len()
    };
    // A closed channel means that the test is over.
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    let reply = (shared.script)(&request);
    if reply.status != 200 {
        let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if matches!(reply.status, 401 | 403) { "authentication_error" } else { "server_error" };
        let problem = json!({"error": {"message": "as the script says", "type": kind, "param": null, "code": null}});
        shared.answered.fetch_add(1, Ordering::SeqCst);
        return (status, Json(problem)).into_response();
    }
    if request["stream"] != true {
        shared.answered.fetch_add(1, Ordering::SeqCst);
        return Json(whole(call, &request, &reply)).into_response();
    }
    let pause = reply.pause;
    let mut pieces = streamed(call, &request, &reply).into_iter();
    let body = futures::stream::unfold((), move |()| {
        let piece = pieces.next();
        let shared = Arc::clone(&shared);
        async move {
            let Some(piece) = piece else {
                shared.answered.fetch_add(1, Ordering::SeqCst);
                return None;
            };
            sleep(pause).await;
            Some((Ok::<_, Infallible>(Bytes::from(format!("data: {piece}\n\n"))), ()))
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}

/// Call ids differ from call to call, as real ones do: a repeated call is a different answer.
fn tool_calls(call: usize, reply: &Reply) -> Vec<Value> {
    let with_index = reply.tools.iter().enumerate();
    with_index
        .map(|(index, (name, arguments))| {
            json!({"index": index, "id": format!("call_{call}_{index}"), "type": "function",
                   "function": {"name": name, "arguments": arguments}})
        })
        .collect()
}

fn finish_reason(reply: &Reply) -> &'static str {
    if reply.tools.is_empty() { "stop" } else { "tool_calls" }
}

fn usage() -> Value {
    json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
}

fn whole(call: usize, request: &Value, reply: &Reply) -> Value {
    let mut message = json!({"role": "assistant", "content": reply.text.concat()});
    if !reply.thinking.is_empty() {
        message["reasoning_content"] = json!(reply.thinking);
    }
    if !reply.tools.is_empty() {
        message["tool_calls"] = json!(tool_calls(call, reply));
    }
    json!({"id": format!("chatcmpl-{call}"), "object": "chat.completion", "created": 1, "model": request["model"],
           "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(reply)}], "usage": usage()})
}

fn streamed(call: usize, request: &Value, reply: &Reply) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": format!("chatcmpl-{call}"), "object": "chat.completion.chunk", "created": 1,
               "model": request["model"], "choices": choices, "usage": usage})
        .to_string()
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), Value::Null);
    let mut pieces = vec![delta(json!({"role": "assistant", "content": ""}))];
    if !reply.thinking.is_empty() {
        pieces.push(delta(json!({"reasoning_content": reply.thinking})));
    }
    pieces.extend(reply.text.iter().map(|text| delta(json!({"content": text}))));
    // Names first with empty arguments, then the arguments in halves, taking turns: as parallel calls come from real servers.
    let calls = tool_calls(call, reply);
    for mut opening in calls.clone() {
        opening["function"]["arguments"] = json!("");
        pieces.push(delta(json!({"tool_calls": [opening]})));
    }
    for half in 0..2 {
        for (index, (_, arguments)) in reply.tools.iter().enumerate() {
            let middle = (0..=arguments.len() / 2).rev().find(|at| arguments.is_char_boundary(*at)).unwrap_or(0);
            let part = if half == 0 { &arguments[..middle] } else { &arguments[middle..] };
            pieces.push(delta(json!({"tool_calls": [{"index": index, "function": {"arguments": part}}]})));
        }
    }
    pieces.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": finish_reason(reply)}]), Value::Null));
    if request["stream_options"]["include_usage"] == true {
        pieces.push(chunk(json!([]), usage()));
    }
    pieces.push("[DONE]".to_owned());
    pieces
}
