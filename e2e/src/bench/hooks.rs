//! What a run of the connect hook costs, from the kernel's own statistics, beside an empty hook.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};

use node_agent::datapath::actual::Capacity;

use super::Effort;
use super::dial::{Hook, Measure, Plan, Variant};
use super::kernel::EmptyHook;
use super::row::{Goal, Row};
use super::seed::{Datapath, service};
use super::serve::ACCEPT_PORT;
use super::stats::{median, ratio};
use super::testbed::{Testbed, backend, frontend};
use crate::lab::cgroup::Cgroup;

/// Groups of the services that are dialled.
const GROUPS: [usize; 4] = [1, 2, 4, 16];
/// How often each kind is loaded. Where the kernel happens to put a program changes its time by up to a half, so that one
/// copy would say more of its place than of the program.
const COPIES: usize = 5;
/// Services in the maps, beside these.
const SIZES: [usize; 3] = [10, 1_000, 100_000];
/// Groups of all others.
const OTHERS: usize = 2;
/// Connections that are open while others come and go.
const LIVE: usize = 1_000;
/// Maps for 100,000 services of two groups, with room for as much again of what is written anew.
const ROOM: Capacity = Capacity { services: 131_072, slots: 1_048_576, backends: 262_144, counters: 262_144 };
/// The ClusterIP from which on the dialled services lie, beyond all others.
const FIRST: usize = 500_000;

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let testbed = Testbed::new(&["plain"])?;
    let memory = map_memory(&testbed)?;
    let mut copies = Vec::new();
    for number in 0..COPIES {
        eprintln!("bench:   copy {} of {COPIES}", number + 1);
        copies.push(Copy::install(&testbed, number)?);
    }
    // Off again when dropped, or when this process ends however it ends.
    let _counting = enable_stats(Stats::RunTime).context("switching the programs' statistics on")?;
    let variants = copies.iter().map(|copy| copy.variants(&testbed)).collect::<Result<Vec<_>>>()?.concat();
    let blocks = effort.blocks();
    let plan = Plan { measure: Measure::Hook, variants, blocks, dials: effort.times(2000) };
    let mut rows = rows(&testbed.dial(&plan)?)?;
    rows.push(memory);
    Ok(rows)
}

/// The kernel's own account of all maps, with 100,000 services of two groups.
fn map_memory(testbed: &Testbed) -> Result<Row> {
    let mut datapath = Datapath::install_with(testbed, "memory", ROOM)?;
    datapath.fill_up(0, 100_000, 2)?;
    Ok(Row::new("maps_100000_services_mb", datapath.map_bytes()? / 1e6, "MB", Goal::AtMost(90.0)))
}

/// One of each kind. Those of all copies have the same names, so that their times are taken together.
struct Copy {
    datapaths: Vec<Datapath>,
    empty_cgroup: Cgroup,
    empty: EmptyHook,
}

impl Copy {
    fn install(testbed: &Testbed, number: usize) -> Result<Self> {
        let mut datapaths = Vec::new();
        for size in SIZES {
            let mut datapath = Datapath::install(testbed, &format!("mesh-{size}-{number}"))?;
            for groups in GROUPS {
                let address = frontend(FIRST + groups);
                let one = service(address, 80, groups, |at| (backend(groups * 16 + at), ACCEPT_PORT))?;
                datapath.fill(&[one])?;
            }
            datapath.fill_up(0, size - GROUPS.len(), OTHERS)?;
            datapaths.push(datapath);
        }
        let empty_cgroup = testbed.cgroup(&format!("empty-{number}"))?;
        let empty = EmptyHook::attach(empty_cgroup.path())?;
        Ok(Self { datapaths, empty_cgroup, empty })
    }

