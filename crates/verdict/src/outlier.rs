//! Passive outlier detection: backends and nodes that fail the connections of this node.
//!
//! Quarantine takes new connections away and cuts none. It never takes the last backend of a frontend, and nothing at all
//! while this node is cut off.

mod evidence;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mesh_model::name::{ClusterId, NodeName};

use crate::signal::Outcome;
use crate::time::Monotonic;
use evidence::Evidence;
use node::Node;

/// The share of a frontend's backends that may be quarantined at once, in percent: each for itself, and with nodes.
const MOST_ALONE: usize = 30;
const MOST_WITH_NODES: usize = 50;

/// A node of a cluster.
pub type NodeKey = (ClusterId, NodeName);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// Everything that arrived until now was delivered before.
    Tick,
    /// A backend of a global Service, and where it runs. `quarantined`: so say the maps.
    Backend { backend: SocketAddr, node: Option<NodeKey>, quarantined: bool },
    /// It is no backend any more.
    Forget { backend: SocketAddr },
    /// The backends that a frontend chooses from, under a number of the caller's; none: the frontend is gone.
    Frontend { frontend: u64, backends: Vec<SocketAddr> },
    /// An application's attempt to connect has ended.
    Connect { backend: SocketAddr, outcome: Outcome, at: Monotonic },
    /// What came of [`Order::Ask`]: three echoes, of which one came back or none.
    Echo { node: NodeKey, answered: bool },
    /// Whether this node itself is cut off.
    Isolated(bool),
}

/// Why a backend is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Backend,
    /// The node that it runs on.
    Node,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Quarantine {
        backend: SocketAddr,
        cause: Cause,
    },
    Release {
        backend: SocketAddr,
    },
    /// Send three echoes to a node.
    Ask {
        node: NodeKey,
    },
}

#[derive(Debug, Default)]
struct Backend {
    node: Option<NodeKey>,
    frontends: BTreeSet<u64>,
    evidence: Evidence,
    /// In quarantine for itself, until then.
    until: Option<Monotonic>,
    quarantined: bool,
}

#[derive(Debug, Default)]
struct Frontend {
    backends: BTreeSet<SocketAddr>,
    quarantined: usize,
}

impl Frontend {
    fn has_room(&self, percent: usize) -> bool {
        let (all, after) = (self.backends.len(), self.quarantined + 1);
        after < all && after <= (all * percent / 100).max(1)
    }
}

/// Judges backends and nodes. The same owner drives it as [`crate::Judge`].
#[derive(Debug, Default)]
pub struct Outliers {
    backends: BTreeMap<SocketAddr, Backend>,
    nodes: BTreeMap<NodeKey, Node>,
    frontends: BTreeMap<u64, Frontend>,
    /// Those that a tick has to look at, so that it costs what is wrong and not what there is.
    troubled: BTreeSet<SocketAddr>,
    troubled_nodes: BTreeSet<NodeKey>,
    isolated: bool,
}

