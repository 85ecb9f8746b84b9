//! The deliveries that a run holds unacknowledged.

use causeway_event::{EventId, Position};

/// An event whose delivery is held until nothing is due.
///
/// A claim names one. Whoever else gets that delivery knows that the claim's owner is gone; and an owner that finds a newer
/// claim on a delivery it holds knows that it has been taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The event.
    pub event: EventId,
    /// How far the log went when it came. A claim that stands there already is somebody's who has lost the delivery.
    pub since: Position,
}
