//! The AI processor: a turn with tools, as events
