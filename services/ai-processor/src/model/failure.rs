//! What went wrong on the provider's side, and whether it is worth another try.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ModelError;

/// The longest part of a provider's message that is kept.
const MESSAGE_CHARS_MAX: usize = 300;
/// The longest wait that a provider's word is taken for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A provider's complaint, from an answer's status and body or from the middle of a stream.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    /// The status; absent inside a stream.
    pub(crate) status: Option<u16>,
    /// The provider's word for programs, such as `overloaded_error`.
    kind: String,
    /// A second one: OpenAI has a type and a code.
    code: String,
    message: String,
    pub(crate) retry_after: Option<Duration>,
    /// The provider's own opinion (`x-should-retry`).
    pub(crate) should_retry: Option<bool>,
}

impl Complaint {
    /// Reads a body, whoever wrote it. `key` is what must not be shown, should the provider quote it.
    pub(crate) fn from_body(body: &[u8], key: Option<&str>) -> Self {
        let text = String::from_utf8_lossy(body);
        match serde_json::from_str::<Value>(&text) {
            Ok(json) => Self::from_json(&json, key),
            Err(_) if text.trim_start().starts_with('<') => Self { message: "(a page of HTML)".to_owned(), ..Self::default() },
            Err(_) => Self { message: shorten(&text, key), ..Self::default() },
        }
    }

    /// Reads the `error` member of an object, or the object as one.
    pub(crate) fn from_json(json: &Value, key: Option<&str>) -> Self {
        // One provider wraps its errors in a list.
        let json = json.as_array().and_then(|list| list.first()).unwrap_or(json);
        let error = json.get("error").filter(|error| !error.is_null()).unwrap_or(json);
        let word = |name: &str| match error.get(name) {
            Some(Value::String(word)) => shorten(word, key),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let message = match [Some(error), error.get("message"), error.get("detail"), json.get("message")] {
            [Some(Value::String(text)), ..] | [_, Some(Value::String(text)), ..] => text.clone(),
            [_, _, Some(detail), _] => detail.as_str().map_or_else(|| detail.to_string(), ToOwned::to_owned),
            [_, _, _, Some(Value::String(text))] => text.clone(),
            _ => error.to_string(),
        };
        Self { kind: word("type"), code: word("code"), message: shorten(&message, key), ..Self::default() }
    }

    /// What it means for the caller.
    pub(crate) fn judge(self) -> ModelError {
        // A stream has no status, but some servers put one into the error.
        let status = self.status.or_else(|| self.code.parse().ok().filter(|status| (400..600).contains(status)));
        if self.is_context(status) {
            return ModelError::ContextTooLong { reason: self.message };
        }
        let transient = match self.should_retry {
            Some(said) => said,
            None if self.is_one_of(&["insufficient_quota", "billing_error"]) => false,
            None if self.is_one_of(&[
                "overloaded_error",
                "api_error",
                "rate_limit_error",
                "rate_limit_exceeded",
                "timeout_error",
                "server_error",
            ]) =>
            {
                true
            }
            None => match status {
                Some(status) => matches!(status, 408 | 409 | 425 | 429 | 500..600),
                None => !self.is_one_of(&[
                    "invalid_request_error",
                    "authentication_error",
                    "permission_error",
                    "not_found_error",
                    "invalid_api_key",
                ]),
            },
        };
        let reason = self.describe();
        match transient {
            true => ModelError::Retryable { reason, retry_after: self.retry_after },
            false => ModelError::Permanent { reason },
        }
    }

    fn describe(&self) -> String {
        let word = if self.kind.is_empty() { &self.code } else { &self.kind };
        let what = match (self.status, word.as_str()) {
            (Some(status), "") => format!("the model server answered {status}"),
            (Some(status), word) => format!("the model server answered {status} {word}"),
            (None, "") => "the model server gave up in the middle of its answer".to_owned(),
            (None, word) => format!("the model server gave up in the middle of its answer: {word}"),
        };
        if self.message.is_empty() { what } else { format!("{what}: {}", self.message) }
    }

    fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.kind == *word || self.code == *word)
    }

    /// Only some have a word for it; the others are known by their sentence.
    fn is_context(&self, status: Option<u16>) -> bool {
        if self.is_one_of(&["context_length_exceeded", "exceed_context_size_error", "request_too_large"]) {
            return true;
        }
        let sentence = self.message.to_ascii_lowercase();
        let told = [
            "maximum context length",
            "context length exceeded",
            "exceeds the context",
            "exceed context limit",
            "available context size",
            "context window",
            "prompt is too long",
            "input is too long",
        ];
        match status {
            Some(413) => true,
            Some(400 | 422) | None => told.iter().any(|words| sentence.contains(words)),
            Some(_) => false,
        }
    }
}

