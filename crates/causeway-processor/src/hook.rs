//! Places at which a test may hold a process in order to kill it there.

/// In a debug build whose environment names this step in `CAUSEWAY_TEST_PAUSE_AT`, says so and waits for ever. Otherwise does
/// nothing: a release build does not even look.
#[allow(clippy::print_stderr)]
pub async fn reached(step: &str) {
    if cfg!(debug_assertions) && std::env::var("CAUSEWAY_TEST_PAUSE_AT").is_ok_and(|named| named == step) {
        eprintln!("paused at {step}");
        std::future::pending::<()>().await;
    }
}
