//! The fields of Kubernetes objects that we read, and no others: what a server sends besides is never kept.
//!
//! Everything is optional here: what may be missing and what it then means is decided in [`crate::convert`].

use std::collections::BTreeMap;
use std::fmt;

use mesh_model::annotation;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// RFC 3339, as written.
    pub(crate) creation_timestamp: Option<String>,
    pub(crate) labels: Option<Labels>,
    #[serde(deserialize_with = "ours")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The labels that mean something to us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Labels {
    /// The Service that a slice belongs to.
    #[serde(rename = "kubernetes.io/service-name")]
    pub(crate) service_name: Option<String>,
    /// Where a Node is.
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub(crate) zone: Option<String>,
}

/// `v1 Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: Option<ServiceSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    // Not `clusterIp`, as camel case would have it.
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Option<Vec<String>>,
    pub(crate) ports: Option<Vec<ServicePort>>,
    pub(crate) session_affinity: Option<String>,
    pub(crate) session_affinity_config: Option<SessionAffinityConfig>,
    pub(crate) internal_traffic_policy: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClientIpConfig {
    pub(crate) timeout_seconds: Option<i32>,
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Meta,
    pub(crate) address_type: String,
    pub(crate) ports: Option<Vec<EndpointPort>>,
    pub(crate) endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) addresses: Option<Vec<String>>,
    pub(crate) conditions: Option<Conditions>,
    pub(crate) hostname: Option<String>,
    pub(crate) node_name: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) hints: Option<Hints>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

/// Which clients an endpoint is meant for, by topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hints {
    pub(crate) for_zones: Option<Vec<Named>>,
    pub(crate) for_nodes: Option<Vec<Named>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// `v1 Node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    pub(crate) spec: Option<NodeSpec>,
    pub(crate) status: Option<NodeStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAddress {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
}

/// `networking.k8s.io/v1 ServiceCIDR`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidr {
    pub(crate) metadata: Meta,
    pub(crate) spec: Option<ServiceCidrSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrSpec {
    pub(crate) cidrs: Option<Vec<String>>,
}

/// Keeps the annotations that make a Service global. Others may hold whole manifests.
fn ours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Ours;

    impl<'de> Visitor<'de> for Ours {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of texts")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut kept = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if name.starts_with(annotation::PREFIX) || name.starts_with(annotation::ALIAS_PREFIX) {
                    kept.insert(name, map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(kept)
        }
    }

    deserializer.deserialize_any(Ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_used_is_kept() {
        let service: Service = serde_json::from_str(
            r#"{"metadata": {"name": "s", "managedFields": [{"a": 1}], "labels": null, "annotations":
                {"clustermesh.io/global": "true", "service.cilium.io/shared": "false",
                 "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
                "spec": {"selector": {"app": "x"}, "clusterIPs": null, "clusterIP": "10.0.0.1"}, "status": {}}"#,
        )
        .unwrap();
        let kept: Vec<&str> = service.metadata.annotations.keys().map(String::as_str).collect();
        assert_eq!(kept, ["clustermesh.io/global", "service.cilium.io/shared"]);
        assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn null_counts_as_missing() {
        let slice: EndpointSlice =
            serde_json::from_str(r#"{"metadata": {"annotations": null}, "endpoints": null, "ports": null}"#)
                .unwrap();
        assert_eq!(slice, EndpointSlice::default());
    }

    #[test]
    fn an_annotation_of_ours_must_be_a_text() {
        let wrong = r#"{"metadata": {"annotations": {"clustermesh.io/global": true}}}"#;
        assert!(serde_json::from_str::<Service>(wrong).is_err());
    }
}
