//! How patient a node is.

use std::time::Duration;

/// Of all peers. [`crate::Event::Tick`] is meant to come every 50 ms. The defaults are those of docs/failover.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A tick that comes so long after the one before starts detection over: two intervals of probes.
    pub late_after: Duration,
    /// How long after the last answer the data path counts as lost: where round trips are short, and at most. Between the
    /// two it is six times as long as an answer may take.
    pub lost_after: (Duration, Duration),
    /// How long a real connection that succeeded proves that the data path works, whatever the echo says. Shorter than
    /// `lost_after` by more than two probes are apart, so that the last connection before a death doesn't delay its detection.
    pub veto: Duration,
    /// How long the `alive` counter may stand still; it moves every 2 s.
    pub control_stale: Duration,
    /// How long the peer's own source may have been silent.
    pub source_stale: Duration,
    /// When the answer to a question is due, of a peer as of a witness.
    pub answer_due: Duration,
    /// How long a cluster has to be gone before its established connections are cut.
    pub cut_after: Duration,
    /// How long probes have to be good before a cluster gets connections again: the first time, and at most.
    pub hold: (Duration, Duration),
    /// A cluster that stays in use for this long starts again with the shortest hold.
    pub forgive_after: Duration,
    /// How long each step of the ramp takes.
    pub ramp_step: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            late_after: Duration::from_millis(200),
            lost_after: (Duration::from_millis(900), Duration::from_secs(3)),
            veto: Duration::from_millis(700),
            control_stale: Duration::from_secs(6),
            source_stale: Duration::from_secs(120),
            answer_due: Duration::from_millis(500),
            cut_after: Duration::from_secs(3),
            hold: (Duration::from_secs(15), Duration::from_secs(300)),
            forgive_after: Duration::from_secs(600),
            ramp_step: Duration::from_secs(5),
        }
    }
}
