//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_model::address::Address;
use mesh_model::annotation::{Annotated, parse_map};
use mesh_model::name::{PortName, ServiceName};
use mesh_model::snapshot::{Protocol, Service, ServicePort};

use super::{Convert, Converted, Identify, Note, Verdict, bad_name, namespace, shown};
use crate::status::Reason;
use crate::wire::{Meta, Service as Object, ServicePort as Port, ServiceSpec};

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;

impl Identify for ServiceName {
    fn identify(meta: &Meta) -> Result<Self, Note> {
        let name = meta.name.as_deref().unwrap_or("");
        Self::new(namespace(meta), name).map_err(|error| bad_name(&error))
    }
}

/// A global Service, without its slices. One that is not global is left alone, whatever else is wrong with it.
impl Convert for Object {
    type Value = Service;

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn convert(&self) -> Converted<Service> {
        let (annotated, problems) = parse_map(&self.metadata.annotations);
        let mut notes: Vec<Note> =
            problems.iter().map(|problem| Note::new(Reason::Annotation, problem.to_string())).collect();
        let scope = match annotated {
            Annotated::Global(scope) => scope,
            Annotated::NotGlobal => return Converted::leave(notes),
            Annotated::Refused(problem) => {
                notes.push(Note::new(Reason::ExportToInvalid, problem.to_string()));
                return Converted::keep(notes);
            }
        };

        let default = ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&default);
        if let Some(note) = not_balanced(spec) {
            notes.push(note);
            return Converted::leave(notes);
        }
        let (cluster_ips, ports) = match (cluster_ips(spec), ports(spec, &mut notes)) {
            (Ok(ips), Ok(ports)) => (ips, ports),
            (ips, ports) => {
                notes.extend(ips.err());
                notes.extend(ports.err());
                return Converted::keep(notes);
            }
        };
        if ports.is_empty() {
            notes.retain(|note| note.reason != Reason::Unsupported);
            let message = "it has SCTP ports only, which the mesh does not balance; remove the global annotation, or add a TCP \
                           or UDP port";
            notes.push(Note::new(Reason::Unsupported, message));
            return Converted::leave(notes);
        }
        let node_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        if node_local {
            let message = "internalTrafficPolicy: Local keeps connections on the client's node, so clients of this cluster \
                           are left to kube-proxy; clients of other clusters may use its backends";
            notes.push(Note::new(Reason::NodeLocal, message));
        }
        let value = Service {
            scope,
            cluster_ips,
            ports,
            session_affinity_seconds: session_affinity(spec, &mut notes),
            node_local,
            created_at: self.metadata.creation_timestamp.clone(),
            slices: Default::default(),
        };
        Converted { verdict: Verdict::Use(value), notes }
    }
}

fn written_ips(spec: &ServiceSpec) -> impl Iterator<Item = &str> {
    let many = spec.cluster_ips.iter().flatten();
    let all =
        many.chain(spec.cluster_ip.as_ref().filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)));
    all.map(String::as_str).filter(|ip| !ip.is_empty())
}

/// Services that are global but have no address to balance.
fn not_balanced(spec: &ServiceSpec) -> Option<Note> {
    if spec.kind.as_deref() == Some("ExternalName") {
        let message = "an ExternalName Service is only a DNS alias, which the mesh can't balance; remove the global \
                       annotation, or give it type ClusterIP";
        return Some(Note::new(Reason::ExternalName, message));
    }
    if written_ips(spec).any(|ip| ip == "None") {
        let message = "a headless Service (clusterIP: None) has no address that the mesh could balance; remove the \
                       global annotation, or give it a ClusterIP";
        return Some(Note::new(Reason::Headless, message));
    }
    None
}

