//! EndpointSlices.

use std::sync::Arc;

use super::{Api, OfKind, Part, Stored};
use crate::convert::{OwnedSlice, SliceKey};
use crate::packed::PackedSlice;
use crate::wire;

pub(crate) struct Of;

impl OfKind for Of {
    type Key = SliceKey;
    type Wire = wire::EndpointSlice;
    type Stored = Arc<PackedSlice>;

    const API: Api = Api {
        kind: "EndpointSlice",
        version: "discovery.k8s.io/v1",
        resource: "endpointslices",
        namespaced: true,
        // Nobody balances a headless Service, and some have thousands of endpoints.
        selector: "&labelSelector=%21service.kubernetes.io%2Fheadless",
        for_service_ranges: false,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("slice"),
        has_ranges: false,
    };

    fn part(key: &SliceKey, old: Option<&Arc<PackedSlice>>) -> Option<Part> {
        Some(Part::Slice { key: key.clone(), was_of: old.map(|old| old.service.clone()) })
    }
}

/// Packed, for there are also slices of Services that are not global.
impl Stored<OwnedSlice> for Arc<PackedSlice> {
    fn store(value: &Arc<OwnedSlice>) -> Self {
        Self::new(PackedSlice::from(&**value))
    }
}
