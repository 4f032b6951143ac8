//! A Secret as it is, and what one shall be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

/// A Secret as the API server has it.
#[derive(Clone)]
pub struct Secret {
    object: v1::Secret,
}

impl Secret {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(|object| Self { object })
    }

    pub fn resource_version(&self) -> &str {
        self.object.metadata.resource_version.as_deref().unwrap_or_default()
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.object.metadata.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// A key's value.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.object.data.as_ref()?.get(key).map(|value| value.0.as_slice())
    }

    /// All keys with their values.
    pub fn data(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()))
    }

    /// Who has set this key, as Kubernetes keeps it: field managers.
    pub fn managers(&self, key: &str) -> BTreeSet<String> {
        let field = format!("f:{key}");
        let entries = self.object.metadata.managed_fields.iter().flatten();
        let owns = entries.filter(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0["f:data"]);
            fields.and_then(Value::as_object).is_some_and(|fields| fields.contains_key(&field))
        });
        owns.filter_map(|entry| entry.manager.clone()).collect()
    }
}

/// Values stay out of logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.data().map(|(key, _)| key).collect();
        f.debug_struct("Secret")
            .field("name", &self.object.metadata.name)
            .field("resource_version", &self.object.metadata.resource_version)
            .field("keys", &keys)
            .finish()
    }
}

/// What a Secret shall hold.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Its type, which can't be changed later; empty: `Opaque`.
    pub kind: &'static str,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("Content").field("kind", &self.kind).field("keys", &keys).finish_non_exhaustive()
    }
}

impl Content {
    pub(crate) fn object(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": if self.kind.is_empty() { "Opaque" } else { self.kind },
            "metadata": {"name": name, "labels": self.labels, "annotations": self.annotations},
            "data": self.encoded(),
        })
    }

    /// What makes `before` hold this and no other key: a merge patch that counts for that version only.
    pub(crate) fn patch(&self, before: &Secret) -> Value {
        let mut data = json!(self.encoded());
        for (key, _) in before.data().filter(|(key, _)| !self.data.contains_key(*key)) {
            data[key] = Value::Null;
        }
        json!({
            "metadata": {
                "resourceVersion": before.resource_version(),
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "data": data,
        })
    }

    fn encoded(&self) -> BTreeMap<&String, ByteString> {
        self.data.iter().map(|(key, value)| (key, ByteString(value.clone()))).collect()
    }
}
