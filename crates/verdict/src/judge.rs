//! The judge of all peers: one owner, values in, actions out.
//!
//! Events are only remembered; a tick judges. So the owner drains its sockets first, and what arrived in time counts however
//! late the owner itself is.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_model::name::ClusterId;

use crate::budget::Attention;
use crate::peer::{Peer, Step};
use crate::report::{Change, Report, Share, Verdict};
use crate::settings::Settings;
use crate::signal::{ControlEvent, Path, PathEvent, PathState};
use crate::time::Monotonic;

/// What fell silent so long before a peer did is no longer asked about it: it is down for reasons of its own.
const TOGETHER: Duration = Duration::from_secs(5);
/// So long after a peer failed the others must have said something, or they are not being asked.
const UNDECIDED_AT_MOST: Duration = Duration::from_secs(3);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that arrived until now was delivered before.
    Tick,
    /// There is a peer, and the map says this of it. A peer that is known already stays as it is.
    Peer {
        cluster: ClusterId,
        share: Share,
    },
    /// It is no peer any more.
    Forget {
        cluster: ClusterId,
    },
    /// How many nodes of a peer, or other nodes of the own cluster, there are to probe.
    Nodes {
        cluster: ClusterId,
        count: usize,
    },
    Control {
        cluster: ClusterId,
        event: ControlEvent,
    },
    /// Of a peer, or of other nodes of the own cluster.
    Path {
        cluster: ClusterId,
        event: PathEvent,
    },
    /// A witness answered whether it reaches a cluster.
    Witness {
        cluster: ClusterId,
        reaches: bool,
    },
    /// An operator, or the cluster itself, says what is to become of it; `None` takes that back.
    Override {
        cluster: ClusterId,
        overridden: Option<Override>,
    },
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write `clusters[id]`.
    Use { cluster: ClusterId, share: Share },
    /// Read the peer's `alive` record now, over the connection that there is.
    AskControl { cluster: ClusterId },
    /// Ask other nodes of the own cluster, and the agents of other peers, whether they reach it.
    AskWitnesses { cluster: ClusterId },
    /// Cut the connections to it that stand.
    Cut { cluster: ClusterId },
    /// A tick was so late that detection started over.
    StartedOver { late: Duration },
    /// Tell people.
    Tell(Change),
}

/// A verdict by hand, for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// No new connections; those that stand may finish.
    Drain { until: Monotonic },
    /// In use, whatever the signals say.
    Use { until: Monotonic },
}

impl Override {
    pub(crate) fn share(self) -> Share {
        match self {
            Self::Drain { .. } => Share::NONE,
            Self::Use { .. } => Share::ALL,
        }
    }

    fn is_over(self, now: Monotonic) -> bool {
        let (Self::Drain { until } | Self::Use { until }) = self;
        now >= until
    }
}

/// Judges all peers of a node. See the crate's documentation for who drives it.
#[derive(Debug)]
pub struct Judge {
    settings: Settings,
    own: ClusterId,
    /// The data path to other nodes of the own cluster, and how many there are.
    home: Path,
    home_nodes: usize,
    peers: BTreeMap<ClusterId, Peer>,
    ticked: Option<Monotonic>,
    /// Since when nobody has answered.
    isolated: Option<Monotonic>,
}

impl Judge {
    pub fn new(own: ClusterId, settings: Settings, now: Monotonic) -> Self {
        let home = Path::new(now, false);
        Self { settings, own, home, home_nodes: 0, peers: BTreeMap::new(), ticked: None, isolated: None }
    }

    /// Takes in what happened at `now`. Only ticks lead to actions.
    pub fn step(&mut self, now: Monotonic, event: Event) -> Vec<Action> {
        match event {
            Event::Tick => return self.tick(now),
            Event::Peer { cluster, share } => {
                self.peers.entry(cluster).or_insert_with(|| Peer::resume(now, share));
            }
            Event::Forget { cluster } => {
                self.peers.remove(&cluster);
            }
            Event::Nodes { cluster, count } if cluster == self.own => self.home_nodes = count,
            Event::Path { cluster, event } if cluster == self.own => self.home.observe(event),
            Event::Nodes { cluster, count } => self.peer(cluster, |peer| peer.nodes = count),
            Event::Path { cluster, event } => self.peer(cluster, |peer| peer.path.observe(event)),
            Event::Control { cluster, event } => self.peer(cluster, |peer| peer.control.observe(now, event)),
            Event::Witness { cluster, reaches } => self.peer(cluster, |peer| peer.witness(now, reaches)),
            Event::Override { cluster, overridden } => {
                self.peer(cluster, |peer| peer.override_by(now, overridden));
            }
        }
        Vec::new()
    }

    /// Events of a cluster that is no peer any more may still be under way.
    fn peer(&mut self, cluster: ClusterId, take: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(&cluster) {
            take(peer);
        }
    }

    fn tick(&mut self, now: Monotonic) -> Vec<Action> {
        let mut actions = Vec::new();
        let late = self.ticked.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        if late > self.settings.late_after {
            self.start_over(now);
            actions.push(Action::StartedOver { late });
        }
        self.judge_isolation(now);
        if self.isolated.is_none() {
            self.judge_peers(now, &mut actions);
        }
        self.tell(now, &mut actions);
        actions
    }

    fn start_over(&mut self, now: Monotonic) {
        self.home.start_over(now);
        self.peers.values_mut().for_each(|peer| peer.start_over(now));
    }

