//! The registered types: a fold of the aggregate `causeway:types`, and what a registration comes to.
//!
//! Pure: no I/O, no clock, no randomness. `types.rs` carries out what is decided here.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use causeway_event::payload::TypeRegistered;
use causeway_event::{Category, DATA_BYTES_MAX, Data, Event, EventId, EventType, Invalid, Payload, Position};
use serde_json::Value;

use super::schema::{self, SCHEMA_BYTES_MAX, Schema};
use super::upcast::Upcast;

/// The most types that can be registered, and the most versions of one.
pub(crate) const TYPES_MAX: usize = 1000;
pub(crate) const VERSIONS_MAX: usize = 100;
/// The most bytes of all schemas and patches together: what a list of them has to carry.
pub(crate) const REGISTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of a description.
const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;

/// What the log says. Only `fold` makes new values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    types: BTreeMap<EventType, Vec<Arc<Version>>>,
    bytes: usize,
    position: Position,
    changed: Position,
}

/// A version of a type.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) version: u32,
    pub(crate) schema: Value,
    pub(crate) upcast: Vec<Value>,
    pub(crate) description: String,
    /// The event that registered it.
    pub(crate) registered_by: EventId,
    /// Of that event.
    position: Position,
    /// Made when it is first needed: most old versions never are.
    compiled: OnceLock<Option<Compiled>>,
}

#[derive(Debug)]
struct Compiled {
    schema: Schema,
    upcast: Upcast,
}

/// What somebody wants to register.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) name: EventType,
    pub(crate) schema: Value,
    pub(crate) upcast: Vec<Value>,
    /// Which version it is; the next one where absent.
    pub(crate) version: Option<u32>,
    pub(crate) description: String,
}

/// What a registration comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Register(TypeRegistered),
    /// It is registered.
    Same,
    /// Its version is another one's, or not the next.
    Conflict {
        next: u32,
    },
}

pub(crate) fn fold(mut registry: Registry, event: &Event) -> Registry {
    let Payload::TypeRegistered(registered) = event.payload() else { return registry };
    let Ok(name) = registered.name.parse::<EventType>() else { return registry };
    // Decisions are fenced, so this always holds, unless somebody wrote to the log with their own hands.
    if Category::of(&name) != Category::Custom || registered.version != next(registry.versions(&name)) {
        return registry;
    }
    registry.bytes += bytes(&registered.schema, &registered.upcast);
    registry.position = event.position;
    if registered.version > 1 {
        registry.changed = event.position;
    }
    registry.types.entry(name).or_default().push(Arc::new(Version {
        version: registered.version,
        schema: registered.schema,
        upcast: registered.upcast,
        description: registered.description,
        registered_by: event.id,
        position: event.position,
        compiled: OnceLock::new(),
    }));
    registry
}

pub(crate) fn decide(registry: &Registry, request: &Registration) -> Result<Decision, Invalid> {
    let Registration { name, schema, upcast, version, description } = request;
    if Category::of(name) != Category::Custom {
        return Err(Invalid::new("/name", "is a type that Causeway knows itself"));
    }
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err(Invalid::new("/description", format!("has more than {DESCRIPTION_BYTES_MAX} bytes")));
    }
    let versions = registry.versions(name);
    let next = next(versions);
    let same = |known: &Arc<Version>| {
        known.schema == *schema && known.upcast == *upcast && (description.is_empty() || known.description == *description)
    };
    match version {
        None if versions.last().is_some_and(same) => return Ok(Decision::Same),
        None => {}
        Some(wanted) if versions.iter().any(|known| known.version == *wanted && same(known)) => return Ok(Decision::Same),
        Some(wanted) if *wanted == next => {}
        Some(_) => return Ok(Decision::Conflict { next }),
    }
    schema::compile(schema).map_err(|invalid| invalid.within("/schema"))?;
    Upcast::parse(upcast).map_err(|invalid| invalid.within("/upcast"))?;
    if versions.is_empty() && !upcast.is_empty() {
        return Err(Invalid::new("/upcast", "must be empty: there is no version before the first"));
    }
    if versions.is_empty() && registry.types.len() >= TYPES_MAX {
        return Err(Invalid::new("/name", format!("is one type too many: {TYPES_MAX} can be registered")));
    }
    if versions.len() >= VERSIONS_MAX {
        return Err(Invalid::new("/name", format!("has {VERSIONS_MAX} versions, which is the limit")));
    }
    let added = bytes(schema, upcast);
    // An event has room for both, but not for any patch.
    if added > SCHEMA_BYTES_MAX * 2 {
        return Err(Invalid::new(
            "/upcast",
            format!("has, with the schema, {added} bytes; {} are allowed", SCHEMA_BYTES_MAX * 2),
        ));
    }
    if registry.bytes + added > REGISTRY_BYTES_MAX {
        return Err(Invalid::new("/schema", format!("has no room: all schemas may take {REGISTRY_BYTES_MAX} bytes together")));
    }
    Ok(Decision::Register(TypeRegistered {
        name: name.to_string(),
        version: next,
        schema: schema.clone(),
        upcast: upcast.clone(),
        description: description.clone(),
    }))
}

// What is decided fits into an event.
const _: () = assert!(SCHEMA_BYTES_MAX * 2 + DESCRIPTION_BYTES_MAX * 2 < DATA_BYTES_MAX);

fn next(versions: &[Arc<Version>]) -> u32 {
    versions.last().map_or(1, |newest| newest.version.saturating_add(1))
}

