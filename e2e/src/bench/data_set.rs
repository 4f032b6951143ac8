//! The data set of a peer cluster, and of the agent's own: names, addresses and records of services, by number.
//!
//! Pure arithmetic. Records are made by the exporter's own code, endpoints with a node and a zone as Kubernetes
//! has them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use mesh_model::address_policy::OwnRanges;
use mesh_model::annotation::Scope;
use mesh_model::export::{self, Identity, ServiceOps, Subject};
use mesh_model::name::{ClusterId, ClusterName, NodeName, PortName, ServiceName, SliceName};
use mesh_model::record::{
    AliveRecord, ClusterRecord, Entry, Incarnation, MAX_SLICE_ENDPOINTS, SyncedKind, SyncedRecord,
};
use mesh_model::snapshot::{Condition, Endpoint, Protocol, Service, ServicePort, Slice, SlicePort};

/// The ranges of the agent's own cluster.
pub(crate) const OWN_PODS: &str = "10.1.0.0/16";
pub(crate) const OWN_NODES: &str = "192.168.1.0/24";
pub(crate) const OWN_SERVICES: &str = "10.96.0.0/12";

/// Of every pod.
const TARGET_PORT: u16 = 8080;

/// How much a peer has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) services: usize,
    /// Of each service.
    pub(crate) backends: usize,
}

impl Shape {
    pub(crate) fn all_backends(self) -> usize {
        self.services * self.backends
    }

    /// Backends in the last slice of a service.
    fn last_slice(self) -> usize {
        (self.backends - 1) % MAX_SLICE_ENDPOINTS + 1
    }
}

/// What a peer cluster has; the first one is number 0.
#[derive(Clone, Debug)]
pub(crate) struct DataSet {
    identity: Identity,
    number: u32,
    shape: Shape,
}

