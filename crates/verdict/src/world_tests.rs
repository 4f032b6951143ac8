//! A node with a judge in a world of which the truth is known, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_model::name::{ClusterId, NodeName};

use crate::budget::{Candidate, Pacer, Probe};
use crate::{
    Action, Beat, ControlEvent, Event, Judge, Monotonic, Outcome, Override, PathEvent, Settings, Share,
    Verdict,
};

/// The cluster of the node.
pub(crate) const HOME: u16 = 1;
const RTT: u64 = 1;

/// What is wrong with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// This node's packets to its pods and nodes, or their answers, are lost.
    Path,
    /// The same of the connection to its mesh API.
    Control,
    /// Its mesh API refuses connections.
    Refused,
    /// Its source is frozen, while its counter moves.
    Source,
    /// No witness reaches it either.
    Unwitnessed,
    /// It answers no echo, though everything else works.
    Echo,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) cluster: u16,
    pub(crate) what: What,
    /// In milliseconds.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Everything of a cluster, as when it loses power.
pub(crate) fn power(cluster: u16, from: u64, to: u64) -> Vec<Fault> {
    let fault = |what| Fault { cluster, what, from, to };
    [What::Path, What::Control, What::Unwitnessed].map(fault).to_vec()
}

pub(crate) fn id(cluster: u16) -> ClusterId {
    ClusterId::new(u64::from(cluster)).unwrap()
}

pub(crate) struct World {
    pub(crate) judge: Judge,
    pacer: Pacer,
    pub(crate) now: u64,
    clusters: Vec<u16>,
    pub(crate) faults: Vec<Fault>,
    /// Whether there are other nodes in the own cluster, and whether anybody can be asked as a witness.
    home_nodes: usize,
    pub(crate) witnesses: bool,
    /// How far apart an application's connections to each cluster are; `None`: there are none.
    pub(crate) connections: Option<u64>,
    due: Vec<(u64, Event)>,
    pub(crate) log: Vec<(u64, Action)>,
    /// The last answered probe, by cluster.
    pub(crate) answered: Vec<(u16, u64)>,
    /// The owner does not run: nothing is sent, and no tick comes.
    pub(crate) frozen: Option<(u64, u64)>,
    /// Probes are sent by somebody else meanwhile, and the answers find no room.
    pub(crate) deaf: bool,
    pub(crate) probing: bool,
}

impl World {
    pub(crate) fn new(peers: u16, home_nodes: usize, faults: Vec<Fault>) -> Self {
        let judge = Judge::new(id(HOME), Settings::default(), Monotonic::default());
        let clusters: Vec<u16> = (HOME..=HOME + peers).collect();
        let mut world = Self {
            judge,
            pacer: Pacer::new(7, Monotonic::default()),
            now: 0,
            clusters,
            faults,
            home_nodes,
            witnesses: true,
            connections: None,
            due: Vec::new(),
            log: Vec::new(),
            answered: Vec::new(),
            frozen: None,
            deaf: false,
            probing: true,
        };
        for peer in HOME + 1..=HOME + peers {
            world.step(Event::Peer { cluster: id(peer), share: Share::ALL });
        }
        world.introduce();
        world
    }

    fn introduce(&mut self) {
        for cluster in self.clusters.clone() {
            let count = if cluster == HOME { self.home_nodes } else { 3 };
            self.step(Event::Nodes { cluster: id(cluster), count });
            let candidate =
                |n| Candidate { node: NodeName::new(&format!("node-{n}")).unwrap(), zone: String::new() };
            self.pacer.set(id(cluster), (0..count).map(candidate).collect());
        }
    }

    /// A new process finds what the maps say.
    pub(crate) fn restart(&mut self) {
        let now = self.at();
        let shares: Vec<(ClusterId, Share)> =
            self.judge.reports(now).map(|report| (report.cluster, report.share)).collect();
        self.judge = Judge::new(id(HOME), Settings::default(), now);
        for (cluster, share) in shares {
            self.step(Event::Peer { cluster, share });
        }
        self.introduce();
    }

    pub(crate) fn drain(&mut self, cluster: u16, until: u64) {
        let overridden = Some(Override::Drain { until: Monotonic::from_millis(until) });
        self.step(Event::Override { cluster: id(cluster), overridden });
    }

    fn at(&self) -> Monotonic {
        Monotonic::from_millis(self.now)
    }

