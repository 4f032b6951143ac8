//! Values of the per-CPU arrays `COUNTERS` and `CPUS`.

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

/// What became of a dialled address; the index into [`Cpu::outcomes`].
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
pub const OUTCOMES: usize = 8;

/// What one CPU keeps for every connect, side by side: the single element of `CPUS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The state of the programs' random numbers; 0 until the first is drawn.
    pub random: u64,
    /// Counts by [`Outcome`].
    pub outcomes: [u64; OUTCOMES],
}
plain!(Cpu, size 72, align 8);