fn cluster_ips(spec: &ServiceSpec) -> Result<Vec<Address>, Note> {
    let mut ips: Vec<Address> = Vec::new();
    for text in written_ips(spec) {
        let ip = text.parse::<IpAddr>().map_err(|_| bad_ip(text, "is no IP address"))?;
        usable_cluster_ip(ip).map_err(|why| bad_ip(text, why))?;
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(bad_ip(text, "is the second of its family"));
        }
        ips.push(ip.into());
    }
    if ips.is_empty() {
        let message = "it has no ClusterIP, so no client can dial it; write spec.clusterIPs";
        return Err(Note::new(Reason::NoClusterIp, message));
    }
    Ok(ips)
}

fn bad_ip(text: &str, why: &str) -> Note {
    let message =
        format!("ClusterIP {} {why}; write one address per family into spec.clusterIPs", shown(text));
    Note::new(Reason::Service, message)
}

fn usable_cluster_ip(ip: IpAddr) -> Result<(), &'static str> {
    let (mapped, local, broadcast) = match ip {
        IpAddr::V4(v4) => (false, v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.to_ipv4_mapped().is_some(), v6.is_unicast_link_local(), false),
    };
    if mapped {
        Err("is a v4-mapped IPv6 address")
    } else if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        Err("is unspecified, loopback or multicast")
    } else if local || broadcast {
        Err("is link-local or broadcast")
    } else {
        Ok(())
    }
}

/// TCP and UDP ports; none where all are SCTP.
fn ports(spec: &ServiceSpec, notes: &mut Vec<Note>) -> Result<Vec<ServicePort>, Note> {
    let written: &[Port] = spec.ports.as_deref().unwrap_or_default();
    let (mut ports, mut names, mut numbers) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for port in written {
        let name = port_name(port, written.len() > 1)?;
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| bad_port(port, "its number is not within 1–65535"))?;
        let Some(protocol) = protocol(port.protocol.as_deref()).map_err(|why| bad_port(port, why))? else {
            let message =
                format!("port {number} is SCTP, which the mesh does not balance; its other ports are");
            notes.push(Note::new(Reason::Unsupported, message));
            continue;
        };
        if !names.insert(name.clone()) || !numbers.insert((number, protocol)) {
            return Err(bad_port(port, "another port has its name, or its number and protocol"));
        }
        ports.push(ServicePort { name, protocol, port: number });
    }
    if written.is_empty() {
        return Err(Note::new(Reason::Service, "it has no port; write spec.ports"));
    }
    Ok(ports)
}

fn port_name(port: &Port, required: bool) -> Result<Option<PortName>, Note> {
    match port.name.as_deref().filter(|name| !name.is_empty()) {
        None if required => Err(bad_port(port, "it has no name, which a Service with several ports needs")),
        None => Ok(None),
        Some(name) => PortName::new(name).map(Some).map_err(|error| bad_port(port, &error.to_string())),
    }
}

fn bad_port(port: &Port, why: &str) -> Note {
    Note::new(Reason::Service, format!("port {} is refused: {why}; correct spec.ports", port.port))
}

/// TCP where nothing is said; `None` for SCTP.
pub(super) fn protocol(text: Option<&str>) -> Result<Option<Protocol>, &'static str> {
    match text {
        None | Some("" | "TCP") => Ok(Some(Protocol::Tcp)),
        Some("UDP") => Ok(Some(Protocol::Udp)),
        Some("SCTP") => Ok(None),
        Some(_) => Err("its protocol is none of TCP, UDP and SCTP"),
    }
}

fn session_affinity(spec: &ServiceSpec, notes: &mut Vec<Note>) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|config| config.timeout_seconds);
            let message = "sessionAffinity: ClientIP is not honoured by the mesh yet: each connection chooses a backend anew; \
                           remove the global annotation if clients need the same one again";
            notes.push(Note::new(Reason::SessionAffinity, message));
            Some(seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS))
        }
        Some(other) => {
            let message =
                format!("sessionAffinity {} is neither ClientIP nor None; None is used", shown(other));
            notes.push(Note::new(Reason::Service, message));
            None
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