    /// The services of all numbers of groups in the smallest maps, the one of two groups in the others, misses, and the
    /// empty hook twice; what comes and goes beside many others; any of many services.
    fn variants(&self, testbed: &Testbed) -> Result<Vec<Variant>> {
        let netns = testbed.client(0)?.name().to_owned();
        let variant = |name: String, cgroup: &Cgroup, target: SocketAddr, hook: Hook| Variant {
            name,
            cgroup: cgroup.path().into(),
            netns: netns.clone(),
            target,
            hook,
        };
        let only = |program| Hook { programs: vec![program], ..Hook::default() };
        let direct = SocketAddr::from((backend(0), ACCEPT_PORT));
        let of_groups = |groups: &usize| SocketAddr::from((frontend(FIRST + groups), 80));
        let mut variants = Vec::new();
        for (size, datapath) in SIZES.iter().zip(&self.datapaths) {
            let (cgroup, program) = (&datapath.cgroup, datapath.connect4()?);
            for groups in GROUPS.iter().filter(|groups| *size == SIZES[0] || **groups == 2) {
                variants.push(variant(format!("{size}/{groups}"), cgroup, of_groups(groups), only(program)));
            }
            variants.push(variant(format!("{size}/miss"), cgroup, direct, only(program)));
        }
        let (small, large) = (&self.datapaths[0], &self.datapaths[SIZES.len() - 1]);
        let (connect, release) = (small.connect4()?, small.release()?);
        let live = Hook { programs: vec![connect, release], live: LIVE, ..Hook::default() };
        let udp = Hook { is_udp: true, ..only(connect) };
        let spread = u32::try_from(SIZES[SIZES.len() - 1] - GROUPS.len())?;
        let random = Hook { spread, ..only(large.connect4()?) };
        variants.extend([
            variant("release".into(), &small.cgroup, of_groups(&2), only(release)),
            variant("live".into(), &small.cgroup, of_groups(&2), live),
            variant("miss_udp".into(), &small.cgroup, direct, udp),
            variant("random".into(), &large.cgroup, SocketAddr::from((frontend(0), 80)), random),
        ]);
        for name in ["empty", "empty_again"] {
            variants.push(variant(name.into(), &self.empty_cgroup, direct, only(self.empty.id)));
        }
        Ok(variants)
    }
}

fn rows(outcome: &super::dial::Outcome) -> Result<Vec<Row>> {
    let of = |name: &str| outcome.get(name).with_context(|| format!("{name} was not measured"));
    let empty = of("empty")?;
    let mut rows = vec![
        Row::shown("hook_empty_ns", median(empty), "ns"),
        Row::shown("hook_a_a", ratio(of("empty_again")?, empty), "ratio"),
        Row::new("hook_random_services_ns", median(of("random")?), "ns", Goal::AtMost(1200.0)),
        Row::shown("hook_random_services", ratio(of("random")?, empty), "x empty"),
        Row::new("hook_miss", ratio(of("10/miss")?, empty), "x empty", Goal::AtMost(1.8)),
        Row::shown("hook_miss_ns", median(of("10/miss")?), "ns"),
        Row::shown("hook_miss_udp", ratio(of("miss_udp")?, empty), "x empty"),
        Row::shown("hook_miss_udp_ns", median(of("miss_udp")?), "ns"),
        Row::shown("hook_live_1000", ratio(of("live")?, empty), "x empty"),
        Row::shown("hook_live_1000_ns", median(of("live")?), "ns"),
        Row::shown("hook_release", ratio(of("release")?, empty), "x empty"),
        Row::shown("hook_release_ns", median(of("release")?), "ns"),
    ];
    for groups in GROUPS {
        let values = of(&format!("10/{groups}"))?;
        let goal = match groups {
            2 => Goal::AtMost(3.7),
            16 => Goal::AtMost(5.9),
            _ => Goal::None,
        };
        rows.push(Row::new(format!("hook_{groups}_groups"), ratio(values, empty), "x empty", goal));
        rows.push(Row::shown(format!("hook_{groups}_groups_ns"), median(values), "ns"));
    }
    for size in &SIZES[1..] {
        let values = of(&format!("{size}/2"))?;
        rows.push(Row::shown(format!("hook_{size}_services"), ratio(values, of("10/2")?), "ratio"));
        let misses = ratio(of(&format!("{size}/miss"))?, of("10/miss")?);
        rows.push(Row::shown(format!("hook_miss_{size}_services"), misses, "ratio"));
    }
    Ok(rows)
}
