//! A peer at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::faults::Faults;
use super::quota::Cut;
use super::service::PeerService;
use crate::name::ServiceName;
use crate::record::{AliveRecord, ClusterRecord, Reason, Rejection};

/// A peer at one moment. Cheap to clone and to compare: maps share structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerSnapshot {
    /// The last good cluster record.
    pub cluster: Option<Arc<ClusterRecord>>,
    /// Why nothing new of this peer is used, if so.
    pub refused: Option<Rejection>,
    /// The last alive record. Its absence means nothing.
    pub alive: Option<AliveRecord>,
    /// The peer is synced: a first full list was applied and its exporter had marked services and endpoints
    /// as complete. Never goes back, so it means "`services` is complete as of some time"; before it is true
    /// `services` is empty from ignorance.
    pub synced: bool,
    /// Services with those of their endpoints that the address policy accepts.
    pub services: OrdMap<ServiceName, Arc<PeerService>>,
    /// Endpoints in `services`.
    pub endpoints: usize,
    /// How often something was rejected, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// The last rejections as text, oldest first.
    pub recent_rejections: Vec<Arc<str>>,
    /// What is wrong with records, by Service.
    pub faults: Faults,
    /// Services of which `services` says whether the peer has them; none: of all. Of others nothing has been read.
    pub tracked: Option<OrdSet<ServiceName>>,
    /// Where the peer is cut at its quota.
    pub cuts: Vec<Cut>,
    /// Bytes of memory that its records take, as its quota counts them.
    pub bytes: usize,
}

impl PeerSnapshot {
    /// Sum over all reasons.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// The incarnation of the peer's etcd, once its cluster record was read.
    pub fn incarnation(&self) -> Option<&str> {
        self.cluster.as_ref().map(|cluster| cluster.incarnation.as_str())
    }
}
