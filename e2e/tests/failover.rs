//! The first failover: a connection that moves to the other cluster, over the real path from manifest to map.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::client::{LoadSpec, Records, Summary};
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;
use mesh_e2e::world::World;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "rebel-base";

fn small() -> LabSpec {
    LabSpec { nodes_per_cluster: 1, ..LabSpec::new(&["hoth", "yavin"]) }
}

/// Waits until the next connections are answered by exactly these clusters.
fn answered_by(records: &Records, clusters: &[&str]) -> Result<()> {
    wait::until(&format!("answers from {clusters:?} alone"), PATIENCE, || {
        let seen = Summary::of(&records.next(30, PATIENCE)?);
        ensure!(seen.clusters() == clusters, "{seen:?}");
        Ok(())
    })
}

fn moves(lab: &mut Lab, family: usize) -> Result<()> {
    let spec = ServiceSpec::global(SERVICE, 1).dual_stack();
    for cluster in ["hoth", "yavin"] {
        lab.cluster(cluster)?.apply(&spec)?;
    }
    lab.wait_backends(SERVICE, 1 + usize::from(spec.dual_stack))?;
    let address = lab.cluster("hoth")?.cluster_ip(SERVICE)?[family];
    let records = lab.client("hoth", 0, "x-wing", &LoadSpec::to(SocketAddr::new(address, spec.port)))?;
    answered_by(&records, &["hoth", "yavin"])?;
    lab.cluster("hoth")?.scale(SERVICE, 0)?;
    answered_by(&records, &["yavin"])?;
    lab.cluster("hoth")?.scale(SERVICE, 1)?;
    answered_by(&records, &["hoth", "yavin"])?;
    lab.end_clients()?;
    let all = Summary::of(&records.all());
    ensure!(all.failed() == 0, "{all:?}");
    Ok(())
}

#[test]
fn connections_move_to_the_other_cluster_and_back() -> Result<()> {
    Lab::test(&small(), &[], |lab| moves(lab, 0))
}

#[test]
fn connections_move_over_ipv6_too() -> Result<()> {
    Lab::test(&small(), &[], |lab| moves(lab, 1))
}

#[test]
fn service_without_the_annotation_is_never_touched() -> Result<()> {
    Lab::test(&small(), &[], |lab| {
        let mut spec = ServiceSpec::global(SERVICE, 1);
        spec.annotations.clear();
        let global = ServiceSpec::global("marker", 1);
        for cluster in ["hoth", "yavin"] {
            lab.cluster(cluster)?.apply(&spec)?;
            lab.cluster(cluster)?.apply(&global)?;
        }
        // What came later has arrived, so the plain one was seen too.
        lab.wait_backends("marker", 1)?;
        let target = lab.cluster("hoth")?.dial_address(SERVICE)?;
        let records = lab.client("hoth", 0, "x-wing", &LoadSpec::to(target))?;
        let seen = Summary::of(&records.next(10, PATIENCE)?);
        ensure!(seen.errors.keys().eq(["unreachable"].iter()), "{seen:?}");
        Ok(())
    })
}