/// How long `Retry-After` (or its finer relative) asks to wait: seconds or a date.
pub(crate) fn retry_after(header: Option<&str>, header_ms: Option<&str>, now: Timestamp) -> Option<Duration> {
    let ms = || Duration::try_from_secs_f64(header_ms?.trim().parse::<f64>().ok()? / 1000.0).ok();
    let seconds = || Duration::try_from_secs_f64(header?.trim().parse::<f64>().ok()?).ok();
    let date = || {
        let at = jiff::fmt::rfc2822::parse(header?.trim()).ok()?.timestamp();
        Some(at.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    };
    ms().or_else(seconds).or_else(date).map(|wait: Duration| wait.min(RETRY_AFTER_MAX))
}

/// One line of bounded length without the key.
pub(crate) fn shorten(text: &str, key: Option<&str>) -> String {
    let mut text = text.to_owned();
    if let Some(key) = key {
        text = text.replace(key, "***");
    }
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    match line.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> ModelError {
        Complaint { status: Some(status), ..Complaint::from_body(body.as_bytes(), Some("sk-secret")) }.judge()
    }

    #[track_caller]
    fn retryable(error: &ModelError, words: &str) {
        assert!(matches!(error, ModelError::Retryable { reason, .. } if reason.contains(words)), "{error:?}");
    }

    #[track_caller]
    fn permanent(error: &ModelError, words: &str) {
        assert!(matches!(error, ModelError::Permanent { reason } if reason.contains(words)), "{error:?}");
    }

    #[track_caller]
    fn too_long(error: &ModelError) {
        assert!(matches!(error, ModelError::ContextTooLong { .. }), "{error:?}");
    }

    #[test]
    fn what_passes_is_worth_another_try() {
        for status in [408, 409, 425, 429, 500, 502, 503, 504, 529] {
            retryable(&judged(status, ""), &status.to_string());
        }
        retryable(&judged(529, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#), "Overloaded");
        retryable(&judged(502, "<html><body>Bad gateway</body></html>"), "HTML");
    }

    #[test]
    fn what_stays_is_not() {
        for status in [301, 400, 401, 403, 404, 422] {
            permanent(&judged(status, "{}"), &status.to_string());
        }
        permanent(&judged(404, r#"{"error":{"message":"no such model: x","type":"invalid_request_error"}}"#), "no such model");
        // A rate limit that no waiting lifts: nobody paid.
        permanent(&judged(429, r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#), "pay");
        permanent(&judged(422, r#"{"detail":[{"loc":["body","tools"],"msg":"extra"}]}"#), "extra");
        permanent(&judged(400, r#"{"error":"just words"}"#), "just words");
        permanent(&judged(400, r#"[{"error":{"code":400,"message":"in a list","status":"INVALID_ARGUMENT"}}]"#), "in a list");
        permanent(&judged(400, r#"{"object":"error","message":"flat","code":400}"#), "flat");
    }

    #[test]
    fn a_prompt_that_is_too_long_is_its_own_matter() {
        too_long(&judged(400, r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#));
        too_long(&judged(400, r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","code":null}}"#));
        too_long(&judged(
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
        ));
        too_long(&judged(
            400,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
        ));
        too_long(&judged(413, r#"{"type":"error","error":{"type":"request_too_large","message":"too large"}}"#));
    }

    #[test]
    fn the_provider_may_overrule() {
        let asked = |should_retry, status| {
            Complaint { status: Some(status), should_retry: Some(should_retry), ..Complaint::default() }.judge()
        };
        retryable(&asked(true, 400), "400");
        permanent(&asked(false, 500), "500");
    }

    #[test]
    fn inside_a_stream_the_word_decides() {
        let said = |json: &str| Complaint::from_json(&serde_json::from_str(json).unwrap(), None).judge();
        retryable(&said(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#), "Overloaded");
        retryable(&said(r#"{"error":{"message":"upstream went away","code":502}}"#), "upstream");
        permanent(&said(r#"{"error":{"message":"bad","code":400}}"#), "bad");
        permanent(&said(r#"{"error":{"message":"bad","type":"invalid_request_error"}}"#), "bad");
    }

    #[test]
    fn a_quoted_key_is_masked_and_a_long_message_cut() {
        permanent(&judged(401, r#"{"error":{"message":"no such key: sk-secret"}}"#), "no such key: ***");
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "a\\n".repeat(5000));
        assert!(judged(400, &long).to_string().len() < 400);
    }

    #[test]
    fn a_wait_is_read_as_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let wait = |text| retry_after(Some(text), None, now);
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("Mon, 23 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Mon, 23 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
        assert_eq!(retry_after(Some("2"), Some("1500"), now), Some(Duration::from_millis(1500)));
    }
}
