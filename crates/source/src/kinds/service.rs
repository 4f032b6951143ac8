//! Services, without their slices.

use std::sync::Arc;

use mesh_model::name::ServiceName;
use mesh_model::snapshot::Service;

use super::{Api, OfKind, Part};
use crate::wire;

pub(crate) struct Of;

impl OfKind for Of {
    type Key = ServiceName;
    type Wire = wire::Service;
    type Stored = Arc<Service>;

    const API: Api = Api {
        kind: "Service",
        version: "v1",
        resource: "services",
        namespaced: true,
        selector: "",
        for_service_ranges: false,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("service"),
        has_ranges: false,
    };

    fn part(key: &ServiceName, _old: Option<&Arc<Service>>) -> Option<Part> {
        Some(Part::Service(key.clone()))
    }
}
