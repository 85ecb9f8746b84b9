//! Carries out what `turn::decide` asks for: claims, model calls, tools. No rule of its own.
//!
//! An answer of the model is appended all or none, so that it is either on the log, and never paid again, or was lost with its
//! process. A tool's outcome is recorded the moment it is known.

mod answer;
mod ask;
mod content;

use std::time::Instant;

use causeway_event::payload::{ProcessingCompleted, ProcessingFailed, ProcessingStarted, ToolCompleted, ToolFailed};
use causeway_event::{Category, Event, EventId, Lineage, Payload};
use causeway_log::LogError;
use causeway_processor::{ActError, Next, Origin, Processor, Run, reached};
use causeway_runtime::telemetry;
use futures::future::join_all;
use tracing::{Instrument as _, Span, field};

use crate::model::{Model, ModelError};
use crate::tools::{ToolError, Toolbox};
use crate::turn::{self, Action, Call, Hint, Limits, Session, Turn};
use crate::{Config, prompt};

/// The AI processor's effects and limits.
pub(crate) struct Assistant {
    config: Config,
    config_hash: String,
    model: Model,
    tools: Toolbox,
}

/// The span of the turn at work.
#[derive(Default)]
pub(crate) struct Scratch {
    turn: Option<(String, Span)>,
}

impl Assistant {
    pub(crate) fn new(config: Config) -> Result<Self, ModelError> {
        let model = Model::from_config(&config.model)?;
        Ok(Self { config_hash: config.hash(), model, tools: Toolbox::new(config.tools.clone()), config })
    }
}

impl Processor for Assistant {
    const NAME: &'static str = "ai-processor";
    const CATEGORIES: &'static [Category] = &[Category::Input];
    type State = Session;
    type Scratch = Scratch;

    fn fold(session: Session, event: &Event) -> Session {
        turn::fold(session, event)
    }

    async fn act(&self, run: &Run<'_>, session: &Session, scratch: &mut Scratch) -> Result<Next, ActError> {
        let hint = Hint { held: run.held(), owner: run.owner() };
        let limits = Limits { steps_max: self.config.steps_max, attempts_max: self.config.attempts_max };
        let action = turn::decide(session, hint, limits);
        tracing::debug!(aggregate.id = %run.aggregate(), ?action, "due");
        let span = match (&action, &session.turn) {
            (Action::Done, _) => return Ok(Next::Done),
            (Action::Yield, _) => return Err(ActError::TakenOver),
            (Action::Claim { turn, input, .. }, _) => self.span(scratch, turn, input, run),
            (_, Some(turn)) => self.span(scratch, &turn.id, &turn.input, run),
            (_, None) => Span::none(),
        };
        self.carry_out(run, session, action).instrument(span).await
    }
}

impl Assistant {
    async fn carry_out(&self, run: &Run<'_>, session: &Session, action: Action) -> Result<Next, ActError> {
        match (action, &session.turn) {
            (Action::Claim { turn, input, attempt }, _) => self.claim(run, turn, &input, attempt).await,
            (Action::CallModel { step }, Some(turn)) => self.call_model(run, session, turn, step).await,
            (Action::RunTools { calls }, Some(turn)) => self.run_tools(run, turn, calls).await,
            (Action::RecordUnknown { call }, Some(turn)) => record_unknown(run, turn, call).await,
            (Action::Complete, Some(turn)) => complete(run, turn).await,
            (Action::Fail { reason, message }, Some(turn)) => fail(run, turn, reason, message).await,
            (_, None) | (Action::Done | Action::Yield, _) => Ok(Next::Done),
        }
    }

    async fn claim(&self, run: &Run<'_>, turn: String, input: &turn::Input, attempt: u32) -> Result<Next, ActError> {
        let key = format!("{turn}:claim:{attempt}:{}", run.owner());
        let started = Payload::AIProcessingStarted(ProcessingStarted {
            turn,
            inputs: vec![input.id],
            owner: run.owner().to_owned(),
            delivery: Some(run.delivery()),
            attempt,
            agent: self.config.agent.clone(),
            model: self.model.name().to_owned(),
            config_hash: self.config_hash.clone(),
        });
        run.decide(Category::Ai, vec![(started, origin(input, input.id))], &key).await?;
        reached("claimed").await;
        Ok(Next::Again)
    }

    async fn call_model(&self, run: &Run<'_>, session: &Session, turn: &Turn, step: u32) -> Result<Next, ActError> {
        let system = &self.config.system_prompt;
        let prompt = prompt::prompt(system, session, turn, self.config.history_turns, self.tools.specs());
        let generated = match self.ask(run, turn, step, &prompt).await {
            Ok(generated) => generated,
            Err(ask::AskError::Act(error)) => return Err(error),
            Err(ask::AskError::Model(error)) => {
                return fail(run, turn, "model_error", format!("The model could not answer: {error}.")).await;
            }
        };
        reached("model-called").await;
        let is_message = generated.tool_calls.is_empty();
        let payloads = answer::payloads(turn, step, generated, |tool| self.tools.effect(tool));
        let events = payloads.into_iter().map(|payload| (payload, origin(&turn.input, turn.enabled_by))).collect();
        match run.decide(Category::Ai, events, &format!("{}:step:{step}:{}", turn.id, run.owner())).await {
            // It will not be taken the next time either, and would be paid for again.
            Err(ActError::Log(error @ (LogError::TooLarge { .. } | LogError::Invalid(_)))) => {
                return fail(run, turn, "answer_unrecordable", format!("The answer could not be recorded: {error}.")).await;
            }
            recorded => recorded?,
        }
        reached(if is_message { "message-recorded" } else { "model-recorded" }).await;
        Ok(Next::Again)
    }

