//! The record of a slice of a Service's endpoints: one pod's change rewrites one of these.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::key::RecordKey;
use super::limits::{self, MAX_VALUE_BYTES};
use super::port::{self, WirePort};
use super::rejection::Fault;
use super::{Entry, agree, decode_json, entry};
use crate::address::Address;
use crate::audience::Audience;
use crate::endpoint::WireEndpoint;
use crate::name::{ClusterName, ServiceName, SliceName};
use crate::snapshot::{Condition, Endpoint, SlicePort};

/// A slice as a cluster published it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceRecord {
    /// Who sees it: for whoever serves it, not for whoever reads it.
    pub audience: Audience,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
    /// Microseconds since the Unix epoch when the exporter saw the change, by its clock; never a reason to
    /// write or to act.
    pub changed_unix_us: u64,
    /// Endpoints that were left out of `endpoints` because they are invalid.
    pub refused: usize,
    /// What is wrong with the first of them.
    pub first_refused: Option<Fault>,
    /// Ports beyond [`MAX_PORTS`](super::MAX_PORTS), which a reader leaves out.
    pub ports_left_out: usize,
}

/// Compact: fields with their default value are left out.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    cluster: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    service: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    slice: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Audience::is_everybody")]
    export_to: Audience,
    #[serde(default)]
    ports: Vec<WirePort>,
    #[serde(default, borrow)]
    endpoints: Vec<WireEndpoint<'a>>,
    #[serde(default)]
    changed_unix_us: u64,
}

/// Some endpoints of a slice and what they share.
pub(crate) struct Chunk<'a> {
    pub(crate) audience: &'a Audience,
    pub(crate) ports: &'a [SlicePort],
    /// At most [`super::MAX_SLICE_ENDPOINTS`].
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) changed_unix_us: u64,
}

impl Chunk<'_> {
    pub(crate) fn entry(&self, cluster: &ClusterName, service: &ServiceName, slice: &SliceName) -> Entry {
        let wire = Wire {
            cluster: Some(cluster.as_str().into()),
            service: Some(service.as_str().into()),
            slice: Some(slice.as_str().into()),
            export_to: self.audience.clone(),
            ports: limits::slice_ports(self.ports).iter().map(WirePort::from).collect(),
            endpoints: self.endpoints.iter().map(WireEndpoint::from).collect(),
            changed_unix_us: self.changed_unix_us,
        };
        entry(&RecordKey::Slice(cluster.clone(), service.clone(), slice.clone()), &wire)
    }
}

/// Which endpoints a slice's record still lists, and how they are, although the record is refused for something else. None
/// where that can't be told.
pub(crate) fn still_listed(value: &[u8]) -> Option<BTreeMap<Address, Condition>> {
    #[derive(Deserialize)]
    struct Listed<'a> {
        #[serde(borrow)]
        endpoints: Vec<WireEndpoint<'a>>,
    }
    // Nobody writes more: etcd takes 1.5 MiB.
    if value.len() > 2 * MAX_VALUE_BYTES {
        return None;
    }
    let listed: Listed<'_> = decode_json(value).ok()?;
    let endpoints = listed.endpoints.into_iter();
    Some(endpoints.filter_map(|it| it.listed()).collect())
}

impl SliceRecord {
    pub fn entry(&self, cluster: &ClusterName, service: &ServiceName, slice: &SliceName) -> Entry {
        let Self { audience, ports, endpoints, changed_unix_us, .. } = self;
        let chunk = Chunk { audience, ports, endpoints, changed_unix_us: *changed_unix_us };
        chunk.entry(cluster, service, slice)
    }

    /// Reads a slice. An endpoint with an address that none may have, or an invalid node name, is left out
    /// alone and counted in `refused`.
    pub(super) fn decode(
        cluster: &ClusterName,
        service: &ServiceName,
        slice: &SliceName,
        value: &[u8],
    ) -> Result<Self, Fault> {
        let wire: Wire<'_> = decode_json(value)?;
        agree("cluster", wire.cluster.as_deref(), cluster.as_str())?;
        agree("service", wire.service.as_deref(), service.as_str())?;
        agree("slice", wire.slice.as_deref(), slice.as_str())?;
        let (ports, ports_left_out) = port::decode(wire.ports)?;
        let ports = ports.into_iter().map(|port| SlicePort {
            name: port.name,
            protocol: port.protocol,
            port: port.port,
        });
        let mut record = Self {
            audience: wire.export_to,
            ports: ports.collect(),
            changed_unix_us: wire.changed_unix_us,
            ports_left_out,
            ..Self::default()
        };
        for endpoint in wire.endpoints {
            match endpoint.validate() {
                Ok(endpoint) => record.endpoints.push(endpoint),
                Err(fault) => {
                    record.refused += 1;
                    record.first_refused.get_or_insert(fault);
                }
            }
        }
        Ok(record)
    }
}
