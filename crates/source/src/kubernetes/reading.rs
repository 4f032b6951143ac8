//! From one object's JSON to what it comes to for the mesh. Pure.
//!
//! An object that cannot be read keeps its last good value as long as its name can be.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::name::ServiceName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::resource::Resource;
use crate::convert::{self, Converted, Note, SliceKey, Verdict};
use crate::objects::{Object, ObjectKey};
use crate::status::Reason;
use crate::wire::{EndpointSlice, Meta, Node, Service, ServiceCidr};

/// An object, or what stands in its place.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) key: Key,
    pub(crate) effect: Effect,
    /// What is wrong with it.
    pub(crate) notes: Vec<Note>,
    /// The Service that a slice belongs to.
    pub(crate) owner: Option<ServiceName>,
    /// Of this very object, not of one of the same name before or after it.
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Object(ObjectKey),
    /// A ServiceCIDR's name.
    Cidr(String),
}

#[derive(Debug)]
pub(crate) enum Effect {
    Object(Object),
    Cidr(Vec<IpNet>),
    /// Nothing for the mesh.
    Leave,
    /// Its last good value stays.
    Keep,
}

/// An object of a kind; nothing where not even its name is usable.
pub(crate) fn read(resource: Resource, json: &str) -> Option<Reading> {
    match resource {
        Resource::Services => object(json, service),
        Resource::EndpointSlices => object(json, slice),
        Resource::Nodes => object(json, node),
        Resource::ServiceCidrs => object(json, |object: &ServiceCidr| {
            let key = key(resource, &object.metadata)?;
            Some(reading(key, Effect::Cidr(convert::cidrs(object)), Vec::new()))
        }),
    }
    .or_else(|| unreadable(resource, json))
}

/// The name and resource version of an object of a kind.
pub(crate) fn name(resource: Resource, json: &str) -> Option<(Key, Option<String>)> {
    let object: OnlyName = serde_json::from_str(json).ok()?;
    Some((key_of(resource, &object)?, object.metadata.resource_version))
}

fn key_of(resource: Resource, object: &OnlyName) -> Option<Key> {
    let Name { name, namespace, .. } = &object.metadata;
    let meta = Meta { name: Some(name.clone()), namespace: namespace.clone(), ..Meta::default() };
    key(resource, &meta)
}

/// As little as can be: nothing else that is odd about an object may hide its name.
#[derive(Deserialize)]
struct OnlyName {
    metadata: Name,
}

impl OnlyName {
    fn owner(&self) -> Option<ServiceName> {
        let label = self.metadata.labels.get(convert::SERVICE_LABEL).and_then(Value::as_str);
        convert::owner(self.metadata.namespace.as_deref(), label)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Name {
    name: String,
    namespace: Option<String>,
    resource_version: Option<String>,
    #[serde(default)]
    labels: Value,
}

fn object<T: DeserializeOwned + HasMeta>(
    json: &str,
    read: impl FnOnce(&T) -> Option<Reading>,
) -> Option<Reading> {
    let object: T = serde_json::from_str(json).ok()?;
    let reading = read(&object)?;
    let meta = object.meta();
    Some(Reading { uid: meta.uid.clone(), resource_version: meta.resource_version.clone(), ..reading })
}

trait HasMeta {
    fn meta(&self) -> &Meta;
}

macro_rules! has_meta {
    ($($type:ty),*) => { $(impl HasMeta for $type {
        fn meta(&self) -> &Meta {
            &self.metadata
        }
    })* };
}

has_meta!(Service, EndpointSlice, Node, ServiceCidr);

fn unreadable(resource: Resource, json: &str) -> Option<Reading> {
    let object: OnlyName = serde_json::from_str(json).ok()?;
    let message = "its fields are not of the types that this version knows; its last good state stays";
    let notes = vec![Note::new(Reason::Malformed, message)];
    let reading = reading(key_of(resource, &object)?, Effect::Keep, notes);
    Some(Reading { owner: object.owner(), resource_version: object.metadata.resource_version, ..reading })
}

fn reading(key: Key, effect: Effect, notes: Vec<Note>) -> Reading {
    Reading { key, effect, notes, owner: None, uid: None, resource_version: None }
}

fn key(resource: Resource, meta: &Meta) -> Option<Key> {
    let key = match resource {
        Resource::Services => convert::service_name(meta).ok()?.into(),
        Resource::EndpointSlices => SliceKey::of(meta).ok()?.into(),
        Resource::Nodes => convert::node_name(meta).ok()?.into(),
        Resource::ServiceCidrs => return meta.name.clone().map(Key::Cidr),
    };
    Some(Key::Object(key))
}

fn service(object: &Service) -> Option<Reading> {
    let name = convert::service_name(&object.metadata).ok()?;
    Some(converted(name, convert::service(object), |name: ServiceName, value| {
        Object::Service(name, Arc::new(value))
    }))
}

fn slice(object: &EndpointSlice) -> Option<Reading> {
    let key = SliceKey::of(&object.metadata).ok()?;
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.service_name.as_deref());
    let owner = convert::owner(object.metadata.namespace.as_deref(), label);
    let reading = converted(key, convert::slice(object), |key, value| Object::Slice(key, Arc::new(value)));
    Some(Reading { owner, ..reading })
}

fn node(object: &Node) -> Option<Reading> {
    let name = convert::node_name(&object.metadata).ok()?;
    Some(converted(name, convert::node(object), |name, value| Object::Node(name, Arc::new(value))))
}

fn converted<K: Clone, V>(key: K, converted: Converted<V>, object: impl FnOnce(K, V) -> Object) -> Reading
where
    ObjectKey: From<K>,
{
    let effect = match converted.verdict {
        Verdict::Use(value) => Effect::Object(object(key.clone(), value)),
        Verdict::Leave => Effect::Leave,
        Verdict::Keep => Effect::Keep,
    };
    reading(Key::Object(key.into()), effect, converted.notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_wrong_types_is_kept_by_its_name() {
        let json = r#"{"metadata": {"name": "a", "namespace": "ns"}, "spec": {"ports": "eighty"}}"#;
        let reading = read(Resource::Services, json).unwrap();
        assert_eq!(reading.key, Key::Object(ObjectKey::Service("ns/a".parse().unwrap())));
        assert!(matches!(reading.effect, Effect::Keep), "{reading:?}");
        assert_eq!(reading.notes[0].reason, Reason::Malformed);
    }

    #[test]
    fn a_slice_with_wrong_types_tells_its_service() {
        let labels = r#"{"kubernetes.io/service-name": "s", "a": 1}"#;
        let json =
            format!(r#"{{"metadata": {{"name": "a", "namespace": "ns", "labels": {labels}}}, "ports": 3}}"#);
        let reading = read(Resource::EndpointSlices, &json).unwrap();
        assert_eq!(reading.owner, Some("ns/s".parse().unwrap()));
    }

    #[test]
    fn an_object_without_a_usable_name_is_nothing() {
        for json in ["{}", "[]", r#"{"metadata": {"name": "A B"}}"#, "nonsense"] {
            assert!(read(Resource::EndpointSlices, json).is_none(), "{json}");
        }
    }

    #[test]
    fn a_slice_of_no_service_is_left_without_a_word() {
        let json = r#"{"metadata": {"name": "a", "namespace": "ns"}, "addressType": "FQDN"}"#;
        let reading = read(Resource::EndpointSlices, json).unwrap();
        assert!(matches!(reading.effect, Effect::Leave) && reading.notes.is_empty(), "{reading:?}");
    }
}