    /// Runs calls side by side. Each outcome is on the log before this returns, in whatever order they came.
    async fn run_tools(&self, run: &Run<'_>, turn: &Turn, calls: Vec<Call>) -> Result<Next, ActError> {
        run.may_start_effect()?;
        let outcomes = join_all(calls.into_iter().map(|call| {
            let span = tracing::info_span!(
                "execute_tool",
                otel.name = format!("execute_tool {}", call.called.tool),
                gen_ai.operation.name = "execute_tool",
                gen_ai.tool.name = %call.called.tool,
                gen_ai.tool.call.id = %call.called.call_id,
                error.type = field::Empty,
            );
            self.run_tool(run, turn, call).instrument(span)
        }));
        outcomes.await.into_iter().collect::<Result<Vec<()>, ActError>>()?;
        reached("tool-recorded").await;
        Ok(Next::Again)
    }

    async fn run_tool(&self, run: &Run<'_>, turn: &Turn, call: Call) -> Result<(), ActError> {
        reached("tool-started").await;
        let began = Instant::now();
        let key = call.event.to_string();
        let result = self.tools.run(&call.called.tool, &call.called.arguments, &key, jiff::Timestamp::now()).await;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        reached("tool-finished").await;
        if result.is_err() {
            Span::current().record("error.type", "tool_error");
        }
        run.record(outcome(&call, result, duration_ms), origin(&turn.input, call.event), &outcome_key(&call)).await
    }

    /// The turn's span, a child of the span that appended its input; one for all that this run does in the turn.
    fn span(&self, scratch: &mut Scratch, turn: &str, input: &turn::Input, run: &Run<'_>) -> Span {
        if let Some((known, span)) = &scratch.turn
            && known == turn
        {
            return span.clone();
        }
        let span = tracing::info_span!(
            "invoke_agent",
            otel.name = format!("invoke_agent {}", self.config.agent),
            otel.kind = "consumer",
            gen_ai.operation.name = "invoke_agent",
            gen_ai.agent.name = %self.config.agent,
            gen_ai.conversation.id = %run.aggregate(),
            correlation.id = %input.correlation,
            cause.id = %input.id,
            turn,
            processor = Self::NAME,
        );
        match &input.traceparent {
            Some(traceparent) => telemetry::follow(&span, &traceparent.to_string()),
            None => telemetry::chain_root(&span, input.correlation.trace_id()),
        }
        scratch.turn = Some((turn.to_owned(), span.clone()));
        span
    }
}

/// What `cause` brought about, in the chain of the turn's input.
fn origin(input: &turn::Input, cause: EventId) -> Origin {
    Origin { lineage: Lineage::CausedBy { cause, correlation: input.correlation.clone() }, traceparent: input.traceparent }
}

/// One key for all that may be said of a call's outcome, by whomever: the first counts.
fn outcome_key(call: &Call) -> String {
    format!("{}:outcome", call.event)
}

fn outcome(call: &Call, result: Result<serde_json::Value, ToolError>, duration_ms: u64) -> Payload {
    let called = &call.called;
    let (turn, step, call_id, tool) = (called.turn.clone(), called.step, called.call_id.clone(), called.tool.clone());
    match result {
        Ok(result) => Payload::ToolCompleted(ToolCompleted { turn, step, call_id, tool, result, duration_ms }),
        Err(error) => Payload::ToolFailed(ToolFailed { turn, step, call_id, tool, error: error.to_string(), duration_ms }),
    }
}

async fn record_unknown(run: &Run<'_>, turn: &Turn, call: Call) -> Result<Next, ActError> {
    let unknown = Payload::ToolOutcomeUnknown(ToolFailed {
        turn: turn.id.clone(),
        step: call.called.step,
        call_id: call.called.call_id.clone(),
        tool: call.called.tool.clone(),
        error: "The process was interrupted. Whether this tool ran is unknown; it was not run again.".into(),
        duration_ms: 0,
    });
    run.record(unknown, origin(&turn.input, call.event), &outcome_key(&call)).await?;
    Ok(Next::Again)
}

async fn complete(run: &Run<'_>, turn: &Turn) -> Result<Next, ActError> {
    let completed = Payload::AIProcessingCompleted(ProcessingCompleted {
        turn: turn.id.clone(),
        steps: turn.steps_total(),
        usage: turn.usage,
        duration_ms: turn.duration_ms(),
    });
    let key = format!("{}:completed:{}", turn.id, run.owner());
    run.decide(Category::Ai, vec![(completed, origin(&turn.input, turn.enabled_by))], &key).await?;
    Ok(Next::Again)
}

async fn fail(run: &Run<'_>, turn: &Turn, reason: &'static str, message: String) -> Result<Next, ActError> {
    let failed = Payload::AIProcessingFailed(ProcessingFailed {
        turn: turn.id.clone(),
        reason: reason.into(),
        message: message.clone(),
        steps: turn.steps_total(),
        usage: turn.usage,
        duration_ms: turn.duration_ms(),
    });
    run.park(turn.input.position, &format!("{reason}: {message}")).await?;
    let key = format!("{}:failed:{}", turn.id, run.owner());
    run.decide(Category::Ai, vec![(failed, origin(&turn.input, turn.enabled_by))], &key).await?;
    Ok(Next::Again)
}
