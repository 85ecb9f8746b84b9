//! Snapshots of an older version of a view are made again in the background, beside the old ones, which go when the new one stands.
//!
//! No answer depends on it: a view without a snapshot of its version is folded from the events. It saves the first one who asks
//! after an update from waiting for that.

use std::time::Duration;

use crate::gateway::Gateway;
use crate::project::{self, VIEWS};

/// Ids that are looked up at a time.
const PAGE: usize = 100;
/// Pause between two of them: requests come first.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether the read model has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes all of them once. May be dropped at any time: the next start goes on with what is left.
pub(crate) async fn run(gateway: &Gateway) {
    while gateway.ready.check().is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for view in &VIEWS {
        let (mut after, mut made) = (String::new(), 0_u64);
        loop {
            let ids = match gateway.store.outdated(view.name, view.version, &after, PAGE).await {
                Ok(ids) => ids,
                Err(error) => {
                    tracing::debug!(%error, view = view.name, "snapshots of older versions stay until the next start");
                    return;
                }
            };
            let Some(last) = ids.last() else { break };
            after.clone_from(last);
            for id in &ids {
                match project::refresh(gateway, view.name, id).await {
                    Ok(()) => made += 1,
                    Err(error) => tracing::debug!(%error, view = view.name, "a snapshot was not made again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        if made > 0 {
            tracing::info!(view = view.name, version = view.version, snapshots = made, "older snapshots were made again");
        }
    }
}
