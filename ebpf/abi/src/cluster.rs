//! The value of the `CLUSTERS` map: the state of every cluster, in one element.

use crate::plain;

/// Number of cluster ids, including the unused id 0.
pub const MAX_CLUSTERS: usize = 4096;
/// The cluster is used as its groups' tiers say. Also the state of a cluster nobody spoke of.
pub const CLUSTER_USABLE: u32 = 0;
/// The cluster stands below every usable one, whatever its groups' tiers.
pub const CLUSTER_DEMOTED: u32 = 1;

/// State by cluster id. One array element holds all of them, so a program looks the table up once and then
/// indexes it; declaring a cluster dead is one write of this element. Each state is one aligned word of which
/// only the lowest byte changes, so words rewritten with their own value never look different to a reader.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ClusterStates {
    pub state: [u32; MAX_CLUSTERS],
}
plain!(ClusterStates, size 16384, align 4);
