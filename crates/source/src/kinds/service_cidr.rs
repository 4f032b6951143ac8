//! ServiceCIDRs: the ranges from which Kubernetes allots ClusterIPs. They are no part of the snapshot.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Api, OfKind};
use crate::wire;

pub(crate) struct Of;

impl OfKind for Of {
    type Key = String;
    type Wire = wire::ServiceCidr;
    type Stored = Arc<Vec<IpNet>>;

    const API: Api = Api {
        kind: "ServiceCIDR",
        version: "networking.k8s.io/v1",
        resource: "servicecidrs",
        namespaced: false,
        selector: "",
        for_service_ranges: true,
        // Kubernetes has it since 1.33.
        may_be_absent: true,
        in_manifests: false,
        counted_as: None,
        has_ranges: true,
    };
}
