//! Every process, every failure: what can happen to a cluster's processes, how a lab does it to them and mends it, and
//! in which combinations.
//!
//! Judges nothing: what must hold meanwhile and afterwards is the tests' business.

pub mod holdings;
mod inject;
pub mod matrix;

use std::fmt;

pub use inject::{Injected, inject, mend};

/// A process of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Agent,
    /// The apiserver that leads at the moment.
    Leader,
    /// The one that doesn't.
    Standby,
    Etcd,
}

impl Victim {
    pub(crate) const ALL: [Self; 4] = [Self::Agent, Self::Leader, Self::Standby, Self::Etcd];
}

/// The failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// `kill -9`; started again later.
    Kill,
    /// SIGSTOP; SIGCONT 20 s later.
    Freeze,
    /// SIGTERM, and started again at once.
    Restart,
    /// The disk that it writes to, its log among that, has no byte left. Ours are killed and started on it; etcd ends
    /// because of it, and is started once there is room again.
    FullDisk,
    /// Killed and started over nothing: etcd without its data, the agent without its run folder, an apiserver without
    /// the folder of manifests, which comes back once it has seen that.
    WipedData,
}

impl Failure {
    pub(crate) const ALL: [Self; 5] =
        [Self::Kill, Self::Freeze, Self::Restart, Self::FullDisk, Self::WipedData];
}

/// Something that happens in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) cluster: &'static str,
    pub(crate) victim: Victim,
    pub(crate) failure: Failure,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} of {:?}", self.cluster, self.failure, self.victim)
    }
}

/// Faults that stand at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round(pub(crate) Vec<Fault>);

impl Round {
    pub fn has(&self, failure: Failure) -> bool {
        self.0.iter().any(|fault| fault.failure == failure)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&faults.join(", "))
    }
}
