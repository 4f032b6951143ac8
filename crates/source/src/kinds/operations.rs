//! What is done with objects of any kind: read them, and keep them in their tables.

use std::sync::Arc;

use mesh_model::name::ServiceName;
use mesh_model::table::Knowledge;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;

use super::{Api, Object, ObjectKey, Part, Stored, Tables, Variant};
use crate::convert::{Convert, Converted, Identify, Note, Verdict};
use crate::wire::Meta;

/// An object, or what stands in its place.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) key: ObjectKey,
    pub(crate) verdict: Verdict<Object>,
    /// What is wrong with it.
    pub(crate) notes: Vec<Note>,
    /// The Service that a slice belongs to.
    pub(crate) owner: Option<ServiceName>,
    /// Of this very object, not of one of the same name before or after it.
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// Why an object could not be read.
#[derive(Debug)]
pub(crate) enum NotRead {
    /// Its fields are not of the types that are known.
    Fields(serde_json::Error),
    /// Its name is not usable.
    Name(Note),
}

/// What a kind can do, whatever its types. Keys and objects are of the kind; with others nothing happens.
pub(crate) trait Operations {
    fn api(&self) -> &'static Api;
    /// The key of an object with this metadata.
    fn key(&self, meta: &Meta) -> Result<ObjectKey, Note>;
    fn read_json(&self, json: &str) -> Result<Reading, NotRead>;
    fn read_value(&self, value: Json) -> Result<Reading, NotRead>;
    /// What of the snapshot an object is; none where it is in no snapshot.
    fn part(&self, key: &ObjectKey) -> Option<Part>;

    /// How many objects there are.
    fn count(&self, tables: &Tables) -> usize;
    fn contains(&self, tables: &Tables, key: &ObjectKey) -> bool;
    fn begin_list(&self, tables: &mut Tables);
    /// Ends a list. Returns what it changed of the snapshot, as do `put` and `delete`.
    fn end_list(&self, tables: &mut Tables, knowledge: Knowledge) -> Vec<Part>;
    fn put(&self, tables: &mut Tables, object: Object) -> Option<Part>;
    fn delete(&self, tables: &mut Tables, key: &ObjectKey) -> Option<Part>;
    /// An object exists and can't be read: its last good value stays.
    fn keep(&self, tables: &mut Tables, key: &ObjectKey);
}

impl<K: Variant> Operations for K {
    fn api(&self) -> &'static Api {
        const { &K::API }
    }

    fn key(&self, meta: &Meta) -> Result<ObjectKey, Note> {
        K::Key::identify(meta).map(K::object_key)
    }

    fn read_json(&self, json: &str) -> Result<Reading, NotRead> {
        let mut from = serde_json::Deserializer::from_str(json);
        let reading = read::<K, _>(&mut from)?;
        from.end().map_err(NotRead::Fields)?;
        Ok(reading)
    }

    fn read_value(&self, value: Json) -> Result<Reading, NotRead> {
        read::<K, _>(value)
    }

    fn part(&self, key: &ObjectKey) -> Option<Part> {
        K::part(<K as Variant>::key(key)?, None)
    }

    fn count(&self, tables: &Tables) -> usize {
        K::table(tables).entries().len()
    }

    fn contains(&self, tables: &Tables, key: &ObjectKey) -> bool {
        <K as Variant>::key(key).is_some_and(|key| K::table(tables).get(key).is_some())
    }

    fn begin_list(&self, tables: &mut Tables) {
        K::table_mut(tables).begin_list();
    }

    fn end_list(&self, tables: &mut Tables, knowledge: Knowledge) -> Vec<Part> {
        let old = K::table(tables).entries().clone();
        let changed = K::table_mut(tables).end_list(knowledge);
        changed.into_iter().filter_map(|key| K::part(&key, old.get(&key))).collect()
    }

    fn put(&self, tables: &mut Tables, object: Object) -> Option<Part> {
        let (key, value) = K::parts(object)?;
        let table = K::table_mut(tables);
        let old = table.get(&key).cloned();
        let is_changed = table.put(key.clone(), K::Stored::store(&value));
        is_changed.then(|| K::part(&key, old.as_ref())).flatten()
    }

    fn delete(&self, tables: &mut Tables, key: &ObjectKey) -> Option<Part> {
        let key = <K as Variant>::key(key)?;
        let table = K::table_mut(tables);
        let old = table.get(key).cloned();
        table.delete(key, Knowledge::Complete).then(|| K::part(key, old.as_ref())).flatten()
    }

    fn keep(&self, tables: &mut Tables, key: &ObjectKey) {
        if let Some(key) = <K as Variant>::key(key) {
            K::table_mut(tables).keep(key);
        }
    }
}

fn read<'de, K: Variant, D>(from: D) -> Result<Reading, NotRead>
where
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let object = K::Wire::deserialize(from).map_err(NotRead::Fields)?;
    let meta = object.meta();
    let key = K::Key::identify(meta).map_err(NotRead::Name)?;
    let Converted { verdict, notes } = object.convert();
    let verdict = match verdict {
        Verdict::Use(value) => Verdict::Use(K::object(key.clone(), Arc::new(value))),
        Verdict::Leave => Verdict::Leave,
        Verdict::Keep => Verdict::Keep,
    };
    let (uid, resource_version) = (meta.uid.clone(), meta.resource_version.clone());
    Ok(Reading { key: K::object_key(key), verdict, notes, owner: object.owner(), uid, resource_version })
}
