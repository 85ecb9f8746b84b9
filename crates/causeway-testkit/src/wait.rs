//! Waiting for something to become true, with a limit and a reason.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is asked again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `condition` until it gives a value. Panics, saying what was waited for, when `limit` has passed.
///
/// ```
/// # use std::time::Duration;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let answer = causeway_testkit::wait_until("the answer", Duration::from_secs(5), async || Some(42)).await;
/// assert_eq!(answer, 42);
/// # });
/// ```
pub async fn wait_until<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            Ok(None) | Err(_) => panic!("waited {limit:?} in vain for {what}"),
        }
    }
}

/// The checkout that this crate was built in.
pub fn workspace_root() -> PathBuf {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crates.ancestors().nth(2).map(PathBuf::from).expect("the crate stands two folders below the root")
}
