//! The limits of records: each stands here once, for those who write and those who read. `docs/records.md` has the same list.
//!
//! A writer keeps them, and tells the owner of a Service that is beyond one. A reader takes what is within them.

use std::fmt;

pub(crate) use crate::address_policy::MAX_RANGES;
use crate::audience::MAX_AUDIENCE;
use crate::snapshot::{Service, ServicePort, SlicePort};

/// Largest value in bytes; a larger one is refused. etcd's own default limit of a whole request is 1.5 MiB.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// How many endpoints a writer puts into one slice record. A reader takes as many as fit the value.
pub const MAX_SLICE_ENDPOINTS: usize = 100;
/// How many endpoints of one service of one cluster a reader uses; whole slices beyond it, in the order of
/// their names, are left out and counted.
pub const MAX_SERVICE_ENDPOINTS: usize = 100_000;
/// How many ports of a service or slice record count: as many as Kubernetes allows in an EndpointSlice.
pub const MAX_PORTS: usize = 20_000;
/// Bytes of a writer's ports in one record, so that [`MAX_SLICE_ENDPOINTS`] fit beside them.
pub(crate) const MAX_PORT_BYTES: usize = 950_000;
/// Longest zone or hostname in bytes (label values and DNS labels have at most 63; some room for others).
pub(crate) const MAX_TEXT_BYTES: usize = 253;
/// Longest `created_at` in bytes; RFC 3339 with nanoseconds has 35.
pub(crate) const MAX_CREATED_AT_BYTES: usize = 64;

/// Of a port's JSON, besides its name.
const PORT_BYTES: usize = r#"{"name":"","protocol":"TCP","port":65535},"#.len();

/// What there is at most, how many, and what becomes of more: as the documentation has it.
pub const DOCUMENTED: &[(&str, usize, &str)] = &[
    ("bytes of a value", MAX_VALUE_BYTES, "refused; what the record no longer lists goes all the same"),
    ("endpoints of a slice's record", MAX_SLICE_ENDPOINTS, "the writer makes several records of it"),
    (
        "endpoints of a Service, over all its slices",
        MAX_SERVICE_ENDPOINTS,
        "slices beyond it are left out, by name",
    ),
    ("ports of a Service or slice", MAX_PORTS, "the first ones count"),
    ("bytes of a Service's or slice's ports", MAX_PORT_BYTES, "the writer writes the first ones"),
    ("ranges of a cluster", MAX_RANGES, "the writer joins or leaves out ranges; a reader refuses the record"),
    (
        "addresses, or pod CIDRs, of a Node",
        MAX_RANGES,
        "the writer writes the first ones; a reader refuses the record",
    ),
    (
        "bytes of a zone or hostname",
        MAX_TEXT_BYTES,
        "the writer leaves it out; a reader refuses the endpoint",
    ),
    ("clusters in `clustermesh.io/export-to`", MAX_AUDIENCE, "the annotation is refused"),
    ("bytes of `created_at`", MAX_CREATED_AT_BYTES, "the writer leaves it out; a reader refuses the record"),
];

/// What of a Service its peers do not get, because it is beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BeyondLimit {
    Ports { of: String, left_out: usize },
    Endpoints { count: usize },
}

impl fmt::Display for BeyondLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { of, left_out } => write!(
                f,
                "{left_out} ports of {of} are beyond the {MAX_PORTS} ports or {MAX_PORT_BYTES} bytes that a record may \
                 have, so other clusters don't see them; spread them over several Services"
            ),
            Self::Endpoints { count } => write!(
                f,
                "it has {count} endpoints, and other clusters use the first {MAX_SERVICE_ENDPOINTS} only; spread them \
                 over several Services"
            ),
        }
    }
}

/// Everything about a Service that is beyond a limit; nothing where it is not shared. Costs by its slices and ports.
pub fn beyond_limits(service: &Service) -> Vec<BeyondLimit> {
    if !service.scope.shared {
        return Vec::new();
    }
    let ports = |of: String, all: usize, written: usize| {
        (all > written).then(|| BeyondLimit::Ports { of, left_out: all - written })
    };
    let own = ports("the Service".into(), service.ports.len(), service_ports(&service.ports).len());
    let slices = service.slices.iter().filter_map(|(name, slice)| {
        ports(format!("slice {name}"), slice.ports.len(), slice_ports(&slice.ports).len())
    });
    let count: usize = service.slices.values().map(|slice| slice.endpoints.len()).sum();
    let endpoints = (count > MAX_SERVICE_ENDPOINTS).then_some(BeyondLimit::Endpoints { count });
    own.into_iter().chain(slices).chain(endpoints).collect()
}

/// The ports that a writer writes.
pub(super) fn service_ports(all: &[ServicePort]) -> &[ServicePort] {
    first(all, |port| port.name.as_ref().map_or(0, |name| name.as_str().len()))
}

pub(super) fn slice_ports(all: &[SlicePort]) -> &[SlicePort] {
    first(all, |port| port.name.as_ref().map_or(0, |name| name.as_str().len()))
}

fn first<T>(all: &[T], name_bytes: impl Fn(&T) -> usize) -> &[T] {
    let bytes = all.iter().scan(0, |bytes, port| {
        *bytes += PORT_BYTES + name_bytes(port);
        Some(*bytes)
    });
    let count = bytes.take(MAX_PORTS).take_while(|bytes| *bytes <= MAX_PORT_BYTES).count();
    &all[..count]
}
