//! What somebody should hear of an object, and the Event (`events.k8s.io/v1`) that it becomes. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use mesh_model::hash::{fnv1a, mix};
use mesh_model::name::{NodeName, ServiceName};

/// Longest note that Kubernetes takes.
const MAX_NOTE_BYTES: usize = 1024;
/// Of an object's name within that of its Event: Kubernetes takes 253, of which the hash and its dot need 17.
const MAX_NAME_BYTES: usize = 200;
/// Where Kubernetes wants the Events about objects without a namespace.
const CLUSTER_WIDE: &str = "default";

/// The object that a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Service {
        name: ServiceName,
        /// Of the very object: one that is recreated is another. None where nobody but the log hears of it.
        uid: Option<String>,
    },
    Node(NodeName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { name, .. } => write!(f, "Service {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

impl Subject {
    fn kind(&self) -> &'static str {
        match self {
            Self::Service { .. } => "Service",
            Self::Node(_) => "Node",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Service { name, .. } => name.name(),
            Self::Node(name) => name.as_str(),
        }
    }

    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service { name, .. } => Some(name.namespace()),
            Self::Node(_) => None,
        }
    }

    fn uid(&self) -> Option<&str> {
        match self {
            Self::Service { uid, .. } => uid.as_deref(),
            // As the kubelet has it, so that `kubectl describe node` finds it.
            Self::Node(name) => Some(name.as_str()),
        }
    }
}

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pub subject: Subject,
    /// In upper camel case, as Kubernetes writes reasons.
    pub reason: String,
    /// What tells it apart from other notices of that reason about that object. Whoever finds the same has the same: one
    /// Event comes of it.
    pub key: String,
    /// What was to be done, in a word.
    pub action: &'static str,
    /// Whether somebody should act; otherwise it is only good to know.
    pub warning: bool,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Who tells it.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) controller: &'static str,
    pub(super) instance: String,
}

impl Notice {
    pub(super) fn namespace(&self) -> &str {
        self.subject.namespace().unwrap_or(CLUSTER_WIDE)
    }

    pub(super) fn event(&self, reporter: &Reporter) -> Event {
        let Self { subject, reason, action, warning, message, .. } = self;
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.namespace().into()),
                ..ObjectMeta::default()
            },
            action: Some((*action).into()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(beginning(message, MAX_NOTE_BYTES).into()),
            reason: Some(reason.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some(subject.kind().into()),
                namespace: subject.namespace().map(Into::into),
                name: Some(subject.name().into()),
                uid: subject.uid().map(Into::into),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(reporter.controller.into()),
            reporting_instance: Some(reporter.instance.clone()),
            type_: Some(if *warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        }
    }

    /// The Event's: the same for everybody who tells it.
    fn name(&self) -> String {
        let parts = [self.subject.uid().unwrap_or_default(), &self.reason, &self.key];
        let hash = mix(fnv1a(parts.join("\0").bytes()));
        let name = beginning(self.subject.name(), MAX_NAME_BYTES);
        format!("{}.{hash:016x}", name.trim_end_matches(['.', '-']))
    }
}

/// As much of a text as has room.
fn beginning(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As Kubernetes writes reasons: `port_mismatch` becomes `PortMismatch`.
pub fn upper_camel(snake: &str) -> String {
    let camel = snake.split('_').map(|word| {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        first.to_uppercase() + rest
    });
    camel.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(uid: &str) -> Notice {
        Notice {
            subject: Subject::Service { name: "ns/rebel-base".parse().unwrap(), uid: Some(uid.into()) },
            reason: upper_camel("external_name"),
            key: String::new(),
            action: "Export",
            warning: true,
            message: "é".repeat(600),
        }
    }

    fn event(notice: &Notice, instance: &str) -> Event {
        notice.event(&Reporter { controller: "clustermesh.io/test", instance: instance.into() })
    }

    #[test]
    fn an_event_is_of_the_form_that_kubernetes_takes() {
        let event = event(&notice("u-1"), "pod-0");
        assert_eq!(event.reason.as_deref(), Some("ExternalName"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.note.unwrap().len(), MAX_NOTE_BYTES);
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("u-1")));
    }

    #[test]
    fn an_event_about_a_node_is_where_its_kubelets_are() {
        let name = format!("{}.a", "n".repeat(MAX_NAME_BYTES - 1));
        let about = Subject::Node(NodeName::new(&name).unwrap());
        let event = event(&Notice { subject: about, ..notice("") }, "node-0");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let event_name = event.metadata.name.unwrap();
        assert!(event_name.len() < 253 && event_name.starts_with("nn") && !event_name.contains(".."));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.namespace, regarding.uid), (None, Some(name)));
    }

    #[test]
    fn the_name_is_that_of_the_finding() {
        let name = |notice: &Notice, instance| event(notice, instance).metadata.name.unwrap();
        assert_eq!(name(&notice("u-1"), "pod-0"), "rebel-base.cc51e4df32d9d595", "never changes");
        let other_words = Notice { message: "other words".into(), ..notice("u-1") };
        assert_eq!(name(&notice("u-1"), "pod-0"), name(&other_words, "pod-1"));
        assert_ne!(
            name(&notice("u-1"), "pod-0"),
            name(&notice("u-2"), "pod-0"),
            "a recreated Service is another"
        );
        let keyed = Notice { key: "2".into(), ..notice("u-1") };
        assert_ne!(name(&notice("u-1"), "pod-0"), name(&keyed, "pod-0"));
    }
}
