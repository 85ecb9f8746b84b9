//! Names of subjects, streams and consumers, each computed in one place.
//!
//! `<namespace>.ev.<aggregate>.<category>` is the subject of an event; the aggregate is escaped into one token. The server does
//! not validate filters, and a fence on a wrong one silently holds, so nobody else writes a subject.

use std::fmt::Write as _;

use causeway_event::notation::percent_decode;
use causeway_event::{AggregateId, Category};

use crate::LogError;
use crate::group::PREFIX;

/// Everything that the namespace prefixes.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Result<Self, LogError> {
        let fits = (1..=32).contains(&namespace.len())
            && namespace.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !fits {
            return Err(LogError::Mismatch {
                what: format!("the namespace {namespace:?} must be 1 to 32 letters, digits, - or _"),
            });
        }
        // So NATS names the streams of buckets, which are those of another namespace.
        if ["KV_", "OBJ_"].iter().any(|bucket| namespace.starts_with(bucket)) {
            return Err(LogError::Mismatch { what: format!("the namespace {namespace:?} must not begin with KV_ or OBJ_") });
        }
        Ok(Self { namespace: namespace.to_owned() })
    }

    pub(crate) fn events_stream(&self) -> String {
        format!("{}_EVENTS", self.namespace)
    }

    pub(crate) fn dead_letters_stream(&self) -> String {
        format!("{}_DLQ", self.namespace)
    }

    /// Stands while streams are restored. No subject of ours leads to it.
    pub(crate) fn restore_stream(&self) -> String {
        format!("{}_RESTORE", self.namespace)
    }

    /// The object store of the gateways' copies of their read models.
    pub(crate) fn read_models_bucket(&self) -> String {
        format!("{}_read-models", self.namespace)
    }

    pub(crate) fn consumer(&self, processor: &str) -> String {
        format!("{}_{processor}", self.namespace)
    }

    /// The exact subject of an event: what is published and what is fenced.
    pub(crate) fn event(&self, aggregate: &AggregateId, category: Category) -> String {
        format!("{}.ev.{}.{category}", self.namespace, token(aggregate))
    }

    /// A subject without the namespace, which it must not lose if it is of another.
    pub(crate) fn relative<'s>(&self, subject: &'s str) -> &'s str {
        subject.strip_prefix(&self.namespace).and_then(|rest| rest.strip_prefix('.')).unwrap_or(subject)
    }

    /// What [`relative`](Self::relative) made shorter.
    pub(crate) fn absolute(&self, relative: &str) -> String {
        format!("{}.{relative}", self.namespace)
    }

    /// Whether a stream of this name, for these subjects, is one of this namespace. `others` are the namespaces that there are.
    pub(crate) fn has_stream(&self, name: &str, subjects: &[String], others: &[String]) -> bool {
        let (ns, dotted) = (format!("{}_", self.namespace), format!("{}.", self.namespace));
        // A namespace may begin as another one does: its streams are told by their subjects, its buckets by who else is there.
        match name.strip_prefix("KV_").or_else(|| name.strip_prefix("OBJ_")) {
            Some(bucket) => {
                let is_theirs = |other: &String| other.len() > self.namespace.len() && bucket.starts_with(&format!("{other}_"));
                bucket.starts_with(&ns) && !others.iter().any(is_theirs)
            }
            None => name.starts_with(&ns) && subjects.iter().all(|subject| subject.starts_with(&dotted)),
        }
    }

    /// Whose events a stream of this name, for these subjects, holds.
    pub(crate) fn namespace_of<'s>(name: &'s str, subjects: &[String]) -> Option<&'s str> {
        let namespace = name.strip_suffix("_EVENTS")?;
        let ours = |subject: &String| subject.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('.'));
        subjects.iter().all(ours).then_some(namespace)
    }

    /// The category that a subject of ours ends in.
    pub(crate) fn category_of(subject: &str) -> Option<Category> {
        subject.rsplit('.').next()?.parse().ok()
    }

    /// All events of one aggregate.
    pub(crate) fn aggregate(&self, aggregate: &AggregateId) -> String {
        format!("{}.ev.{}.*", self.namespace, token(aggregate))
    }

    /// All events of one category.
    pub(crate) fn category(&self, category: Category) -> String {
        format!("{}.ev.*.{category}", self.namespace)
    }

    /// All events.
    pub(crate) fn all_events(&self) -> String {
        format!("{}.ev.>", self.namespace)
    }

    pub(crate) fn dead_letter(&self, processor: &str, aggregate: &AggregateId) -> String {
        format!("{}.dlq.{processor}.{}", self.namespace, token(aggregate))
    }

    pub(crate) fn all_dead_letters(&self) -> String {
        format!("{}.dlq.>", self.namespace)
    }

    /// Letters of a processor, or of a group: all aggregates.
    pub(crate) fn dead_letters_of(&self, processor: &str) -> String {
        format!("{}.dlq.{processor}.*", self.namespace)
    }

    /// Letters of whoever goes by this name: a processor, or a group. No processor's name begins as a group's subject does.
    pub(crate) fn dead_letters_by_name(&self, name: &str) -> Vec<String> {
        let of_group = self.dead_letters_of(&format!("{PREFIX}{name}"));
        match name.starts_with(PREFIX) {
            true => vec![of_group],
            false => vec![self.dead_letters_of(name), of_group],
        }
    }

    /// Letters of all, without those that are on their way back to a group.
    pub(crate) fn dead_letters_of_all(&self) -> String {
        format!("{}.dlq.*.*", self.namespace)
    }

    /// A letter that is on its way back to its group.
    pub(crate) fn replay(&self, group: &str, aggregate: &AggregateId) -> String {
        format!("{}.dlq._replay.{group}.{}", self.namespace, token(aggregate))
    }

    /// All letters that are on their way back to a group.
    pub(crate) fn replays(&self, group: &str) -> String {
        format!("{}.dlq._replay.{group}.*", self.namespace)
    }

    /// What stands for the processor in the subject of a letter; nothing in that of a replay.
    pub(crate) fn processor_of(subject: &str) -> Option<&str> {
        subject.split('.').nth(2).filter(|name| *name != "_replay")
    }

    /// The bucket of the leases by which one gateway at a time dispatches a group.
    pub(crate) fn leases(&self) -> String {
        format!("{}_GROUPS", self.namespace)
    }

    /// Where a group's dispatcher listens. Core NATS, never stored, like all that a group says.
    pub(crate) fn group_dispatcher(&self, group: &str) -> String {
        format!("{}.group.{group}.dispatcher", self.namespace)
    }

    /// Where one member of a group listens.
    pub(crate) fn group_member(&self, group: &str, member: &str) -> String {
        format!("{}.group.{group}.member.{member}", self.namespace)
    }

    /// Where all members of a group listen.
    pub(crate) fn group_members(&self, group: &str) -> String {
        format!("{}.group.{group}.members", self.namespace)
    }

    /// Live deltas of one aggregate: core NATS, never stored.
    pub(crate) fn live(&self, aggregate: &AggregateId) -> String {
        format!("{}.live.{}", self.namespace, token(aggregate))
    }

    /// What the server deduplicates by. Ids are stream-wide, so a client's key is prefixed with its aggregate.
    pub(crate) fn message_id(aggregate: &AggregateId, key: &str) -> String {
        format!("{}:{}", token(aggregate), escape(key))
    }

    /// The client's key in a message id of this aggregate, if that is what it is.
    pub(crate) fn key_of(aggregate: &AggregateId, message_id: &str) -> Option<String> {
        let escaped = message_id.strip_prefix(&token(aggregate))?.strip_prefix(':')?;
        percent_decode(escaped.as_bytes())
    }
}

