//! A model-based property: whatever is appended, asked and killed in whatever order, two gateways and their log answer as a list in
//! memory would.
//!
//! Cases are drawn from a fixed seed; `CAUSEWAY_MODEL_SEED` draws others and `CAUSEWAY_MODEL_CASES` more of them. A case that fails is
//! made smaller, and shown with all that was asked and answered.

mod memory;
mod ops;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ops::{Crash, Op};
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use world::World;

const CASES: u32 = 6;
const OPS: std::ops::Range<usize> = 40..70;
/// How long a case that failed may be made smaller.
const SHRINK_MS: u32 = 120_000;

#[test]
fn the_store_answers_as_a_list_in_memory_would() {
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let seed = number("CAUSEWAY_MODEL_SEED", 1);
    let config = Config {
        cases: number("CAUSEWAY_MODEL_CASES", CASES),
        max_shrink_time: SHRINK_MS,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let bytes: [u8; 32] = std::array::from_fn(|n| seed.to_le_bytes()[n % 4]);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (conflicts, crashes) = (Cell::new(0), RefCell::new(BTreeSet::new()));
    let checked = runner.run(&vec(ops::op(), OPS), |ops| {
        let (told, down) = runtime.block_on(run(&ops)).map_err(|wrong| TestCaseError::fail(format!("{wrong:#}")))?;
        conflicts.set(conflicts.get() + told);
        crashes.borrow_mut().extend(down);
        Ok(())
    });
    if let Err(wrong) = checked {
        panic!("with CAUSEWAY_MODEL_SEED={seed}: {wrong}");
    }
    assert!(conflicts.get() > 0, "no conflict told its events: nothing of that was tested");
    assert_eq!(crashes.borrow().len(), Crash::KINDS, "not everything went down: {crashes:?}");
}

/// How many conflicts told their events, while nothing was down; and what went down.
async fn run(ops: &[Op]) -> Result<(usize, BTreeSet<&'static str>)> {
    let mut world = World::start().await?;
    let mut done = Ok(());
    for op in ops {
        done = world.perform(op).await;
        if done.is_err() {
            break;
        }
    }
    if done.is_ok() {
        done = world.check_everything().await;
    }
    done.with_context(|| format!("\n{}\n", world.story.join("\n")))?;
    Ok((world.conflicts, world.crashes))
}
