//! What a dispatcher leaves to the next one: how often it delivered what, as text in the lease. One whose members die of an event
//! would otherwise give it out for ever.

use std::cmp::Reverse;

use causeway_event::Position;

/// Events that are noted at most. They travel with each renewal and must fit into one message: at their longest they have 70 KiB.
const NOTES_MAX: usize = 2048;

/// Those that were delivered most often, if there are too many.
pub(super) fn write(deliveries: impl Iterator<Item = (Position, u32)>) -> String {
    let mut deliveries: Vec<(u64, u32)> = deliveries.map(|(position, n)| (position.get(), n)).collect();
    deliveries.sort_unstable_by_key(|(position, n)| (Reverse(*n), *position));
    deliveries.truncate(NOTES_MAX);
    serde_json::to_string(&deliveries).unwrap_or_default()
}

/// Nothing of what is of a later version.
pub(super) fn read(notes: &str) -> Vec<(Position, u32)> {
    let deliveries: Vec<(u64, u32)> = serde_json::from_str(notes).unwrap_or_default();
    deliveries.into_iter().map(|(position, n)| (Position::new(position), n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit_into_a_message_and_have_what_was_delivered_most_often() {
        let many = (0..1_000_000).map(|n| (Position::new(u64::MAX - n), if n == 999_999 { u32::MAX } else { u32::MAX - 1 }));
        let notes = write(many);
        assert!(notes.len() <= 70 << 10, "{}", notes.len());
        let read = read(&notes);
        assert_eq!((read.len(), read[0]), (NOTES_MAX, (Position::new(u64::MAX - 999_999), u32::MAX)));
    }

    #[test]
    fn notes_that_cannot_be_read_say_nothing() {
        assert_eq!(read(&write([(Position::new(7), 2)].into_iter())), [(Position::new(7), 2)]);
        assert_eq!(read(""), []);
        assert_eq!(read("{\"later\": 1}"), []);
    }
}
