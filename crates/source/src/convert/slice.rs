//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_model::name::{NodeName, PortName, ServiceName, SliceName};
use mesh_model::snapshot::{Condition, Endpoint, Slice, SlicePort};
use serde::{Deserialize, Serialize};

use super::service::protocol;
use super::{Convert, Converted, Identify, Note, Refusals, Verdict, bad_name, namespace, shown};
use crate::status::Reason;
use crate::wire::{self, Conditions, EndpointPort, EndpointSlice, Meta};

/// The label by which a slice belongs to a Service (Kubernetes' EndpointSlice API).
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Kubernetes' own limits.
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
/// Longest zone and hostname: both are labels.
const MAX_LABEL: usize = 63;
/// Longest name of a node.
const MAX_NAME: usize = 253;
/// Kubernetes allows 8 per kind.
const MAX_HINTS: usize = 8;

/// Identifies an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// A namespace as written; only compared.
    pub namespace: String,
    pub name: SliceName,
}

impl std::fmt::Display for SliceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A slice and the Service that it belongs to, which may not exist (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSlice {
    pub service: ServiceName,
    pub slice: Slice,
    /// One per endpoint; none at all where no endpoint has any.
    pub hints: Vec<Hints>,
}

/// Whose clients an endpoint is meant for. Written by the control plane, and only where the Service asks for it by
/// `trafficDistribution` or by its topology annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub zones: Vec<String>,
    pub nodes: Vec<String>,
}

