//! Which nodes of which clusters are probed, and when: a budget that no size of mesh exceeds.
//!
//! A node sends at most 50 probes in any second, and is sent as many answers. Where every node of a mesh does so and samples
//! as it does here, it answers 50 of others' as well, on average: 100 packets a second that it sends, whatever there is. So
//! much goes to each of `n` clusters in use (the own one included), and this is how long it takes to notice that one of them
//! has lost power, counted from the last answered probe:
//!
//! | clusters in use | probes of each are apart | new connections leave after |
//! |---|---|---|
//! | up to 8 | 200 ms | 1.0 s |
//! | 16 | 16 / 40 s = 400 ms | 1.1 s |
//! | 64 | 64 / 40 s = 1.6 s | 2.3 s |
//! | 511, of 5,000 nodes each | 511 / 40 s = 12.8 s | 13.5 s |
//!
//! Of 40 probes a second each cluster gets its turn; 10 more may be saved up. How many nodes a cluster has doesn't matter: 3
//! of them are sampled, 16 under suspicion. To probe every node of 511 × 5,000 once would take 2,555,000 / 40 s = 18 hours.
//! Without suspicion nothing else is sent. Under suspicion a cluster is probed every 100 ms and dialled every 300 ms, out of
//! the same budget: whatever is latest, measured by its own interval, comes first, so suspects don't silence the others. The
//! own cluster, as the witness of this node, comes before all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_model::hash::{fnv1a, mix};
use mesh_model::name::{ClusterId, NodeName};

use crate::time::Monotonic;

/// Probes a second, in the long run, and how many may be saved up. Their sum is the most that any second sees.
const RATE: u64 = 40;
const SAVED: u64 = 10;
/// What dialling a backend costs of these: SYN, ACK, FIN, ACK.
const DIAL: u64 = 4;
/// How far apart the probes of one cluster are at least.
const GAP: Duration = Duration::from_millis(200);
const SUSPECT_GAP: Duration = Duration::from_millis(100);
/// How far apart dials are: of a suspect, and of all clusters that are demoted together.
const DIAL_GAP: Duration = Duration::from_millis(300);
const DEMOTED_DIAL_GAP: Duration = Duration::from_secs(1);
/// How many nodes of a cluster are probed, and how many under suspicion.
const SAMPLE: usize = 3;
const SUSPECT_SAMPLE: usize = 16;
/// How long a sample stays.
const RESAMPLE: Duration = Duration::from_secs(300);

/// A node that may be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeName,
    /// Nodes that fail together have the same.
    pub zone: String,
}

/// Which clusters deserve more than their turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// The own cluster, where it is one of them, comes first.
    pub suspects: Vec<ClusterId>,
    /// What is demoted is dialled, for its echo may be blocked.
    pub demoted: Vec<ClusterId>,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Echo {
        cluster: ClusterId,
        node: NodeName,
    },
    /// Connect to any of its backends, and hang up.
    Dial {
        cluster: ClusterId,
    },
}

#[derive(Debug)]
struct Target {
    candidates: Vec<Candidate>,
    /// Those of this period, the most different ones first.
    sample: Vec<NodeName>,
    /// Of which period it is.
    period: u64,
    turns: usize,
    /// Where in the sample the nodes are that are probed without suspicion. Each suspicion moves it on, so that nodes that
    /// are down are left.
    window: usize,
    suspected: bool,
    probed: Option<Monotonic>,
    dialled: Option<Monotonic>,
}

/// Decides what is sent. The same seed and the same calls send the same.
#[derive(Debug)]
pub struct Pacer {
    seed: u64,
    targets: BTreeMap<ClusterId, Target>,
    /// In nanoseconds of the rate, of which one probe takes `NANOS / RATE`.
    saved: Duration,
    filled: Monotonic,
    /// When a demoted cluster was dialled last.
    looked_back: Option<Monotonic>,
}

const COST: Duration = Duration::from_nanos(1_000_000_000 / RATE);

impl Pacer {
    /// `seed` differs from node to node, so that not all probe the same ones.
    pub fn new(seed: u64, now: Monotonic) -> Self {
        Self { seed, targets: BTreeMap::new(), saved: Duration::ZERO, filled: now, looked_back: None }
    }

