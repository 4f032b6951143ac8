//! Values of the per-CPU arrays `COUNTERS` and `OUTCOMES`.

use crate::plain;

/// One CPU's counts for one (service, cluster).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Connections sent to the cluster, and datagrams of unconnected sockets.
    pub connections: u64,
    /// Of these, the ones that went to a terminating or quarantined backend or to a demoted cluster.
    pub last_resort: u64,
}
plain!(Counter, size 16, align 8);

/// What became of a dialled address; the index into `OUTCOMES`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Rewritten to a backend.
    Translated = 0,
    /// Not a global service: left as it was.
    NotAService = 1,
    /// A global service without any backend: left as it was.
    NoBackend = 2,
    /// Left to kube-proxy because the agent's heartbeat is too old.
    Yielded = 3,
    /// Looked up again because the entry or slot changed in the middle; counted in addition.
    Retried = 4,
    /// Still changing after the last try: left as it was.
    GaveUp = 5,
    /// The agent's canary: refused.
    Canary = 6,
    /// Rewritten, but there was no room to remember the frontend: `getpeername` and `recvfrom` show the backend.
    /// Counted in addition.
    OriginLost = 7,
}

/// Number of [`Outcome`]s.
pub const OUTCOMES: u32 = 8;
