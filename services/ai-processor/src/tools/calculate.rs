//! Calculates, within bounds that no expression can break.
//!
//! The engine can be interrupted while it evaluates, but neither while it parses (whose time doubles with each nested
//! parenthesis) nor while it shifts bits. Hence the bounds on length and nesting, the refused signs, a thread of its own
//! whose stack is watched, and a fixed number of such threads: should one be lost after all, the process goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use super::ToolError;

/// How many calculations may run at once.
pub(crate) const CONCURRENT_MAX: usize = 2;
/// How long the engine may evaluate.
const TIME_MAX: Duration = Duration::from_secs(2);
/// How deep parentheses may nest: the worst expression of that depth parses in 0.2 s in a debug build.
const NESTING_MAX: usize = 8;
/// The evaluating thread's stack, and how much of it an expression may use: some recurse without end.
const STACK_BYTES: usize = 16 << 20;
const STACK_BYTES_MAX: usize = 12 << 20;

/// What to calculate.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The expression, such as `17 * 23`, `15% of 80`, `sqrt(2)`, `2^64` or `5 km to miles`.
    #[schemars(length(min = 1, max = 256))]
    expression: String,
}

pub(crate) async fn run(arguments: Arguments, room: &Arc<Semaphore>, timeout: Duration) -> Result<Value, ToolError> {
    let expression = arguments.expression;
    bounded(&expression)?;
    let permit = Arc::clone(room).acquire_owned().await.map_err(|_| ToolError::failed("no more calculations are taken"))?;
    let (sender, answer) = oneshot::channel();
    let text = expression.clone();
    let until = Instant::now() + TIME_MAX.min(timeout);
    // Not a pooled thread: their stacks are too small. It ends by itself, and gives its room back only then.
    let spawned = std::thread::Builder::new().name("calculate".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let answer = evaluate(&text, until);
        // Whoever asked may have given up.
        let _ = sender.send(answer);
        drop(permit);
    });
    spawned.map_err(|error| ToolError::failed(format!("no thread for the calculation: {error}")))?;
    // A panic of the engine drops the sender.
    let result = answer.await.map_err(|_| ToolError::failed("the calculation broke off"))??;
    Ok(json!({ "expression": expression, "result": result }))
}

/// Refuses what cannot be interrupted.
fn bounded(expression: &str) -> Result<(), ToolError> {
    let mut depth = 0_usize;
    for c in expression.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if NESTING_MAX < depth {
            return Err(ToolError::failed(format!("parentheses nest deeper than {NESTING_MAX}; split the calculation")));
        }
    }
    // Closing ones without an opening one are given it by the engine, all at the front.
    let unopened = expression.matches(')').count().saturating_sub(expression.matches('(').count());
    if NESTING_MAX < unopened {
        return Err(ToolError::failed("there are closing parentheses without opening ones"));
    }
    let refused = ["<<", ">>", ":", "=>", "\\", ";", "@"];
    match refused.iter().find(|sign| expression.contains(**sign)) {
        Some(sign) => Err(ToolError::failed(format!("`{sign}` is not taken; give one plain expression"))),
        None => Ok(()),
    }
}

/// Stops an evaluation that is out of time, or that recurses towards the end of its stack.
struct Bounds {
    until: Instant,
    stack_start: usize,
}

impl fend_core::Interrupt for Bounds {
    fn should_interrupt(&self) -> bool {
        self.until <= Instant::now() || STACK_BYTES_MAX < self.stack_start.abs_diff(stack_position())
    }
}

/// Where the stack has grown to, roughly.
#[inline(never)]
fn stack_position() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(&here).addr()
}

fn evaluate(expression: &str, until: Instant) -> Result<String, ToolError> {
    // A fresh context: no randomness, no exchange rates, no clock, nothing left from the last one.
    let mut context = fend_core::Context::new();
    let bounds = Bounds { until, stack_start: stack_position() };
    match fend_core::evaluate_with_interrupt(expression, &mut context, &bounds) {
        Ok(result) if result.get_main_result().trim().is_empty() => Err(ToolError::failed("the expression has no value")),
        Ok(result) => Ok(result.get_main_result().to_owned()),
        Err(reason) if reason == "interrupted" => Err(ToolError::failed("the calculation is too large: it was stopped")),
        Err(reason) => {
            let reason: String = reason.chars().take(200).collect();
            Err(ToolError::failed(format!("cannot calculate `{expression}`: {reason}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn calculated(expression: &str) -> Result<String, String> {
        let room = Arc::new(Semaphore::new(CONCURRENT_MAX));
        let arguments = Arguments { expression: expression.to_owned() };
        match run(arguments, &room, Duration::from_millis(300)).await {
            Ok(value) => Ok(value["result"].as_str().unwrap().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn it_calculates() {
        for (expression, expected) in [
            ("17 * 23", "391"),
            ("0.1 + 0.2", "0.3"),
            ("15% of 80", "12"),
            ("1,234.5 × 2 ÷ 3", "823"),
            ("sqrt(2)", "approx. 1.4142135624"),
            ("- 3 * 4", "-12"),
            ("5!", "120"),
            ("2^64", "18446744073709551616"),
            ("5 km to miles", "approx. 3.1068559612 miles"),
            ("((1+2)*(3+4))^2", "441"),
        ] {
            assert_eq!(calculated(expression).await, Ok(expected.to_owned()), "{expression}");
        }
    }

    #[tokio::test]
    async fn what_it_cannot_do_it_says() {
        for (expression, words) in [
            ("1/0", "division by zero"),
            ("2 +", "cannot calculate"),
            ("two plus two", "unknown identifier"),
            ("roll d6", "random"),
            ("5 USD to EUR", "exchange rates"),
            ("1 << 10000000000", "not taken"),
            ("(x: x x) (x: x x)", "not taken"),
            ("   ", "no value"),
            ("\u{0}", "cannot calculate"),
        ] {
            let error = calculated(expression).await.unwrap_err();
            assert!(error.contains(words), "{expression}: {error}");
        }
    }

    #[tokio::test]
    async fn nothing_runs_for_ever() {
        let deep = |open: &str| format!("{}1{}", open.repeat(20), ")".repeat(20));
        for expression in [
            "9^9^9^9",
            "1000000!",
            "pi to 1000000000 dp",
            "d1000000000",
            &deep("(1+"),
            &deep("1 (1 "),
            &format!("1{}", ")".repeat(200)),
        ] {
            let started = Instant::now();
            assert!(calculated(expression).await.is_err(), "{expression}");
            assert!(started.elapsed() < Duration::from_secs(10), "{expression}: {:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn long_chains_fit_the_stack() {
        for expression in
            ["-".repeat(255) + "1", format!("1{}", "^1".repeat(127)), format!("1{}", "+1".repeat(127)), "sqrt ".repeat(50) + "1"]
        {
            // What matters is that the process is still there.
            let _ = calculated(&expression).await;
        }
    }
}