fn bytes(schema: &Value, upcast: &[Value]) -> usize {
    schema.to_string().len() + upcast.iter().map(|operation| operation.to_string().len()).sum::<usize>()
}

/// What a registered type says of data.
#[derive(Debug, PartialEq)]
pub(crate) enum Checked {
    /// Its type is not registered: anything goes.
    Free,
    /// It fits this version.
    Fits(u32),
}

/// Why data is refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Misfit {
    /// There is no such version; perhaps not yet.
    Version(Invalid),
    /// The data does not fit.
    Data(Invalid),
}

impl Registry {
    /// The types with their versions, the oldest first.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&EventType, &[Arc<Version>])> {
        self.types.iter().map(|(name, versions)| (name, versions.as_slice()))
    }

    /// The versions of a type, the oldest first.
    pub(crate) fn versions(&self, name: &EventType) -> &[Arc<Version>] {
        self.types.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last registration that it takes account of.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The last one by which events of before may be shown in another way: there are none of a type's first version.
    pub(crate) fn changed(&self) -> Position {
        self.changed
    }

    /// The last one by which events of this type may be shown in another way.
    pub(crate) fn changed_of(&self, name: &EventType) -> Position {
        self.versions(name).last().filter(|newest| newest.version > 1).map_or(Position::START, |newest| newest.position)
    }

    /// Holds data against a version of its type: the newest, unless another is stated. Fields start at the event.
    pub(crate) fn check(&self, name: &EventType, data: &Data, stated: Option<u32>) -> Result<Checked, Misfit> {
        let versions = self.versions(name);
        let version = match (stated, versions.last()) {
            (None, None) => return Ok(Checked::Free),
            (None, Some(newest)) => newest,
            (Some(stated), _) => versions.iter().find(|known| known.version == stated).ok_or_else(|| {
                let reason = match versions.last() {
                    None => format!("there is no registered schema of {name}"),
                    Some(newest) => format!("there is no version {stated} of {name}; the newest is {}", newest.version),
                };
                Misfit::Version(Invalid::new("/metadata/schema_version", reason))
            })?,
        };
        let misfit = |invalid: Invalid| Misfit::Data(invalid.within("/data"));
        let value: Value = serde_json::from_str(data.as_str())
            .map_err(|error| misfit(Invalid::new("", format!("cannot be held against its schema: {error}"))))?;
        let Some(compiled) = version.compiled() else {
            return Err(misfit(Invalid::new("", format!("the schema of version {} cannot be used", version.version))));
        };
        compiled.schema.check(&value).map_err(|mut invalid| {
            // Programs of before are still running: how they go on should be said where they fail.
            if stated.is_none() && version.version > 1 {
                invalid.reason += &format!(" (version {}; for an older one state metadata.schema_version)", version.version);
            }
            misfit(invalid)
        })?;
        Ok(Checked::Fits(version.version))
    }

    /// Whether there is a newer version of its type.
    pub(crate) fn is_older(&self, event: &Event) -> bool {
        let newest = self.versions(&event.event_type).last();
        event.metadata.schema_version.is_some_and(|version| newest.is_some_and(|newest| version < newest.version))
    }

    /// The event in the newest version of its type that it fits. None if it stays as it is: it has that version, or none.
    pub(crate) fn upcast(&self, event: &Event) -> Option<Event> {
        let version = event.metadata.schema_version.filter(|version| *version > 0)?;
        let versions = self.versions(&event.event_type);
        let newer =
            versions.get(versions.partition_point(|known| known.version <= version)..).filter(|newer| !newer.is_empty())?;
        let before: Value = serde_json::from_str(event.data.as_str()).ok()?;
        let (version, data) = newest_that_fits(newer, &before)?;
        let data = match data == before {
            // As it was written: no number loses a digit to a version that changes nothing.
            true => event.data.clone(),
            false => Data::of(&data).ok().filter(|data| data.as_bytes().len() <= DATA_BYTES_MAX)?,
        };
        let mut event = Event { data, ..event.clone() };
        event.metadata.schema_version = Some(version);
        Some(event)
    }

    /// Does what is slow about a registry before somebody waits for it.
    pub(crate) fn warm(&self) {
        for newest in self.types.values().filter_map(|versions| versions.last()) {
            newest.compiled();
        }
    }
}

/// The newest of these versions that data of the version before them fits, and the data in it.
fn newest_that_fits(newer: &[Arc<Version>], before: &Value) -> Option<(u32, Value)> {
    let newest = newer.last()?;
    let data = newer.iter().try_fold(before.clone(), |data, step| Some(step.compiled()?.upcast.apply(data)))?;
    if newest.fits(&data) {
        return Some((newest.version, data));
    }
    let (mut data, mut fits) = (before.clone(), None);
    for step in newer {
        data = step.compiled()?.upcast.apply(data);
        if step.fits(&data) {
            fits = Some((step.version, data.clone()));
        }
    }
    fits
}

impl Version {
    fn fits(&self, data: &Value) -> bool {
        self.compiled().is_some_and(|compiled| compiled.schema.check(data).is_ok())
    }

    fn compiled(&self) -> Option<&Compiled> {
        let compile = || {
            let schema = schema::compile(&self.schema).ok()?;
            Some(Compiled { schema, upcast: Upcast::parse(&self.upcast).ok()? })
        };
        self.compiled.get_or_init(compile).as_ref()
    }
}

#[cfg(test)]
mod tests;
