//! How much of this node a peer may have. Stated once: flags, maps and views take their numbers from here.

use clap::Args;
use mesh_model::view::Quota;

use crate::datapath::actual::Capacity;
use crate::datapath::shares::Share;

/// The share of a peer, by the command line.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Quotas of each peer")]
pub struct QuotaArgs {
    /// Distinct backends of one peer; without it an equal share of --max-backends for each peer and this cluster.
    ///
    /// A peer that has more is cut, the same way on every node, and is shown by `clustermesh peer list`; nobody else
    /// notices. What a peer leaves unused stays free. This cluster's own backends are never cut.
    #[arg(long, env = "CLUSTERMESH_MAX_PEER_BACKENDS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_peer_backends: Option<u32>,
    /// Slots of one peer over all frontends; without it half of an equal share of --max-slots.
    ///
    /// A group of N backends takes N slots, rounded up to a power of two. While it is rewritten it may take as many once
    /// more, which is what the other half is for.
    #[arg(long, env = "CLUSTERMESH_MAX_PEER_SLOTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=134_217_728))]
    pub max_peer_slots: Option<u32>,
    /// Memory for the records of one peer; nothing is kept of services that this cluster doesn't have.
    ///
    /// While everything is listed anew it may take as much once more. Records beyond it are left out, the last by name first.
    #[arg(long, env = "CLUSTERMESH_MAX_PEER_MEMORY", value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_peer_memory: u32,
    /// Records of one peer that are read when everything is listed.
    #[arg(long, env = "CLUSTERMESH_MAX_PEER_RECORDS", value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000_000))]
    pub max_peer_records: u64,
}

impl Default for QuotaArgs {
    /// As without flags.
    fn default() -> Self {
        Self {
            max_peer_backends: None,
            max_peer_slots: None,
            max_peer_memory: 64,
            max_peer_records: 1_000_000,
        }
    }
}

impl QuotaArgs {
    /// The same for a view of a peer.
    pub(crate) fn of_view(&self, capacity: Capacity, peers: usize) -> Quota {
        let Share { backends, slots } = self.of_maps(capacity, peers);
        let mib = usize::try_from(self.max_peer_memory).unwrap_or(usize::MAX);
        Quota { bytes: mib.saturating_mul(1 << 20), backends: backends.into(), slots: slots.into() }
    }

    /// The share of each of so many peers, for good.
    pub(crate) fn of_maps(&self, capacity: Capacity, peers: usize) -> Share {
        let clusters = u32::try_from(peers).unwrap_or(u32::MAX).saturating_add(1);
        Share {
            // Id 0 is never used.
            backends: self.max_peer_backends.unwrap_or(capacity.backends.saturating_sub(1) / clusters),
            slots: self.max_peer_slots.unwrap_or(capacity.slots / 2 / clusters),
        }
    }

    /// The same with what it takes to replace it.
    pub(crate) fn while_rewriting(&self, capacity: Capacity, peers: usize) -> Share {
        let Share { backends, slots } = self.of_maps(capacity, peers);
        Share { backends, slots: slots.saturating_mul(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity =
        Capacity { services: 65_536, slots: 1_048_576, backends: 262_144, counters: 16 };

    #[test]
    fn shares_of_all_peers_leave_the_own_cluster_one() {
        for peers in [0, 1, 3, 100, 4094] {
            let share = QuotaArgs::default().while_rewriting(CAPACITY, peers);
            let taken = |share: u32| share * u32::try_from(peers).unwrap();
            assert!(taken(share.backends) + share.backends < CAPACITY.backends);
            assert!(taken(share.slots) + share.slots <= CAPACITY.slots);
        }
        let three = QuotaArgs::default().of_maps(CAPACITY, 3);
        assert_eq!(three, Share { backends: 65_535, slots: 131_072 });
    }

    #[test]
    fn a_flag_counts_whatever_the_number_of_peers() {
        let args = QuotaArgs { max_peer_backends: Some(7), max_peer_slots: Some(9), ..QuotaArgs::default() };
        assert_eq!(args.of_maps(CAPACITY, 9), Share { backends: 7, slots: 9 });
        assert_eq!(args.while_rewriting(CAPACITY, 9), Share { backends: 7, slots: 18 });
    }
}
