//! Invites: kept in etcd, taken on a port of their own by clusters that nobody trusts yet, and taken from other clusters.
//!
//! Who may join is judged by `mesh_membership::invite`; who becomes a peer, by the admin API's `Peering`. The order of a
//! join (claim the invite, write the peer file, answer) lets whoever was interrupted repeat it.

mod door;
#[cfg(test)]
mod join_tests;
mod listener;
mod metrics;
mod pinned;
mod register;
mod take;

pub(crate) use door::{Door, refusal};
pub(crate) use listener::{JoinError, JoinPort};
pub(crate) use metrics::JoinMetrics;
pub(crate) use register::Invites;
pub(crate) use take::take;

use mesh_membership::invite::{Digest, InviteId, Secret};
use ring::rand::{SecureRandom, SystemRandom};

/// A new invite's numbers.
pub(crate) fn draw() -> (InviteId, Secret) {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    let random = SystemRandom::new();
    random.fill(&mut id).expect("the kernel's generator never fails");
    random.fill(&mut secret).expect("the kernel's generator never fails");
    (InviteId::new(id), Secret::new(secret))
}

/// What is kept of a secret.
pub(crate) fn hashed(secret: &Secret) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, secret.bytes());
    Digest::new(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
}
