//! What people and maps are told.

use std::time::Duration;

use mesh_model::name::ClusterId;

use crate::judge::Override;
use crate::signal::{ControlState, PathState};

/// How much of its connections a cluster gets, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// Below every cluster that is used.
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(100);

    /// More than all is all.
    pub const fn from_percent(percent: u8) -> Self {
        if percent < 100 { Self(percent) } else { Self::ALL }
    }

    /// 0–100.
    pub fn value(self) -> u8 {
        self.0
    }
}

/// What a node makes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// L fresh, P ok: used.
    Healthy,
    /// L stale, P ok: used, and what is known of it stays as it is.
    Stale,
    /// P failed: demoted. L is fresh, or has not been heard out yet, or a witness reaches the cluster.
    PathBroken,
    /// L stale, P failed: demoted, and its connections are cut once it has been gone for long enough.
    Gone,
    /// Demoted, and answering again: it gets connections back by and by.
    Returning,
    /// Nobody answers, of peers and of this node's own cluster: nothing changes.
    IsolatedSelf,
}

/// A verdict that changed, with what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub cluster: ClusterId,
    pub from: Verdict,
    pub to: Verdict,
    pub control: ControlState,
    pub path: PathState,
}

/// What a node makes of a peer, and why: for `status` and `why`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub cluster: ClusterId,
    pub verdict: Verdict,
    /// How long it has been that.
    pub age: Duration,
    pub control: ControlState,
    /// How long the `alive` counter has stood still.
    pub control_age: Option<Duration>,
    pub path: PathState,
    /// How long ago the last sign of life came over the data path.
    pub path_age: Option<Duration>,
    pub rtt: Option<Duration>,
    /// A witness said in this round that it reaches the cluster.
    pub witnessed: bool,
    /// What the map is to say.
    pub share: Share,
    pub overridden: Option<Override>,
}
