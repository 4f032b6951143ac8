//! Services.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::name::ServiceName;
use mesh_model::snapshot::{Service, Unread};

use super::{Api, OfKind};
use crate::convert::{self, Converted, Note};
use crate::objects::Objects;
use crate::wire::{self, Meta};

pub(crate) struct Of;

impl OfKind for Of {
    type Key = ServiceName;
    /// Without its slices.
    type Value = Service;
    type Stored = Arc<Service>;
    type Wire = wire::Service;

    const API: Api = Api {
        kind: "Service",
        version: "v1",
        resource: "services",
        namespaced: true,
        selector: "",
        is_wanted: |_| true,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("service"),
        has_ranges: false,
    };

    fn meta(object: &wire::Service) -> &Meta {
        &object.metadata
    }

    fn key(meta: &Meta) -> Result<ServiceName, Note> {
        convert::service_name(meta)
    }

    fn convert(object: &wire::Service) -> Converted<Service> {
        convert::service(object)
    }

    fn store(value: &Arc<Service>) -> Arc<Service> {
        value.clone()
    }

    fn changed(objects: &mut Objects, key: &ServiceName, _old: Option<&Arc<Service>>) {
        objects.dirty.services.insert(key.clone());
    }

    fn unread(objects: &Objects, key: &ServiceName, unread: &mut Unread) {
        unread.services.insert(key.clone(), objects.slices_of(key, None, &BTreeSet::new()));
    }
}
