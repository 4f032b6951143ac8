//! Nodes.

use std::sync::Arc;

use mesh_model::name::NodeName;
use mesh_model::snapshot::Unread;

use super::{Api, OfKind};
use crate::convert::{self, Converted, NodeEntry, Note};
use crate::objects::Objects;
use crate::wire::{self, Meta};

pub(crate) struct Of;

impl OfKind for Of {
    type Key = NodeName;
    type Value = NodeEntry;
    type Stored = Arc<NodeEntry>;
    type Wire = wire::Node;

    const API: Api = Api {
        kind: "Node",
        version: "v1",
        resource: "nodes",
        namespaced: false,
        selector: "",
        is_wanted: |_| true,
        may_be_absent: false,
        in_manifests: true,
        counted_as: Some("node"),
        has_ranges: true,
    };

    fn meta(object: &wire::Node) -> &Meta {
        &object.metadata
    }

    fn key(meta: &Meta) -> Result<NodeName, Note> {
        convert::node_name(meta)
    }

    fn convert(object: &wire::Node) -> Converted<NodeEntry> {
        convert::node(object)
    }

    fn store(value: &Arc<NodeEntry>) -> Arc<NodeEntry> {
        value.clone()
    }

    fn changed(objects: &mut Objects, key: &NodeName, _old: Option<&Arc<NodeEntry>>) {
        objects.dirty.nodes.insert(key.clone());
    }

    fn unread(_objects: &Objects, key: &NodeName, unread: &mut Unread) {
        unread.nodes.insert(key.clone());
    }
}
