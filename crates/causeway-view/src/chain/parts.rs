//! Which parts of a chain's tree an event can change: a long one is watched at the cost of what changes.
//!
//! A node's place in the list moves when others come before it; its name, `node/` and its number in the order of the log, stays.

use causeway_event::Event;
use serde::Serialize;

use super::{Chain, EVENTS_MAX, fold, link};
use crate::Prices;
use crate::view::{IdKind, Part, View};

/// What every event can change.
const HEAD: [&str; 12] = [
    "/position",
    "/correlation_id",
    "/started_at",
    "/ended_at",
    "/duration_us",
    "/events",
    "/unfinished",
    "/orphans",
    "/usage",
    "/cost",
    "/unpriced",
    "/model_unknown",
];

impl View for Chain {
    const NAME: &'static str = "chain";
    const VERSION: u32 = 3;
    const DESCRIPTION: &'static str =
        "A chain of cause and effect as a tree: the time between, durations, models, tokens and cost, what is unfinished.";
    const ID: IdKind = IdKind::Correlation;

    fn with(self, event: &Event) -> Self {
        fold(self, event)
    }

    fn shown(&self, prices: &Prices) -> serde_json::Result<Option<String>> {
        serde_json::to_string(&self.tree(prices)).map(Some)
    }

    fn parts(&mut self, event: &Event) -> Vec<Part> {
        if event.position <= self.position {
            return Vec::new();
        }
        if self.links.len() >= EVENTS_MAX {
            return if self.more { Vec::new() } else { vec![Part::at("/more".to_owned())] };
        }
        self.index.keep_order();
        let (index, at, link) = (&self.index, self.links.len(), link(event));
        let parent = index.parent(&link);
        let ended = index.ended_by(&link);
        let mut touched: Vec<_> = parent.iter().chain(ended).copied().collect();
        touched.sort_unstable();
        touched.dedup();
        let (place, places) = index.places(parent, &touched);
        let field = |at: &usize, field: &str| {
            let pointer = format!("/nodes/{}/{field}", places.get(at)?);
            Some(Part { pointer, name: format!("node/{at}/{field}") })
        };
        let mut parts: Vec<_> = HEAD.map(|pointer| Part::at(pointer.to_owned())).into();
        match parent {
            Some(parent) => parts.extend(field(&parent, &format!("children/{}", index.hung[parent].children.len()))),
            None => parts.push(Part::at(format!("/roots/{}", index.roots.len()))),
        }
        parts.extend(ended.iter().flat_map(|at| [field(at, "duration_us"), field(at, "unfinished")]).flatten());
        // What stands behind it moves: so it comes last.
        parts.push(Part { pointer: format!("/nodes/{place}"), name: format!("node/{at}") });
        parts
    }

    fn part(&self, name: &str, prices: &Prices) -> serde_json::Result<Option<String>> {
        let mut path = name.split('/');
        match (path.next(), path.next(), path.next(), path.next()) {
            (Some("node"), Some(at), field, place) => self.part_of_node(number(Some(at)), field, place, prices),
            (Some(""), Some("roots"), place, None) => {
                json(number(place).and_then(|place| self.index.roots.get(place)).map(|root| self.links[*root].id))
            }
            (Some(""), Some(field), None, None) => self.part_of_head(field, prices),
            _ => Ok(None),
        }
    }
}

impl Chain {
    fn part_of_head(&self, field: &str, prices: &Prices) -> serde_json::Result<Option<String>> {
        let times = self.index.times;
        match field {
            "position" => json(Some(self.position)),
            "correlation_id" => json(self.correlation_id.as_ref()),
            "started_at" => json(times.map(|(first, _)| first)),
            "ended_at" => json(times.map(|(_, last)| last)),
            "duration_us" => json(Some(self.duration_us())),
            "events" => json(Some(self.links.len())),
            "more" => json(Some(self.more)),
            "unfinished" => json(Some(self.index.unfinished)),
            "orphans" => json(Some(self.index.orphans)),
            "usage" => json(Some(self.sums(&[], prices).usage)),
            "cost" => json(self.sums(&[], prices).cost),
            "unpriced" => json(Some(self.sums(&[], prices).unpriced).filter(|models| !models.is_empty())),
            "model_unknown" => json(Some(self.sums(&[], prices).model_unknown).filter(|unknown| *unknown)),
            _ => Ok(None),
        }
    }

    fn part_of_node(
        &self,
        at: Option<usize>,
        field: Option<&str>,
        place: Option<&str>,
        prices: &Prices,
    ) -> serde_json::Result<Option<String>> {
        let Some(at) = at.filter(|at| *at < self.links.len()) else { return Ok(None) };
        match field {
            None => json(Some(self.node(at, prices))),
            Some("children") => {
                let child = number(place).and_then(|place| self.index.hung[at].children.get(place));
                json(child.map(|child| self.links[*child].id))
            }
            Some("duration_us") => json(self.node_duration_us(at)),
            Some("unfinished") => json(Some(self.is_unfinished(at))),
            Some(_) => Ok(None),
        }
    }
}

fn number(text: Option<&str>) -> Option<usize> {
    text.and_then(|text| text.parse().ok())
}

fn json<T: Serialize>(part: Option<T>) -> serde_json::Result<Option<String>> {
    part.map(|part| serde_json::to_string(&part)).transpose()
}
