//! Snapshots of an older version of a view are made again in the background, beside the old ones, which go when the new one stands;
//! and so are those in which events of a type are shown in an older version than it has by now.
//!
//! No answer depends on it: a view without a snapshot that can be used is folded from the events. It saves the first one who asks
//! after an update from waiting for that.

use std::time::Duration;

use causeway_event::Position;

use crate::gateway::Gateway;
use crate::project::{self, VIEWS, View};

/// Ids that are looked up at a time.
const PAGE: usize = 100;
/// Pause between two of them: requests come first.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether the read model has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes all of them once, and those of the users' types whenever one gets a new version. May be dropped at any time: the next
/// start goes on with what is left.
pub(crate) async fn run(gateway: &Gateway) {
    while gateway.ready.check().is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for view in &VIEWS {
        again(gateway, view, view.version).await;
    }
    let mut revision = Position::START;
    loop {
        revision = gateway.types.revised(revision).await;
        for view in VIEWS.iter().filter(|view| view.own_types) {
            // Those of the view's version as well: whether they can be used is seen one by one.
            again(gateway, view, view.version + 1).await;
        }
    }
}

/// Makes those of versions before this one again that cannot be used.
async fn again(gateway: &Gateway, view: &View, before: u32) {
    let (mut after, mut made) = (String::new(), 0_u64);
    loop {
        let ids = match gateway.store.outdated(view.name, before, &after, PAGE).await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::debug!(%error, view = view.name, "snapshots that cannot be used stay until the next start");
                return;
            }
        };
        let Some(last) = ids.last() else { break };
        after.clone_from(last);
        for id in &ids {
            match project::refresh(gateway, view.name, id).await {
                Ok(again) => made += u64::from(again),
                Err(error) => tracing::debug!(%error, view = view.name, "a snapshot was not made again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    if made > 0 {
        tracing::info!(view = view.name, version = view.version, snapshots = made, "older snapshots were made again");
    }
}
