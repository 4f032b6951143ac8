//! EndpointSlices, packed: a cluster may have thousands of them behind Services that are not global (yet).
//!
//! Owns the encoding of a slice, which never leaves the process; an endpoint has its own. About 50 bytes per endpoint instead
//! of several hundred.

use mesh_model::endpoint::{pack_text, unpack_array, unpack_text};
use mesh_model::name::{PortName, ServiceName};
use mesh_model::snapshot::{Endpoint, Protocol, Slice, SlicePort};

use crate::convert::{Hints, OwnedSlice};

/// A slice and the Service that it belongs to, packed. Equal if the slices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedSlice {
    pub(crate) service: ServiceName,
    /// Whether any endpoint has hints; then those of all follow the endpoints.
    pub(crate) hinted: bool,
    bytes: Box<[u8]>,
}

impl From<&OwnedSlice> for PackedSlice {
    fn from(owned: &OwnedSlice) -> Self {
        let OwnedSlice { service, slice, hints } = owned;
        let mut bytes = Vec::with_capacity(16 + 48 * slice.endpoints.len());
        pack_count(slice.ports.len(), &mut bytes);
        slice.ports.iter().for_each(|port| pack_port(port, &mut bytes));
        pack_count(slice.endpoints.len(), &mut bytes);
        slice.endpoints.iter().for_each(|endpoint| endpoint.pack(&mut bytes));
        for Hints { zones, nodes } in hints {
            pack_texts(zones, &mut bytes);
            pack_texts(nodes, &mut bytes);
        }
        Self { service: service.clone(), hinted: !hints.is_empty(), bytes: bytes.into() }
    }
}

impl PackedSlice {
    /// The slice as it was.
    pub(crate) fn unpack(&self) -> OwnedSlice {
        let mut bytes: &[u8] = &self.bytes;
        let ports = (0..unpack_count(&mut bytes)).map(|_| unpack_port(&mut bytes)).collect();
        let count = unpack_count(&mut bytes);
        let endpoints = (0..count).map(|_| Endpoint::unpack(&mut bytes)).collect();
        let hinted = if self.hinted { count } else { 0 };
        let hints = (0..hinted)
            .map(|_| Hints { zones: unpack_texts(&mut bytes), nodes: unpack_texts(&mut bytes) })
            .collect();
        OwnedSlice { service: self.service.clone(), slice: Slice { ports, endpoints }, hints }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Of ports and endpoints; the door lets at most 20,000 through.
fn pack_count(count: usize, bytes: &mut Vec<u8>) {
    bytes.extend(u16::try_from(count).expect("the door limits it").to_be_bytes());
}

fn unpack_count(bytes: &mut &[u8]) -> usize {
    u16::from_be_bytes(unpack_array(bytes)).into()
}

fn pack_port(port: &SlicePort, bytes: &mut Vec<u8>) {
    pack_text(port.name.as_ref().map_or("", |name| name.as_str()), bytes);
    bytes.push(u8::from(port.protocol == Protocol::Udp));
    bytes.extend(port.port.to_be_bytes());
}

fn unpack_port(bytes: &mut &[u8]) -> SlicePort {
    // Was validated when it was packed.
    let name = PortName::new(unpack_text(bytes)).ok();
    let [udp] = unpack_array(bytes);
    let protocol = if udp == 0 { Protocol::Tcp } else { Protocol::Udp };
    SlicePort { name, protocol, port: u16::from_be_bytes(unpack_array(bytes)) }
}

fn pack_texts(texts: &[String], bytes: &mut Vec<u8>) {
    bytes.push(u8::try_from(texts.len()).expect("the door limits hints"));
    texts.iter().for_each(|text| pack_text(text, bytes));
}

fn unpack_texts(bytes: &mut &[u8]) -> Vec<String> {
    let [count] = unpack_array(bytes);
    (0..count).map(|_| unpack_text(bytes).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use mesh_model::address::Address;
    use mesh_model::name::NodeName;
    use mesh_model::snapshot::Condition;

    use super::*;

    fn texts() -> impl Strategy<Value = String> {
        "[a-zé]{1,20}"
    }

    fn endpoints() -> impl Strategy<Value = (Endpoint, Hints)> {
        let address =
            prop_oneof![any::<[u8; 4]>().prop_map(Address::from), any::<[u8; 16]>().prop_map(Address::from)];
        let names = (
            proptest::option::of("[a-z]{1,20}"),
            proptest::option::of(texts()),
            proptest::option::of(texts()),
        );
        let hints =
            (vec(texts(), 0..3), vec(texts(), 0..2)).prop_map(|(zones, nodes)| Hints { zones, nodes });
        (address, any::<[bool; 3]>(), names, hints).prop_map(
            |(address, flags, (node, zone, hostname), hints)| {
                let [ready, serving, terminating] = flags;
                let condition = Condition { ready, serving, terminating };
                let node = node.map(|node| NodeName::new(&node).unwrap());
                (Endpoint { node, zone, hostname, ..Endpoint::new(address, condition) }, hints)
            },
        )
    }

    fn ports() -> impl Strategy<Value = SlicePort> {
        (proptest::option::of("[a-z]{1,15}"), any::<bool>(), any::<u16>()).prop_map(|(name, udp, port)| {
            SlicePort {
                name: name.map(|name| PortName::new(&name).unwrap()),
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                port,
            }
        })
    }

    proptest! {
        #[test]
        fn a_slice_comes_out_as_it_went_in(ports in vec(ports(), 0..4), endpoints in vec(endpoints(), 0..20)) {
            let (endpoints, mut hints): (Vec<_>, Vec<_>) = endpoints.into_iter().unzip();
            if hints.iter().all(Hints::is_empty) {
                hints.clear();
            }
            let service = "ns/s".parse().unwrap();
            let slice = OwnedSlice { service, slice: Slice { ports, endpoints }, hints };
            prop_assert_eq!(PackedSlice::from(&slice).unpack(), slice);
        }
    }

    #[test]
    fn an_ordinary_endpoint_takes_few_bytes() {
        let endpoint = Endpoint {
            node: Some(NodeName::new("ip-10-0-131-77.eu-central-1.compute.internal").unwrap()),
            zone: Some("eu-central-1a".into()),
            ..Endpoint::new([10, 1, 0, 1], Condition::READY)
        };
        let slice = Slice { ports: Vec::new(), endpoints: vec![endpoint; 100] };
        let packed =
            PackedSlice::from(&OwnedSlice { service: "ns/s".parse().unwrap(), slice, hints: Vec::new() });
        assert!(packed.len() < 100 * 70, "{}", packed.len());
    }
}
