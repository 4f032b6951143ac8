//! The next thing to do on the way from one certificate authority of a cluster to another, by what all clusters say now. Whoever
//! carries it out asks again afterwards, so that it goes on wherever it was interrupted.

use mesh_admin::cluster::{AuthorityRotation, Obstacle, PeerDocument, PeerEntry, RotationPhase};
use mesh_model::name::ClusterName;
use mesh_model::reason::Actor;
use serde::Serialize;

/// A cluster that is asked for its peer files, and may get others.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: ClusterName,
    pub peers: Vec<PeerEntry>,
}

/// The next thing to do for one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Another cluster gets the peer file that it has, with what it shall trust from now on.
    Tell { at: ClusterName, file: PeerDocument },
    /// The next phase begins.
    Advance(RotationPhase),
    /// Ask again a little later: it passes by itself.
    Wait(Vec<Obstacle>),
    /// Somebody has to act first.
    Blocked(Vec<Obstacle>),
    /// Nothing is left to do.
    Done,
}

/// One cluster whose authority is replaced.
#[derive(Clone, Debug)]
pub struct Rotation<'a> {
    pub cluster: &'a ClusterName,
    pub state: &'a AuthorityRotation,
    /// Whether another authority has been asked for since this began: from a settled one on, that would be the next.
    pub is_begun: bool,
    /// Peers that need not be ready.
    pub without: &'a [ClusterName],
}

impl Rotation<'_> {
    /// What comes next. Files first: whoever is told early is ready early.
    pub fn next(&self, named: &[Named]) -> Step {
        let untold = named.iter().filter_map(|at| Some((at, self.untold(at)?))).next();
        if let Some((at, file)) = untold {
            return Step::Tell { at: at.name.clone(), file };
        }
        let to = match self.state.phase {
            RotationPhase::Settled if self.is_begun => return Step::Done,
            RotationPhase::Settled => return Step::Advance(RotationPhase::Announced),
            RotationPhase::Announced => RotationPhase::Switched,
            RotationPhase::Switched => RotationPhase::Settled,
        };
        let left: Vec<Obstacle> =
            self.state.obstacles.iter().filter(|it| !self.is_excused(it)).cloned().collect();
        if left.is_empty() {
            return Step::Advance(to);
        }
        // A cluster that was named has been told, and reads that in a moment.
        let passes = |it: &&Obstacle| {
            it.problem.who == Actor::Nobody || it.peer.as_ref().is_some_and(|peer| is_told(peer, named))
        };
        match left.iter().any(|it| passes(&it)) {
            true => Step::Wait(left),
            false => Step::Blocked(left),
        }
    }

    fn is_excused(&self, obstacle: &Obstacle) -> bool {
        obstacle.peer.as_ref().is_some_and(|peer| self.without.contains(peer))
    }

    /// The file that a cluster should have, if it has another one. Who is no peer is none afterwards.
    fn untold(&self, at: &Named) -> Option<PeerDocument> {
        let entry = at.peers.iter().find(|entry| entry.name == self.cluster.as_str())?;
        let file = retrusted(entry, &self.state.trust)?;
        (at.name != *self.cluster).then_some(file)
    }
}

fn is_told(peer: &ClusterName, named: &[Named]) -> bool {
    named.iter().any(|at| at.name == *peer)
}

/// A peer's file with another trust. None where it says the same, can't be read, or needs no trust; nor where it trusts an
/// altogether different authority, which is somebody's decision.
pub fn retrusted(entry: &PeerEntry, trust: &str) -> Option<PeerDocument> {
    let file = entry.file.as_ref()?;
    let (known, now) = (blocks(file.trust.as_deref()?), blocks(trust));
    let is_older = known != now && !known.is_disjoint(&now);
    is_older.then(|| PeerDocument { trust: Some(trust.into()), ..file.clone() })
}

/// Whether a cluster's file of another one trusts an altogether different authority.
pub fn knows_another(cluster: &ClusterName, trust: &str, at: &Named) -> bool {
    let entry = at.peers.iter().find(|entry| entry.name == cluster.as_str());
    let known = entry.and_then(|entry| entry.file.as_ref()?.trust.as_deref());
    known.is_some_and(|known| blocks(known).is_disjoint(&blocks(trust)))
}

/// What a PEM holds, in any order and however its lines are broken.
fn blocks(pem: &str) -> std::collections::BTreeSet<String> {
    let blocks = pem.split("-----BEGIN ").skip(1);
    let ends = blocks.filter_map(|block| block.split_once("-----END "));
    ends.map(|(body, _)| body.split_whitespace().collect()).collect()
}

/// Whether a settled rotation has been left before every file that is named had been written: the next one is not asked for
/// before.
pub fn is_unfinished(cluster: &ClusterName, trust: &str, named: &[Named]) -> bool {
    let entries = named.iter().filter(|at| at.name != *cluster).flat_map(|at| &at.peers);
    entries.filter(|entry| entry.name == cluster.as_str()).any(|entry| retrusted(entry, trust).is_some())
}

#[cfg(test)]
#[path = "rotation/tests.rs"]
mod tests;