    fn is(&self, cluster: u16, what: What) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|f| f.cluster == cluster && f.what == what && (f.from..f.to).contains(&self.now))
    }

    fn step(&mut self, event: Event) {
        let actions = self.judge.step(self.at(), event);
        for action in actions {
            self.log.push((self.now, action));
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::AskControl { cluster } if !self.is(cluster.value(), What::Control) => {
                let event = ControlEvent::Answer(self.beat(cluster.value()));
                self.due.push((self.now + 10, Event::Control { cluster, event }));
            }
            Action::AskWitnesses { cluster } if self.witnesses => {
                let reaches = !self.is(cluster.value(), What::Unwitnessed);
                self.due.push((self.now + 20, Event::Witness { cluster, reaches }));
            }
            _ => {}
        }
    }

    fn beat(&self, cluster: u16) -> Beat {
        let frozen = self.is(cluster, What::Source);
        let since = self.faults.iter().find(|f| f.cluster == cluster && f.what == What::Source);
        let age = since.filter(|_| frozen).map_or(0, |fault| self.now - fault.from);
        Beat { epoch: 1, counter: self.now / 2000, source_age: Some(Duration::from_millis(age)) }
    }

    pub(crate) fn run(&mut self, until: u64) {
        while self.now < until {
            if !self.is_frozen() {
                self.moment();
            } else if self.deaf && self.now.is_multiple_of(50) {
                self.probe();
            }
            self.now += 10;
        }
    }

    fn is_frozen(&self) -> bool {
        self.frozen.is_some_and(|(from, to)| (from..to).contains(&self.now))
    }

    fn moment(&mut self) {
        let (now, later) = (self.now, std::mem::take(&mut self.due));
        let (due, later) = later.into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        due.into_iter().for_each(|(_, event)| self.step(event));
        for cluster in self.clusters.clone() {
            self.control(cluster);
            self.connect(cluster);
        }
        if now.is_multiple_of(50) {
            self.step(Event::Tick);
            self.probe();
        }
    }

    fn control(&mut self, cluster: u16) {
        let send = |world: &mut Self, event| world.step(Event::Control { cluster: id(cluster), event });
        if self.is(cluster, What::Refused) {
            send(self, ControlEvent::Refused);
        } else if !self.is(cluster, What::Control) && self.now.is_multiple_of(2000) {
            let beat = self.beat(cluster);
            send(self, ControlEvent::Beat(beat));
        }
    }

    /// Sends what the budget allows.
    fn probe(&mut self) {
        if !self.probing {
            return;
        }
        let attention = self.judge.attention(self.at());
        for probe in self.pacer.due(self.at(), &attention) {
            match probe {
                Probe::Echo { cluster, node } => self.echo(cluster, node),
                Probe::Dial { cluster } => self.dial(cluster.value(), 300),
            }
        }
    }

    fn echo(&mut self, cluster: ClusterId, node: NodeName) {
        let sent = self.at();
        self.step(Event::Path { cluster, event: PathEvent::Sent { node, at: sent } });
        let of = cluster.value();
        if !self.is(of, What::Path) && !self.is(of, What::Echo) && !self.is_frozen() {
            let received = Monotonic::from_millis(self.now + RTT);
            self.answered.retain(|(other, _)| *other != of);
            self.answered.push((of, self.now));
            self.step(Event::Path { cluster, event: PathEvent::Answered { sent, received } });
        }
    }

    /// What an application dials; a SYN shows that nobody answers at its first retransmission.
    fn connect(&mut self, cluster: u16) {
        let due = self.connections.is_some_and(|every| self.now.is_multiple_of(every));
        if due && cluster != HOME {
            self.dial(cluster, 1000);
        }
    }

    fn dial(&mut self, cluster: u16, deadline: u64) {
        let lost = self.is(cluster, What::Path);
        let (outcome, delay) = if lost { (Outcome::Unanswered, deadline) } else { (Outcome::Connected, RTT) };
        let backend = SocketAddr::from(([10, 0, cluster as u8, (self.now / 10 % 3) as u8], 80));
        let at = Monotonic::from_millis(self.now + delay);
        let event = PathEvent::Connect { backend, outcome, began: self.at(), at };
        self.due.push((self.now + delay, Event::Path { cluster: id(cluster), event }));
    }

    pub(crate) fn verdict(&self, cluster: u16) -> Verdict {
        let found = self.judge.reports(self.at()).find(|report| report.cluster == id(cluster));
        found.unwrap().verdict
    }

    /// When a cluster was given such a share.
    pub(crate) fn shares(&self, cluster: u16) -> Vec<(u64, u8)> {
        let share = |(at, action): &(u64, Action)| match action {
            Action::Use { cluster: of, share } if *of == id(cluster) => Some((*at, share.value())),
            _ => None,
        };
        self.log.iter().filter_map(share).collect()
    }

    pub(crate) fn cuts(&self, cluster: u16) -> Vec<u64> {
        let cut =
            |(at, action): &(u64, Action)| (*action == Action::Cut { cluster: id(cluster) }).then_some(*at);
        self.log.iter().filter_map(cut).collect()
    }

    /// When a cluster's verdict became this.
    pub(crate) fn became(&self, cluster: u16, verdict: Verdict) -> Option<u64> {
        let found = self.log.iter().find(|(_, action)| {
            matches!(action, Action::Tell(change) if change.cluster == id(cluster) && change.to == verdict)
        });
        found.map(|(at, _)| *at)
    }
}
