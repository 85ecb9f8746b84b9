//! What a fold must say of itself to be a view.

use causeway_event::{Category, Event};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Prices;

/// A pure fold of the events of one id. A view is one file: its state, this trait, and a line in the gateway's list.
///
/// The state is its own snapshot: it is written as JSON, read back and folded on.
pub trait View: Clone + Default + Serialize + DeserializeOwned + Send + 'static {
    /// Its name in paths and requests.
    const NAME: &'static str;
    /// Of the fold and its JSON: a snapshot of another version is of no use. One of this version may be shown as it was kept, and
    /// what follows is told as changes to that: whatever changes what a state holds or how it is written needs a new version.
    const VERSION: u32;
    /// What it shows, for a person.
    const DESCRIPTION: &'static str;
    /// What its ids are.
    const ID: IdKind;
    /// The only category that it folds; without one all of the id's events.
    const CATEGORY: Option<Category> = None;
    /// Whether it looks into the data of types that users registered: then a new version of such a type changes what it shows.
    const OWN_TYPES: bool = false;

    /// The state with `event`, which is of the view's id. Events come in the order of the log; one that the state has already
    /// changes nothing.
    #[must_use]
    fn with(self, event: &Event) -> Self;

    /// The JSON that readers get, where that is not the state itself.
    fn shown(&self, _prices: &Prices) -> serde_json::Result<Option<String>> {
        Ok(None)
    }

    /// All that `event` can change in what is shown, before it is folded: the order is that of the changes. A view that says so
    /// is watched at the cost of what changes; of any other all of it is looked at for each event.
    fn parts(&mut self, _event: &Event) -> Vec<Part> {
        vec![Part::at(String::new())]
    }

    /// The JSON of a part by its name; `None` where it is not there. A part whose name begins with that of another and a slash
    /// is a part of it.
    fn part(&self, _name: &str, prices: &Prices) -> serde_json::Result<Option<String>> {
        self.shown(prices)?.map_or_else(|| serde_json::to_string(self), Ok).map(Some)
    }
}

/// A part of what a view shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it stands or will stand, as a JSON Pointer, once the parts before it in the list have been changed.
    pub pointer: String,
    /// What the view calls it, wherever it stands later.
    pub name: String,
}

impl Part {
    /// One that always stands at the same place.
    pub fn at(pointer: String) -> Self {
        Self { name: pointer.clone(), pointer }
    }
}

/// What the ids of a view are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// The view is of one aggregate.
    Aggregate,
    /// The view is of one chain.
    Correlation,
}

impl IdKind {
    /// Its name in lists of views.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Correlation => "correlation",
        }
    }
}
