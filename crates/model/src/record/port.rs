//! Ports as they stand in service and slice records.

use serde::{Deserialize, Serialize};

use super::MAX_PORTS;
use super::rejection::Fault;
use crate::name::PortName;
use crate::snapshot::{Protocol, ServicePort, SlicePort};

#[derive(Serialize, Deserialize)]
pub(super) struct WirePort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Kubernetes' default.
    #[serde(default = "tcp")]
    protocol: String,
    #[serde(default)]
    port: u16,
}

fn tcp() -> String {
    Protocol::Tcp.to_string()
}

impl From<&ServicePort> for WirePort {
    fn from(port: &ServicePort) -> Self {
        let name = port.name.as_ref().map(|name| name.as_str().into());
        Self { name, protocol: port.protocol.to_string(), port: port.port }
    }
}

impl From<&SlicePort> for WirePort {
    fn from(port: &SlicePort) -> Self {
        let name = port.name.as_ref().map(|name| name.as_str().into());
        Self { name, protocol: port.protocol.to_string(), port: port.port }
    }
}

/// Validates ports. One with a protocol that this version does not balance is ignored like an unknown field,
/// so that a newer peer's other ports keep working. An empty name is no name, as in Kubernetes. Gives the first
/// [`MAX_PORTS`], and how many are left out.
pub(super) fn decode(wires: Vec<WirePort>) -> Result<(Vec<ServicePort>, usize), Fault> {
    let left_out = wires.len().saturating_sub(MAX_PORTS);
    let mut ports = Vec::with_capacity(wires.len().min(MAX_PORTS));
    for wire in wires.into_iter().take(MAX_PORTS) {
        let protocol = match wire.protocol.as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => continue,
        };
        let name = wire.name.filter(|name| !name.is_empty());
        if wire.port == 0 {
            return Err(Fault::PortZero { name: super::rejection::shorten(&name.unwrap_or_default()) });
        }
        let name = name.map(|name| PortName::new(&name)).transpose();
        let name = name.map_err(|error| Fault::field("ports", &error))?;
        ports.push(ServicePort { name, protocol, port: wire.port });
    }
    Ok((ports, left_out))
}