/// The aggregate as one subject token: letters, digits, `_` and `-` as they are, every other byte as `%XX`.
fn token(aggregate: &AggregateId) -> String {
    escape(aggregate.as_str())
}

fn escape(text: &str) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => token.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(token, "%{byte:02X}")),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subject_is_computed_from_the_event() {
        let names = Names::new("causeway").unwrap();
        let aggregate = "telegram:4.2 *>é".parse().unwrap();
        assert_eq!(names.event(&aggregate, Category::Input), "causeway.ev.telegram%3A4%2E2%20%2A%3E%C3%A9.input");
        assert!(["a.b", "KV_a", "OBJ_a"].iter().all(|name| Names::new(name).is_err()));
    }

    #[test]
    fn what_another_namespace_has_is_not_ours_however_alike_their_names_are() {
        let (names, others) = (Names::new("shop").unwrap(), ["shop".to_owned(), "shop_eu".to_owned(), "sho".to_owned()]);
        let has = |name: &str, subject: &str| names.has_stream(name, &[subject.to_owned()], &others);
        assert!(has("shop_EVENTS", "shop.ev.>") && has("KV_shop_GROUPS", "") && has("OBJ_shop_artifacts", ""));
        assert!(!has("shop_eu_EVENTS", "shop_eu.ev.>") && !has("KV_shop_eu_GROUPS", "") && !has("OBJ_shop_eu_artifacts", ""));
        assert!(
            names.has_stream("KV_shop_eu_GROUPS", &[], &others[..1]),
            "a bucket of that name is ours if nobody else is there"
        );
        assert_eq!(Names::namespace_of("shop_eu_EVENTS", &["shop_eu.ev.>".to_owned()]), Some("shop_eu"));
        assert_eq!(Names::namespace_of("shop_eu_EVENTS", &["orders.>".to_owned()]), None);
    }

    proptest! {
        #[test]
        fn different_aggregates_have_different_tokens_of_one_part(a in "\\PC{1,40}", b in "\\PC{1,40}") {
            let (Ok(a), Ok(b)) = (a.parse::<AggregateId>(), b.parse::<AggregateId>()) else { return Ok(()) };
            prop_assert_eq!(a == b, token(&a) == token(&b));
            prop_assert!(token(&a).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%_-".contains(&byte)));
        }

        #[test]
        fn a_key_reads_back_from_its_message_id(aggregate in "\\PC{1,20}", key in "\\PC{1,40}") {
            let Ok(aggregate) = aggregate.parse::<AggregateId>() else { return Ok(()) };
            prop_assert_eq!(Names::key_of(&aggregate, &Names::message_id(&aggregate, &key)), Some(key));
        }
    }
}
