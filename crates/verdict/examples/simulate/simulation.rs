//! One node of the first cluster, its judge and its budget, in a mesh in which things go wrong; and the oracle.

use std::collections::BTreeMap;
use std::fmt;

use mesh_model::name::{ClusterId, NodeName};
use mesh_verdict::budget::{Candidate, Pacer, Probe};
use mesh_verdict::{
    Action, Beat, ControlEvent, Event, Judge, Monotonic, Outcome, PathEvent, Settings, Share, Verdict,
};

use crate::truth::{Fault, Lot, What, during, faults, is};

const TICK: u64 = 50;
const HOME: u16 = 1;
/// Nothing of a cluster gets through.
const DARK: &[What] = &[What::Power, What::Partition, What::Flapping];
/// A cluster that has been dark for so long must have been left, and one that has not been dark within it not.
const LEFT_WITHIN: u64 = 2000;
/// So long after the last fault everything is as if there had been none: the longest hold, the ramp, and some.
const RESTORED_WITHIN: u64 = 330_000;
const PACKETS: u64 = 50;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) clusters: u16,
    pub(crate) nodes: u16,
    /// How many of the clusters the node uses.
    pub(crate) in_use: u16,
    pub(crate) minutes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Result {
    pub(crate) wrong: Vec<String>,
    pub(crate) demoted: usize,
    pub(crate) restored: usize,
    pub(crate) cut: usize,
    pub(crate) isolated: usize,
    pub(crate) started_over: usize,
    pub(crate) restarts: usize,
    pub(crate) packets: u64,
    pub(crate) most_packets_in_a_second: u64,
    /// How long after its last answer each cluster was left, in milliseconds.
    pub(crate) left_after: Vec<u64>,
}

impl fmt::Display for Result {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.left_after.clone();
        left.sort_unstable();
        let at = |part: usize| left.get(left.len() * part / 100).or(left.last()).copied().unwrap_or(0);
        writeln!(f, "demoted {}, fully restored {}, cut {}", self.demoted, self.restored, self.cut)?;
        writeln!(
            f,
            "left after the last answer: median {} ms, p99 {} ms, most {} ms",
            at(50),
            at(99),
            at(100)
        )?;
        writeln!(
            f,
            "isolated {}, started over {}, restarted {}",
            self.isolated, self.started_over, self.restarts
        )?;
        writeln!(f, "probes: {}, at most {} in a second", self.packets, self.most_packets_in_a_second)?;
        write!(f, "wrong: {}", self.wrong.len())?;
        self.wrong.iter().take(20).try_for_each(|wrong| write!(f, "\n  {wrong}"))
    }
}

struct Peer {
    faults: Vec<Fault>,
    share: u8,
    /// Since when it has been dark while the observer was well.
    dark: Option<u64>,
    demoted: Option<u64>,
    answered: u64,
}

struct Simulation {
    size: Size,
    lot: Lot,
    now: u64,
    judge: Judge,
    pacer: Pacer,
    observer: Vec<Fault>,
    home: Vec<Fault>,
    peers: BTreeMap<u16, Peer>,
    due: BTreeMap<u64, Vec<Event>>,
    sent: Vec<(u64, u64)>,
    result: Result,
}

fn id(cluster: u16) -> ClusterId {
    ClusterId::new(u64::from(cluster)).expect("the flags limit how many there are")
}

pub(crate) fn simulate(seed: u64, size: Size) -> Result {
    let mut lot = Lot::new(seed);
    let until = size.minutes * 60_000;
    let observer = faults(&mut lot, true, until);
    let mut home = faults(&mut lot, false, until);
    // The own cluster loses some of its nodes only: the observer is one of the others.
    home.retain(|fault| fault.what == What::Nodes);
    let peer = |lot: &mut Lot| Peer {
        faults: faults(lot, false, until),
        share: 100,
        dark: None,
        demoted: None,
        answered: 0,
    };
    let peers = (HOME + 1..=size.clusters).map(|cluster| (cluster, peer(&mut lot))).collect();
    let judge = Judge::new(id(HOME), Settings::default(), Monotonic::default());
    let pacer = Pacer::new(seed, Monotonic::default());
    let (due, sent, result) = (BTreeMap::new(), Vec::new(), Result::default());
    let mut simulation =
        Simulation { size, lot, now: 0, judge, pacer, observer, home, peers, due, sent, result };
    simulation.introduce();
    while simulation.now < until {
        simulation.moment();
        simulation.now += TICK;
    }
    simulation.result
}

impl Simulation {
    fn at(&self, millis: u64) -> Monotonic {
        Monotonic::from_millis(millis)
    }

