//! EndpointSlices.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{
    Endpoint as EndpointObject, EndpointConditions, EndpointPort, EndpointSlice,
};
use mesh_model::name::{NodeName, PortName, ServiceName, SliceName};
use mesh_model::snapshot::{Condition, Endpoint, Slice, SlicePort};

use super::service::protocol;
use super::{Converted, Note, Refusals, Verdict, bad_name, namespace, shown};
use crate::status::Reason;

/// The label by which a slice belongs to a Service (Kubernetes' EndpointSlice API).
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Kubernetes' own limits.
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
/// Longest zone and hostname: both are labels.
const MAX_LABEL: usize = 63;

/// Identifies an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// A namespace as written; only compared.
    pub namespace: String,
    pub name: SliceName,
}

/// A slice and the Service that it belongs to, which may not exist (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSlice {
    pub service: ServiceName,
    pub slice: Slice,
}

impl SliceKey {
    pub fn of(object: &EndpointSlice) -> Result<Self, Note> {
        let name = object.metadata.name.as_deref().unwrap_or("");
        let name = SliceName::new(name).map_err(|error| bad_name(&error))?;
        Ok(Self { namespace: namespace(&object.metadata).into(), name })
    }
}

/// An EndpointSlice. Bad endpoints and ports are left out one by one; the rest counts.
pub fn slice(object: &EndpointSlice) -> Converted<OwnedSlice> {
    let v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            let message =
                "addressType FQDN names hosts, which the mesh does not balance; write IPv4 or IPv6 addresses";
            return Converted::leave(vec![Note::new(Reason::unsupported, message)]);
        }
        other => {
            let message = format!("addressType {} is none of IPv4, IPv6 and FQDN", shown(other));
            return Converted::keep(vec![Note::new(Reason::slice, message)]);
        }
    };
    let service = match service(object) {
        Ok(service) => service,
        Err(note) => return Converted::keep(vec![note]),
    };
    let mut notes = Vec::new();
    let ports = ports(object.ports.as_deref().unwrap_or_default(), &mut notes);
    let endpoints = endpoints(&object.endpoints, v4, &mut notes);
    Converted { verdict: Verdict::Use(OwnedSlice { service, slice: Slice { ports, endpoints } }), notes }
}

fn service(object: &EndpointSlice) -> Result<ServiceName, Note> {
    let (endpoints, ports) = (object.endpoints.len(), object.ports.as_ref().map_or(0, Vec::len));
    if endpoints > MAX_ENDPOINTS || ports > MAX_PORTS {
        let message = format!(
            "it has {endpoints} endpoints and {ports} ports; Kubernetes allows {MAX_ENDPOINTS} and {MAX_PORTS}: spread \
             them over several slices"
        );
        return Err(Note::new(Reason::slice, message));
    }
    let label = object.metadata.labels.iter().flatten().find(|(name, _)| *name == SERVICE_LABEL);
    let Some((_, name)) = label else {
        let message = format!("it has no label {SERVICE_LABEL}, so it belongs to no Service; add the label");
        return Err(Note::new(Reason::slice, message));
    };
    ServiceName::new(namespace(&object.metadata), name).map_err(|error| {
        Note::new(Reason::name, format!("label {SERVICE_LABEL}: {error}; write the Service's name"))
    })
}

fn ports(written: &[EndpointPort], notes: &mut Vec<Note>) -> Vec<SlicePort> {
    let mut refused = Refusals::new(Reason::slice, "port");
    let mut unsupported = Refusals::new(Reason::unsupported, "port");
    let mut ports: Vec<SlicePort> = Vec::new();
    for port in written {
        match slice_port(port) {
            Ok(Some(port)) if ports.iter().any(|other| other.name == port.name) => {
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

fn endpoints(written: &[EndpointObject], v4: bool, notes: &mut Vec<Note>) -> Vec<Endpoint> {
    let mut refused = Refusals::new(Reason::slice, "endpoint");
    let mut endpoints = Vec::with_capacity(written.len());
    for object in written {
        match endpoint(object, v4) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(why) => refused.add(why),
        }
    }
    notes.extend(refused.note());
    endpoints
}

fn endpoint(object: &EndpointObject, v4: bool) -> Result<Endpoint, String> {
    let text = object.addresses.first().ok_or("it has no address; write one")?;
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
    Ok(Endpoint { address, condition, node, zone, hostname })
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
fn condition(conditions: Option<&EndpointConditions>) -> Condition {
    let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let serving = conditions.and_then(|it| it.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    Condition { ready, serving, terminating }
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
