//! A Secret with its managers, and what requests make of it. Of server-side apply only what keys of `data` need.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

/// Who has set which keys.
type Managers = BTreeMap<String, Vec<String>>;

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) revision: u64,
    body: Value,
    managers: Managers,
}

/// Why a request changes nothing.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) u16, pub(super) String);

impl Object {
    pub(super) fn new(body: &Value, manager: &str) -> Self {
        let mut object = Self { revision: 0, body: body.clone(), managers: Managers::new() };
        let keys = object.data().keys().cloned().collect();
        object.managers.insert(manager.into(), keys);
        object
    }

    pub(super) fn data(&self) -> Map<String, Value> {
        self.body["data"].as_object().cloned().unwrap_or_default()
    }

    pub(super) fn shown(&self, name: &str) -> Value {
        let mut shown = self.body.clone();
        let fields = |(manager, keys): (&String, &Vec<String>)| {
            let keys: Map<_, _> = keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
            json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": keys}})
        };
        let metadata = &mut shown["metadata"];
        metadata["name"] = json!(name);
        metadata["namespace"] = json!(super::NAMESPACE);
        metadata["resourceVersion"] = json!(self.revision.to_string());
        metadata["managedFields"] = self.managers.iter().map(fields).collect();
        shown
    }

    /// A merge patch (RFC 7386).
    pub(super) fn merge(&mut self, patch: &Value) -> Result<(), Refusal> {
        let version = &patch["metadata"]["resourceVersion"];
        if version.as_str().is_some_and(|version| version != self.revision.to_string()) {
            return Err(Refusal(409, "the object has been modified".into()));
        }
        merge(&mut self.body, patch);
        self.disown_missing();
        Ok(())
    }

    /// A JSON patch (RFC 6902) of one test and one removal.
    pub(super) fn patch(&mut self, patch: &Value) -> Result<(), Refusal> {
        for step in patch.as_array().unwrap() {
            let key = step["path"].as_str().unwrap().strip_prefix("/data/").unwrap();
            let mut data = self.data();
            let is_as_tested = step["op"] != "test" || data.get(key) == Some(&step["value"]);
            if !is_as_tested || !data.contains_key(key) {
                return Err(Refusal(
                    422,
                    "the server rejected our request due to an error in our request".into(),
                ));
            }
            if step["op"] == "remove" {
                data.remove(key);
            }
            self.body["data"] = Value::Object(data);
        }
        self.disown_missing();
        Ok(())
    }

    /// Server-side apply.
    pub(super) fn apply(&mut self, body: &Value, manager: &str, force: bool) -> Result<(), Refusal> {
        let (applied, mut data) = (body["data"].as_object().cloned().unwrap_or_default(), self.data());
        for (other, keys) in self.managers.iter_mut().filter(|(other, _)| *other != manager) {
            let differs = |key: &String| applied.get(key).is_some_and(|value| data.get(key) != Some(value));
            if let (Some(key), false) = (keys.iter().find(|key| differs(key)), force) {
                return Err(Refusal(409, format!("conflict with \"{other}\": .data.{key}")));
            }
            keys.retain(|key| !differs(key));
        }
        let before = self.managers.insert(manager.into(), applied.keys().cloned().collect());
        for key in before.into_iter().flatten() {
            if !self.managers.values().any(|keys| keys.contains(&key)) {
                data.remove(&key);
            }
        }
        data.extend(applied);
        self.body["data"] = Value::Object(data);
        self.disown_missing();
        Ok(())
    }

    fn disown_missing(&mut self) {
        let data = self.data();
        self.managers.values_mut().for_each(|keys| keys.retain(|key| data.contains_key(key)));
        self.managers.retain(|_, keys| !keys.is_empty());
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

pub(super) fn encoded(bytes: &[u8]) -> Value {
    json!(ByteString(bytes.to_vec()))
}

pub(super) fn decoded(text: &str) -> Vec<u8> {
    serde_json::from_value::<ByteString>(json!(text)).unwrap().0
}
