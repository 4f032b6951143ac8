//! Why frontends are not as desired.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::desired::Frontend;
use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::reason::Reason;

use crate::datapath::plan::Shortage;

/// By frontend. Shared with those who show it.
pub(super) type Refusals = Arc<BTreeMap<Frontend, Refusal>>;

/// Changes of one pass that the log names.
const NAMED_CHANGES: usize = 10;

/// Why a frontend is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{shortage}")]
    Shortage { service: ServiceName, shortage: Shortage },
    /// The service is unknown where the frontend was to be deleted.
    #[error("a write failed and is tried again: {reason}")]
    Failed { service: Option<ServiceName>, reason: String },
}

impl Refusal {
    /// Whether a map had no room.
    pub(super) fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage { .. })
    }

    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// For whoever shows it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Shortage { .. } if self.cluster().is_some() => Reason::OverQuota,
            Self::Shortage { .. } => Reason::NoRoom,
            Self::Failed { .. } => Reason::WriteFailed,
        }
    }

    /// The cluster whose share is used up, if that is why.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        match self {
            Self::Shortage { shortage: Shortage::SlotShare(id) | Shortage::BackendShare(id), .. } => {
                Some(*id)
            }
            _ => None,
        }
    }

    pub(super) fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Shortage { service, .. } => Some(service),
            Self::Failed { service, .. } => service.as_ref(),
        }
    }
}

/// Logs each shortage once, when it begins or becomes another. Failed writes are logged where they fail.
pub(super) fn log(before: &Refusals, after: &Refusals) {
    if Arc::ptr_eq(before, after) {
        return;
    }
    let is_new = |(frontend, refusal): &(&Frontend, &Refusal)| {
        refusal.is_shortage() && before.get(*frontend) != Some(*refusal)
    };
    let new: Vec<_> = after.iter().filter(is_new).collect();
    for (frontend, reason) in new.iter().take(NAMED_CHANGES) {
        let (address, port, protocol) = (frontend.address, frontend.port, frontend.protocol);
        tracing::warn!(%address, port, %protocol, %reason, "no room for all that a frontend should have");
    }
    if new.len() > NAMED_CHANGES {
        tracing::warn!(
            frontends = new.len() - NAMED_CHANGES,
            "no room for all that more frontends should have"
        );
    }
}
