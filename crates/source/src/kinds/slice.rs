//! EndpointSlices.

use std::sync::Arc;

use mesh_model::name::ServiceName;
use mesh_model::snapshot::Unread;

use super::{Api, OfKind};
use crate::convert::{self, Converted, Note, OwnedSlice, SliceKey};
use crate::objects::Objects;
use crate::packed::PackedSlice;
use crate::wire::{self, Meta};

pub(crate) struct Of;

impl OfKind for Of {
    type Key = SliceKey;
    type Value = OwnedSlice;
    /// Packed, for there are also those of Services that are not global.
    type Stored = Arc<PackedSlice>;
    type Wire = wire::EndpointSlice;

    const API: Api = Api {
        kind: "EndpointSlice",
        version: "discovery.k8s.io/v1",
        resource: "endpointslices",
        namespaced: true,
        // Nobody balances a headless Service, and some have thousands of endpoints.
        selector: "&labelSelector=%21service.kubernetes.io%2Fheadless",
        is_wanted: |_| true,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("slice"),
        has_ranges: false,
    };

    fn meta(object: &wire::EndpointSlice) -> &Meta {
        &object.metadata
    }

    fn key(meta: &Meta) -> Result<SliceKey, Note> {
        SliceKey::of(meta)
    }

    fn convert(object: &wire::EndpointSlice) -> Converted<OwnedSlice> {
        convert::slice(object)
    }

    fn store(value: &Arc<OwnedSlice>) -> Arc<PackedSlice> {
        Arc::new(PackedSlice::from(&**value))
    }

    fn changed(objects: &mut Objects, key: &SliceKey, old: Option<&Arc<PackedSlice>>) {
        objects.move_slice(key, old);
    }

    fn unread(_objects: &Objects, key: &SliceKey, unread: &mut Unread) {
        unread.slices.insert((key.namespace.clone(), key.name.clone()));
    }

    fn owner(meta: &Meta) -> Option<ServiceName> {
        let label = meta.labels.as_ref().and_then(|labels| labels.service_name.as_deref());
        convert::owner(meta.namespace.as_deref(), label)
    }
}