    fn judge_peers(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let clusters: Vec<ClusterId> = self.peers.keys().copied().collect();
        for cluster in clusters {
            let somebody_else = self.is_somebody_else(cluster, now);
            let settings = &self.settings;
            match self.peers.get_mut(&cluster).and_then(|peer| peer.tick(now, somebody_else, settings)) {
                Some(Step::Ask) => {
                    actions.extend([Action::AskControl { cluster }, Action::AskWitnesses { cluster }]);
                }
                Some(Step::Cut) => actions.push(Action::Cut { cluster }),
                None => {}
            }
        }
    }

    /// Map writes come first: they are what new connections wait for.
    fn tell(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let (mut writes, mut changes) = (Vec::new(), Vec::new());
        for (cluster, peer) in &mut self.peers {
            if peer.overridden.is_some_and(|overridden| overridden.is_over(now)) {
                peer.override_by(now, None);
            }
            let share = peer.share(now, &self.settings);
            let isolated = self.isolated.map(|_| Verdict::IsolatedSelf);
            let verdict = isolated.unwrap_or_else(|| peer.verdict(now, &self.settings));
            let (told_share, from) = std::mem::replace(&mut peer.told, (share, verdict));
            if told_share != share {
                writes.push(Action::Use { cluster: *cluster, share });
            }
            if from != verdict {
                peer.changed = now;
                let control = peer.control.state(now, &self.settings);
                let path = peer.path_state(now, &self.settings);
                changes.push(Action::Tell(Change { cluster: *cluster, from, to: verdict, control, path }));
            }
        }
        actions.splice(0..0, writes);
        actions.extend(changes);
    }

    /// Nobody answers any more, of those who did until just now: the own cluster's nodes and the peers fell silent together.
    fn judge_isolation(&mut self, now: Monotonic) {
        match self.isolated {
            Some(since) if self.is_heard_after(since) || self.home_nodes == 0 => {
                self.isolated = None;
                self.start_over(now);
            }
            Some(_) => {}
            None if self.is_silent_everywhere(now) => self.isolated = Some(now),
            None => {}
        }
    }

    fn is_heard_after(&self, since: Monotonic) -> bool {
        let peers = self.peers.values().map(|peer| &peer.path);
        peers.chain([&self.home]).any(|path| path.last_life().is_some_and(|life| life > since))
    }

    /// The own cluster's nodes have failed, a peer too, and nobody has been heard since. It takes no more than that, for where
    /// many clusters are in use it would be long until each of them had been asked often enough.
    fn is_silent_everywhere(&self, now: Monotonic) -> bool {
        let Some((silent_since, _)) = self.home.silence(now, &self.settings) else { return false };
        let failed = |peer: &Peer| peer.path_state(now, &self.settings) == PathState::Failed;
        let latest = self.peers.values().filter_map(|peer| peer.path.last_life()).max();
        self.home_state(now) == PathState::Failed
            && self.peers.values().any(failed)
            && !self.is_heard_after(silent_since)
            && latest.is_some_and(|life| self.is_asked(life))
    }

    fn home_state(&self, now: Monotonic) -> PathState {
        self.home.state(now, self.home_nodes, &self.settings)
    }

    /// The own cluster's nodes answered when that was the last sign of life of somebody else, or shortly before.
    fn is_asked(&self, life: Monotonic) -> bool {
        self.home_nodes > 0 && self.home.last_life().is_some_and(|home| home + TOGETHER >= life)
    }

    /// Somebody answered after the peer had failed to, or there is nobody to ask: it is not this node that is cut off.
    fn is_somebody_else(&self, cluster: ClusterId, now: Monotonic) -> bool {
        let Some(path) = self.peers.get(&cluster).map(|peer| &peer.path) else { return false };
        let Some((silent_since, missed)) = path.silence(now, &self.settings) else { return false };
        let others = self.peers.iter().filter(|(other, _)| **other != cluster).map(|(_, other)| &other.path);
        // It answered after the peer should have, and was there when the peer was asked again.
        let after =
            |other: &Path| other.alive().is_some_and(|(from, to)| to > silent_since && from <= missed);
        let asked = path.last_life().is_some_and(|life| self.is_asked(life));
        let overdue = now.since(silent_since) >= UNDECIDED_AT_MOST;
        others.chain([&self.home]).any(after) || !asked || overdue
    }

    /// What deserves more probes than its turn. The own cluster is suspect with any other, since its nodes tell a peer's
    /// death from this node's.
    pub fn attention(&self, now: Monotonic) -> Attention {
        let clusters = |select: &dyn Fn(&Peer) -> bool| {
            let peers = self.peers.iter().filter(|(_, peer)| select(peer));
            peers.map(|(cluster, _)| *cluster).collect::<Vec<ClusterId>>()
        };
        let is_suspect = |peer: &Peer| peer.is_in_play() && peer.path.is_suspect(now, &self.settings);
        let mut suspects = clusters(&is_suspect);
        if !suspects.is_empty() || self.home.is_suspect(now, &self.settings) {
            suspects.insert(0, self.own);
        }
        Attention { suspects, demoted: clusters(&Peer::is_demoted) }
    }

    /// What this node says as a witness: whether it reaches a cluster, where it knows.
    pub fn reaches(&self, cluster: ClusterId, now: Monotonic) -> Option<bool> {
        let peer = self.peers.get(&cluster).filter(|_| self.isolated.is_none())?;
        match peer.path_state(now, &self.settings) {
            PathState::Unknown => None,
            PathState::Failed => Some(false),
            PathState::Ok => {
                let life = peer.path.last_life()?;
                (now.since(life) < self.settings.lost_after.1).then_some(true)
            }
        }
    }

    /// What is made of each peer, and why.
    pub fn reports(&self, now: Monotonic) -> impl Iterator<Item = Report> {
        self.peers.iter().map(move |(cluster, peer)| peer.report(*cluster, now, &self.settings))
    }
}
