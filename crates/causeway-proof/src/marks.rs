//! Marks: what tells which entry was altered, where a checkpoint only tells that one was.
//!
//! The first bytes of each leaf, in a row up to the entry that a checkpoint vouches for last. They are no proof: the signature does
//! not cover them, and two entries in 65,536 have the same one. The chain proves; marks only find.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_event::{Invalid, Position};

use crate::hash::Hash;

/// How many there are at most: 44 KB, which every NATS takes.
const MARKS_MAX: usize = if cfg!(test) { 8 } else { 16_384 };

/// The marks of entries at consecutive positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    marks: VecDeque<[u8; 2]>,
    last: Position,
}

impl Marks {
    /// Adds that of the next entry. Behind a gap they begin anew; of too many the newest stay.
    pub fn push(&mut self, position: Position, leaf: &Hash) {
        if position != self.last.next() {
            self.marks.clear();
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back(mark(leaf));
        self.last = position;
    }

    /// Those behind a position as a checkpoint has them: in base64.
    pub fn behind(&self, position: Position) -> String {
        let wanted = usize::try_from(self.last.get().saturating_sub(position.get())).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self.marks.iter().skip(self.marks.len().saturating_sub(wanted)).flatten().copied().collect();
        STANDARD.encode(bytes)
    }

    /// Those of a checkpoint that vouches for `last`.
    pub(crate) fn read(text: &str, last: Position) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("", "is not base64 of two bytes for each entry up to the position");
        let bytes = STANDARD.decode(text).map_err(|_| invalid())?;
        let (marks, rest) = bytes.as_chunks::<2>();
        let fit = rest.is_empty() && u64::try_from(marks.len()).is_ok_and(|count| count <= last.get());
        fit.then(|| Self { marks: marks.iter().copied().collect(), last }).ok_or_else(invalid)
    }

    /// Whether the entry at a position is another one than that of the marks. They say nothing of most positions.
    pub(crate) fn differ(&self, position: Position, leaf: &Hash) -> bool {
        self.at(position).is_some_and(|known| *known != mark(leaf))
    }

    /// Whether they say anything of a position.
    pub(crate) fn cover(&self, position: Position) -> bool {
        self.at(position).is_some()
    }

    fn at(&self, position: Position) -> Option<&[u8; 2]> {
        let from_end = self.last.get().checked_sub(position.get()).and_then(|distance| usize::try_from(distance).ok())?;
        self.marks.get(self.marks.len().checked_sub(from_end + 1)?)
    }
}

fn mark(leaf: &Hash) -> [u8; 2] {
    let [first, second, ..] = *leaf.as_bytes();
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(position: u64) -> Hash {
        Hash::of(&position.to_be_bytes())
    }

    fn marks(positions: impl IntoIterator<Item = u64>) -> Marks {
        let mut marks = Marks::default();
        positions.into_iter().for_each(|position| marks.push(Position::new(position), &leaf(position)));
        marks
    }

    #[test]
    fn each_entry_is_known_again_and_no_other() {
        let text = marks(1..=6).behind(Position::new(2));
        let read = Marks::read(&text, Position::new(6)).unwrap();
        for position in 0..=8 {
            let at = Position::new(position);
            assert!(!read.differ(at, &leaf(position)), "{position}");
            assert_eq!(read.differ(at, &leaf(100 + position)), (3..=6).contains(&position), "{position}");
        }
    }

    #[test]
    fn a_gap_begins_them_anew_and_of_too_many_the_newest_stay() {
        assert_eq!(marks([1, 2, 4, 5]), marks([4, 5]));
        assert_eq!(
            marks(1..=2 * MARKS_MAX as u64).behind(Position::START),
            marks(MARKS_MAX as u64 + 1..=2 * MARKS_MAX as u64).behind(Position::START)
        );
        assert_eq!(marks(1..=3).behind(Position::new(3)), "");
    }

    #[test]
    fn what_are_no_marks_is_refused() {
        for text in ["?", "AA==", "AAAAAAAA"] {
            assert!(Marks::read(text, Position::new(2)).is_err(), "{text}");
        }
        assert_eq!(Marks::read("", Position::START).unwrap(), Marks::default());
    }
}