impl Hints {
    fn of(endpoint: &wire::Endpoint) -> Self {
        let names = |written: &Option<Vec<wire::Named>>| {
            let usable = written.iter().flatten().filter(|it| (1..=MAX_NAME).contains(&it.name.len()));
            usable.take(MAX_HINTS).map(|it| it.name.clone()).collect()
        };
        let hints = endpoint.hints.as_ref();
        hints.map_or_else(Self::default, |it| Self {
            zones: names(&it.for_zones),
            nodes: names(&it.for_nodes),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.nodes.is_empty()
    }
}

/// The Service that a slice says it belongs to, as far as that can be read.
pub(crate) fn owner(namespace: Option<&str>, label: Option<&str>) -> Option<ServiceName> {
    ServiceName::new(namespace.filter(|it| !it.is_empty()).unwrap_or("default"), label?).ok()
}

fn service_label(meta: &Meta) -> Option<&str> {
    meta.labels.as_ref()?.service_name.as_deref()
}

impl Identify for SliceKey {
    fn identify(meta: &Meta) -> Result<Self, Note> {
        let name = SliceName::new(meta.name.as_deref().unwrap_or("")).map_err(|error| bad_name(&error))?;
        Ok(Self { namespace: namespace(meta).into(), name })
    }
}

/// An EndpointSlice. Bad endpoints and ports are left out one by one; the rest counts. One without the label is no
/// Service's, whatever it is for.
impl Convert for EndpointSlice {
    type Value = OwnedSlice;

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn owner(&self) -> Option<ServiceName> {
        owner(self.metadata.namespace.as_deref(), service_label(&self.metadata))
    }

    fn convert(&self) -> Converted<OwnedSlice> {
        let Some(label) = service_label(&self.metadata) else { return Converted::leave(Vec::new()) };
        let v4 = match self.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            "FQDN" => {
                let message = "addressType FQDN names hosts, which the mesh does not balance; write IPv4 or IPv6 addresses";
                return Converted::leave(vec![Note::new(Reason::Unsupported, message)]);
            }
            other => {
                let message = format!("addressType {} is none of IPv4, IPv6 and FQDN", shown(other));
                return Converted::keep(vec![Note::new(Reason::Slice, message)]);
            }
        };
        let service = match service(self, label) {
            Ok(service) => service,
            Err(note) => return Converted::keep(vec![note]),
        };
        let mut notes = Vec::new();
        let ports = ports(self.ports.as_deref().unwrap_or_default(), &mut notes);
        let (endpoints, hints) = endpoints(self.endpoints.as_deref().unwrap_or_default(), v4, &mut notes);
        let slice = Slice { ports, endpoints };
        Converted { verdict: Verdict::Use(OwnedSlice { service, slice, hints }), notes }
    }
}

fn service(object: &EndpointSlice, label: &str) -> Result<ServiceName, Note> {
    let endpoints = object.endpoints.as_ref().map_or(0, Vec::len);
    let ports = object.ports.as_ref().map_or(0, Vec::len);
    if endpoints > MAX_ENDPOINTS || ports > MAX_PORTS {
        let message = format!(
            "it has {endpoints} endpoints and {ports} ports; Kubernetes allows {MAX_ENDPOINTS} and {MAX_PORTS}: spread \
             them over several slices"
        );
        return Err(Note::new(Reason::Slice, message));
    }
    ServiceName::new(namespace(&object.metadata), label).map_err(|error| {
        Note::new(Reason::Name, format!("label {SERVICE_LABEL}: {error}; write the Service's name"))
    })
}

fn ports(written: &[EndpointPort], notes: &mut Vec<Note>) -> Vec<SlicePort> {
    let mut refused = Refusals::new(Reason::Slice, "port");
    let mut unsupported = Refusals::new(Reason::Unsupported, "port");
    let (mut ports, mut names): (Vec<SlicePort>, BTreeSet<Option<PortName>>) = Default::default();
    for port in written {
        match slice_port(port) {
            Ok(Some(port)) if !names.insert(port.name.clone()) => {
                refused.add("another port has its name; give each port one of its own");
            }
            Ok(Some(port)) => ports.push(port),
            Ok(None) => unsupported.add("SCTP is not balanced"),
            Err(why) => refused.add(why),
        }
    }
    notes.extend(refused.note());
    notes.extend(unsupported.note());
    ports
}

fn slice_port(port: &EndpointPort) -> Result<Option<SlicePort>, String> {
    let number = port.port.ok_or("it has no number; write the port on which the endpoints listen")?;
    let number = u16::try_from(number).ok().filter(|number| *number != 0);
    let number =
        number.ok_or("its number is not within 1–65535; write the port on which the endpoints listen")?;
    let name = port.name.as_deref().filter(|name| !name.is_empty()).map(PortName::new);
    let name = name.transpose().map_err(|error| error.to_string())?;
    let protocol = protocol(port.protocol.as_deref())?;
    Ok(protocol.map(|protocol| SlicePort { name, protocol, port: number }))
}

fn endpoints(written: &[wire::Endpoint], v4: bool, notes: &mut Vec<Note>) -> (Vec<Endpoint>, Vec<Hints>) {
    let mut refused = Refusals::new(Reason::Slice, "endpoint");
    let (mut endpoints, mut hints) = (Vec::with_capacity(written.len()), Vec::new());
    for object in written {
        match endpoint(object, v4) {
            Ok(endpoint) => {
                endpoints.push(endpoint);
                hints.push(Hints::of(object));
            }
            Err(why) => refused.add(why),
        }
    }
    notes.extend(refused.note());
    if hints.iter().all(Hints::is_empty) {
        hints.clear();
    }
    (endpoints, hints)
}

fn endpoint(object: &wire::Endpoint, v4: bool) -> Result<Endpoint, String> {
    let first = object.addresses.as_ref().and_then(|addresses| addresses.first());
    let text = first.ok_or("it has no address; write one")?;
    let address = text.parse::<IpAddr>().map_err(|_| format!("{} is no IP address", shown(text)))?;
    if address.is_ipv4() != v4 {
        return Err(format!("{address} is not of the slice's addressType"));
    }
    if !usable(address) {
        return Err(format!(
            "{address} is unspecified, loopback, link-local, multicast or v4-mapped; write the address that pods have"
        ));
    }
    let node = object.node_name.as_deref().filter(|name| !name.is_empty()).map(NodeName::new);
    let node = node.transpose().map_err(|error| error.to_string())?;
    let condition = condition(object.conditions.as_ref());
    let (zone, hostname) = (label(object.zone.as_ref())?, label(object.hostname.as_ref())?);
    Ok(Endpoint { node, zone, hostname, ..Endpoint::new(address, condition) })
}

/// What Kubernetes accepts as an endpoint's address.
fn usable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn label(text: Option<&String>) -> Result<Option<String>, String> {
    match text {
        Some(text) if text.len() > MAX_LABEL => {
            Err(format!("{} is longer than {MAX_LABEL} characters", shown(text)))
        }
        _ => Ok(text.filter(|text| !text.is_empty()).cloned()),
    }
}

/// Kubernetes' defaults: unknown readiness counts as ready, unknown serving as readiness, unknown terminating as
/// false (EndpointConditions, KEP-1672). `publishNotReadyAddresses` is already in `ready`.
fn condition(conditions: Option<&Conditions>) -> Condition {
    let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let serving = conditions.and_then(|it| it.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    Condition { ready, serving, terminating }
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
