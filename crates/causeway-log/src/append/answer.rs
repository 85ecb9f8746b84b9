//! What the server answers to a publish, and what that means.

use std::time::Duration;

use causeway_event::Position;
use serde::Deserialize;

use crate::{Log, LogError};

/// The meaning of one answer, or of none.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// Stored, or stored before under the same message id. For a batch `last` is its last position.
    Stored { last: Position, duplicate: bool },
    /// The fence does not hold; sometimes the server says what would.
    WrongLast { actual: Option<Position> },
    /// A message id of the batch was used before.
    DuplicateInBatch,
    /// Messages of the batch were lost on the way: nothing is stored.
    Incomplete,
    /// The server cannot take it right now: nothing is stored.
    Unavailable(String),
    /// The server will not take it.
    Refused { code: u64, reason: String },
    /// No answer came, or one that leaves open whether it was stored.
    Silence,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

pub(super) fn parse(payload: &[u8]) -> Answer {
    let ack: Ack = match serde_json::from_slice(payload) {
        Ok(ack) => ack,
        Err(error) => return Answer::Refused { code: 0, reason: format!("the acknowledgement cannot be read: {error}") },
    };
    let Some(error) = ack.error else {
        return Answer::Stored { last: Position::new(ack.seq), duplicate: ack.duplicate };
    };
    match (error.err_code, error.code) {
        // 10071 ends in the number that would have held; 10164 (a write in flight) has none.
        (10071 | 10164, _) => {
            let actual = error.description.rsplit(' ').next().and_then(|number| number.parse().ok());
            Answer::WrongLast { actual: actual.map(Position::new) }
        }
        (10201, _) => Answer::DuplicateInBatch,
        (10176, _) => Answer::Incomplete,
        // The same message is on its way already; what becomes of it is not known yet.
        (10158, _) => Answer::Silence,
        // A limit that is reached is for an operator; a store that failed in the middle may have stored it.
        (10077, _) if error.description.starts_with("maximum") => Answer::Refused { code: 10077, reason: error.description },
        (10077, _) => Answer::Silence,
        (_, 503) => Answer::Unavailable(error.description),
        (code, _) => Answer::Refused { code, reason: error.description },
    }
}

/// How often and how long a silent server is asked again.
pub(crate) struct Patience {
    deadline: tokio::time::Instant,
}

impl Patience {
    /// What passes at all mostly passes within a moment.
    pub(super) const PAUSE: Duration = Duration::from_millis(50);

    pub(super) fn of(log: &Log) -> Self {
        Self::lasting(log.inner.config.append_timeout)
    }

    /// One that lasts so long from this moment.
    pub(crate) fn lasting(time: Duration) -> Self {
        Self { deadline: tokio::time::Instant::now() + time }
    }

    /// The answer to what was sent, or silence once it has lasted too long.
    pub(super) async fn answer(&self, sent: impl Future<Output = Answer>) -> Answer {
        tokio::time::timeout_at(self.deadline, sent).await.unwrap_or(Answer::Silence)
    }

    /// Waits a little; fails with `error` once it has lasted too long.
    pub(crate) async fn pause_or(&self, error: LogError) -> Result<(), LogError> {
        self.pause_for(Self::PAUSE, error).await
    }

    /// Waits for so long, or as long as there is time for one more attempt.
    pub(super) async fn pause_for(&self, pause: Duration, error: LogError) -> Result<(), LogError> {
        let left = self.deadline.saturating_duration_since(tokio::time::Instant::now());
        if left < Self::PAUSE {
            return Err(error);
        }
        tokio::time::sleep(pause.min(left - Self::PAUSE).max(Self::PAUSE)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_leaves_time_for_one_more_attempt() {
        let (patience, begun) = (Patience::lasting(Duration::from_secs(1)), tokio::time::Instant::now());
        let mut at = Vec::new();
        while patience.pause_for(Duration::from_millis(400), LogError::Unknown).await.is_ok() {
            at.push(begun.elapsed().as_millis());
        }
        assert_eq!(at, [400, 800, 950, 1000]);
    }

    #[test]
    fn answers_mean_what_the_server_was_seen_to_mean() {
        let check = |json: &str, expected: Answer| assert_eq!(parse(json.as_bytes()), expected, "{json}");
        let at = Position::new;
        check(r#"{"stream":"E","seq":1}"#, Answer::Stored { last: at(1), duplicate: false });
        check(r#"{"stream":"E","seq":1041,"duplicate":true}"#, Answer::Stored { last: at(1041), duplicate: true });
        check(r#"{"stream":"E","seq":14,"batch":"x","count":3}"#, Answer::Stored { last: at(14), duplicate: false });
        let error = |code: u64, err_code: u64, text: &str| {
            format!(r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"{text}"}},"stream":"E","seq":0}}"#)
        };
        check(&error(400, 10071, "wrong last sequence: 1042"), Answer::WrongLast { actual: Some(at(1042)) });
        check(&error(400, 10164, "wrong last sequence"), Answer::WrongLast { actual: None });
        check(&error(400, 10201, "atomic publish batch contains duplicate message id"), Answer::DuplicateInBatch);
        check(&error(400, 10176, "atomic publish batch is incomplete"), Answer::Incomplete);
        check(
            &error(503, 10077, "maximum bytes exceeded"),
            Answer::Refused { code: 10077, reason: "maximum bytes exceeded".into() },
        );
        check(&error(503, 10008, "temporarily unavailable"), Answer::Unavailable("temporarily unavailable".into()));
        check(&error(400, 10158, "duplicate message id is in process"), Answer::Silence);
        check(&error(503, 10077, "store is closed"), Answer::Silence);
        assert!(matches!(parse(b"+OK"), Answer::Refused { .. }));
    }
}
