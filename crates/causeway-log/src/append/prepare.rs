//! From what a caller wants to the messages that say it. Checks everything that can be checked without the server.

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use causeway_event::{CorrelationId, DATA_BYTES_MAX, EventId, Invalid, NewEvent, Position, cloudevents};
use uuid::Uuid;

use super::{Append, EVENTS_MAX, Fence};
use crate::LogError;
use crate::names::Names;

/// An append, ready to be published as often as needed.
pub(super) struct Prepared {
    pub(super) messages: Vec<Message>,
    pub(super) fences: Vec<Fence>,
    /// The first message's id: what a retry is recognised by.
    pub(super) message_id: String,
}

impl Prepared {
    /// Whether it may share an atomic batch with others: a fence that does not hold would refuse them all.
    pub(super) fn may_be_grouped(&self) -> bool {
        self.messages.len() == 1 && self.fences.is_empty()
    }
}

pub(super) struct Message {
    pub(super) id: EventId,
    pub(super) correlation: CorrelationId,
    pub(super) subject: String,
    headers: Vec<(&'static str, String)>,
    pub(super) payload: Bytes,
    /// The position that the subject's last message must have.
    pub(super) fence: Option<Position>,
}

impl Message {
    /// The headers as they are sent. The client library wants a map, which it takes: so none is made before.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            // No allocation for a name that is known at compile time.
            headers.insert(HeaderName::from_static(name), value.as_str());
        }
        headers
    }
}

pub(super) fn prepare(names: &Names, append: Append) -> Result<Prepared, LogError> {
    let Append { events, expected: mut fences, idempotency_key } = append;
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(Invalid::new("/events", format!("has {} events; 1 to {EVENTS_MAX} are allowed", events.len())).into());
    }
    check_fences(&events, &fences)?;
    let mut messages = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        check(event, index)?;
        messages.push(message(names, event));
    }
    let message_id = match idempotency_key {
        Some(key) => Names::message_id(&events[0].aggregate_id, key.as_str()),
        None => messages[0].id.to_string(),
    };
    messages[0].headers.push(("Nats-Msg-Id", message_id.clone()));
    // A batch takes a fence only on the first message of its subject.
    for fence in &mut fences {
        let subject = names.event(&fence.aggregate_id, fence.category);
        if let Some(message) = messages.iter_mut().find(|message| message.subject == subject) {
            message.fence = Some(fence.position);
            message.headers.push(("Nats-Expected-Last-Subject-Sequence", fence.position.to_string()));
        }
    }
    Ok(Prepared { messages, fences, message_id })
}

fn check(event: &NewEvent, index: usize) -> Result<(), LogError> {
    let field = format!("/events/{index}");
    let bytes = event.data.as_bytes().len();
    if bytes > DATA_BYTES_MAX {
        return Err(LogError::TooLarge { field: format!("{field}/data"), bytes, bytes_max: DATA_BYTES_MAX });
    }
    let label_bytes: usize = event.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if label_bytes > LABEL_BYTES_MAX {
        return Err(LogError::TooLarge {
            field: format!("{field}/metadata/labels"),
            bytes: label_bytes,
            bytes_max: LABEL_BYTES_MAX,
        });
    }
    if event.labels.len() > LABELS_MAX {
        let reason = format!("has {} labels; at most {LABELS_MAX} are allowed", event.labels.len());
        return Err(Invalid::new(format!("{field}/metadata/labels"), reason).into());
    }
    event.check().map_err(|invalid| invalid.within(&field).into())
}

/// The most bytes of an event's labels: they are a header, of which the server takes 64 KiB. A byte of them takes up to six there, as
/// JSON or percent-encoded, ...
const LABEL_BYTES_MAX: usize = 8 * 1024;
/// ... and what stands around each label fourteen.
const LABELS_MAX: usize = 256;

/// A fence holds only on a subject that this very append publishes to.
fn check_fences(events: &[NewEvent], fences: &[Fence]) -> Result<(), Invalid> {
    for (index, fence) in fences.iter().enumerate() {
        let field = format!("/expected/{index}");
        let same = |other: &Fence| other.aggregate_id == fence.aggregate_id && other.category == fence.category;
        if fences[..index].iter().any(same) {
            return Err(Invalid::new(field, "names an aggregate and category a second time"));
        }
        if !events.iter().any(|event| event.aggregate_id == fence.aggregate_id && event.category() == fence.category) {
            let reason =
                format!("no event of this append is of aggregate {} and category {}", fence.aggregate_id, fence.category);
            return Err(Invalid::new(field, reason));
        }
    }
    Ok(())
}

