//! Asking the model: streamed to whoever listens, asked again when it fails for a passing reason.

use std::time::Duration;

use backon::BackoffBuilder as _;
use causeway_event::{Delta, DeltaKind};
use causeway_processor::{ActError, Run};
use tokio::sync::mpsc;
use tracing::{Instrument as _, Span, field};

use super::{Assistant, content};
use crate::model::{Generated, ModelError, Prompt};
use crate::turn::Turn;

/// Pieces that wait to be sent to listeners. When it is full, pieces are dropped: the log gets the whole message later.
const DELTAS_MAX: usize = 1024;

/// Why there is no answer.
pub(super) enum AskError {
    Model(ModelError),
    /// The run must end.
    Act(ActError),
}

impl Assistant {
    /// One answer of the model. Pauses between attempts grow, unless the provider says how long to wait.
    pub(super) async fn ask(&self, run: &Run<'_>, turn: &Turn, step: u32, prompt: &Prompt) -> Result<Generated, AskError> {
        let mut pauses = backon::ExponentialBuilder::default()
            .with_min_delay(self.config.model_retry_min)
            .with_max_delay(self.config.model_retry_max)
            .with_max_times(usize::try_from(self.config.model_retries_max).unwrap_or(usize::MAX))
            .with_jitter()
            .build();
        loop {
            run.may_start_effect().map_err(AskError::Act)?;
            let span = self.span_of_call(run);
            let error = match self.generate(run, turn, step, prompt).instrument(span).await {
                Ok(generated) => return Ok(generated),
                Err(error) => error,
            };
            let Some(pause) = pause_after(&error, &mut pauses, self.config.model_retry_max) else {
                return Err(AskError::Model(error));
            };
            tracing::warn!(turn = turn.id, step, %error, ?pause, "the model call failed and is made again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = run.stopping().cancelled() => return Err(AskError::Act(ActError::Stopping)),
            }
            let void = Delta { turn: turn.id.clone(), step, kind: DeltaKind::Reset, text: String::new() };
            run.log().publish_delta(run.aggregate(), &void).await;
        }
    }

    async fn generate(&self, run: &Run<'_>, turn: &Turn, step: u32, prompt: &Prompt) -> Result<Generated, ModelError> {
        let (pieces, mut waiting) = mpsc::channel::<Delta>(DELTAS_MAX);
        let mut on_delta = move |kind: DeltaKind, text: &str| {
            let delta = Delta { turn: turn.id.clone(), step, kind, text: text.to_owned() };
            if pieces.try_send(delta).is_err() {
                tracing::debug!("a live delta was dropped");
            }
        };
        let tell = async {
            // Once one does not go out, nobody is told any more: an answer must not wait for its own deltas.
            while let Some(delta) = waiting.recv().await {
                if !run.log().publish_delta(run.aggregate(), &delta).await {
                    return waiting.close();
                }
            }
        };
        let generate = async move { self.model.generate(prompt, &mut on_delta).await };
        let (generated, ()) = tokio::join!(generate, tell);
        let span = Span::current();
        match &generated {
            Ok(generated) => {
                span.record("gen_ai.response.model", &generated.model);
                span.record("gen_ai.response.finish_reasons", &generated.finish_reason);
                span.record("gen_ai.usage.input_tokens", generated.usage.input_tokens);
                span.record("gen_ai.usage.output_tokens", generated.usage.output_tokens);
                if self.config.trace_content {
                    span.record("gen_ai.input.messages", content::input(prompt).to_string());
                    span.record("gen_ai.output.messages", content::output(generated).to_string());
                }
            }
            Err(error) => {
                span.record("error.type", kind(error));
            }
        }
        generated
    }

    /// Names of the OpenTelemetry semantic conventions for generative AI.
    fn span_of_call(&self, run: &Run<'_>) -> Span {
        tracing::info_span!(
            "chat",
            otel.name = format!("chat {}", self.model.name()),
            otel.kind = "client",
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = self.model.provider(),
            gen_ai.conversation.id = %run.aggregate(),
            gen_ai.request.model = self.model.name(),
            gen_ai.response.model = field::Empty,
            gen_ai.response.finish_reasons = field::Empty,
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
            gen_ai.input.messages = field::Empty,
            gen_ai.output.messages = field::Empty,
            error.type = field::Empty,
        )
    }
}

/// The `error.type` of a failed call: a word of few values.
fn kind(error: &ModelError) -> &'static str {
    match error {
        ModelError::Retryable { .. } => "retryable",
        ModelError::ContextTooLong { .. } => "context_too_long",
        ModelError::Permanent { .. } => "permanent",
        ModelError::Config { .. } => "configuration",
    }
}

/// How long to wait before the next attempt; none if there is to be none.
fn pause_after(error: &ModelError, pauses: &mut impl Iterator<Item = Duration>, pause_max: Duration) -> Option<Duration> {
    let ModelError::Retryable { retry_after, .. } = error else { return None };
    let pause = pauses.next()?;
    match retry_after {
        Some(asked) if *asked > pause_max => None,
        Some(asked) => Some(pause.max(*asked)),
        None => Some(pause),
    }
}
