//! What is held of a state: changes for those who watch, its weight, and where it goes on from.

use super::*;
use crate::project::VIEWS;
use crate::read_model::generate;

fn views(watched_bytes_max: usize) -> Views {
    let mut config = crate::Config::default();
    config.limits.watched_bytes_max = watched_bytes_max;
    Views::new(&config)
}

fn held_in(views: &Views) -> Arc<Held> {
    let view = VIEWS.iter().find(|view| view.name == "conversation").unwrap();
    let held = Arc::new(Held::new(view, views));
    held.lock().begin(None);
    held
}

fn held() -> Arc<Held> {
    held_in(&views(usize::MAX >> 1))
}

fn event(position: u64) -> Arc<Event> {
    Arc::new(generate::event(position, "Zebra", "a"))
}

#[test]
fn a_change_is_computed_once_for_all_who_watch() {
    let held = held();
    let (first, second) = (held.clone().watch().unwrap(), held.clone().watch().unwrap());
    let change = first.change(&event(1), Position::START).unwrap().unwrap();
    assert!(Arc::ptr_eq(&change, &second.change(&event(1), Position::START).unwrap().unwrap()));
    assert_eq!(first.state().unwrap().0, Position::new(1));
}

#[test]
fn who_is_too_slow_for_the_changes_is_told_so_and_nothing_grows_without_bound() {
    let held = held();
    let (fast, slow) = (held.clone().watch().unwrap(), held.clone().watch().unwrap());
    let last = CHANGES_MAX as u64 + 10;
    for position in 1..=last {
        assert!(fast.change(&event(position), Position::START).unwrap().is_some());
    }
    assert!(slow.change(&event(1), Position::START).unwrap().is_none());
    assert!(slow.change(&event(last), Position::START).unwrap().is_some());
    assert_eq!(held.lock().changes.len(), CHANGES_MAX);
    drop((fast, slow));
    assert!(held.lock().changes.is_empty(), "nobody watches");
}

#[test]
fn what_is_watched_has_a_limit_and_who_is_beyond_it_is_turned_away() {
    let views = views(ENTRY_BYTES + 400);
    let taken = || views.watched.bytes.load(Ordering::Acquire);
    let (held, other) = (held_in(&views), held_in(&views));
    let (first, second) = (held.clone().watch().unwrap(), held.clone().watch().unwrap());
    assert_eq!(taken(), ENTRY_BYTES, "two who watch the same cost no more than one");
    assert_eq!(other.clone().watch().map(drop).unwrap_err().kind, Kind::Overloaded);
    // What is watched already grows on, and whoever watches stays.
    for position in 1..10 {
        first.change(&event(position), Position::START).unwrap();
    }
    assert!(taken() > ENTRY_BYTES + 400);
    assert!(held.clone().watch().is_ok());
    drop((first, second));
    assert_eq!(taken(), 0, "nobody watches");
    assert!(other.watch().is_ok());
    assert_eq!(taken(), 0);
}

#[test]
fn what_is_folded_half_way_weighs_what_it_may_be_until_it_is_measured() {
    let held = held();
    let mut large = generate::event(1, "MessageReceived", "a");
    large.data = causeway_event::Data::of(&"x".repeat(UNMEASURED_BYTES_MAX)).unwrap();
    let mut inner = held.lock();
    inner.take(&Arc::new(large), Position::START).unwrap();
    assert!(inner.weight() > UNMEASURED_BYTES_MAX);
    inner.reach(Position::new(2)).unwrap();
    assert!(inner.weight() < UNMEASURED_BYTES_MAX, "it shows nothing of that event");
    assert_eq!(inner.through, Position::new(2));
}

#[test]
fn a_fold_that_panicked_begins_again() {
    let held = held();
    let watching = held.clone().watch().unwrap();
    watching.change(&event(3), Position::START).unwrap();
    let other = held.clone();
    let panicked = std::thread::spawn(move || {
        let _inner = other.lock();
        panic!("in the middle of a fold");
    });
    assert!(panicked.join().is_err());
    let inner = held.lock();
    assert_eq!((inner.begun, inner.through, inner.watchers), (false, Position::START, 1));
}

fn kept(state: impl Into<Vec<u8>>) -> Option<Kept> {
    Some(Kept { position: Position::new(5), basis: Basis::default(), state: state.into() })
}

#[test]
fn what_a_snapshot_shows_is_shown_as_it_was_kept_and_goes_on_with_the_next_event() {
    let events =
        |positions: std::ops::RangeInclusive<u64>| positions.map(|position| generate::event(position, "MessageReceived", "a"));
    let folded = |events: &mut dyn Iterator<Item = Event>| {
        let mut fold = (VIEWS[1].start)(Arc::default());
        events.for_each(|event| fold.step(&event));
        fold.shown().unwrap()
    };
    assert_eq!(VIEWS[1].name, "conversation");
    // Not as it would be written anew.
    let written = [&folded(&mut events(1..=5))[..], b" "].concat();
    let held = Arc::new(Held::new(&VIEWS[1], &views(usize::MAX >> 1)));
    held.lock().begin(kept(written.clone()));
    assert_eq!(held.state().unwrap(), (Position::new(5), written.into()));
    let watching = held.watch().unwrap();
    for event in events(4..=7) {
        watching.change(&Arc::new(event), Position::START).unwrap();
    }
    assert_eq!(watching.state().unwrap(), (Position::new(7), folded(&mut events(1..=7)).into()));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_not_asked_again() {
    let held = Arc::new(Held::new(&VIEWS[1], &views(usize::MAX >> 1)));
    held.lock().begin(kept("\"something else\""));
    let watching = held.clone().watch().unwrap();
    assert_eq!(watching.change(&event(6), Position::START).map(drop).unwrap_err().kind, Kind::Internal);
    assert!(held.state().is_err(), "an empty state is not shown for one that is not there");
    let inner = held.lock();
    assert_eq!((inner.begun, inner.unreadable, inner.through, inner.watchers), (false, true, Position::START, 1));
}

#[test]
fn what_was_written_of_a_state_before_it_was_there_is_not_shown_for_it() {
    let chain = &VIEWS[0];
    assert_eq!(chain.name, "chain");
    let mut fold = (chain.start)(Arc::default());
    assert!(!fold.shows_snapshot());
    (1..=5).for_each(|position| fold.step(&generate::event(position, "Zebra", "a")));
    let held = Held::new(chain, &views(usize::MAX >> 1));
    held.lock().json().unwrap();
    held.lock().begin(kept(fold.snapshot().unwrap()));
    assert_eq!(held.state().unwrap(), (Position::new(5), fold.shown().unwrap().into()));
}
