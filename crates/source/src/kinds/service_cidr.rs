//! ServiceCIDRs: the ranges from which Kubernetes allots ClusterIPs.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Api, OfKind};
use crate::convert::{self, Converted, Note, Verdict};
use crate::objects::Objects;
use crate::wire::{self, Meta};

pub(crate) struct Of;

impl OfKind for Of {
    type Key = String;
    type Value = Vec<IpNet>;
    type Stored = Arc<Vec<IpNet>>;
    type Wire = wire::ServiceCidr;

    const API: Api = Api {
        kind: "ServiceCIDR",
        version: "networking.k8s.io/v1",
        resource: "servicecidrs",
        namespaced: false,
        selector: "",
        is_wanted: |options| options.service_cidrs,
        // Kubernetes has it since 1.33.
        may_be_absent: true,
        in_manifests: false,
        counted_as: None,
        has_ranges: true,
    };

    fn meta(object: &wire::ServiceCidr) -> &Meta {
        &object.metadata
    }

    fn key(meta: &Meta) -> Result<String, Note> {
        convert::object_name(meta)
    }

    fn convert(object: &wire::ServiceCidr) -> Converted<Vec<IpNet>> {
        Converted { verdict: Verdict::Use(convert::cidrs(object)), notes: Vec::new() }
    }

    fn store(value: &Arc<Vec<IpNet>>) -> Arc<Vec<IpNet>> {
        value.clone()
    }

    /// Ranges are no part of the snapshot.
    fn changed(_objects: &mut Objects, _key: &String, _old: Option<&Arc<Vec<IpNet>>>) {}
}
