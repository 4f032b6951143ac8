//! Exports a cluster's global services to its etcd, for the node-agents of its peers.

pub mod exporter;