impl DataSet {
    pub(crate) fn new(number: usize, shape: Shape) -> Result<Self> {
        let name = ClusterName::new(&format!("peer-{number}"))?;
        let id = ClusterId::new(u64::try_from(number)? + 2)?;
        let number = u32::try_from(number)?;
        let pods = vec![IpNet::V4(pods(number)?)];
        let ranges = OwnRanges { pods, ..OwnRanges::default() };
        Ok(Self { identity: Identity { name, id, ranges }, number, shape })
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.identity.name
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// What the agent's peer file says.
    pub(crate) fn peer_file(&self, endpoint: &str) -> serde_json::Value {
        serde_json::json!({
            "id": self.identity.id,
            "endpoints": [endpoint],
            "ranges": {"pods": self.identity.ranges.pods},
        })
    }

    /// The records that say who the cluster is and that it has said everything.
    pub(crate) fn frame(&self) -> Result<ServiceOps> {
        let name = self.name();
        let cluster = ClusterRecord {
            id: self.identity.id,
            incarnation: Incarnation::new("bench")?,
            ranges: self.identity.ranges.exported(),
            capabilities: Default::default(),
        };
        let mut puts = vec![cluster.entry(name), self.alive(0)];
        puts.extend(SyncedKind::ALL.iter().map(|kind| SyncedRecord { revision: 1 }.entry(name, *kind)));
        Ok(ServiceOps { subject: Subject::Unknown(String::new()), puts, deletes: Vec::new() })
    }

    /// The sign of life of the exporter.
    pub(crate) fn alive(&self, counter: u64) -> Entry {
        AliveRecord { epoch: 1, counter, source_age_ms: Some(0) }.entry(self.name())
    }

    /// All records of a service.
    pub(crate) fn service(&self, number: usize) -> Result<ServiceOps> {
        let name = service_name(number)?;
        let slices = self.shape.backends.div_ceil(MAX_SLICE_ENDPOINTS);
        let slices = (0..slices).map(|slice| Ok((slice_name(number, slice)?, self.slice(number, slice, 0)?)));
        let slices: Result<BTreeMap<_, _>> = slices.map(|slice| slice.map(|(k, v)| (k, v.into()))).collect();
        let service = Service {
            scope: Scope::GLOBAL,
            cluster_ips: vec![cluster_ip(number)?.into()],
            ports: vec![ServicePort { name: Some(port_name()?), protocol: Protocol::Tcp, port: 80 }],
            session_affinity_seconds: None,
            node_local: false,
            created_at: Some("2026-01-01T00:00:00Z".into()),
            slices: slices?,
        };
        let puts = export::export_service(&self.identity, &name, &service, 1);
        Ok(ServiceOps { subject: Subject::Service(name), puts, deletes: Vec::new() })
    }

    /// The record of a service's last slice after its first backend has been replaced so often.
    pub(crate) fn changed_slice(&self, number: usize, generation: u32) -> Result<Entry> {
        let slice = self.shape.backends.div_ceil(MAX_SLICE_ENDPOINTS) - 1;
        let record = self.slice(number, slice, generation)?;
        let record = mesh_model::record::SliceRecord {
            ports: record.ports,
            endpoints: record.endpoints,
            changed_unix_us: crate::wait::unix_us(),
            ..Default::default()
        };
        Ok(record.entry(self.name(), &service_name(number)?, &slice_name(number, slice)?))
    }

    fn slice(&self, service: usize, slice: usize, generation: u32) -> Result<Slice> {
        let last = slice + 1 == self.shape.backends.div_ceil(MAX_SLICE_ENDPOINTS);
        let count = if last { self.shape.last_slice() } else { MAX_SLICE_ENDPOINTS };
        let first = service * self.shape.backends + slice * MAX_SLICE_ENDPOINTS;
        let mut endpoints = (first..first + count).map(|at| self.endpoint(at)).collect::<Result<Vec<_>>>()?;
        if generation > 0 {
            let beyond = self.shape.all_backends() + usize::try_from(generation)?;
            endpoints[0] = self.endpoint(beyond)?;
        }
        let port = SlicePort { name: Some(port_name()?), protocol: Protocol::Tcp, port: TARGET_PORT };
        Ok(Slice { ports: vec![port], endpoints })
    }

    fn endpoint(&self, number: usize) -> Result<Endpoint> {
        let address = u32::from(pods(self.number)?.network()) + u32::try_from(number)? + 1;
        Ok(Endpoint {
            node: Some(NodeName::new(&format!("node-{}.bench.example", number % 100))?),
            zone: Some(format!("zone-{}", number % 3)),
            ..Endpoint::new(Ipv4Addr::from(address), Condition::READY)
        })
    }
}

/// The first peer has room for four million pods, the others for 65,000.
fn pods(number: u32) -> Result<Ipv4Net> {
    match number {
        0 => Ok(Ipv4Net::new(Ipv4Addr::new(10, 128, 0, 0), 10)?),
        _ => Ok(Ipv4Net::new(Ipv4Addr::new(10, 192 + u8::try_from(number)?, 0, 0), 16)?),
    }
}

pub(crate) fn service_name(number: usize) -> Result<ServiceName> {
    Ok(ServiceName::new("bench", &format!("service-{number:05}"))?)
}

fn slice_name(service: usize, slice: usize) -> Result<SliceName> {
    Ok(SliceName::new(&format!("service-{service:05}-{slice:05}"))?)
}

fn port_name() -> Result<PortName> {
    Ok(PortName::new("http")?)
}

fn cluster_ip(number: usize) -> Result<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 96, 0, 1));
    Ok(Ipv4Addr::from(first + u32::try_from(number).context("too many services")?))
}

/// The agent's own Services `from..to`, without endpoints, as one YAML text.
pub(crate) fn own_services(from: usize, to: usize) -> Result<String> {
    let one = |number| {
        Ok(format!(
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: service-{number:05}, namespace: bench, annotations: {{clustermesh.io/global: \"true\"}}}}\n\
             spec: {{clusterIPs: [{}], ports: [{{name: http, port: 80, targetPort: {TARGET_PORT}}}]}}\n",
            cluster_ip(number)?
        ))
    };
    (from..to).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_all_its_backends_and_a_change_touches_one() {
        let data_set = DataSet::new(0, Shape { services: 2, backends: 230 }).unwrap();
        let ops = data_set.service(1).unwrap();
        let text: Vec<String> =
            ops.puts.iter().map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect();
        let addresses = |text: &String| text.matches("\"address\"").count();
        assert_eq!(text.iter().map(addresses).collect::<Vec<_>>(), [0, 100, 100, 30]);
        let (key, value) = data_set.changed_slice(1, 1).unwrap();
        assert_eq!(key, ops.puts[3].0);
        let value = String::from_utf8(value).unwrap();
        let lines = |text: &str| text.split('{').map(ToOwned::to_owned).collect::<Vec<_>>();
        let (before, after) = (lines(&text[3]), lines(&value));
        let same = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        // The endpoint itself, and the last one, behind which the time of the change stands.
        assert_eq!((before.len(), same), (after.len(), before.len() - 2), "{value}");
    }
}
