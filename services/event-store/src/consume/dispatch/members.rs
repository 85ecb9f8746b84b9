//! The members of a group, and which of them is to have the next event.
//!
//! Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use causeway_event::Position;

use super::MEMBER_SILENCE;

#[derive(Default)]
pub(super) struct Members {
    members: BTreeMap<String, Member>,
    turn: u64,
}

struct Member {
    /// How many deliveries it works on at once, as it says.
    room: usize,
    /// What it has, as far as is known here.
    with: BTreeSet<Position>,
    /// How many more it says that it has: it was taken for dead, and they are somebody else's by now, or dealt with.
    more: usize,
    /// What it answered, as long as it says that it has that: it may not have understood that it was heard.
    answered: BTreeSet<Position>,
    heard_at: Instant,
    /// When it was its turn last.
    served: u64,
    /// A delivery ran out with it and it has said nothing since: it may hang, and gets one at a time.
    is_mute: bool,
    /// Until then others come before it.
    shunned_until: Option<Instant>,
}

impl Member {
    fn new(room: usize, now: Instant) -> Self {
        Self {
            room,
            with: BTreeSet::new(),
            more: 0,
            answered: BTreeSet::new(),
            heard_at: now,
            served: 0,
            is_mute: false,
            shunned_until: None,
        }
    }

    fn is_free(&self) -> bool {
        let room = if self.is_mute { self.room.min(1) } else { self.room };
        self.with.len() + self.more < room
    }

    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| now < until)
    }
}

impl Members {
    /// It says that it is there, and works on so many deliveries at once.
    pub(super) fn hear(&mut self, id: &str, room: usize, now: Instant) {
        let member = self.members.entry(id.to_owned()).or_insert_with(|| Member::new(room, now));
        (member.room, member.heard_at) = (room, now);
    }

    /// It says that this is all it has.
    pub(super) fn holds(&mut self, id: &str, held: &BTreeSet<Position>) {
        if let Some(member) = self.members.get_mut(id) {
            member.answered.retain(|position| held.contains(position));
            member.more =
                held.iter().filter(|position| !member.with.contains(position) && !member.answered.contains(position)).count();
        }
    }

    /// Its client said something.
    pub(super) fn spoke(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            (member.is_mute, member.shunned_until) = (false, None);
        }
    }

    /// It answered this, or its gateway did because it had not in time.
    pub(super) fn answered(&mut self, id: &str, position: Position) {
        if let Some(member) = self.members.get_mut(id) {
            member.answered.insert(position);
        }
    }

    /// It did not answer something in time. Others come before it until then.
    pub(super) fn ran_out(&mut self, id: &str, until: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            (member.is_mute, member.shunned_until) = (true, Some(until));
        }
    }

    /// It has this from now on.
    pub(super) fn take(&mut self, id: String, position: Position, now: Instant) {
        let member = self.members.entry(id).or_insert_with(|| Member::new(0, now));
        member.with.insert(position);
        member.answered.remove(&position);
    }

    /// It has this no more.
    pub(super) fn give_up(&mut self, id: &str, position: Position) {
        if let Some(member) = self.members.get_mut(id) {
            member.with.remove(&position);
        }
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.members.remove(id);
    }

    /// Nobody could be heard up to now.
    pub(super) fn excuse(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.heard_at = now;
        }
    }

    /// Those that were not heard of for too long.
    pub(super) fn silent(&self, now: Instant) -> Vec<String> {
        let silent = self.members.iter().filter(|(_, member)| member.heard_at + MEMBER_SILENCE <= now);
        silent.map(|(id, _)| id.clone()).collect()
    }

    /// What it has.
    pub(super) fn with(&self, id: &str) -> Vec<Position> {
        self.members.get(id).map(|member| member.with.iter().copied().collect()).unwrap_or_default()
    }

    /// What all have.
    pub(super) fn with_all(&self) -> Vec<Position> {
        self.members.values().flat_map(|member| member.with.iter().copied()).collect()
    }

    /// How many deliveries they have.
    pub(super) fn in_flight(&self) -> usize {
        self.members.values().map(|member| member.with.len()).sum()
    }

    /// Whether any of them can have something.
    pub(super) fn any_free(&self) -> bool {
        self.members.values().any(Member::is_free)
    }

    /// Whose turn it is to have an event, which then is served. An event that came to nothing with one goes to another if it can; from
    /// one that may hang, as long as that is shunned, even if the other is busy: it would come to nothing there until it is given up.
    pub(super) fn next(&mut self, failed_with: Option<&str>, now: Instant) -> Option<String> {
        let any_sound = self.members.values().any(|member| member.room > 0 && !member.is_shunned(now));
        let failed = |id: &str| failed_with == Some(id);
        // The least busy for what it takes; of those, who has waited longest.
        let load = |member: &Member| (member.with.len() * 1024 / member.room.max(1), member.served);
        let free = self.members.iter_mut().filter(|(_, member)| member.is_free());
        let (id, member) = free.min_by_key(|(id, member)| (member.is_shunned(now), failed(id), load(member)))?;
        if failed(id) && member.is_shunned(now) && any_sound {
            return None;
        }
        self.turn += 1;
        member.served = self.turn;
        Some(id.clone())
    }
}