    fn introduce(&mut self) {
        let shares: Vec<(u16, u8)> =
            self.peers.iter().map(|(cluster, peer)| (*cluster, peer.share)).collect();
        for (cluster, share) in shares {
            let share = Share::from_percent(share);
            self.step(Event::Peer { cluster: id(cluster), share });
        }
        for cluster in HOME..=self.size.clusters.min(HOME + self.size.in_use) {
            let nodes = self.size.nodes - u16::from(cluster == HOME);
            let candidate = |n: u16| Candidate {
                node: NodeName::new(&format!("node-{n}")).expect("a label"),
                zone: format!("zone-{}", n % 3),
            };
            self.step(Event::Nodes { cluster: id(cluster), count: nodes.into() });
            self.pacer.set(id(cluster), (0..nodes).map(candidate).collect());
        }
    }

    fn restart(&mut self) {
        self.judge = Judge::new(id(HOME), Settings::default(), self.at(self.now));
        self.pacer = Pacer::new(self.lot.next(), self.at(self.now));
        self.due.clear();
        self.result.restarts += 1;
        self.introduce();
    }

    fn moment(&mut self) {
        let now = self.now;
        if self.observer.iter().any(|f| f.what == What::Restart && (now..now + TICK).contains(&f.from)) {
            self.restart();
        }
        self.beats();
        if !is(&self.observer, &[What::Frozen], now) {
            let later = self.due.split_off(&(now + 1));
            for event in std::mem::replace(&mut self.due, later).into_values().flatten() {
                self.step(event);
            }
            self.step(Event::Tick);
            self.probe();
        }
        self.judge_the_judge();
    }

    fn beats(&mut self) {
        if !self.now.is_multiple_of(2000) {
            return;
        }
        let clusters: Vec<u16> = self.peers.keys().copied().collect();
        for cluster in clusters {
            let event = ControlEvent::Beat(self.beat());
            self.answer(cluster, 1, Event::Control { cluster: id(cluster), event });
        }
    }

    fn beat(&self) -> Beat {
        Beat { epoch: 1, counter: self.now / 2000, source_age: None }
    }