fn message(names: &Names, event: &NewEvent) -> Message {
    let id = EventId::from_uuid(Uuid::now_v7());
    let correlation = event.lineage.correlation().cloned().unwrap_or_else(|| CorrelationId::from_uuid(Uuid::now_v7()));
    Message {
        id,
        subject: names.event(&event.aggregate_id, event.category()),
        headers: cloudevents::headers(event, id, &correlation),
        payload: Bytes::copy_from_slice(event.data.as_bytes()),
        correlation,
        fence: None,
    }
}

#[cfg(test)]
mod tests {
    use causeway_event::{Category, Data, Labels, Lineage};

    use super::*;

    fn event(aggregate: &str, event_type: &str, data: &str) -> NewEvent {
        NewEvent {
            event_type: event_type.parse().unwrap(),
            aggregate_id: aggregate.parse().unwrap(),
            data: Data::from_json(data.as_bytes()).unwrap(),
            source: "test".parse().unwrap(),
            lineage: Lineage::Root { correlation: None },
            labels: Labels::new(),
            schema_version: None,
            traceparent: None,
        }
    }

    fn fence(aggregate: &str, category: Category, position: u64) -> Fence {
        Fence { aggregate_id: aggregate.parse().unwrap(), category, position: Position::new(position) }
    }

    fn refused(append: Append) -> String {
        match prepare(&Names::new("test").unwrap(), append).map(drop) {
            Err(LogError::Invalid(invalid)) => invalid.field,
            Err(LogError::TooLarge { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_appended_is_named() {
        let note = || event("a", "NoteTaken", "1");
        assert_eq!(refused(Append::default()), "/events");
        assert_eq!(refused(Append { events: vec![note(); 1001], ..Append::default() }), "/events");
        assert_eq!(
            refused(Append { events: vec![note(), event("a", "MessageReceived", "{}")], ..Append::default() }),
            "/events/1/data/content"
        );
        let large = format!("\"{}\"", "x".repeat(DATA_BYTES_MAX));
        assert_eq!(refused(Append { events: vec![event("a", "NoteTaken", &large)], ..Append::default() }), "/events/0/data");
        let labelled = |labels: Labels| NewEvent { labels, ..note() };
        let many = (0..=LABELS_MAX).map(|number| (number.to_string(), String::new())).collect();
        let long = Labels::from([("a".into(), "x".repeat(LABEL_BYTES_MAX))]);
        for labels in [many, long] {
            let append = Append { events: vec![labelled(labels)], ..Append::default() };
            assert_eq!(refused(append), "/events/0/metadata/labels");
        }
        let foreign = fence("b", Category::Custom, 0);
        assert_eq!(refused(Append { events: vec![note()], expected: vec![foreign], idempotency_key: None }), "/expected/0");
        let twice = vec![fence("a", Category::Custom, 0), fence("a", Category::Custom, 1)];
        assert_eq!(refused(Append { events: vec![note()], expected: twice, idempotency_key: None }), "/expected/1");
    }

    #[test]
    fn a_fence_stands_on_the_first_message_of_its_subject_and_the_id_on_the_first_message() {
        let append = Append {
            events: vec![event("a", "NoteTaken", "1"), event("b", "NoteTaken", "2"), event("b", "NoteTaken", "3")],
            expected: vec![fence("b", Category::Custom, 7)],
            idempotency_key: Some("k 1".parse().unwrap()),
        };
        let prepared = prepare(&Names::new("test").unwrap(), append).unwrap();
        let fences: Vec<_> = prepared.messages.iter().map(|message| message.fence.map(Position::get)).collect();
        assert_eq!(fences, [None, Some(7), None]);
        assert_eq!(prepared.message_id, "a:k%201");
        let with_id = |message: &&Message| message.headers().get("Nats-Msg-Id").is_some();
        assert_eq!(prepared.messages.iter().filter(with_id).count(), 1);
    }
}
