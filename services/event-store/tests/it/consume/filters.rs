//! A group gets what passes its filter and nothing else, whatever of the filter the server knows and whatever the dispatcher does.

use std::time::Duration;

use causeway_proto::v1;
use serde_json::json;

use super::{Member, start};
use crate::harness::World;

/// An event of the log, by what a group can filter.
struct Written {
    position: u64,
    event_type: &'static str,
    category: &'static str,
    aggregate: &'static str,
    source: &'static str,
    chain: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_any_filter_gets_just_what_passes_it() {
    let World { gateway, nats: _nats, dir: _dir } = World::start().await;
    let mut written = Vec::new();
    for number in 0..24_usize {
        let (event_type, category) =
            [("NoteTaken", "custom"), ("MessageReceived", "input"), ("OrderPlaced", "custom")][number % 3];
        let (aggregate, source) = (["a", "b"][number / 3 % 2], ["shop", "desk"][number / 6 % 2]);
        let chain = format!("{:032x}", number / 12 + 1);
        let event = json!({
            "type": event_type, "aggregate_id": aggregate, "data": {"content": "x", "number": number},
            "metadata": {"source": source, "correlation_id": chain},
        });
        let position = gateway.post(&event).await.created()["position"].as_u64().unwrap();
        written.push(Written { position, event_type, category, aggregate, source, chain });
    }
    let chain = written[0].chain.clone();
    let filter = |change: &dyn Fn(&mut v1::Filter)| {
        let mut filter = v1::Filter::default();
        change(&mut filter);
        filter
    };
    let filters = [
        filter(&|_| {}),
        filter(&|filter| filter.aggregate_id = "a".into()),
        filter(&|filter| filter.category = "input".into()),
        filter(&|filter| filter.source = "desk".into()),
        filter(&|filter| filter.correlation_id = chain.clone()),
        filter(&|filter| filter.types = vec!["OrderPlaced".into()]),
        filter(&|filter| filter.types = vec!["OrderPlaced".into(), "MessageReceived".into()]),
        filter(&|filter| filter.types = vec!["O*".into(), "M*".into()]),
        filter(&|filter| (filter.aggregate_id, filter.category) = ("b".into(), "custom".into())),
        filter(&|filter| (filter.aggregate_id, filter.types) = ("b".into(), vec!["OrderPlaced".into()])),
        filter(&|filter| (filter.category, filter.types) = ("custom".into(), vec!["N*".into()])),
        filter(&|filter| {
            (filter.aggregate_id, filter.source, filter.correlation_id) = ("a".into(), "shop".into(), chain.clone());
        }),
        filter(&|filter| filter.aggregate_id = "nobody".into()),
    ];
    for (at, filter) in filters.into_iter().enumerate() {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let of_type = |event_type: &str| {
            let matches = |pattern: &String| match pattern.strip_suffix('*') {
                Some(prefix) => event_type.starts_with(prefix),
                None => pattern == event_type,
            };
            filter.types.is_empty() || filter.types.iter().any(matches)
        };
        let passes = |event: &&Written| {
            of_type(event.event_type)
                && is(&filter.category, event.category)
                && is(&filter.aggregate_id, event.aggregate)
                && is(&filter.source, event.source)
                && is(&filter.correlation_id, &event.chain)
        };
        let wanted: Vec<u64> = written.iter().filter(passes).map(|event| event.position).collect();
        let begin = v1::ConsumeStart { filter: Some(filter.clone()), ..start(&format!("g{at}")) };
        let mut member = Member::of(&gateway, begin).await;
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            let delivery = member.next().await;
            member.ack(&delivery).await;
            got.push(delivery.event.unwrap().position);
        }
        member.hears_nothing(Duration::from_millis(200)).await;
        got.sort_unstable();
        assert_eq!(got, wanted, "{filter:?}");
        member.leave().await;
    }
    gateway.stop().await;
}