    /// What the control plane of a cluster says, unless it can't.
    fn answer(&mut self, cluster: u16, after: u64, event: Event) {
        let silent = [What::Power, What::Partition, What::Control];
        let cut_off = is(&self.observer, &[What::CutOff], self.now);
        if !cut_off && self.peers.get(&cluster).is_some_and(|peer| !is(&peer.faults, &silent, self.now)) {
            self.due.entry(self.now + after).or_default().push(event);
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.at(self.now);
        for action in self.judge.step(now, event) {
            match action {
                Action::Use { cluster, share } => self.share(cluster.value(), share.value()),
                Action::AskControl { cluster } => {
                    let event = ControlEvent::Answer(self.beat());
                    self.answer(cluster.value(), 20, Event::Control { cluster, event });
                }
                Action::AskWitnesses { cluster } => self.ask_witnesses(cluster),
                Action::Cut { cluster } => self.cut(cluster.value()),
                Action::StartedOver { .. } => self.result.started_over += 1,
                Action::Tell(change) => {
                    self.result.isolated += usize::from(change.to == Verdict::IsolatedSelf);
                }
            }
        }
    }

    fn ask_witnesses(&mut self, cluster: ClusterId) {
        if is(&self.observer, &[What::CutOff], self.now) {
            return;
        }
        let Some(peer) = self.peers.get(&cluster.value()) else { return };
        let reaches = !is(&peer.faults, &[What::Power], self.now);
        self.due.entry(self.now + 30).or_default().push(Event::Witness { cluster, reaches });
    }

    fn probe(&mut self) {
        let now = self.at(self.now);
        let attention = self.judge.attention(now);
        let mut packets = 0;
        for probe in self.pacer.due(now, &attention) {
            match probe {
                Probe::Echo { cluster, node } => {
                    packets += 1;
                    self.echo(cluster, node);
                }
                Probe::Dial { cluster } => {
                    packets += 4;
                    self.dial(cluster);
                }
            }
        }
        self.count(packets);
    }

    fn count(&mut self, packets: u64) {
        self.sent.retain(|(at, _)| at + 1000 > self.now);
        self.sent.push((self.now, packets));
        let second: u64 = self.sent.iter().map(|(_, packets)| packets).sum();
        self.result.packets += packets;
        self.result.most_packets_in_a_second = self.result.most_packets_in_a_second.max(second);
        if second > PACKETS {
            self.wrong(format!("{second} packets in a second"));
        }
    }

    /// How long a packet takes there and back, unless it is lost.
    fn round_trip(&mut self, cluster: u16, node: Option<&NodeName>) -> Option<u64> {
        let (now, lot) = (self.now, self.lot.next());
        let faults = if cluster == HOME { &self.home } else { &self.peers.get(&cluster)?.faults };
        // The first third of the nodes is what loses power.
        let number = node.and_then(|node| node.as_str().trim_start_matches("node-").parse::<u16>().ok());
        let lost = is(faults, DARK, now)
            || is(&self.observer, &[What::CutOff], now)
            || is(faults, &[What::Loss], now) && lot.is_multiple_of(20)
            || is(faults, &[What::Nodes], now) && number.is_some_and(|n| n < self.size.nodes / 3);
        let delay = if is(faults, &[What::Delay], now) { 200 } else { 0 };
        (!lost).then_some(1 + lot % 3 + delay)
    }

    fn echo(&mut self, cluster: ClusterId, node: NodeName) {
        let (of, sent) = (cluster.value(), self.at(self.now));
        let round_trip = self.round_trip(of, Some(&node));
        self.step(Event::Path { cluster, event: PathEvent::Sent { node, at: sent } });
        let Some(round_trip) = round_trip else { return };
        if let Some(peer) = self.peers.get_mut(&of) {
            peer.answered = self.now;
        }
        let at = self.now + round_trip;
        let event = PathEvent::Answered { sent, received: self.at(at) };
        self.due.entry(at).or_default().push(Event::Path { cluster, event });
    }

    fn dial(&mut self, cluster: ClusterId) {
        let round_trip = self.round_trip(cluster.value(), None);
        let (outcome, took) = match round_trip {
            Some(round_trip) => (Outcome::Connected, round_trip),
            None => (Outcome::Unanswered, 300),
        };
        let backend = ([10, 0, 0, (self.lot.next() % 4) as u8], 80).into();
        let (began, at) = (self.at(self.now), self.at(self.now + took));
        let event = PathEvent::Connect { backend, outcome, began, at };
        self.due.entry(self.now + took).or_default().push(Event::Path { cluster, event });
    }

    /// What was wrong of a cluster and the observer in the last minute.
    fn circumstances(&self, cluster: u16) -> String {
        let recent = |faults: &[Fault]| -> Vec<String> {
            let recent = faults.iter().filter(|fault| fault.from <= self.now && fault.to + 60_000 > self.now);
            let seconds = |millis: u64| millis as f64 / 1000.0;
            recent.map(|f| format!("{:?} {:.2}-{:.2}", f.what, seconds(f.from), seconds(f.to))).collect()
        };
        let of = self.peers.get(&cluster).map(|peer| recent(&peer.faults));
        format!(" (it: {of:?}; observer: {:?}; own: {:?})", recent(&self.observer), recent(&self.home))
    }

    fn wrong(&mut self, what: String) {
        self.result.wrong.push(format!("{:>9.2} s: {what}", self.now as f64 / 1000.0));
    }

    fn share(&mut self, cluster: u16, share: u8) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&cluster) else { return };
        let before = std::mem::replace(&mut peer.share, share);
        if share == 100 {
            self.result.restored += 1;
        }
        if share > 0 || before == 0 {
            return;
        }
        self.result.demoted += 1;
        self.result.left_after.push(now - peer.answered);
        let healthy = !during(&peer.faults, DARK, now.saturating_sub(LEFT_WITHIN), now);
        let again = peer.demoted.replace(now).filter(|before| now - before < 15_000);
        if healthy {
            let circumstances = self.circumstances(cluster);
            self.wrong(format!("cluster {cluster} is healthy, and was demoted{circumstances}"));
        }
        if again.is_some() {
            let circumstances = self.circumstances(cluster);
            self.wrong(format!("cluster {cluster} flaps{circumstances}"));
        }
    }

    fn cut(&mut self, cluster: u16) {
        self.result.cut += 1;
        let now = self.now;
        let Some(peer) = self.peers.get(&cluster) else { return };
        let lasting = peer.faults.iter().any(|f| f.what == What::Power && f.from + 3000 <= now && f.to > now);
        // What is cut while a witness is dumb, or from behind a partition, is no fault of the judge.
        if !lasting {
            let circumstances = self.circumstances(cluster);
            self.wrong(format!("cluster {cluster} has power, and was cut{circumstances}"));
        }
    }

    /// What should have happened by now, and has not.
    fn judge_the_judge(&mut self) {
        let now = self.now;
        let hampered = during(
            &self.observer,
            &[What::Frozen, What::CutOff, What::Restart],
            now.saturating_sub(TICK),
            now,
        );
        let recently = now.saturating_sub(RESTORED_WITHIN);
        let idle = !during(&self.observer, &[What::Frozen, What::CutOff, What::Restart], recently, now);
        let mut wrong = Vec::new();
        for (cluster, peer) in
            self.peers.iter_mut().filter(|(cluster, _)| **cluster <= HOME + self.size.in_use)
        {
            let dark = !hampered && is(&peer.faults, DARK, now);
            peer.dark = if dark { peer.dark.or(Some(now)) } else { None };
            if peer.share > 0 && peer.dark.is_some_and(|since| now - since == LEFT_WITHIN) {
                wrong.push(format!("cluster {cluster} is dead, and was kept"));
            }
            let well = idle && !during(&peer.faults, DARK, recently, now);
            if well && peer.share < 100 && now.is_multiple_of(10_000) && now > RESTORED_WITHIN {
                wrong.push(format!("cluster {cluster} is healthy again, and has {} %", peer.share));
            }
        }
        wrong.into_iter().for_each(|wrong| self.wrong(wrong));
    }
}