    /// The nodes of a cluster whose backends this node uses, or the other nodes of its own. None: it is not in use.
    pub fn set(&mut self, cluster: ClusterId, candidates: Vec<Candidate>) {
        if candidates.is_empty() {
            self.targets.remove(&cluster);
            return;
        }
        let known = self.targets.remove(&cluster);
        let fresh = Target {
            candidates: Vec::new(),
            sample: Vec::new(),
            period: u64::MAX,
            turns: 0,
            window: 0,
            suspected: false,
            probed: None,
            dialled: None,
        };
        let target = Target { candidates, period: u64::MAX, ..known.unwrap_or(fresh) };
        self.targets.insert(cluster, target);
    }

    /// What to send now. To be asked whenever the judge is ticked.
    pub fn due(&mut self, now: Monotonic, attention: &Attention) -> Vec<Probe> {
        self.saved = (self.saved + now.since(self.filled)).min(COST * SAVED as u32);
        self.filled = now;
        let mut wanted = self.wanted(now, attention);
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        let mut probes = Vec::new();
        for (_, want) in wanted {
            // What is saved up for a dial is not spent on others meanwhile.
            let cost = if matches!(want, Want::Echo(..)) { 1 } else { DIAL };
            if !self.take(cost) {
                break;
            }
            probes.extend(self.grant(want, now));
        }
        probes
    }

    /// Everything that is due, with how often it should have been sent by now, in thousandths.
    fn wanted(&self, now: Monotonic, attention: &Attention) -> Vec<(u128, Want)> {
        let suspects: BTreeSet<ClusterId> = attention.suspects.iter().copied().collect();
        let turn = COST * u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        let mut wanted = Vec::new();
        for (cluster, target) in &self.targets {
            let suspect = suspects.contains(cluster);
            let gap = if suspect { SUSPECT_GAP } else { GAP.max(turn) };
            let lateness = lateness(target.probed, gap, now);
            // The own cluster comes first: it says what the others' silence means.
            let first = suspect && attention.suspects.first() == Some(cluster);
            let lateness = if first && lateness >= DUE { u128::MAX } else { lateness };
            wanted.push((lateness, Want::Echo(*cluster, if suspect { SUSPECT_SAMPLE } else { SAMPLE })));
            if suspect && !first {
                let gap = DIAL_GAP * u32::try_from(suspects.len() - 1).unwrap_or(u32::MAX);
                wanted.push((self::lateness(target.dialled, gap, now), Want::Dial(*cluster)));
            }
        }
        let demoted = attention.demoted.iter();
        let demoted = demoted.filter_map(|cluster| Some((self.targets.get(cluster)?.dialled, *cluster)));
        if let Some((_, cluster)) = demoted.min() {
            let lateness = lateness(self.looked_back, DEMOTED_DIAL_GAP, now);
            wanted.push((lateness, Want::LookBack(cluster)));
        }
        wanted.retain(|(lateness, _)| *lateness >= DUE);
        wanted
    }

    fn grant(&mut self, want: Want, now: Monotonic) -> Option<Probe> {
        let (Want::Dial(cluster) | Want::LookBack(cluster)) = want else {
            let Want::Echo(cluster, sample) = want else { return None };
            return self.echo(cluster, sample, now);
        };
        if matches!(want, Want::LookBack(_)) {
            self.looked_back = Some(now);
        }
        self.targets.get_mut(&cluster)?.dialled = Some(now);
        Some(Probe::Dial { cluster })
    }

    fn echo(&mut self, cluster: ClusterId, sample: usize, now: Monotonic) -> Option<Probe> {
        let seed = mix(self.seed) ^ u64::from(cluster.value());
        let target = self.targets.get_mut(&cluster)?;
        target.probed = Some(now);
        target.resample(seed, now);
        let suspect = sample == SUSPECT_SAMPLE;
        if suspect && !std::mem::replace(&mut target.suspected, suspect) {
            target.window = target.window.wrapping_add(SAMPLE);
        }
        target.suspected = suspect;
        target.turns = target.turns.wrapping_add(1);
        let place = target.window.wrapping_add(target.turns % sample);
        let node = target.sample.get(place % target.sample.len().max(1))?.clone();
        Some(Probe::Echo { cluster, node })
    }