impl Outliers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what happened at `now`. Only ticks lead to orders.
    pub fn step(&mut self, now: Monotonic, occurrence: Occurrence) -> Vec<Order> {
        match occurrence {
            Occurrence::Tick => return self.tick(now),
            Occurrence::Backend { backend, node, quarantined } => self.add(now, backend, node, quarantined),
            Occurrence::Forget { backend } => self.forget(backend),
            Occurrence::Frontend { frontend, backends } => self.set_frontend(frontend, backends),
            Occurrence::Connect { backend, outcome, at } => self.connect(now, backend, outcome, at),
            Occurrence::Echo { node, answered } => self.echo(now, node, answered),
            Occurrence::Isolated(isolated) => self.isolate(isolated),
        }
        Vec::new()
    }

    fn add(&mut self, now: Monotonic, address: SocketAddr, node: Option<NodeKey>, quarantined: bool) {
        let backend = self.backends.entry(address).or_default();
        if let Some(old) =
            std::mem::replace(&mut backend.node, node.clone()).filter(|old| node.as_ref() != Some(old))
        {
            leave(&mut self.nodes, &old, address);
        }
        if let Some(node) = node {
            self.nodes.entry(node).or_default().backends.insert(address);
        }
        if quarantined && !backend.quarantined {
            backend.until = Some(now + backend.evidence.sentence());
            self.mark(address, true);
            self.troubled.insert(address);
        }
    }

    fn forget(&mut self, address: SocketAddr) {
        self.mark(address, false);
        self.troubled.remove(&address);
        let Some(backend) = self.backends.remove(&address) else { return };
        if let Some(node) = &backend.node {
            leave(&mut self.nodes, node, address);
        }
        for frontend in backend.frontends {
            self.frontends.entry(frontend).and_modify(|frontend| {
                frontend.backends.remove(&address);
            });
        }
    }

    fn set_frontend(&mut self, number: u64, backends: Vec<SocketAddr>) {
        for address in self.frontends.remove(&number).map(|old| old.backends).unwrap_or_default() {
            self.backends.entry(address).and_modify(|backend| {
                backend.frontends.remove(&number);
            });
        }
        let mut frontend = Frontend::default();
        for address in backends {
            let Some(backend) = self.backends.get_mut(&address) else { continue };
            backend.frontends.insert(number);
            if frontend.backends.insert(address) {
                frontend.quarantined += usize::from(backend.quarantined);
            }
        }
        if !frontend.backends.is_empty() {
            self.frontends.insert(number, frontend);
        }
    }

    fn connect(&mut self, now: Monotonic, address: SocketAddr, outcome: Outcome, at: Monotonic) {
        let Some(backend) = self.backends.get_mut(&address) else { return };
        let node = backend.node.clone().and_then(|node| self.nodes.get_mut(&node).map(|state| (node, state)));
        if outcome != Outcome::Connected && self.isolated {
            return;
        }
        backend.evidence.observe(outcome, at);
        if backend.quarantined && outcome == Outcome::Connected {
            // Nothing better was left for it, and it works.
            backend.until = Some(now);
        }
        if backend.quarantined || backend.evidence.is_bad() {
            self.troubled.insert(address);
        }
        if let Some((key, node)) = node {
            node.connect(now, address, outcome);
            self.troubled_nodes.insert(key);
        }
    }

    fn echo(&mut self, now: Monotonic, key: NodeKey, answered: bool) {
        if let Some(node) = self.nodes.get_mut(&key).filter(|_| answered || !self.isolated) {
            node.echo(now, answered);
            self.troubled_nodes.insert(key);
        }
    }

    /// What failed around the time of an isolation says nothing of those who didn't answer.
    fn isolate(&mut self, isolated: bool) {
        if std::mem::replace(&mut self.isolated, isolated) == isolated {
            return;
        }
        self.nodes.values_mut().for_each(Node::forget);
        self.backends.values_mut().filter(|backend| !backend.quarantined).for_each(|b| b.evidence.forget());
    }

    fn tick(&mut self, now: Monotonic) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.isolated {
            return orders;
        }
        for key in std::mem::take(&mut self.troubled_nodes) {
            let Some(node) = self.nodes.get_mut(&key) else { continue };
            let ask = node.tick(now);
            self.troubled.extend(node.backends.iter().copied());
            if ask {
                orders.push(Order::Ask { node: key.clone() });
            }
            if node.is_suspect() {
                self.troubled_nodes.insert(key);
            }
        }
        for address in std::mem::take(&mut self.troubled) {
            orders.extend(self.judge(now, address));
        }
        orders
    }

    fn judge(&mut self, now: Monotonic, address: SocketAddr) -> Option<Order> {
        let backend = self.backends.get_mut(&address)?;
        let by_node = backend.node.as_ref().and_then(|node| self.nodes.get(node)).is_some_and(Node::is_down);
        let by_itself = backend.until.is_some_and(|until| now < until);
        if backend.quarantined {
            if by_node || by_itself {
                self.troubled.insert(address);
                return None;
            }
            backend.until = None;
            backend.evidence.release();
            self.mark(address, false);
            return Some(Order::Release { backend: address });
        }
        if !by_node && !backend.evidence.is_bad() {
            return None;
        }
        // What finds no room is judged again: others may be released.
        self.troubled.insert(address);
        let (cause, percent) =
            if by_node { (Cause::Node, MOST_WITH_NODES) } else { (Cause::Backend, MOST_ALONE) };
        let mut frontends = backend.frontends.iter().filter_map(|number| self.frontends.get(number));
        if backend.frontends.is_empty() || !frontends.all(|frontend| frontend.has_room(percent)) {
            return None;
        }
        if !by_node {
            backend.until = Some(now + backend.evidence.sentence());
        }
        self.mark(address, true);
        Some(Order::Quarantine { backend: address, cause })
    }

    fn mark(&mut self, address: SocketAddr, quarantined: bool) {
        let Some(backend) = self.backends.get_mut(&address) else { return };
        if std::mem::replace(&mut backend.quarantined, quarantined) == quarantined {
            return;
        }
        for number in &backend.frontends {
            self.frontends.entry(*number).and_modify(|frontend| {
                let count = frontend.quarantined;
                frontend.quarantined = if quarantined { count + 1 } else { count.saturating_sub(1) };
            });
        }
    }
}

fn leave(nodes: &mut BTreeMap<NodeKey, Node>, key: &NodeKey, address: SocketAddr) {
    if let Some(node) = nodes.get_mut(key) {
        node.backends.remove(&address);
        if node.backends.is_empty() {
            nodes.remove(key);
        }
    }
}
