//! EndpointSlices, packed: a cluster may have thousands of them behind Services that are not global (yet).
//!
//! Owns the encoding, which never leaves the process. About 50 bytes per endpoint instead of several hundred.

use std::net::IpAddr;

use mesh_model::name::{NodeName, PortName, ServiceName};
use mesh_model::snapshot::{Condition, Endpoint, Protocol, Slice, SlicePort};

use crate::convert::{Hints, OwnedSlice};

/// A slice and the Service that it belongs to, packed. Equal if the slices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackedSlice {
    pub(crate) service: ServiceName,
    /// Whether any endpoint has hints.
    pub(crate) hinted: bool,
    bytes: Box<[u8]>,
}

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;
const V6: u8 = 8;
const NODE: u8 = 16;
const ZONE: u8 = 32;
const HOSTNAME: u8 = 64;
const HINTS: u8 = 128;

impl From<&OwnedSlice> for PackedSlice {
    fn from(owned: &OwnedSlice) -> Self {
        let OwnedSlice { service, slice, hints } = owned;
        let mut writer = Writer(Vec::with_capacity(16 + 48 * slice.endpoints.len()));
        writer.count(slice.ports.len());
        slice.ports.iter().for_each(|port| writer.port(port));
        writer.count(slice.endpoints.len());
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            writer.endpoint(endpoint, hints.get(index).filter(|hints| !hints.is_empty()));
        }
        Self { service: service.clone(), hinted: !hints.is_empty(), bytes: writer.0.into() }
    }
}

impl PackedSlice {
    /// The slice as it was.
    pub(crate) fn unpack(&self) -> OwnedSlice {
        let mut reader = Reader(&self.bytes);
        let ports = (0..reader.count()).map(|_| reader.port()).collect();
        let mut hints = Vec::new();
        let count = reader.count();
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            let (endpoint, hinted) = reader.endpoint();
            endpoints.push(endpoint);
            hints.push(hinted);
        }
        if hints.iter().all(Hints::is_empty) {
            hints.clear();
        }
        OwnedSlice { service: self.service.clone(), slice: Slice { ports, endpoints }, hints }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

struct Writer(Vec<u8>);

impl Writer {
    /// Of ports and endpoints; the door lets at most 20,000 through.
    fn count(&mut self, count: usize) {
        self.0.extend(u16::try_from(count).expect("the door limits it").to_be_bytes());
    }

    /// Names are at most 253 bytes long, labels 63.
    fn text(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).expect("the door limits names"));
        self.0.extend(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.0.push(u8::try_from(texts.len()).expect("the door limits hints"));
        texts.iter().for_each(|text| self.text(text));
    }

    fn port(&mut self, port: &SlicePort) {
        self.text(port.name.as_ref().map_or("", |name| name.as_str()));
        self.0.push(u8::from(port.protocol == Protocol::Udp));
        self.0.extend(port.port.to_be_bytes());
    }

    fn endpoint(&mut self, endpoint: &Endpoint, hints: Option<&Hints>) {
        let Condition { ready, serving, terminating } = endpoint.condition;
        let flags = [
            (ready, READY),
            (serving, SERVING),
            (terminating, TERMINATING),
            (endpoint.address.is_ipv6(), V6),
            (endpoint.node.is_some(), NODE),
            (endpoint.zone.is_some(), ZONE),
            (endpoint.hostname.is_some(), HOSTNAME),
            (hints.is_some(), HINTS),
        ];
        self.0.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        match endpoint.address {
            IpAddr::V4(address) => self.0.extend(address.octets()),
            IpAddr::V6(address) => self.0.extend(address.octets()),
        }
        let node = endpoint.node.as_ref().map(NodeName::as_str);
        for text in [node, endpoint.zone.as_deref(), endpoint.hostname.as_deref()].into_iter().flatten() {
            self.text(text);
        }
        if let Some(hints) = hints {
            self.texts(&hints.zones);
            self.texts(&hints.nodes);
        }
    }
}

/// Reads what [`Writer`] wrote, and nothing else.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("written by this process");
        self.0 = rest;
        *taken
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn count(&mut self) -> usize {
        u16::from_be_bytes(self.array()).into()
    }

    fn text(&mut self) -> &str {
        let length = self.byte().into();
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        std::str::from_utf8(taken).expect("written from a text")
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.byte()).map(|_| self.text().to_owned()).collect()
    }

    fn port(&mut self) -> SlicePort {
        // Was validated when it was packed.
        let name = PortName::new(self.text()).ok();
        let protocol = if self.byte() == 0 { Protocol::Tcp } else { Protocol::Udp };
        SlicePort { name, protocol, port: u16::from_be_bytes(self.array()) }
    }

    fn endpoint(&mut self) -> (Endpoint, Hints) {
        let flags = self.byte();
        let has = |flag| flags & flag != 0;
        let address: IpAddr = if has(V6) { self.array::<16>().into() } else { self.array::<4>().into() };
        let condition = Condition { ready: has(READY), serving: has(SERVING), terminating: has(TERMINATING) };
        let node = has(NODE).then(|| NodeName::new(self.text()).ok()).flatten();
        let zone = has(ZONE).then(|| self.text().to_owned());
        let hostname = has(HOSTNAME).then(|| self.text().to_owned());
        let hints =
            if has(HINTS) { Hints { zones: self.texts(), nodes: self.texts() } } else { Hints::default() };
        (Endpoint { address, condition, node, zone, hostname, hinted_away: false }, hints)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = String> {
        "[a-zé]{1,20}"
    }

    fn endpoints() -> impl Strategy<Value = (Endpoint, Hints)> {
        let address =
            prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
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
                (Endpoint { address, condition, node, zone, hostname, hinted_away: false }, hints)
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
            address: "10.1.0.1".parse().unwrap(),
            condition: Condition::READY,
            node: Some(NodeName::new("ip-10-0-131-77.eu-central-1.compute.internal").unwrap()),
            zone: Some("eu-central-1a".into()),
            hostname: None,
            hinted_away: false,
        };
        let slice = Slice { ports: Vec::new(), endpoints: vec![endpoint; 100] };
        let packed =
            PackedSlice::from(&OwnedSlice { service: "ns/s".parse().unwrap(), slice, hints: Vec::new() });
        assert!(packed.len() < 100 * 70, "{}", packed.len());
    }
}