    fn take(&mut self, probes: u64) -> bool {
        let left = self.saved.checked_sub(COST * probes as u32);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

/// What would be sent, if the budget allowed all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    /// To one of so many nodes.
    Echo(ClusterId, usize),
    Dial(ClusterId),
    /// Dial what is demoted.
    LookBack(ClusterId),
}

/// One gap has passed.
const DUE: u128 = 1000;

/// How many gaps have passed, in thousandths.
fn lateness(last: Option<Monotonic>, gap: Duration, now: Monotonic) -> u128 {
    // What was never sent is as late as what was sent an hour ago.
    let waited = last.map_or(Duration::from_secs(3600), |last| now.since(last));
    waited.as_micros() * DUE / gap.as_micros().max(1)
}

impl Target {
    /// Draws other nodes, once in a period: from each zone in turn, within each by lot.
    fn resample(&mut self, seed: u64, now: Monotonic) {
        let period = now.since(Monotonic::default()).as_secs() / RESAMPLE.as_secs();
        if self.period == period {
            return;
        }
        self.period = period;
        let lot = |text: &str| mix(fnv1a(text.bytes()) ^ mix(seed.wrapping_add(period)));
        let mut zones: BTreeMap<(u64, &str), Vec<&Candidate>> = BTreeMap::new();
        for candidate in &self.candidates {
            zones.entry((lot(&candidate.zone), &candidate.zone)).or_default().push(candidate);
        }
        for nodes in zones.values_mut() {
            nodes.sort_by_cached_key(|candidate| lot(candidate.node.as_str()));
        }
        let rounds = zones.values().map(Vec::len).max().unwrap_or(0);
        let drawn = (0..rounds).flat_map(|round| zones.values().filter_map(move |zone| zone.get(round)));
        self.sample = drawn.take(SUSPECT_SAMPLE).map(|candidate| candidate.node.clone()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 50;

    fn id(cluster: u16) -> ClusterId {
        ClusterId::new(u64::from(cluster)).unwrap()
    }

    fn candidates(cluster: u16, nodes: u16, zones: u16) -> Vec<Candidate> {
        let candidate = |n| Candidate {
            node: NodeName::new(&format!("c{cluster}-n{n}")).unwrap(),
            zone: format!("zone-{}", n % zones),
        };
        (0..nodes).map(candidate).collect()
    }

    fn pacer(clusters: u16, nodes: u16) -> Pacer {
        let mut pacer = Pacer::new(7, Monotonic::default());
        for cluster in 1..=clusters {
            pacer.set(id(cluster), candidates(cluster, nodes, 3));
        }
        pacer
    }

    /// What is sent from `from` to `to`, in milliseconds, and when.
    fn run(pacer: &mut Pacer, (from, to): (u64, u64), attention: &Attention) -> Vec<(u64, Probe)> {
        let ticks = (from..to).step_by(TICK as usize);
        let due =
            |at| pacer.due(Monotonic::from_millis(at), attention).into_iter().map(move |probe| (at, probe));
        ticks.flat_map(due).collect()
    }

    fn packets(probe: &Probe) -> u64 {
        if matches!(probe, Probe::Dial { .. }) { DIAL } else { 1 }
    }

    fn most_in_a_second(sent: &[(u64, Probe)]) -> u64 {
        let within = |start: u64| {
            let second = sent.iter().filter(|(at, _)| (start..start + 1000).contains(at));
            second.map(|(_, probe)| packets(probe)).sum()
        };
        sent.iter().map(|(at, _)| within(*at)).max().unwrap_or(0)
    }

    fn of(sent: &[(u64, Probe)], cluster: u16) -> Vec<(u64, NodeName)> {
        let echo = |(at, probe): &(u64, Probe)| match probe {
            Probe::Echo { cluster: of, node } if *of == id(cluster) => Some((*at, node.clone())),
            _ => None,
        };
        sent.iter().filter_map(echo).collect()
    }

    #[test]
    fn no_size_of_mesh_exceeds_the_budget() {
        let everything =
            Attention { suspects: (1..=511).map(id).collect(), demoted: (1..=511).map(id).collect() };
        for (clusters, nodes) in [(1, 1), (8, 50), (16, 5000), (511, 50)] {
            let mut pacer = pacer(clusters, nodes);
            let mut sent = run(&mut pacer, (0, 20_000), &Attention::default());
            sent.extend(run(&mut pacer, (20_000, 40_000), &everything));
            let most = most_in_a_second(&sent);
            assert!(most <= RATE + SAVED, "{clusters} clusters of {nodes}: {most} in a second");
        }
    }

    /// The rows of this module's table.
    #[test]
    fn every_cluster_gets_its_turn() {
        for (clusters, apart) in [(2, 200), (8, 200), (16, 400), (64, 1600), (511, 12_800)] {
            let mut pacer = pacer(clusters, 5);
            let sent = run(&mut pacer, (0, 60_000), &Attention::default());
            for cluster in 1..=clusters {
                let at: Vec<u64> = of(&sent, cluster).iter().map(|(at, _)| *at).collect();
                let most = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
                assert!(most <= apart + TICK, "{cluster} of {clusters}: {most} ms apart");
            }
        }
    }

    /// 5,000 nodes of each of 511 clusters cost what 5 do.
    #[test]
    fn the_largest_mesh_is_probed_within_the_budget() {
        let mut pacer = pacer(511, 5000);
        let sent = run(&mut pacer, (0, 30_000), &Attention::default());
        assert!(most_in_a_second(&sent) <= RATE + SAVED);
        let nodes: BTreeSet<NodeName> = of(&sent, 300).into_iter().map(|(_, node)| node).collect();
        assert!(nodes.len() <= SAMPLE);
    }

    #[test]
    fn a_suspect_is_probed_faster_and_on_more_nodes_beside_many_others() {
        let mut pacer = pacer(64, 50);
        run(&mut pacer, (0, 10_000), &Attention::default());
        let attention = Attention { suspects: vec![id(1), id(9)], demoted: vec![] };
        let sent = run(&mut pacer, (10_000, 11_000), &attention);
        for cluster in [1, 9] {
            let echoes = of(&sent, cluster);
            let nodes: BTreeSet<&NodeName> = echoes.iter().map(|(_, node)| node).collect();
            assert!(echoes.len() >= 6 && nodes.len() > SAMPLE, "{echoes:?}");
        }
        assert!(sent.iter().any(|(_, probe)| *probe == Probe::Dial { cluster: id(9) }));
    }

    #[test]
    fn a_suspicion_moves_on_to_other_nodes() {
        let mut pacer = pacer(2, 50);
        let window = |pacer: &mut Pacer, at| {
            let sent = run(pacer, (at, at + 2000), &Attention::default());
            of(&sent, 2).into_iter().map(|(_, node)| node).collect::<BTreeSet<NodeName>>()
        };
        let before = window(&mut pacer, 0);
        let attention = Attention { suspects: vec![id(1), id(2)], demoted: vec![] };
        run(&mut pacer, (2000, 2200), &attention);
        let after = window(&mut pacer, 2200);
        assert_eq!((before.len(), after.len()), (SAMPLE, SAMPLE));
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    }

    #[test]
    fn a_sample_is_spread_over_zones_the_same_for_a_seed_and_another_later() {
        let sample = |seed, at: u64| {
            let mut pacer = Pacer::new(seed, Monotonic::default());
            pacer.set(id(1), candidates(1, 300, 3));
            let sent = run(&mut pacer, (at, at + 3000), &Attention::default());
            of(&sent, 1).into_iter().map(|(_, node)| node).collect::<BTreeSet<NodeName>>()
        };
        let zones: BTreeSet<u16> = sample(1, 0)
            .iter()
            .map(|node| node.as_str().trim_start_matches("c1-n").parse::<u16>().unwrap() % 3)
            .collect();
        assert_eq!((sample(1, 0).len(), zones.len()), (3, 3));
        assert_eq!(sample(1, 0), sample(1, 0));
        assert_ne!(sample(1, 0), sample(2, 0));
        assert_ne!(sample(1, 0), sample(1, 400_000));
    }

    #[test]
    fn what_is_not_in_use_is_not_probed() {
        let mut pacer = pacer(3, 5);
        pacer.set(id(2), Vec::new());
        let attention = Attention { suspects: vec![id(2)], demoted: vec![id(2)] };
        let sent = run(&mut pacer, (0, 5000), &attention);
        assert!(of(&sent, 2).is_empty() && !of(&sent, 3).is_empty());
    }
}
