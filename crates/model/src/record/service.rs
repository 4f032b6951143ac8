//! The record of a global Service: small, changes rarely.

use serde::{Deserialize, Serialize};

use super::key::RecordKey;
use super::limits::{self, MAX_CREATED_AT_BYTES};
use super::port::{self, WirePort};
use super::rejection::Fault;
use super::{Entry, agree, decode_json, entry};
use crate::annotation::Affinity;
use crate::audience::Audience;
use crate::name::{ClusterName, ServiceName};
use crate::snapshot::{Service, ServicePort};

/// What a cluster says of one of its global Services. Its addresses are its own business: clients dial the
/// ClusterIP of their own cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    pub ports: Vec<ServicePort>,
    /// Whether others may use the backends; an exporter removes the record of a Service that is not shared.
    pub shared: bool,
    pub affinity: Affinity,
    /// Who sees it: for whoever serves it, not for whoever reads it.
    pub audience: Audience,
    pub session_affinity_seconds: Option<u32>,
    /// RFC 3339, as written by the cluster.
    pub created_at: Option<String>,
    /// Ports beyond [`MAX_PORTS`](super::MAX_PORTS), which a reader leaves out.
    pub ports_left_out: usize,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    ports: Vec<WirePort>,
    #[serde(default = "yes")]
    shared: bool,
    #[serde(default)]
    affinity: Affinity,
    #[serde(default, skip_serializing_if = "Audience::is_everybody")]
    export_to: Audience,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_affinity_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

fn yes() -> bool {
    true
}

impl From<&Service> for ServiceRecord {
    fn from(service: &Service) -> Self {
        Self {
            ports: service.ports.clone(),
            shared: service.scope.shared,
            affinity: service.scope.affinity,
            audience: service.scope.audience.clone(),
            session_affinity_seconds: service.session_affinity_seconds,
            created_at: service.created_at.clone(),
            ports_left_out: 0,
        }
    }
}

impl ServiceRecord {
    pub fn entry(&self, cluster: &ClusterName, service: &ServiceName) -> Entry {
        let wire = Wire {
            cluster: Some(cluster.as_str().into()),
            service: Some(service.as_str().into()),
            ports: limits::service_ports(&self.ports).iter().map(WirePort::from).collect(),
            shared: self.shared,
            affinity: self.affinity,
            export_to: self.audience.clone(),
            session_affinity_seconds: self.session_affinity_seconds,
            created_at: self.created_at.clone().filter(|text| text.len() <= MAX_CREATED_AT_BYTES),
        };
        entry(&RecordKey::Service(cluster.clone(), service.clone()), &wire)
    }

    pub(super) fn decode(cluster: &ClusterName, service: &ServiceName, value: &[u8]) -> Result<Self, Fault> {
        let wire: Wire = decode_json(value)?;
        agree("cluster", wire.cluster.as_deref(), cluster.as_str())?;
        agree("service", wire.service.as_deref(), service.as_str())?;
        if wire.created_at.as_ref().is_some_and(|text| text.len() > MAX_CREATED_AT_BYTES) {
            return Err(Fault::field("created_at", &"it is no RFC 3339 time"));
        }
        let (ports, ports_left_out) = port::decode(wire.ports)?;
        Ok(Self {
            ports,
            ports_left_out,
            shared: wire.shared,
            affinity: wire.affinity,
            audience: wire.export_to,
            session_affinity_seconds: wire.session_affinity_seconds,
            created_at: wire.created_at,
        })
    }
}
