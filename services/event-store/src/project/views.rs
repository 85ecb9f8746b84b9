//! The views that there are. A new one is a fold in `causeway-view` and its line here.

use std::sync::Arc;

use causeway_event::Category;
use causeway_view::chain::Chain;
use causeway_view::conversation::Conversation;
use causeway_view::state::State;
use causeway_view::{IdKind, Prices};

use super::fold::{Fold, Folding};

/// All of them, in the order of their names.
pub(crate) static VIEWS: [View; 3] = [View::of::<Chain>(), View::of::<Conversation>(), View::of::<State>()];

/// A view, whatever its state is.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: &'static str,
    /// Of the fold: snapshots of another version are not used.
    pub(crate) version: u32,
    pub(crate) description: &'static str,
    pub(crate) id: IdKind,
    pub(super) category: Option<Category>,
    /// Whether it depends on the registry of types.
    pub(crate) own_types: bool,
    pub(super) start: fn(Arc<Prices>) -> Box<dyn Fold>,
}

impl View {
    const fn of<V: causeway_view::View>() -> Self {
        Self {
            name: V::NAME,
            version: V::VERSION,
            description: V::DESCRIPTION,
            id: V::ID,
            category: V::CATEGORY,
            own_types: V::OWN_TYPES,
            start: Folding::<V>::start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_stand_in_the_order_of_their_names() {
        assert!(VIEWS.is_sorted_by(|a, b| a.name < b.name));
    }
}
