//! From one object's JSON to what it comes to for the mesh. Pure.
//!
//! An object that cannot be read keeps its last good value as long as its name can be.

use mesh_model::name::ServiceName;
use serde::Deserialize;
use serde_json::Value;

use crate::convert::{self, Note, Verdict};
use crate::kinds::{Kind, ObjectKey, Reading};
use crate::status::Reason;
use crate::wire::Meta;

/// An object of a kind; nothing where not even its name is usable.
pub(crate) fn read(kind: Kind, json: &str) -> Option<Reading> {
    kind.operations().read_json(json).ok().or_else(|| unreadable(kind, json))
}

/// The name and resource version of an object of a kind.
pub(crate) fn name(kind: Kind, json: &str) -> Option<(ObjectKey, Option<String>)> {
    let object: OnlyName = serde_json::from_str(json).ok()?;
    Some((object.key(kind)?, object.metadata.resource_version))
}

/// As little as can be: nothing else that is odd about an object may hide its name.
#[derive(Deserialize)]
struct OnlyName {
    metadata: Name,
}

impl OnlyName {
    fn key(&self, kind: Kind) -> Option<ObjectKey> {
        let Name { name, namespace, .. } = &self.metadata;
        kind.operations()
            .key(&Meta { name: Some(name.clone()), namespace: namespace.clone(), ..Meta::default() })
            .ok()
    }

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

fn unreadable(kind: Kind, json: &str) -> Option<Reading> {
    let object: OnlyName = serde_json::from_str(json).ok()?;
    let message = "its fields are not of the types that this version knows; its last good state stays";
    let notes = vec![Note::new(Reason::Malformed, message)];
    let (key, owner) = (object.key(kind)?, object.owner());
    let resource_version = object.metadata.resource_version;
    Some(Reading { key, verdict: Verdict::Keep, notes, owner, uid: None, resource_version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_wrong_types_is_kept_by_its_name() {
        let json = r#"{"metadata": {"name": "a", "namespace": "ns"}, "spec": {"ports": "eighty"}}"#;
        let reading = read(Kind::Service, json).unwrap();
        assert_eq!(reading.key, ObjectKey::Service("ns/a".parse().unwrap()));
        assert!(matches!(reading.verdict, Verdict::Keep), "{reading:?}");
        assert_eq!(reading.notes[0].reason, Reason::Malformed);
    }

    #[test]
    fn a_slice_with_wrong_types_tells_its_service() {
        let labels = r#"{"kubernetes.io/service-name": "s", "a": 1}"#;
        let json =
            format!(r#"{{"metadata": {{"name": "a", "namespace": "ns", "labels": {labels}}}, "ports": 3}}"#);
        let reading = read(Kind::Slice, &json).unwrap();
        assert_eq!(reading.owner, Some("ns/s".parse().unwrap()));
    }

    #[test]
    fn an_object_without_a_usable_name_is_nothing() {
        for json in ["{}", "[]", r#"{"metadata": {"name": "A B"}}"#, "nonsense"] {
            assert!(read(Kind::Slice, json).is_none(), "{json}");
        }
    }

    #[test]
    fn a_slice_of_no_service_is_left_without_a_word() {
        let json = r#"{"metadata": {"name": "a", "namespace": "ns"}, "addressType": "FQDN"}"#;
        let reading = read(Kind::Slice, json).unwrap();
        assert!(matches!(reading.verdict, Verdict::Leave) && reading.notes.is_empty(), "{reading:?}");
    }
}
