//! What dialling a ClusterIP costs beside dialling the backend, and beside kube-proxy's way.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use mesh_model::desired::Frontend;
use mesh_model::snapshot::Protocol;

use super::Effort;
use super::dial::{Hook, Measure, Outcome, Plan, Variant};
use super::nft;
use super::row::{Goal, Row};
use super::seed::{Datapath, service};
use super::serve::{ACCEPT_PORT, ECHO_PORT};
use super::stats::{median, ratio};
use super::testbed::{Testbed, backend, frontend, route_frontends};

/// The client namespaces: without rules, and with the rules of so many services.
const LABELS: [&str; 3] = ["plain", "nft10", "nft10k"];
const RULES: [usize; 3] = [0, 10, 10_000];
/// Services in the maps.
const SIZES: [usize; 3] = [10, 1_000, 100_000];

pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let testbed = Testbed::new(&LABELS)?;
    for number in [1, 2] {
        eprintln!("bench:   {} nft services", RULES[number]);
        route_frontends(testbed.client(number)?, number)?;
        nft::load(testbed.client(number)?, RULES[number])?;
    }
    let mut datapaths = Vec::new();
    for size in SIZES {
        eprintln!("bench:   {size} services in the maps");
        let mut datapath = Datapath::install(&testbed, &format!("mesh-{size}"))?;
        let echo = service(frontend(0), 81, 1, |_| (backend(0), ECHO_PORT))?;
        let (tcp, desired) = echo.clone();
        datapath.fill(&[echo, (Frontend { protocol: Protocol::Udp, ..tcp }, desired)])?;
        datapath.fill_up(0, size - 1, 1)?;
        datapaths.push(datapath);
    }
    let mut rows = Vec::new();
    let blocks = effort.blocks();
    let variants = variants(&testbed, &datapaths, (80, ACCEPT_PORT))?;
    let plan = Plan { measure: Measure::Connect, variants, blocks, dials: effort.times(1500) };
    rows.extend(connect_rows(&testbed.dial(&plan)?)?);
    let variants = self::variants(&testbed, &datapaths, (81, ECHO_PORT))?;
    let plan = Plan { measure: Measure::RoundTrip, variants, blocks, dials: effort.times(3000) };
    rows.extend(round_trip_rows(&testbed.dial(&plan)?)?);
    let mut variants = self::variants(&testbed, &datapaths, (81, ECHO_PORT))?;
    // The rules of the others are for TCP.
    variants.retain(|variant| !variant.name.starts_with("nft"));
    let plan = Plan { measure: Measure::Datagram, variants, blocks, dials: effort.times(3000) };
    rows.extend(datagram_rows(&testbed.dial(&plan)?)?);
    Ok(rows)
}

fn variants(testbed: &Testbed, datapaths: &[Datapath], (port, direct): (u16, u16)) -> Result<Vec<Variant>> {
    let outside = testbed.cgroup("outside")?;
    let cluster_ip = SocketAddr::from((frontend(0), port));
    let backend = SocketAddr::from((backend(0), direct));
    let first = datapaths.first().context("no datapath")?;
    let variant = |name: &str,
                   cgroup: &crate::lab::cgroup::Cgroup,
                   netns: usize,
                   target|
     -> Result<Variant> {
        let netns = testbed.client(netns)?.name().to_owned();
        Ok(Variant { name: name.into(), cgroup: cgroup.path().into(), netns, target, hook: Hook::default() })
    };
    let mut variants = vec![
        variant("direct", &first.cgroup, 0, backend)?,
        variant("direct_again", &first.cgroup, 0, backend)?,
        variant("outside", &outside, 0, backend)?,
        variant("nft_10", &outside, 1, cluster_ip)?,
        variant("nft_10000", &outside, 2, cluster_ip)?,
    ];
    for (size, datapath) in SIZES.iter().zip(datapaths) {
        variants.push(variant(&format!("mesh_{size}"), &datapath.cgroup, 0, cluster_ip)?);
    }
    Ok(variants)
}

fn of<'a>(outcome: &'a Outcome, name: &str) -> Result<&'a [f64]> {
    Ok(outcome.get(name).with_context(|| format!("{name} was not measured"))?)
}

fn connect_rows(outcome: &Outcome) -> Result<Vec<Row>> {
    let direct = of(outcome, "direct")?;
    let outside = of(outcome, "outside")?;
    let small = of(outcome, "mesh_10")?;
    let beside = |name: &str| Ok::<_, anyhow::Error>(ratio(of(outcome, name)?, direct));
    Ok(vec![
        Row::shown("connect_direct_us", median(direct) / 1000.0, "us"),
        Row::shown("connect_a_a", beside("direct_again")?, "ratio"),
        Row::new("connect_mesh", beside("mesh_10")?, "ratio", Goal::AtMost(1.03)),
        Row::new("connect_mesh_beside_no_hook", ratio(small, outside), "ratio", Goal::None),
        Row::shown("connect_direct_beside_no_hook", ratio(direct, outside), "ratio"),
        Row::shown("connect_nft_10", ratio(of(outcome, "nft_10")?, outside), "ratio"),
        Row::shown("connect_nft_10000", ratio(of(outcome, "nft_10000")?, outside), "ratio"),
        Row::new("connect_mesh_1000_services", ratio(of(outcome, "mesh_1000")?, small), "ratio", flat()),
        Row::new("connect_mesh_100000_services", ratio(of(outcome, "mesh_100000")?, small), "ratio", flat()),
    ])
}

fn flat() -> Goal {
    Goal::AtMost(1.03)
}

fn round_trip_rows(outcome: &Outcome) -> Result<Vec<Row>> {
    let direct = of(outcome, "direct")?;
    // Of rates, so that more is better: the direct time is the numerator.
    let rate = |name: &str| Ok::<_, anyhow::Error>(ratio(direct, of(outcome, name)?));
    Ok(vec![
        Row::shown("round_trip_direct_us", median(direct) / 1000.0, "us"),
        Row::shown("round_trip_a_a", rate("direct_again")?, "ratio"),
        Row::new("round_trip_mesh", rate("mesh_10")?, "ratio", Goal::AtLeast(0.99)),
        Row::shown("round_trip_nft_10", rate("nft_10")?, "ratio"),
        Row::shown("round_trip_nft_10000", rate("nft_10000")?, "ratio"),
    ])
}

fn datagram_rows(outcome: &Outcome) -> Result<Vec<Row>> {
    let direct = of(outcome, "direct")?;
    let beside = |name: &str| Ok::<_, anyhow::Error>(ratio(of(outcome, name)?, direct));
    let small = of(outcome, "mesh_10")?;
    Ok(vec![
        Row::shown("udp_direct_us", median(direct) / 1000.0, "us"),
        Row::shown("udp_a_a", beside("direct_again")?, "ratio"),
        Row::shown("udp_mesh", beside("mesh_10")?, "ratio"),
        Row::shown("udp_mesh_beside_no_hook", ratio(small, of(outcome, "outside")?), "ratio"),
        Row::new("udp_mesh_100000_services", ratio(of(outcome, "mesh_100000")?, small), "ratio", flat()),
    ])
}
