//! What a dispatcher leaves to the next one: how often it delivered what, and until when it rests, as text in the lease. One whose
//! members die of an event would otherwise give it out for ever, and "not within the hour" would mean until the next dispatcher.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use causeway_event::Position;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dispatch::Note;

/// Events that are noted at most. They travel with each renewal and must fit into one message: at their longest they have 110 KiB.
const NOTES_MAX: usize = 2048;

/// What both clocks say at one moment: those after us have another monotonic one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    instant: Instant,
    unix_ms: i64,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), unix_ms: Timestamp::now().as_millisecond() }
    }
}

/// Position, deliveries, and in milliseconds since 1970 until when it rests, which gateways before this one leave out.
#[derive(Serialize, Deserialize)]
struct Noted(u64, u32, #[serde(default, skip_serializing_if = "Option::is_none")] Option<i64>);

/// Those that were delivered most often, if there are too many.
pub(super) fn write(notes: impl Iterator<Item = Note>, now: Now) -> String {
    let unix_ms = |until: Instant| {
        let rest = until.saturating_duration_since(now.instant).as_millis();
        now.unix_ms.saturating_add(i64::try_from(rest).unwrap_or(i64::MAX))
    };
    let mut notes: Vec<Noted> =
        notes.map(|(position, deliveries, until)| Noted(position.get(), deliveries, until.map(unix_ms))).collect();
    notes.sort_unstable_by_key(|Noted(position, deliveries, _)| (Reverse(*deliveries), *position));
    notes.truncate(NOTES_MAX);
    serde_json::to_string(&notes).unwrap_or_default()
}

/// Nothing of what is of a later version.
pub(super) fn read(notes: &str, now: Now) -> Vec<Note> {
    let until = |unix_ms: i64| {
        let rest = u64::try_from(unix_ms.saturating_sub(now.unix_ms)).unwrap_or_default();
        now.instant.checked_add(Duration::from_millis(rest))
    };
    let notes: Vec<Noted> = serde_json::from_str(notes).unwrap_or_default();
    let note = |Noted(position, deliveries, unix_ms)| (Position::new(position), deliveries, unix_ms.and_then(until));
    notes.into_iter().map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit_into_a_message_and_have_what_was_delivered_most_often() {
        let now = Now::read();
        let until = Some(now.instant + Duration::from_secs(3600));
        let many =
            (0..1_000_000).map(|n| (Position::new(u64::MAX - n), if n == 999_999 { u32::MAX } else { u32::MAX - 1 }, until));
        let notes = write(many, now);
        assert!(notes.len() <= 110 << 10, "{}", notes.len());
        let read = read(&notes, now);
        assert_eq!((read.len(), read[0]), (NOTES_MAX, (Position::new(u64::MAX - 999_999), u32::MAX, until)));
    }

    #[test]
    fn what_rests_rests_as_long_by_the_next_ones_clock() {
        let now = Now::read();
        let minute = Duration::from_secs(60);
        let text = write([(Position::new(7), 2, Some(now.instant + 2 * minute))].into_iter(), now);
        // A minute later, on a machine that has been up for longer.
        let later = Now { instant: now.instant + 9 * minute, unix_ms: now.unix_ms + 60_000 };
        assert_eq!(read(&text, later), [(Position::new(7), 2, Some(later.instant + minute))]);
        let after = Now { unix_ms: now.unix_ms + 1_000_000, ..later };
        assert_eq!(read(&text, after), [(Position::new(7), 2, Some(after.instant))]);
    }

    #[test]
    fn notes_that_cannot_be_read_say_nothing() {
        let now = Now::read();
        assert_eq!(read(&write([(Position::new(7), 2, None)].into_iter(), now), now), [(Position::new(7), 2, None)]);
        for text in ["", "{\"later\": 1}"] {
            assert_eq!(read(text, now), [], "{text}");
        }
        // Without a rest they are as they were before there was one.
        assert_eq!(write([(Position::new(7), 2, None)].into_iter(), now), "[[7,2]]");
    }
}
