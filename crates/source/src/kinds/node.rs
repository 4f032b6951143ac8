//! Nodes.

use std::sync::Arc;

use mesh_model::name::NodeName;

use super::{Api, OfKind, Part};
use crate::convert::NodeEntry;
use crate::wire;

pub(crate) struct Of;

impl OfKind for Of {
    type Key = NodeName;
    type Wire = wire::Node;
    type Stored = Arc<NodeEntry>;

    const API: Api = Api {
        kind: "Node",
        version: "v1",
        resource: "nodes",
        namespaced: false,
        selector: "",
        for_service_ranges: false,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("node"),
        has_ranges: true,
    };

    fn part(key: &NodeName, _old: Option<&Arc<NodeEntry>>) -> Option<Part> {
        Some(Part::Node(key.clone()))
    }
}
