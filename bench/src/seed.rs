//! A log to read: many events of several aggregates.

use anyhow::{Context as _, Result, ensure};
use causeway_proto::v1;

use crate::process::Causeway;
use crate::ways;

/// Events of one atomic append: the most that one may have.
const BATCH: u64 = 1000;
/// Aggregates that the events belong to in turn.
const AGGREGATES: u64 = 100;

/// For a gateway whose log has what was seeded and nothing else: no signed checkpoint comes between.
pub(crate) const NO_CHECKPOINTS: [(&str, &str); 2] =
    [("CAUSEWAY__EVENT_STORE__INTEGRITY__EVERY_EVENTS", "1000000000"), ("CAUSEWAY__EVENT_STORE__INTEGRITY__EVERY", "1d")];

/// Appends `count` events to a log that is empty so far.
pub(crate) async fn seed(causeway: &Causeway, count: u64) -> Result<()> {
    let mut client = ways::connect(causeway).await?;
    let mut first = 0;
    while first < count {
        let end = count.min(first + BATCH);
        let events = (first..end).map(|index| ways::event(&format!("reader-{}", index % AGGREGATES))).collect();
        let request = v1::AppendRequest { events, ..v1::AppendRequest::default() };
        let appended = client.append(request).await.context("a batch of events to read")?.into_inner();
        let last = appended.events.last().context("a receipt")?.position;
        ensure!(last == end, "the log has {last} events, not {end}: something else appends");
        first = end;
    }
    Ok(())
}
